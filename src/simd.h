/* One vector type for every instruction set: LANES doubles, as many as a
 * register of the compiled target holds. `+ - * /` on it are the compilers'
 * own vector arithmetic (GCC, Clang), lane by lane, so the bits are the same
 * everywhere. What they have no operator for is below. */
#ifndef MICROGPT_SIMD_H
#define MICROGPT_SIMD_H

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 8
#define TILE_ROWS 8
#define TILE_VECS 3
#elif defined(__AVX__)
#define LANES 4
#define TILE_ROWS 6
#define TILE_VECS 2
#elif defined(__aarch64__)
#define LANES 2
#define TILE_ROWS 6
#define TILE_VECS 4
#else
#define LANES 2
#define TILE_ROWS 6
#define TILE_VECS 2
#endif

#define PANEL (TILE_VECS * LANES)

typedef double vec __attribute__((vector_size(LANES * 8)));

static inline vec vec_set(double x) { return x - (vec){}; }

static inline vec vec_load(const double *p) {
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void vec_store(double *p, vec x) { memcpy(p, &x, sizeof x); }

/* Store the first count lanes, and touch nothing after them. */
static inline void vec_store_part(double *p, vec x, long count) {
    for (long i = 0; i < count; i++) p[i] = x[i];
}

/* Whether this processor runs code compiled for an instruction set. */
#if defined(__x86_64__)
static inline int runs_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static inline int runs_avx512(void) {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#else
static inline int runs_avx2(void) { return 0; }
static inline int runs_avx512(void) { return 0; }
#endif

#endif
