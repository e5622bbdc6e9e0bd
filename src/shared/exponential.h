/* exp of a vector, and in which lanes libm's exp may be another double: see exponential.pxd. */
#ifndef MICROGPT_EXPONENTIAL_H
#define MICROGPT_EXPONENTIAL_H

#include "simd.h"

#define POWERS 128 /* of the 128th root of 2, each a sum of two doubles */
static struct {
    double high, low;
} powers_of_root[POWERS] __attribute__((aligned(64)));

__attribute__((constructor)) static void make_powers(void) {
    const double root = 0x1.0163da9fb3335p+0, root_low = 0x1.b61299ab8cdb7p-54;
    double high = 1.0, low = 0.0;
    for (int i = 0; i < POWERS; i++) {
        powers_of_root[i].high = high;
        powers_of_root[i].low = low;
        double product = high * root;
        double rest = fma(high, root, -product) + (high * root_low + low * root);
        high = product + rest;
        low = rest - (high - product);
    }
}

/* Write the powers at the places of index. One by one: gathers take longer on most processors. */
static inline void vec_powers(vec *high, vec *low, ints index) {
    long long places[LANES];
    memcpy(places, &index, sizeof index);
#if LANES == 2
    for (int i = 0; i < LANES; i++) {
        (*high)[i] = powers_of_root[places[i]].high;
        (*low)[i] = powers_of_root[places[i]].low;
    }
#else
#define PAIR(i) _mm_load_pd(&powers_of_root[places[i]].high)
#define PAIRS(i, j) _mm256_insertf128_pd(_mm256_castpd128_pd256(PAIR(i)), PAIR(j), 1)
    __m256d even = PAIRS(0, 2), odd = PAIRS(1, 3);
    __m256d high4 = _mm256_unpacklo_pd(even, odd), low4 = _mm256_unpackhi_pd(even, odd);
#if LANES == 8
    even = PAIRS(4, 6), odd = PAIRS(5, 7);
    *high = _mm512_insertf64x4(_mm512_castpd256_pd512(high4), _mm256_unpacklo_pd(even, odd), 1);
    *low = _mm512_insertf64x4(_mm512_castpd256_pd512(low4), _mm256_unpackhi_pd(even, odd), 1);
#else
    *high = high4, *low = low4;
#endif
#endif
}

/* exp(x) for x from -708 to 0, and in lacking what it lacks, both times 2 ** -n / 128 rounded.
 *
 * x = n * log(2) / 128 + r, and exp(r) is a polynomial. exact: n * HIGH and what it leaves of x;
 * r, exp(r) - 1, their product with the power and its sum are rounded. */
static inline vec vec_exp(vec *unscaled, vec *lacking, vec x) {
    const double shift = 0x1.8p52; /* the sum's last bits are a whole number's */
    vec n = vec_fma(vec_set(shift), x, vec_set(0x1.71547652b82fep+7));
    ints number = (ints)n, index = number & (POWERS - 1);
    n -= shift;
    vec r = vec_fma(x, n, vec_set(-0x1.62e42fefa0000p-8));
    r = vec_fma(r, n, vec_set(-0x1.cf79abc9e3b3ap-47));
    vec square = r * r;
    vec tail = vec_fma(vec_set(1.0 / 24.0), r, vec_set(1.0 / 120.0));
    tail = vec_fma(tail, square, vec_set(1.0 / 720.0));
    tail = vec_fma(vec_set(0.5), r, vec_fma(vec_set(1.0 / 6.0), r, tail));
    vec power, power_low;
    vec_powers(&power, &power_low, index);
    vec rest = vec_fma(power_low, power, vec_fma(r, square, tail));
    *unscaled = power + rest;
    *lacking = rest - (*unscaled - power);
    return (vec)((ints)*unscaled + ((number - index) << 45));
}

#endif
