/* Sums along rows, four in turn, as each waits for its last addition. Plain C, so that they are
 * not inlined: gcc inlines only so much in one file, and Adam's loop needs it. */
#ifndef MICROGPT_SUMS_H
#define MICROGPT_SUMS_H

#include "simd.h"

#define SHORT_SUM 16 /* numbers whose additions take no longer than four rows in turn would */
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS void sums_of_rows(double *totals, const double *x, const double *y, const int rows,
                         Py_ssize_t n, Py_ssize_t row, Py_ssize_t step) {
    double sums[4] = {0.0, 0.0, 0.0, 0.0};
    for (Py_ssize_t k = 0; k < n; k++) {
        for (int r = 0; r < rows; r++) {
            const Py_ssize_t at = r * row + k * step;
            sums[r] += y ? x[at] * y[at] : x[at];
        }
    }
    for (int r = 0; r < rows; r++) totals[r] = sums[r];
}

ALWAYS void sums_of(double *totals, const double *x, const double *y, Py_ssize_t m, Py_ssize_t n,
                    Py_ssize_t row, Py_ssize_t step) {
    while (m > 0) {
        const int rows = n > SHORT_SUM && m >= 4 ? 4 : 1;
        if (rows == 4) sums_of_rows(totals, x, y, 4, n, row, step);
        else sums_of_rows(totals, x, y, 1, n, row, step);
        totals += rows, m -= rows, x += rows * row, y += y ? rows * row : 0;
    }
}

/* Write the sum of each of m rows of n numbers, left to right, from 0. */
static __attribute__((noinline)) void
sum_rows(double *totals, const double *x, Py_ssize_t m, Py_ssize_t n, Py_ssize_t row) {
    sums_of(totals, x, NULL, m, n, row, 1);
}

/* Write the sum of each row's products, from 0, left to right if step is 1, or right to left, -1. */
static __attribute__((noinline)) void
dot_rows(double *totals, const double *x, const double *y, Py_ssize_t m, Py_ssize_t n,
         Py_ssize_t row, Py_ssize_t step) {
    const Py_ssize_t first = step > 0 ? 0 : n - 1;
    sums_of(totals, x + first, y + first, m, n, row, step);
}

#endif
