/* exp of a vector, and in which lanes libm's exp may be another double: see exponential.pxd. */
#ifndef MICROGPT_EXPONENTIAL_H
#define MICROGPT_EXPONENTIAL_H

#include "simd.h"

#define POWERS 128 /* of the 128th root of 2, each a sum of two doubles */
static double power_high[POWERS], power_low[POWERS];

__attribute__((constructor)) static void make_powers(void) {
    const double root = 0x1.0163da9fb3335p+0, root_low = 0x1.b61299ab8cdb7p-54;
    double high = 1.0, low = 0.0;
    for (int i = 0; i < POWERS; i++) {
        power_high[i] = high;
        power_low[i] = low;
        double product = high * root;
        double rest = fma(high, root, -product) + (high * root_low + low * root);
        high = product + rest;
        low = rest - (high - product);
    }
}

/* The numbers of table at the places of index. */
static inline vec vec_gather(const double *table, ints index) {
#if defined(__AVX512F__)
    return _mm512_i64gather_pd((__m512i)index, table, 8);
#elif defined(__AVX2__)
    return _mm256_i64gather_pd(table, (__m256i)index, 8);
#else
    vec found = {};
    for (int i = 0; i < LANES; i++) found[i] = table[index[i]];
    return found;
#endif
}

/* exp(x) for x from -708 to 0, and in lacking what it lacks, both times 2 ** -n / 128 rounded.
 *
 * x = n * log(2) / 128 + r, and exp(r) is a polynomial. exact: n * HIGH and what it leaves of x;
 * r, exp(r) - 1, their product with the power and its sum are rounded. */
static inline vec vec_exp(vec *unscaled, vec *lacking, vec x) {
    const double shift = 0x1.8p52; /* the sum's last bits are a whole number's */
    vec n = x * 0x1.71547652b82fep+7 + shift;
    ints number = (ints)n, index = number & (POWERS - 1);
    n -= shift;
    vec r = (x - n * 0x1.62e42fefa0000p-8) - n * 0x1.cf79abc9e3b3ap-47;
    vec tail = r * (1.0 / 120.0) + 1.0 / 24.0 + r * r * (1.0 / 720.0);
    tail = r * r * (0.5 + r * (1.0 / 6.0 + r * tail));
    vec power = vec_gather(power_high, index);
    vec rest = vec_fma(vec_gather(power_low, index), power, r + tail);
    *unscaled = power + rest;
    *lacking = rest - (*unscaled - power);
    return (vec)((ints)*unscaled + ((number - index) << 45));
}

#endif
