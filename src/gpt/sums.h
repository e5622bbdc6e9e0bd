/* Sums along rows, four in turn, as each waits for its last addition. Plain C, so that they are
 * not inlined: gcc inlines only so much in one file, and Adam's loop needs it. */
#ifndef MICROGPT_SUMS_H
#define MICROGPT_SUMS_H

#include "simd.h"

#define SHORT_SUM 16 /* numbers whose additions take no longer than four rows in turn would */

/* Write the sum of each of m rows of n numbers, left to right, from 0. */
static __attribute__((noinline)) void
sum_rows(double *totals, const double *x, Py_ssize_t m, Py_ssize_t n, Py_ssize_t row) {
    while (m > 0) {
        int rows = n > SHORT_SUM && m >= 4 ? 4 : 1;
        double sums[4] = {0.0, 0.0, 0.0, 0.0};
        for (Py_ssize_t k = 0; k < n; k++) {
            sums[0] += x[k];
            if (rows == 1) continue;
            sums[1] += x[row + k];
            sums[2] += x[2 * row + k];
            sums[3] += x[3 * row + k];
        }
        for (int r = 0; r < rows; r++) totals[r] = sums[r];
        totals += rows, m -= rows, x += rows * row;
    }
}

#endif
