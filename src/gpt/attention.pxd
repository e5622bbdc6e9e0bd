"""Causal attention: one head of one document, forward and backward.

Scores, exponentials and their gradients are computed in panels of WIDE query positions. A row of
a panel belongs to one key position and has a number for each query. Vectors run across queries,
so a sum over keys is a sum of vectors, in each query's order. A panel stays in the caches from its
scores to their gradients. Its rows end with its last query, and the last ones form a triangle.

Heads of NARROW numbers have functions of their own, narrow.h: there a product, what follows it and
the next product are one pass over a panel. Others multiply by `tile`.

The panels of one head, its map, follow each other in memory (`panel_at`), each row by row.
"""

cimport cython
from libc.string cimport memset

from exponential cimport exponentials
from layers cimport exps_forward, sum_rows
from matmul cimport Tile, pack, tile, tiles, transpose
from powers cimport powers
from simd cimport (
    LANES, MOST_LANES, PANEL, TILE_ROWS, padded, vec, vec_join, vec_load, vec_max, vec_set,
    vec_store, vec_store_part,
)


cdef extern from "narrow.h" nogil:
    enum: NARROW
    enum: WIDE
    ctypedef struct Panel:  # some query positions of one head
        Py_ssize_t first
        Py_ssize_t n  # positions
        Py_ssize_t end  # first + n: rows
        Py_ssize_t width  # between rows: n up to whole vectors
        double *exps  # (end, n)
        const double *mask  # or NULL
        double *weights  # scratch
        double *dscores
        double *packed  # (head_dim, n), scratch
        double *sums
    void narrow_scores(const Panel *p, double *largest, const double *k, Py_ssize_t row)
    void narrow_values(const Panel *p, const double *inverses, const double *x, Py_ssize_t row)
    void narrow_dweights(
        const Panel *p, double *totals, const double *squares, const double *x, Py_ssize_t row
    )
    void narrow_dqueries(
        const Panel *p, const double *totals, const double *inverses, double root,
        const double *k, Py_ssize_t row,
    )
    void narrow_dkeys(const Panel *p, double *sums, const double *terms)


cdef struct Head:  # one attention head of one document
    Py_ssize_t m  # positions
    Py_ssize_t head_dim
    Py_ssize_t row  # between positions of q, k, v and their gradients
    Py_ssize_t y_row  # of y and dy
    double inverse_root
    const double *q  # (m, head_dim)
    const double *k
    const double *v
    double *y
    double *exps  # (map_size(m),)
    double *totals  # (m,), of exps
    double *inverses  # (m,), totals ** -1
    const double *mask  # (map_size(m),), of dropout, or NULL
    double *dq  # (m, head_dim)
    double *dk
    double *dv
    const double *dy
    double *scratch  # (head_scratch(m, head_dim),)


@cython.cdivision(True)
cdef inline Py_ssize_t panel_at(Py_ssize_t first) noexcept nogil:
    """Return how many numbers of a map lie before the panel of a position and WIDE - 1 more."""
    return first * (first + WIDE) // 2


@cython.cdivision(True)
cdef inline Py_ssize_t map_size(Py_ssize_t m) noexcept nogil:
    """Return how many numbers a map of m positions takes."""
    cdef Py_ssize_t first = m // WIDE * WIDE
    return panel_at(first) + m * padded(m - first)


cdef inline Py_ssize_t panel_scratch(Py_ssize_t m, Py_ssize_t head_dim) noexcept nogil:
    """Return how many scratch numbers a panel takes."""
    return 2 * m * WIDE + 3 * WIDE * (head_dim + MOST_LANES)


cdef inline Py_ssize_t head_scratch(Py_ssize_t m, Py_ssize_t head_dim) noexcept nogil:
    """Return how many scratch numbers a head takes."""
    return max(
        panel_scratch(m, head_dim) + 2 * NARROW * (m + WIDE), (m + PANEL) * (head_dim + PANEL)
    )


cdef inline Panel panel_of(const Head *h, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Return the panel of positions from first on, up to last."""
    cdef Panel p
    p.first = first
    p.n = min(<Py_ssize_t>WIDE, last - first)
    p.end = first + p.n
    p.width = padded(p.n)
    p.exps = h.exps + panel_at(first)
    p.mask = h.mask + panel_at(first) if h.mask != NULL else NULL
    p.weights = h.scratch
    p.dscores = p.weights + p.end * p.width
    p.packed = p.dscores + p.end * p.width
    p.sums = p.packed + (h.head_dim + LANES) * WIDE
    return p


cdef inline void products(
    double *c, const double *a, const double *b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    Py_ssize_t c_row, Py_ssize_t a_row, Py_ssize_t a_step, Py_ssize_t b_step, bint add,
) noexcept nogil:
    """Write c[i, j], the sum over k of a[i, k] * b[k, j], or continue it.

    Shapes:  c (m, n), a (m, k), rows a_row apart and steps a_step, b (k, n), steps b_step apart;
             b and c are readable up to whole vectors
    Order:   as k comes, from 0, or from c if add
    Writes:  c. Adds to: c if add
    """
    cdef Py_ssize_t i, vecs
    cdef Py_ssize_t j = 0
    cdef Tile t
    t.k_n = k
    t.c_row = c_row
    t.a_row = a_row
    t.a_step = a_step
    t.b_step = b_step
    t.add = add
    t.fetch = NULL
    t.fetch_step = 0
    if k <= WIDE:
        t.a, t.b, t.c, t.last = a, b, c, (n - 1) % LANES + 1
        tiles(t, m, n)
        return
    while j < n:
        vecs = min(<Py_ssize_t>PANEL, padded(n - j)) // LANES
        t.last = min(<Py_ssize_t>LANES, n - j - (vecs - 1) * LANES)
        t.b = b + j
        i = 0
        while i < m:
            t.a = a + i * a_row
            t.c = c + i * c_row + j
            tile(t, min(<Py_ssize_t>TILE_ROWS, m - i), vecs)
            i += TILE_ROWS
        j += PANEL


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


cdef inline void write_sums(
    double *y, Py_ssize_t row, const Panel *p, Py_ssize_t head_dim
) noexcept nogil:
    """Write a panel's sums, position by position. Writes: y (n, head_dim), rows row apart"""
    cdef Py_ssize_t i, j
    transpose(p.packed, p.sums, head_dim, p.n, padded(head_dim), p.width)
    for i in range(p.n):
        j = 0
        while j < head_dim:
            vec_store_part(
                y + i * row + j, vec_load(p.packed + i * padded(head_dim) + j),
                min(<Py_ssize_t>LANES, head_dim - j),
            )
            j += LANES


cdef inline void largest_of_panel(const Panel *p, double *largest) noexcept nogil:
    """Write the largest score of each column; scores of later keys become that."""
    cdef Py_ssize_t s
    cdef Py_ssize_t v = 0
    cdef vec top, x
    while v < p.width:
        top = vec_load(p.exps + v)
        for s in range(1, p.end):
            x = vec_load(p.exps + s * p.width + v)
            if s > p.first:  # where the own position is past, what gives exp(0.0)
                x = vec_join(top, x, s - p.first - v)
                vec_store(p.exps + s * p.width + v, x)
            top = vec_max(top, x)
        vec_store(largest + v, top)
        v += LANES


cdef inline void softmax_of_panel(
    const Head *h, const Panel *p, double *largest, double *inverses
) noexcept nogil:
    """Write the exponentials of each column's scores, which are in p.exps.

    Order:   as `exps_forward`; exponentials summed from key 0 to the query's
    Writes:  p.exps, zero for later keys; their totals and inverses; largest
    """
    cdef double totals[WIDE]
    cdef Py_ssize_t last = p.width - LANES  # the vector of this column is the second, or the first
    cdef Py_ssize_t _s, s, i
    cdef Py_ssize_t v = 0
    cdef double *row = p.exps
    cdef vec total = vec_set(0.0)
    cdef vec second = total
    while v < p.width:
        vec_store(largest + v, vec_load(largest + v) * h.inverse_root)
        v += LANES
    exponentials(p.exps, p.exps, h.inverse_root, largest, p.width, p.end * p.width)
    for _s in range(p.first):
        total = total + vec_load(row)
        second = second + vec_load(row + last)
        row += p.width
    for s in range(p.n):
        vec_store(row + last, vec_join(vec_set(0.0), vec_load(row + last), s - last))
        if last > 0:
            vec_store(row, vec_join(vec_set(0.0), vec_load(row), s))
        total = total + vec_load(row)
        second = second + vec_load(row + last)
        row += p.width
    vec_store(totals, total)
    vec_store(totals + last, second)
    powers(inverses, totals, p.width, -1.0)
    v = 0
    while v < p.width:
        i = min(<Py_ssize_t>LANES, p.n - v)
        vec_store_part(h.totals + p.first + v, vec_load(totals + v), i)
        vec_store_part(h.inverses + p.first + v, vec_load(inverses + v), i)
        v += LANES


cdef inline void weights_of_column(const Panel *p, vec inverse, Py_ssize_t v) noexcept nogil:
    """Write the weights, after dropout, of the positions in vector v."""
    cdef Py_ssize_t s, i
    cdef vec weight
    for s in range(p.end):
        i = s * p.width + v
        weight = vec_load(p.exps + i) * inverse
        if p.mask != NULL:
            weight = weight * vec_load(p.mask + i)
        vec_store(p.weights + i, weight)


@cython.cdivision(True)
cdef inline void attention_forward(
    const Head *h, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the weighted sums of values, for positions first up to last.

    Order:   q * k summed over head_dim, times (head_dim ** 0.5) ** -1; softmax
             over keys up to the query's; weight * v summed over them
    Writes:  y, exps, totals, inverses
    """
    cdef Py_ssize_t n = h.head_dim
    cdef Py_ssize_t i, v
    cdef double largest[WIDE]
    cdef double inverses[WIDE]
    cdef Panel p
    if first > 0 and last - first == 1:
        attention_of_one(h, first)
        return
    first = first // WIDE * WIDE
    while first < last:
        p = panel_of(h, first, last)
        transpose(p.packed, h.q + first * h.row, p.n, n, p.width, h.row)
        if n == NARROW:
            narrow_scores(&p, largest, h.k, h.row)
            softmax_of_panel(h, &p, largest, inverses)
            narrow_values(&p, inverses, h.v, h.row)
        else:
            products(p.exps, h.k, p.packed, p.end, p.width, n, p.width, h.row, 1, p.width, False)
            largest_of_panel(&p, largest)
            softmax_of_panel(h, &p, largest, inverses)
            v = 0
            while v < p.width:
                weights_of_column(&p, vec_load(inverses + v), v)
                v += LANES
            products(p.sums, h.v, p.weights, n, p.width, first, p.width, 1, h.row, p.width, False)
        write_sums(h.y + first * h.y_row, h.y_row, &p, n)
        i = 0
        while n != NARROW and i < p.n:  # the triangle
            weighted_sum(
                h.y + (first + i) * h.y_row, p.weights + first * p.width + i, p.width,
                h.v + first * h.row, h.row, i + 1, n, True,
            )
            i += 1
        first += WIDE


cdef inline void attention_of_one(const Head *h, Py_ssize_t t) noexcept nogil:
    """Write the weighted sum of values of one position, of a sample: vectors run across keys."""
    cdef double *e = h.exps
    cdef double inverse
    cdef Py_ssize_t s = 0
    pack(h.scratch, h.k, t + 1, h.head_dim, PANEL, h.row, 1, h.head_dim)
    while s <= t:
        products(
            e + s, h.q + t * h.row, h.scratch + s * h.head_dim, 1,
            min(<Py_ssize_t>PANEL, t + 1 - s), h.head_dim, 0, 0, 1, PANEL, False,
        )
        s += PANEL
    exps_forward(e, e, h.inverse_root, t + 1)
    sum_rows(h.totals + t, e, 1, t + 1, 0)
    powers(&inverse, h.totals + t, 1, -1.0)
    for s in range(t + 1):
        e[s] = e[s] * inverse
    weighted_sum(h.y + t * h.y_row, e, 1, h.v, h.row, t + 1, h.head_dim, False)


cdef inline void dscores_of_panel(
    const Head *h, const Panel *p, const double *squares
) noexcept nogil:
    """Write the gradients of a panel's scores, from those of its weights in p.dscores.

    Order:   the total's gradient is summed from the last position to the first
    Writes:  p.dscores, p.weights
    """
    cdef Py_ssize_t s, i
    cdef Py_ssize_t v = 0
    cdef vec total, dinverse, inverse, x
    while v < p.width:
        dinverse = -vec_load(squares + v)
        total = vec_set(0.0)
        for s in range(p.end - 1, -1, -1):
            i = s * p.width + v
            x = vec_load(p.dscores + i)
            if p.mask != NULL:
                x = 0.0 + vec_load(p.mask + i) * x
                vec_store(p.dscores + i, x)
            if s > p.first:
                x = vec_join(vec_set(0.0), x, s - p.first - v)
            total = total + dinverse * (vec_load(p.exps + i) * x)
        inverse = vec_load(h.inverses + p.first + v)
        for s in range(p.end):
            i = s * p.width + v
            x = inverse * vec_load(p.dscores + i) + total
            vec_store(p.dscores + i, h.inverse_root * (vec_load(p.exps + i) * x))
        weights_of_column(p, inverse, v)
        v += LANES


cdef inline void sums_of_rows(
    const Head *h, const Panel *p, double *dx, const double *weights, const double *x,
    Py_ssize_t row,
) noexcept nogil:
    """Add a panel's terms to the gradients of keys or values, last position first.

    Shapes:  dx (m, head_dim), weights as p.weights, x (m, head_dim), rows row apart
    Writes:  dx, of the last panel. Adds to: dx, of others
    """
    cdef Py_ssize_t s
    cdef bint add = p.end < h.m
    weights += p.n - 1
    x += (p.end - 1) * row
    products(dx, weights, x, p.first, h.head_dim, p.n, h.row, p.width, -1, -row, add)
    for s in range(p.first, p.end):
        weighted_sum(
            dx + s * h.row, weights + s * p.width, -1, x, -row, p.end - s, h.head_dim, add
        )


cdef inline void panel_backward(
    const Head *h, const Panel *p, const double *squares
) noexcept nogil:
    """Write the gradients of a panel's queries, and add its terms to those of keys and values."""
    cdef Py_ssize_t n = h.head_dim
    cdef Py_ssize_t before = p.first - 1
    cdef Py_ssize_t i
    products(
        p.dscores, h.v + n - 1, p.packed + (n - 1) * p.width, p.end, p.width, n, p.width, h.row,
        -1, -p.width, False,
    )
    dscores_of_panel(h, p, squares)
    for i in range(p.n):  # the triangle
        weighted_sum(
            h.dq + (p.first + i) * h.row, p.dscores + (p.first + i) * p.width + i, -p.width,
            h.k + (p.first + i) * h.row, -h.row, i + 1, n, False,
        )
    transpose(p.sums, h.dq + p.first * h.row, p.n, n, p.width, h.row)
    products(
        p.sums, h.k + before * h.row, p.dscores + before * p.width, n, p.width, p.first, p.width,
        1, -h.row, -p.width, True,
    )
    write_sums(h.dq + p.first * h.row, h.row, p, n)
    sums_of_rows(h, p, h.dv, p.weights, h.dy, h.y_row)
    sums_of_rows(h, p, h.dk, p.dscores, h.q, h.row)


cdef inline void narrow_panel_backward(
    const Head *h, const Panel *p, const double *squares, double *sums
) noexcept nogil:
    """Do the same for NARROW numbers; the terms are added to sums, as of `narrow_dkeys`."""
    cdef double totals[WIDE]
    cdef double terms[2 * WIDE * NARROW]
    cdef const double *q = h.q + p.first * h.row
    cdef const double *dy = h.dy + p.first * h.y_row
    cdef Py_ssize_t i, j
    for i in range(p.n):
        for j in range(NARROW):
            terms[2 * (i * NARROW + j)] = q[i * h.row + j]
            terms[2 * (i * NARROW + j) + 1] = dy[i * h.y_row + j]
    narrow_dweights(p, totals, squares, h.v, h.row)
    narrow_dqueries(p, totals, h.inverses + p.first, h.inverse_root, h.k, h.row)
    write_sums(h.dq + p.first * h.row, h.row, p, NARROW)
    narrow_dkeys(p, sums, terms)


@cython.cdivision(True)
cdef inline void attention_backward(const Head *h) noexcept nogil:
    """Write the gradients of queries, keys and values.

    Order:   a key or value gets its terms from the last position down to its
             own; a weight's gradient is summed over head_dim right to left; the
             total's and a query's over positions last to first
    Writes:  dq, dk, dv
    """
    cdef Py_ssize_t first = (h.m - 1) // WIDE * WIDE
    cdef Py_ssize_t i, j
    cdef double squares[WIDE]
    cdef double *sums = h.scratch + panel_scratch(h.m, h.head_dim)
    cdef Panel p
    if h.head_dim == NARROW:
        memset(sums, 0, 2 * NARROW * (h.m + WIDE) * sizeof(double))
    while first >= 0:
        p = panel_of(h, first, h.m)
        transpose(p.packed, h.dy + first * h.y_row, p.n, h.head_dim, p.width, h.y_row)
        powers(squares, h.totals + first, p.width, -2.0)
        if h.head_dim == NARROW:
            narrow_panel_backward(h, &p, squares, sums)
        else:
            panel_backward(h, &p, squares)
        first -= WIDE
    if h.head_dim == NARROW:
        for i in range(h.m):
            for j in range(NARROW):
                h.dk[i * h.row + j] = sums[2 * (i * NARROW + j)]
                h.dv[i * h.row + j] = sums[2 * (i * NARROW + j) + 1]
