/* Plain C: the register tile of matmul.pxd. Its accumulators stay
 * in registers only where its loops have constant bounds, so it has to be inlined
 * once for each number of rows and vectors, which Cython cannot ask for. */
#ifndef MICROGPT_TILE_H
#define MICROGPT_TILE_H

#include "simd.h"

#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#define TWO_AT_ONCE _Pragma("unroll(2)")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#define TWO_AT_ONCE _Pragma("GCC unroll 2")
#endif

/* Without this before and after the loop, gcc 12 keeps some accumulators in memory in between. */
#define KEEP_IN_REGISTERS(acc, rows, vecs)                                               \
    UNROLLED for (int r = 0; r < rows; r++) {                                            \
        UNROLLED for (int v = 0; v < vecs; v++) __asm__("" : VEC_REGISTER(acc[r][v])); \
    }

typedef struct {
    double *c;
    const double *a, *b;
    const double *fetch; /* what is read next, prefetched, or NULL */
    Py_ssize_t k_n, c_row, a_row, a_step, b_step, fetch_step;
    Py_ssize_t last; /* lanes of the last vector that are written */
    int add;         /* continue the chains in c, instead of from 0 */
} Tile;

/* c[r, :] = (c[r, :] or 0) + sum over k in order of a[r, k] * b[k, :] */
static inline __attribute__((always_inline)) void
tile_of(Tile t, const int rows, const int vecs, const int fetches) {
    vec acc[TILE_ROWS][TILE_VECS];
    UNROLLED for (int r = 0; r < rows; r++) {
        UNROLLED for (int v = 0; v < vecs; v++) {
            acc[r][v] = t.add ? vec_load(t.c + r * t.c_row + v * LANES) : vec_set(0.0);
        }
    }
    KEEP_IN_REGISTERS(acc, rows, vecs)
    /* By AVX2 a twentieth faster: one step is as many instructions as a Zen 4 core dispatches. */
    TWO_AT_ONCE for (Py_ssize_t k = 0; k < t.k_n; k++) {
        vec terms[TILE_VECS];
        if (fetches && t.fetch) {
            UNROLLED for (int v = 0; v < vecs; v++) __builtin_prefetch(t.fetch + v * LANES, 0, 2);
            t.fetch += t.fetch_step;
        }
        UNROLLED for (int v = 0; v < vecs; v++) terms[v] = vec_load(t.b + v * LANES);
        UNROLLED for (int r = 0; r < rows; r++) {
            UNROLLED for (int v = 0; v < vecs; v++) {
                acc[r][v] += vec_times(t.a + r * t.a_row, terms[v]);
            }
        }
        t.a += t.a_step;
        t.b += t.b_step;
    }
    KEEP_IN_REGISTERS(acc, rows, vecs)
    double *c = t.c;
    __asm__("" : "+r"(c)); /* else addresses computed above take registers in the loop */
    UNROLLED for (int r = 0; r < rows; r++) {
        UNROLLED for (int v = 0; v < vecs; v++) {
            if (v < vecs - 1 || t.last == LANES) vec_store(c + v * LANES, acc[r][v]);
            else vec_store_part(c + v * LANES, acc[r][v], t.last);
        }
        c += t.c_row;
    }
}

static inline __attribute__((always_inline)) void tile_rows(Tile t, Py_ssize_t rows, const int vecs) {
    switch (rows) {
    case 1: tile_of(t, 1, vecs, 1); break;
    case 2: tile_of(t, 2, vecs, 1); break;
    case 3: tile_of(t, 3, vecs, 1); break;
    case 4: tile_of(t, 4, vecs, 1); break;
    case 5: tile_of(t, 5, vecs, 1); break;
    case 6: tile_of(t, 6, vecs, 1); break;
#if TILE_ROWS == 8
    case 7: tile_of(t, 7, vecs, 1); break;
    case 8: tile_of(t, 8, vecs, 1); break;
#endif
    }
}

/* Not inlined: in its only caller, the compiler would keep less of a tile in registers. Most tiles
 * of packed products are whole: their loop does not test whether to prefetch. */
static __attribute__((noinline)) void whole_tile(Tile t) {
    for (int r = 0; r < TILE_ROWS; r++) { /* so that c is near when its sums are done */
        for (int v = 0; v < PANEL; v += 8) __builtin_prefetch(t.c + r * t.c_row + v, 1);
    }
    tile_of(t, TILE_ROWS, TILE_VECS, 0);
}

static __attribute__((noinline)) void tile(Tile t, Py_ssize_t rows, Py_ssize_t vecs) {
    if (rows == TILE_ROWS && vecs == TILE_VECS && !t.fetch) {
        whole_tile(t);
        return;
    }
    switch (vecs) {
    case 1: tile_rows(t, rows, 1); break;
    case 2: tile_rows(t, rows, 2); break;
#if TILE_VECS > 2
    case 3: tile_rows(t, rows, 3); break;
#endif
#if TILE_VECS > 3
    case 4: tile_rows(t, rows, 4); break;
#endif
    }
}

/* A product of m rows and n columns: a call for each tile takes long beside sums of few steps. */
static inline __attribute__((always_inline)) void tiles_of(Tile t, const int rows, Py_ssize_t n) {
    const Py_ssize_t last = t.last;
    t.last = LANES;
    for (; n > 2 * LANES; n -= 2 * LANES) {
        tile_of(t, rows, 2, 0);
        t.b += 2 * LANES;
        t.c += 2 * LANES;
    }
    t.last = last;
    if (n > LANES) tile_of(t, rows, 2, 0);
    else tile_of(t, rows, 1, 0);
}

#define FEW_ROWS 4
static __attribute__((noinline)) void tiles(Tile t, Py_ssize_t m, Py_ssize_t n) {
    for (; m > 0; m -= FEW_ROWS) {
        switch (m) {
        case 1: tiles_of(t, 1, n); break;
        case 2: tiles_of(t, 2, n); break;
        case 3: tiles_of(t, 3, n); break;
        default: tiles_of(t, FEW_ROWS, n);
        }
        t.a += FEW_ROWS * t.a_row;
        t.c += FEW_ROWS * t.c_row;
    }
}

#endif
