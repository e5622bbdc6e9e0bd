/* Attention of heads of NARROW numbers, those of the default model: see attention.pxd.
 *
 * Sums of so few terms are short beside reading and writing a panel. So each function goes once over
 * a panel and does all that it can for each pair of positions. Plain C, so that loops over constants
 * are unrolled and vectors stay in registers. */
#ifndef MICROGPT_NARROW_H
#define MICROGPT_NARROW_H

#include "tile.h"

#define NARROW 4
#define WIDE (2 * LANES)

typedef struct { /* some query positions of one head */
    Py_ssize_t first;
    Py_ssize_t n;     /* positions */
    Py_ssize_t end;   /* first + n: rows */
    Py_ssize_t width; /* between rows: n up to whole vectors */
    double *exps;     /* (end, n) */
    const double *mask; /* or NULL */
    double *weights;    /* scratch */
    double *dscores;
    double *packed; /* (head_dim, n), scratch */
    double *sums;
} Panel;

#define EACH_VECTOR UNROLLED for (int v = 0; v < vecs; v++)
#define EACH_NUMBER UNROLLED for (int j = 0; j < NARROW; j++)
/* Rows up to the first query's, then those that some queries do not see: late is a constant. */
#define EACH_ROW                                           \
    UNROLLED for (int late = 0; late < 2; late++)          \
        for (Py_ssize_t s = late ? p.first + 1 : 0; s < (late ? p.end : p.first + 1); s++)
#define EACH_ROW_BACK                                      \
    UNROLLED for (int late = 1; late >= 0; late--)         \
        for (Py_ssize_t s = late ? p.end - 1 : p.first; s >= (late ? p.first + 1 : 0); s--)
#define SEEN(other, x) (late ? vec_join(other, x, s - p.first - v * LANES) : (x))
#define IN_WIDTH(function, ...)                               \
    do {                                                      \
        if (p->width == WIDE) function(*p, __VA_ARGS__, 2);   \
        else function(*p, __VA_ARGS__, 1);                    \
    } while (0)

static inline __attribute__((always_inline)) void
scores_of(Panel p, double *largest, const double *k, Py_ssize_t row, const int vecs) {
    vec q[NARROW][2], top[2];
    EACH_NUMBER EACH_VECTOR q[j][v] = vec_load(p.packed + j * p.width + v * LANES);
    EACH_VECTOR top[v] = vec_set(0.0);
    EACH_ROW {
        vec x[2];
        EACH_VECTOR x[v] = vec_set(0.0);
        EACH_NUMBER EACH_VECTOR x[v] += vec_times(k + s * row + j, q[j][v]);
        EACH_VECTOR {
            x[v] = SEEN(top[v], x[v]);
            top[v] = s == 0 ? x[v] : vec_max(top[v], x[v]);
            vec_store(p.exps + s * vecs * LANES + v * LANES, x[v]);
        }
    }
    EACH_VECTOR vec_store(largest + v * LANES, top[v]);
}

/* Write the scores, and the largest of each query. Writes: p.exps */
static __attribute__((noinline)) void
narrow_scores(const Panel *p, double *largest, const double *k, Py_ssize_t row) {
    IN_WIDTH(scores_of, largest, k, row);
}

static inline __attribute__((always_inline)) void
values_of(Panel p, const double *inverses, const double *x, Py_ssize_t row, const int vecs) {
    vec total[NARROW][2], inverse[2];
    EACH_NUMBER EACH_VECTOR total[j][v] = vec_set(0.0);
    EACH_VECTOR inverse[v] = vec_load(inverses + v * LANES);
    EACH_ROW {
        vec weight[2];
        EACH_VECTOR {
            Py_ssize_t i = (s * vecs + v) * LANES;
            weight[v] = vec_load(p.exps + i) * inverse[v];
            if (p.mask) weight[v] *= vec_load(p.mask + i);
        }
        EACH_NUMBER EACH_VECTOR {
            total[j][v] += SEEN(vec_set(0.0), vec_times(x + s * row + j, weight[v]));
        }
    }
    EACH_NUMBER EACH_VECTOR vec_store(p.sums + j * p.width + v * LANES, total[j][v]);
}

/* Write the sums of values x by weights, which are exponentials times inverses. Writes: p.sums */
static __attribute__((noinline)) void
narrow_values(const Panel *p, const double *inverses, const double *x, Py_ssize_t row) {
    IN_WIDTH(values_of, inverses, x, row);
}

static inline __attribute__((always_inline)) void
dweights_of(Panel p, double *totals, const double *squares, const double *x, Py_ssize_t row,
            const int vecs) {
    vec dy[NARROW][2], total[2], dinverse[2];
    EACH_NUMBER EACH_VECTOR dy[j][v] = vec_load(p.packed + (NARROW - 1 - j) * p.width + v * LANES);
    EACH_VECTOR total[v] = vec_set(0.0), dinverse[v] = -vec_load(squares + v * LANES);
    EACH_ROW_BACK {
        vec dweight[2];
        EACH_VECTOR dweight[v] = vec_set(0.0);
        EACH_NUMBER EACH_VECTOR dweight[v] += vec_times(x + s * row + NARROW - 1 - j, dy[j][v]);
        EACH_VECTOR {
            Py_ssize_t i = (s * vecs + v) * LANES;
            if (p.mask) dweight[v] = 0.0 + vec_load(p.mask + i) * dweight[v];
            vec_store(p.weights + i, dweight[v]);
            dweight[v] = SEEN(vec_set(0.0), dweight[v]);
            total[v] += dinverse[v] * (vec_load(p.exps + i) * dweight[v]);
        }
    }
    EACH_VECTOR vec_store(totals + v * LANES, total[v]);
}

/* Write the gradients of the weights of values x, and of the exponentials' totals.
 * Writes: p.weights */
static __attribute__((noinline)) void
narrow_dweights(const Panel *p, double *totals, const double *squares, const double *x,
                Py_ssize_t row) {
    IN_WIDTH(dweights_of, totals, squares, x, row);
}

static inline __attribute__((always_inline)) void
dqueries_of(Panel p, const double *totals, const double *inverses, double root, const double *k,
            Py_ssize_t row, const int vecs) {
    double *pairs = p.weights; /* rows that have been read become pairs of rows that are next */
    vec sum[NARROW][2], total[2], inverse[2];
    EACH_NUMBER EACH_VECTOR sum[j][v] = vec_set(0.0);
    EACH_VECTOR total[v] = vec_load(totals + v * LANES), inverse[v] = vec_load(inverses + v * LANES);
    EACH_ROW_BACK {
        vec dscore[2];
        EACH_VECTOR dscore[v] = vec_load(p.weights + (s * vecs + v) * LANES);
        EACH_VECTOR {
            Py_ssize_t i = (s * vecs + v) * LANES;
            vec exps = vec_load(p.exps + i), weight = exps * inverse[v];
            dscore[v] = root * (exps * (inverse[v] * dscore[v] + total[v]));
            if (p.mask) weight *= vec_load(p.mask + i);
            vec_store(pairs + 2 * i, SHUFFLE_LOW(dscore[v], weight));
            vec_store(pairs + 2 * i + LANES, SHUFFLE_HIGH(dscore[v], weight));
        }
        EACH_NUMBER EACH_VECTOR {
            sum[j][v] += SEEN(vec_set(0.0), vec_times(k + s * row + j, dscore[v]));
        }
    }
    EACH_NUMBER EACH_VECTOR vec_store(p.sums + j * p.width + v * LANES, sum[j][v]);
}

/* Write the gradients of the scores, from those of their weights, and of the queries.
 * Writes: p.sums, and p.weights (end, n, 2): each score's gradient and weight */
static __attribute__((noinline)) void
narrow_dqueries(const Panel *p, const double *totals, const double *inverses, double root,
                const double *k, Py_ssize_t row) {
    IN_WIDTH(dqueries_of, totals, inverses, root, k, row);
}

/* Two numbers, again and again. */
static inline vec vec_pair(const double *p) {
#if LANES == 8
    return _mm512_broadcast_f64x2(_mm_loadu_pd(p));
#elif LANES == 4
    return _mm256_broadcast_pd((const __m128d *)p);
#else
    return vec_load(p);
#endif
}

#define ROWS (LANES == 8 ? 8 : 4) /* of a triangle's WIDE, a part */
#define PAIR_VECS (2 * NARROW / LANES)
#define EACH_SUM UNROLLED for (int r = 0; r < ROWS; r++) UNROLLED for (int v = 0; v < PAIR_VECS; v++)

/* Add a panel's terms to the gradients of keys and values, from what narrow_dqueries has left.
 *
 * Shapes:  sums (end, NARROW, 2), up to ROWS, keys' and values' in turn; terms (n, NARROW, 2) */
static __attribute__((noinline)) void
narrow_dkeys(const Panel *panel, double *sums, const double *terms) {
    Panel p = *panel;
    for (Py_ssize_t s = 0; s < p.end; s += ROWS, sums += ROWS * 2 * NARROW) {
        const double *pairs = p.weights + 2 * s * p.width;
        Py_ssize_t i = p.n - 1, all = s + ROWS - 1 - p.first; /* the first query of all rows */
        vec sum[ROWS][PAIR_VECS];
        EACH_SUM sum[r][v] = vec_load(sums + r * 2 * NARROW + v * LANES);
        for (; i >= (all > 0 ? all : 0); i--) {
            EACH_SUM sum[r][v] += vec_pair(pairs + 2 * (r * p.width + i)) *
                                  vec_load(terms + i * 2 * NARROW + v * LANES);
        }
        UNROLLED for (int r = 0; r < ROWS; r++) {
            for (Py_ssize_t k = i; k >= 0 && k >= s + r - p.first; k--) {
                UNROLLED for (int v = 0; v < PAIR_VECS; v++) {
                    sum[r][v] += vec_pair(pairs + 2 * (r * p.width + k)) *
                                 vec_load(terms + k * 2 * NARROW + v * LANES);
                }
            }
        }
        EACH_SUM vec_store(sums + r * 2 * NARROW + v * LANES, sum[r][v]);
    }
}

#endif
