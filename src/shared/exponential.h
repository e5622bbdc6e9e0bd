/* exp of a vector, and in which lanes libm's exp may be another double: see exponential.pxd. */
#ifndef MICROGPT_EXPONENTIAL_H
#define MICROGPT_EXPONENTIAL_H

#include <float.h>

#include "simd.h"

/* Powers of the POWERS-th root of 2, each a sum of two doubles; HIGH + LOW is its logarithm. */
#if LANES == 8 /* they fit into four registers */
#define BITS 4
#define ROOT 0x1.0b5586cf9890fp+0
#define ROOT_LOW 0x1.8a62e4adc610bp-54
#define HIGH 0x1.62e42fefap-5
#define LOW 0x1.cf79abc9e3b3ap-44
#else
#define BITS 7
#define ROOT 0x1.0163da9fb3335p+0
#define ROOT_LOW 0x1.b61299ab8cdb7p-54
#define HIGH 0x1.62e42fefap-8
#define LOW 0x1.cf79abc9e3b3ap-47
#endif
#define POWERS (1 << BITS)
static double powers_of_root[2 * POWERS] __attribute__((aligned(64)));
static const Py_ssize_t power_step = LANES == 8 ? 1 : 2, power_low = LANES == 8 ? POWERS : 1;

__attribute__((constructor)) static void make_powers(void) {
    double high = 1.0, low = 0.0;
    for (int i = 0; i < POWERS; i++) {
        powers_of_root[i * power_step] = high;
        powers_of_root[i * power_step + power_low] = low;
        double product = high * ROOT;
        double rest = fma(high, ROOT, -product) + (high * ROOT_LOW + low * ROOT);
        high = product + rest;
        low = rest - (high - product);
    }
}

/* Write the powers of number modulo POWERS. */
static inline void vec_powers(vec *high, vec *low, ints number) {
#if LANES == 8
    const double *p = powers_of_root;
    *high = _mm512_permutex2var_pd(vec_load(p), (__m512i)number, vec_load(p + 8));
    *low = _mm512_permutex2var_pd(vec_load(p + 16), (__m512i)number, vec_load(p + 24));
#else
    long long places[LANES];
    number = (number & (POWERS - 1)) * 2;
    memcpy(places, &number, sizeof number);
#if LANES == 2
    for (int i = 0; i < LANES; i++) {
        (*high)[i] = powers_of_root[places[i]];
        (*low)[i] = powers_of_root[places[i] + 1];
    }
#else /* one by one: gathers take longer on most processors */
#define PAIR(i) _mm_load_pd(&powers_of_root[places[i]])
#define PAIRS(i, j) _mm256_insertf128_pd(_mm256_castpd128_pd256(PAIR(i)), PAIR(j), 1)
    __m256d even = PAIRS(0, 2), odd = PAIRS(1, 3);
    *high = _mm256_unpacklo_pd(even, odd), *low = _mm256_unpackhi_pd(even, odd);
#endif
#endif
}

/* exp(x) for x from -708 to 708, from above, which is 2 ** -n / POWERS of what exp(x) and a margin
 * round to; below is that of exp(x) without the margin.
 *
 * x = n * log(2) / POWERS + r, and exp(r) is a polynomial. exact: n * HIGH, head, sum's error. */
static inline vec vec_exp(vec *above, vec *below, vec x) {
    const double shift = 0x1.8p52; /* the sum's last bits are a whole number's */
    vec n = vec_fma(vec_set(shift), x, vec_set(POWERS * 0x1.71547652b82fep+0));
    ints number = (ints)n;
    n -= shift;
    vec power, low;
    vec_powers(&power, &low, number);
    vec head = vec_fma(x, n, vec_set(-HIGH)), rest = n * -LOW;
    vec r = head + rest, square = r * r, sum = power;
#if LANES == 8
    vec tail = vec_fma(vec_set(1.0 / 720.0), r, vec_set(1.0 / 5040.0));
    tail = vec_fma(tail, square, vec_set(1.0 / 40320.0));
    tail = vec_fma(vec_fma(vec_set(1.0 / 24.0), r, vec_set(1.0 / 120.0)), square, tail);
    tail = vec_fma(vec_fma(vec_set(0.5), r, vec_set(1.0 / 6.0)), square, tail);
    rest = vec_fma(rest, square, tail);
    sum = vec_fma(power, power, head);
    rest = vec_fma(vec_fma(power - sum, power, head) + vec_fma(low, low, head), power, rest);
    const double margin = 0.013 * DBL_EPSILON;
#else
    vec tail = vec_fma(vec_set(1.0 / 24.0), r, vec_set(1.0 / 120.0));
    tail = vec_fma(tail, square, vec_set(1.0 / 720.0));
    tail = vec_fma(vec_fma(vec_set(0.5), r, vec_set(1.0 / 6.0)), square, tail);
    rest = vec_fma(rest, square, tail);
    rest = vec_fma(vec_fma(low, power, rest), power, head);
    const double margin = 0.0195 * DBL_EPSILON;
#endif
    *above = sum + (rest + margin), *below = sum + (rest - margin);
    /* unsigned, as this wraps where x is not from -708 to 708 and the result is not used */
    typedef unsigned long long words __attribute__((vector_size(LANES * 8)));
    return (vec)((words)*above + ((words)(number & -POWERS) << (52 - BITS)));
}

#endif
