/* A loop that does nothing but multiply and add, with as many accumulators as registers hold
 * beside its two operands and a product: what any kernel can reach at most. */
#ifndef MICROGPT_PEAK_H
#define MICROGPT_PEAK_H

#include "simd.h"

#if defined(__clang__)
#define ALL_UNROLLED _Pragma("unroll")
#else
#define ALL_UNROLLED _Pragma("GCC unroll 32")
#endif

/* AVX-512 and NEON have 32 vector registers, SSE2 and AVX2 have 16. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ACCUMULATORS 24
#else
#define ACCUMULATORS 12
#endif

/* Multiply and add rounds * ACCUMULATORS * LANES times; return a sum that depends on all. */
static inline double multiply_and_add(long rounds) {
    vec acc[ACCUMULATORS], a = vec_set(0.999999), b = vec_set(1e-6);
    ALL_UNROLLED for (int i = 0; i < ACCUMULATORS; i++) acc[i] = vec_set(0.1 * i);
    for (long r = 0; r < rounds; r++) {
        ALL_UNROLLED for (int i = 0; i < ACCUMULATORS; i++) {
            __asm__("" : VEC_REGISTER(a)); /* else one product would serve all */
            acc[i] += a * b;
        }
    }
    double total = 0.0;
    for (int i = 0; i < ACCUMULATORS; i++) total += acc[i][0];
    return total;
}

/* The same one number at a time, in plain C: the tests compare the sums. */
static inline double multiply_and_add_plainly(long rounds) {
    double acc[ACCUMULATORS], total = 0.0;
    for (int i = 0; i < ACCUMULATORS; i++) {
        acc[i] = 0.1 * i;
        for (long r = 0; r < rounds; r++) acc[i] += 0.999999 * 1e-6;
        total += acc[i];
    }
    return total;
}

#endif
