/* pow(x, 2.0) and pow(x, 0.5) of many numbers, as libm gives them, at the speed of vectors.
 *
 * A product and a square root are correctly rounded and their exact error is one fused
 * multiply-add. pow errs by a little more than half a unit in the last place, so it can differ
 * only where the exact result lies close to the midpoint of two doubles. Those elements, and all
 * elements where pow states no bound or the processor has no fused multiply-add, are doubtful:
 * the caller takes pow. The margins are those of src/shared/powers.pxd. */
#ifndef MICROGPT_VALUE_POWERS_H
#define MICROGPT_VALUE_POWERS_H

#include <float.h>
#include <math.h>
#include "simd.h"

#if defined(__x86_64__)
#define WITH_FMA __attribute__((target("avx2,fma")))
static int has_fma(void) { return runs_avx2(); }
#else
#define WITH_FMA
static int has_fma(void) {
#if defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}
#endif

/* Write the squares, and for each whether pow(x, 2.0) may be another double. */
WITH_FMA static void squares_fma(double *y, double *doubtful, const double *x, long n) {
    for (long i = 0; i < n; i++) {
        double square = x[i] * x[i], error = __builtin_fma(-x[i], x[i], square);
        double other = __builtin_fma(error, -1.0 / (1.0 - 2.0 * 0.022), square);
        int in_range = (square >= 1e-100) & (square <= 1e100);
        y[i] = square;
        doubtful[i] = (double)(!(in_range & (other == square)) & (x[i] != 0.0));
    }
}

/* Write the square roots, and for each whether pow(x, 0.5) may be another double. */
WITH_FMA static void roots_fma(double *y, double *doubtful, const double *x, long n) {
    for (long i = 0; i < n; i++) {
        double root = sqrt(x[i]), residual = fabs(__builtin_fma(-root, root, x[i]));
        double limit = root * (power_of_two(root) * ((1.0 - 2.0 * 0.015) * DBL_EPSILON));
        int in_range = (x[i] >= 1e-70) & (x[i] <= 1e70);
        y[i] = root;
        doubtful[i] = (double)!(in_range & (residual <= limit));
    }
}

#endif
