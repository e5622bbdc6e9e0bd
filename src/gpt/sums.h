/* Sums along rows, four in turn, as each waits for its last addition. Plain C, so that they are
 * not inlined: gcc inlines only so much in one file, and Adam's loop needs it. */
#ifndef MICROGPT_SUMS_H
#define MICROGPT_SUMS_H

#include "simd.h"

#define SHORT_SUM 16 /* numbers whose additions take no longer than four rows in turn would */

/* Write the sum of each of m rows: of n numbers, in each row by more numbers than in the one
 * before. Down, terms are factor * (x * y), right to left, else x, left to right; from 0. */
static inline __attribute__((always_inline)) void
sum_each(double *totals, const double *x, const double *y, const double *factors, Py_ssize_t m,
         Py_ssize_t n, Py_ssize_t more, Py_ssize_t row, const int down) {
#define TERM(r, k) (down ? factors[r] * (x[(r) * row + k] * y[(r) * row + k]) : x[(r) * row + k])
    while (m > 0) {
        int rows = n > SHORT_SUM && m >= 4 ? 4 : 1;
        double sums[4] = {0.0, 0.0, 0.0, 0.0};
        for (int r = 1; r < rows && down; r++) {
            for (Py_ssize_t k = n + r * more - 1; k >= n; k--) sums[r] += TERM(r, k);
        }
        for (Py_ssize_t i = 0, k = down ? n - 1 : 0; i < n; i++, k += down ? -1 : 1) {
            sums[0] += TERM(0, k);
            if (rows == 1) continue;
            sums[1] += TERM(1, k);
            sums[2] += TERM(2, k);
            sums[3] += TERM(3, k);
        }
        for (int r = 1; r < rows && !down; r++) {
            for (Py_ssize_t k = n; k < n + r * more; k++) sums[r] += TERM(r, k);
        }
        for (int r = 0; r < rows; r++) totals[r] = sums[r];
        totals += rows, factors += down ? rows : 0, m -= rows, n += rows * more;
        x += rows * row, y += down ? rows * row : 0;
    }
#undef TERM
}

static __attribute__((noinline)) void
sum_rows(double *totals, const double *x, Py_ssize_t m, Py_ssize_t n, Py_ssize_t more, Py_ssize_t row) {
    sum_each(totals, x, x, totals, m, n, more, row, 0); /* y and factors are not read */
}

static __attribute__((noinline)) void
sum_rows_down(double *totals, const double *factors, const double *x, const double *y, Py_ssize_t m,
              Py_ssize_t n, Py_ssize_t more, Py_ssize_t row) {
    sum_each(totals, x, y, factors, m, n, more, row, 1);
}

#endif
