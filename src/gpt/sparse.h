/* Plain C: the rows of sparse.pxd's products. As in tile.h, sums stay in registers only where
 * loops have constant bounds. */
#ifndef MICROGPT_SPARSE_H
#define MICROGPT_SPARSE_H

#include "tile.h"

#define SPARSE_VECS 8 /* vectors of sums side by side: enough to keep the adder busy */
#define SPARSE_PANEL (SPARSE_VECS * LANES)
#define SPARSE_STEPS 64 /* steps of a sum at once, a bit each; a panel of b of so many fits into L1 */

typedef unsigned long long step_bits;

typedef struct {
    double *c;              /* (m, n), rows c_row apart */
    const double *a;        /* (m, steps), rows a_row apart, columns a_step: 1 or -1 */
    const double *b;        /* (steps, SPARSE_PANEL) */
    const step_bits *steps; /* (m,) which steps of a row are added */
    Py_ssize_t c_row, a_row, a_step;
    Py_ssize_t last; /* lanes of the last vector that are written */
    int add;         /* continue the sums in c, instead of from 0 */
} SparseRows;

/* The lowest bit becomes the highest, and so on. */
static inline step_bits reversed(step_bits bits) {
    bits = (bits >> 1 & 0x5555555555555555) | (bits & 0x5555555555555555) << 1;
    bits = (bits >> 2 & 0x3333333333333333) | (bits & 0x3333333333333333) << 2;
    bits = (bits >> 4 & 0x0f0f0f0f0f0f0f0f) | (bits & 0x0f0f0f0f0f0f0f0f) << 4;
    return __builtin_bswap64(bits);
}

/* A bit for each of n numbers, 1 or -1 apart, that is not 0.0, or for all: the lowest for the
 * first. What lies behind them in memory is readable up to whole vectors. */
static inline step_bits
nonzero_steps(const double *x, Py_ssize_t n, Py_ssize_t step, int all) {
    step_bits bits = all ? ~0ULL : 0;
    if (step < 0) x -= n - 1;
    for (Py_ssize_t k = 0; k < n; k += LANES) {
        bits |= (step_bits)mask_bits(vec_differ(vec_load(x + k), vec_set(0.0))) << k;
    }
    bits &= ~0ULL >> (SPARSE_STEPS - n);
    return step < 0 ? reversed(bits) >> (SPARSE_STEPS - n) : bits;
}

static inline __attribute__((always_inline)) void
sparse_rows_of(SparseRows t, Py_ssize_t m, const int vecs) {
    for (; m > 0; m--) {
        vec acc[1][SPARSE_VECS];
        UNROLLED for (int v = 0; v < vecs; v++) {
            acc[0][v] = t.add ? vec_load(t.c + v * LANES) : vec_set(0.0);
        }
        KEEP_IN_REGISTERS(acc, 1, vecs)
        for (step_bits bits = *t.steps++; bits; bits &= bits - 1) {
            Py_ssize_t k = __builtin_ctzll(bits);
            const double *b = t.b + k * SPARSE_PANEL;
            vec a = vec_set(t.a[k * t.a_step]);
            UNROLLED for (int v = 0; v < vecs; v++) acc[0][v] += a * vec_load(b + v * LANES);
        }
        KEEP_IN_REGISTERS(acc, 1, vecs)
        UNROLLED for (int v = 0; v < vecs; v++) {
            if (v < vecs - 1 || t.last == LANES) vec_store(t.c + v * LANES, acc[0][v]);
            else vec_store_part(t.c + v * LANES, acc[0][v], t.last);
        }
        t.c += t.c_row;
        t.a += t.a_row;
    }
}

/* c[r, :] = (c[r, :] or 0) + sum over a row's steps in order of a[r, step] * b[step, :] */
static __attribute__((noinline)) void sparse_rows(SparseRows t, Py_ssize_t m, Py_ssize_t vecs) {
    switch (vecs) {
    case 1: sparse_rows_of(t, m, 1); break;
    case 2: sparse_rows_of(t, m, 2); break;
    case 3: sparse_rows_of(t, m, 3); break;
    case 4: sparse_rows_of(t, m, 4); break;
    case 5: sparse_rows_of(t, m, 5); break;
    case 6: sparse_rows_of(t, m, 6); break;
    case 7: sparse_rows_of(t, m, 7); break;
    case 8: sparse_rows_of(t, m, 8); break;
    }
}

#endif
