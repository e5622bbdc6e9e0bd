"""Causal attention: one head of one document, forward and backward.

All its sums are products of matrices, of which only one triangle counts: the scores of a
position with those up to its own, sums over these positions, and in the backward pass sums
over the positions from its own on. They are computed in blocks of TILE_ROWS positions. Where
a sum covers another number of positions for each of a block's, the tile takes those that all
have in common, and `weighted_sum` the few between.
"""

cimport cython

from layers cimport exps_forward, sum_rows
from matmul cimport Tile, pack, tile
from powers cimport powers
from simd cimport LANES, PANEL, TILE_ROWS, padded, vec, vec_load, vec_set, vec_store_part


cdef extern from "sums.h" nogil:
    void sum_rows_down(
        double *totals, const double *factors, const double *x, const double *y, Py_ssize_t m,
        Py_ssize_t n, Py_ssize_t more, Py_ssize_t row,
    )


cdef struct Head:  # one attention head of one document
    Py_ssize_t m  # positions
    Py_ssize_t head_dim
    Py_ssize_t row  # between positions of q, k, v and their gradients
    Py_ssize_t y_row  # of y and dy
    Py_ssize_t weights_row  # between positions of weights, exps, dropped, mask
    double inverse_root
    const double *q  # (m, head_dim)
    const double *k
    const double *v
    double *y
    double *weights  # (m, m): row t over the positions up to t, then zero
    double *exps
    double *totals  # (m,), of exps
    double *inverses  # (m,), totals ** -1
    const double *mask  # (m, m), of dropout, or NULL
    double *dropped  # weights after dropout, or weights
    double *dq  # (m, head_dim)
    double *dk
    double *dv
    const double *dy
    double *dscores  # (m, m), scratch
    double *packed  # (packed_size(m, head_dim),), scratch


cdef enum Sum:  # of the positions that c[t] is a sum over
    FIRST_TO_OWN  # of a[t, s] * b[s]
    OWN_TO_FIRST
    LAST_TO_OWN  # of a[s, t] * b[s]


cdef inline Py_ssize_t packed_size(Py_ssize_t m, Py_ssize_t head_dim) noexcept nogil:
    """Return the number of scratch numbers that a packed matrix of a head takes."""
    return (m + PANEL) * (head_dim + PANEL)


cdef inline void weighted_sum(
    double *y, const double *weights, Py_ssize_t step, const double *rows, Py_ssize_t row,
    Py_ssize_t m, Py_ssize_t n, bint add,
) noexcept nogil:
    """Write the sum of m rows, each times its weight, or continue it.

    Shapes:  y (n,), weights (m,) step apart, rows (m, n) row apart, readable up to whole vectors
    Order:   rows first to last
    Writes:  y. Adds to: y if add
    """
    cdef Py_ssize_t k
    cdef Py_ssize_t i = 0
    cdef vec total
    while i < n:
        total = vec_load(y + i) if add else vec_set(0.0)
        for k in range(m):
            total = total + weights[k * step] * vec_load(rows + k * row + i)
        vec_store_part(y + i, total, min(<Py_ssize_t>LANES, n - i))
        i += LANES


@cython.cdivision(True)
cdef inline void dot_products(
    const Head *h, double *c, const double *a, const double *b, Py_ssize_t a_row,
    Py_ssize_t first, Py_ssize_t last, bint down,
) noexcept nogil:
    """Write the products of rows first up to last of a with the rows of b up to the same one.

    Shapes:  c (m, m), rows weights_row apart; a, b (m, head_dim), rows a_row and row apart
    Order:   products summed over head_dim left to right, or right to left if down, from 0
    Writes:  c, row t up to whole vectors behind t
    """
    cdef Py_ssize_t end = h.head_dim - 1 if down else 0
    cdef Py_ssize_t t = first
    cdef Py_ssize_t s, rows
    cdef Tile block
    pack(h.packed, b, last, h.head_dim, PANEL, h.row, 1, h.head_dim)
    block.k_n = h.head_dim
    block.c_row = h.weights_row
    block.a_row = a_row
    block.a_step = -1 if down else 1
    block.b_step = -PANEL if down else PANEL
    block.last = LANES
    block.add = False
    block.fetch = NULL
    block.fetch_step = 0
    while t < last:
        rows = min(<Py_ssize_t>TILE_ROWS, last - t)
        block.a = a + t * a_row + end
        s = 0
        while s < t + rows:
            block.b = h.packed + s * h.head_dim + end * PANEL
            block.c = c + t * h.weights_row + s
            tile(block, rows, min(<Py_ssize_t>PANEL, padded(t + rows - s)) // LANES)
            s += PANEL
        t += rows


@cython.cdivision(True)
cdef inline void sums_of_rows(
    const Head *h, double *c, const double *a, const double *b, Py_ssize_t c_row,
    Py_ssize_t row, Sum order, Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    """Write for positions t from first up to last the sum of rows of b, weighted by a.

    Shapes:  c, b (m, head_dim), rows c_row and row apart; a (m, m), rows weights_row apart
    Order:   as `Sum` says, from 0
    """
    cdef Py_ssize_t m = h.m
    cdef Py_ssize_t a_row = h.weights_row
    cdef Py_ssize_t t = first
    cdef Py_ssize_t i, j, r, rows
    cdef Tile block
    if last - first == 1 and order == FIRST_TO_OWN:  # of a sample: not worth packing
        weighted_sum(c + t * c_row, a + t * a_row, 1, b, row, t + 1, h.head_dim, False)
        return
    pack(h.packed, b, h.head_dim, m, PANEL, 1, row, m)
    block.c_row = c_row
    block.a_row = 1 if order == LAST_TO_OWN else a_row
    block.a_step = -a_row if order == LAST_TO_OWN else 1 if order == FIRST_TO_OWN else -1
    block.b_step = PANEL if order == FIRST_TO_OWN else -PANEL
    block.add = order == OWN_TO_FIRST
    block.fetch = NULL
    block.fetch_step = 0
    while t < last:
        rows = min(<Py_ssize_t>TILE_ROWS, last - t)
        if order == OWN_TO_FIRST:
            for r in range(t, t + rows):
                weighted_sum(
                    c + r * c_row, a + r * a_row + r, -1, b + r * row, -row, r - t + 1, h.head_dim,
                    False,
                )
        if order == FIRST_TO_OWN:
            i = 0
            block.a = a + t * a_row
            block.k_n = t
        elif order == OWN_TO_FIRST:
            i = t - 1
            block.a = a + t * a_row + i
            block.k_n = t
        else:
            i = m - 1
            block.a = a + i * a_row + t
            block.k_n = m - t - rows
        j = 0
        while j < h.head_dim:
            block.b = h.packed + j * m + i * PANEL
            block.c = c + t * c_row + j
            r = min(<Py_ssize_t>PANEL, padded(h.head_dim - j)) // LANES
            block.last = min(<Py_ssize_t>LANES, h.head_dim - j - (r - 1) * LANES)
            tile(block, rows, r)
            j += PANEL
        for r in range(t, t + rows):
            if order == FIRST_TO_OWN:
                weighted_sum(
                    c + r * c_row, a + r * a_row + t, 1, b + t * row, row, r - t + 1, h.head_dim,
                    True,
                )
            elif order == LAST_TO_OWN:
                i = t + rows - 1
                weighted_sum(
                    c + r * c_row, a + i * a_row + r, -a_row, b + i * row, -row, i - r + 1,
                    h.head_dim, True,
                )
        t += rows


cdef inline void attention_forward(
    const Head *h, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the weighted sums of values, for positions first up to last.

    Order:   q * k summed over head_dim, times (head_dim ** 0.5) ** -1; softmax
             over positions up to the own; weight * v summed over positions
    Writes:  y, weights, exps, totals, inverses, dropped
    """
    cdef Py_ssize_t t, s
    cdef double *e
    cdef double *w
    cdef double *dropped
    dot_products(h, h.exps, h.q, h.k, h.row, first, last, False)
    for t in range(first, last):
        e = h.exps + t * h.weights_row
        exps_forward(e, e, h.inverse_root, t + 1)
    e = h.exps + first * h.weights_row
    sum_rows(h.totals + first, e, last - first, first + 1, 1, h.weights_row)
    powers(h.inverses + first, h.totals + first, last - first, -1.0)
    for t in range(first, last):
        e = h.exps + t * h.weights_row
        w = h.weights + t * h.weights_row
        for s in range(t + 1):
            w[s] = e[s] * h.inverses[t]
        if h.mask != NULL:
            dropped = h.dropped + t * h.weights_row
            for s in range(t + 1):
                dropped[s] = w[s] * h.mask[t * h.weights_row + s]
    sums_of_rows(h, h.y, h.dropped, h.v, h.y_row, h.row, FIRST_TO_OWN, first, last)


cdef inline void attention_backward(const Head *h) noexcept nogil:
    """Write the gradients of queries, keys and values.

    Order:   a key or value gets its terms from the last position down to its
             own; a weight's gradient is summed over head_dim right to left; the
             total's and a query's over positions last to first
    Writes:  dq, dk, dv
    """
    cdef Py_ssize_t t, s
    cdef double *dscores
    cdef double *dinverses = h.packed
    cdef double *dtotals = h.packed + padded(h.m)
    cdef const double *e
    cdef const double *mask
    dot_products(h, h.dscores, h.dy, h.v, h.y_row, 0, h.m, True)  # the gradients of weights
    sums_of_rows(h, h.dv, h.dropped, h.dy, h.row, h.y_row, LAST_TO_OWN, 0, h.m)
    powers(dinverses, h.totals, h.m, -2.0)
    for t in range(h.m):
        dinverses[t] = -dinverses[t]
        if h.mask != NULL:
            dscores = h.dscores + t * h.weights_row
            mask = h.mask + t * h.weights_row
            for s in range(t + 1):
                dscores[s] = 0.0 + mask[s] * dscores[s]
    sum_rows_down(dtotals, dinverses, h.exps, h.dscores, h.m, 1, 1, h.weights_row)
    for t in range(h.m):
        dscores = h.dscores + t * h.weights_row
        e = h.exps + t * h.weights_row
        for s in range(t + 1):
            dscores[s] = h.inverse_root * (e[s] * (h.inverses[t] * dscores[s] + dtotals[t]))
    sums_of_rows(h, h.dq, h.dscores, h.k, h.row, h.row, OWN_TO_FIRST, 0, h.m)
    sums_of_rows(h, h.dk, h.dscores, h.q, h.row, h.row, LAST_TO_OWN, 0, h.m)
