/* exp of vectors, operation by operation as libm computes it: see exponential.pxd. */
#ifndef MICROGPT_EXPONENTIAL_H
#define MICROGPT_EXPONENTIAL_H

#include "simd.h"

#define POWERS 128
/* Of each power k of the POWERS-th root of 2: the relative error of its double, and the double's
 * bits less k << 45, which vec_exp adds again with the rest of the number. */
static double powers_of_root[2 * POWERS] __attribute__((aligned(64)));
static int libm_agrees; /* whether libm gives the same: see exponential.pxd */

typedef unsigned long long words __attribute__((vector_size(LANES * 8)));

#define BLOCK 64
typedef struct { /* numbers x = number * log(2) / POWERS + rest */
    double rest[BLOCK];
    unsigned long long twice[BLOCK]; /* the number; its low byte is the place in powers_of_root */
} __attribute__((aligned(64))) exp_block;

/* Write what vec_exp needs of LANES numbers, none beyond 512; of NaN it makes NaN. */
static inline void vec_reduce(exp_block *block, Py_ssize_t i, vec x) {
    const double per_log = POWERS * 0x1.71547652b82fep+0;
#if defined(__aarch64__)
    vec n = vrndaq_f64(x * per_log);
    ints number = (ints)vcvtq_s64_f64(n);
#else
    const double shift = 0x1.8p52; /* the sum's last bits are a whole number's */
    vec n = vec_fma(vec_set(shift), x, vec_set(per_log));
    ints number = (ints)n;
    n -= shift;
#endif
    vec rest = vec_fma(vec_fma(x, n, vec_set(-0x1.62e42fefap-8)), n, vec_set(-0x1.cf79abc9e3b3ap-47));
    words twice = (words)number << 1;
    vec_store(block->rest + i, rest);
    memcpy(block->twice + i, &twice, sizeof twice);
}

/* Return the exponentials of the LANES numbers that vec_reduce was given. */
static inline vec vec_exp(const exp_block *block, Py_ssize_t i) {
    words twice;
    vec rest = vec_load(block->rest + i), tail, scale;
    memcpy(&twice, block->twice + i, sizeof twice);
#define PLACE(k) (unsigned char)block->twice[i + (k)]
#if LANES == 2
    for (int k = 0; k < LANES; k++) {
        tail[k] = powers_of_root[PLACE(k)];
        scale[k] = powers_of_root[PLACE(k) + 1];
    }
#else /* pair by pair: gathers take longer on most processors */
#define PAIR(k) _mm_load_pd(&powers_of_root[PLACE(k)])
#define PAIRS(k) _mm256_insertf128_pd(_mm256_castpd128_pd256(PAIR(k)), PAIR(k + 2), 1)
#if LANES == 8
    vec even = _mm512_insertf64x4(_mm512_castpd256_pd512(PAIRS(0)), PAIRS(4), 1);
    vec odd = _mm512_insertf64x4(_mm512_castpd256_pd512(PAIRS(1)), PAIRS(5), 1);
    tail = _mm512_unpacklo_pd(even, odd), scale = _mm512_unpackhi_pd(even, odd);
#else
    vec even = PAIRS(0), odd = PAIRS(1);
    tail = _mm256_unpacklo_pd(even, odd), scale = _mm256_unpackhi_pd(even, odd);
#endif
#endif
    scale = (vec)((words)scale + (twice << 44));
    vec square = rest * rest;
    vec low = vec_fma(vec_set(0x1.ffffffffffdbdp-2), rest, vec_set(0x1.555555555543cp-3));
    vec high = vec_fma(vec_set(0x1.55555cf172b91p-5), rest, vec_set(0x1.1111167a4d017p-7));
    vec sum = vec_fma(vec_fma(tail + rest, square, low), square * square, high);
    return vec_fma(scale, scale, sum);
}

#endif
