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
#include <string.h>

static inline double leading_power_of_two(double x) {
    unsigned long long bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7ff0000000000000ULL;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Write the squares, and for each whether pow(x, 2.0) may be another double. */
#define SQUARES_BODY                                                                       \
    for (long i = 0; i < n; i++) {                                                         \
        double square = x[i] * x[i], lacking = __builtin_fma(-x[i], x[i], square);         \
        double other = __builtin_fma(lacking, -1.0 / (1.0 - 2.0 * 0.022), square);         \
        int in_range = (square >= 1e-100) & (square <= 1e100);                             \
        y[i] = square;                                                                     \
        doubtful[i] = (double)(!(in_range & (other == square)) & (x[i] != 0.0));           \
    }

/* Write the square roots, and for each whether pow(x, 0.5) may be another double. */
#define ROOTS_BODY                                                                         \
    for (long i = 0; i < n; i++) {                                                         \
        double root = sqrt(x[i]), residual = fabs(__builtin_fma(-root, root, x[i]));       \
        double limit = root * (leading_power_of_two(root) * ((1.0 - 2.0 * 0.015) * DBL_EPSILON)); \
        int in_range = (x[i] >= 1e-70) & (x[i] <= 1e70);                                   \
        y[i] = root;                                                                       \
        doubtful[i] = (double)!(in_range & (residual <= limit));                           \
    }

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2,fma")))
static void squares_fma(double *y, double *doubtful, const double *x, long n) { SQUARES_BODY }
__attribute__((target("avx2,fma")))
static void roots_fma(double *y, double *doubtful, const double *x, long n) { ROOTS_BODY }
static int has_fma(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#elif defined(__aarch64__)
static void squares_fma(double *y, double *doubtful, const double *x, long n) { SQUARES_BODY }
static void roots_fma(double *y, double *doubtful, const double *x, long n) { ROOTS_BODY }
static int has_fma(void) { return 1; }
#else
static void squares_fma(double *y, double *doubtful, const double *x, long n) { }
static void roots_fma(double *y, double *doubtful, const double *x, long n) { }
static int has_fma(void) { return 0; }
#endif

#endif
