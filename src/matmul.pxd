"""The one kernel under every matrix product, forward and backward.

A float sum has an order, so a product of matrices here is a set of chains:
each output is its own sum, taken one term after the other in the order of k.
Vectors run across outputs, and a tile keeps TILE_ROWS x TILE_VECS of them in
registers, so that many chains advance together and none waits for its adder.
The order within a chain never changes: not with the instruction set, not with
the size of the tile, not where a chain is cut and taken up again.
"""

cimport cython


cdef extern from "simd.h" nogil:
    enum: LANES
    enum: TILE_ROWS
    enum: TILE_VECS
    enum: PANEL
    ctypedef double vec
    vec vec_set(double x)
    vec vec_load(const double *p)
    void vec_store(double *p, vec x)
    void vec_store_part(double *p, vec x, Py_ssize_t count)


@cython.cdivision(True)
cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """Return n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


cdef inline void tile(
    double *c, const double *a, const double *b, Py_ssize_t k_n, Py_ssize_t c_row,
    Py_ssize_t a_row, Py_ssize_t a_step, Py_ssize_t b_step, Py_ssize_t last, bint add,
    int rows, int vecs,
) noexcept nogil:
    """Advance rows x vecs vectors of chains over all k; rows and vecs are constants.

    Writes:  c, of its last vector only the first `last` lanes
    """
    cdef vec acc[8][4]
    cdef vec terms[4]
    cdef vec zero
    cdef double s
    cdef Py_ssize_t k
    cdef int r, v
    zero = vec_set(0.0)
    for r in range(rows):
        for v in range(vecs):
            acc[r][v] = vec_load(c + r * c_row + v * LANES) if add else zero
    for k in range(k_n):
        for v in range(vecs):
            terms[v] = vec_load(b + k * b_step + v * LANES)
        for r in range(rows):
            s = a[r * a_row + k * a_step]
            for v in range(vecs):
                acc[r][v] = acc[r][v] + s * terms[v]
    for r in range(rows):
        for v in range(vecs - 1):
            vec_store(c + r * c_row + v * LANES, acc[r][v])
        v = vecs - 1
        if last == LANES:
            vec_store(c + r * c_row + v * LANES, acc[r][v])
        else:
            vec_store_part(c + r * c_row + v * LANES, acc[r][v], last)


cdef inline void tile_rows(
    double *c, const double *a, const double *b, Py_ssize_t k_n, Py_ssize_t c_row,
    Py_ssize_t a_row, Py_ssize_t a_step, Py_ssize_t b_step, Py_ssize_t last, bint add,
    Py_ssize_t rows, int vecs,
) noexcept nogil:
    """Call `tile` with rows as a constant, so that its accumulators are registers."""
    if TILE_ROWS >= 8 and rows == 8:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 8, vecs)
    elif TILE_ROWS >= 8 and rows == 7:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 7, vecs)
    elif rows == 6:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 6, vecs)
    elif rows == 5:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 5, vecs)
    elif rows == 4:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 4, vecs)
    elif rows == 3:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 3, vecs)
    elif rows == 2:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 2, vecs)
    else:
        tile(c, a, b, k_n, c_row, a_row, a_step, b_step, last, add, 1, vecs)


cdef inline void chains(
    double *c, const double *a, const double *b, Py_ssize_t m_n, Py_ssize_t n_n, Py_ssize_t k_n,
    Py_ssize_t c_row, Py_ssize_t a_row, Py_ssize_t a_step, Py_ssize_t b_step,
    bint add, bint whole,
) noexcept nogil:
    """Write c[m, n] = sum over k of a[m, k] * b[k, n], or continue the sums in c.

    Element a[m, k] is at a[m * a_row + k * a_step], b[k, n] at b[k * b_step + n]:
    a step may be negative, for a sum in descending order.

    Shapes:  c (m, n), a (m, k), b (k, n); b is readable up to whole vectors
    Order:   k first to last, from 0, or from c if add
    Writes:  c, with garbage up to whole vectors if whole, else nothing after n
    """
    cdef Py_ssize_t m, n, rows, last
    n = 0
    while n < n_n:
        last = n_n - n
        m = 0
        while m < m_n:
            rows = min(<Py_ssize_t>TILE_ROWS, m_n - m)
            if last > 3 * LANES and TILE_VECS > 3:
                tile_rows(
                    c + m * c_row + n, a + m * a_row, b + n, k_n, c_row, a_row, a_step, b_step,
                    LANES if whole else min(<Py_ssize_t>LANES, last - 3 * LANES), add, rows, 4,
                )
            elif last > 2 * LANES and TILE_VECS > 2:
                tile_rows(
                    c + m * c_row + n, a + m * a_row, b + n, k_n, c_row, a_row, a_step, b_step,
                    LANES if whole else min(<Py_ssize_t>LANES, last - 2 * LANES), add, rows, 3,
                )
            elif last > LANES:
                tile_rows(
                    c + m * c_row + n, a + m * a_row, b + n, k_n, c_row, a_row, a_step, b_step,
                    LANES if whole else min(<Py_ssize_t>LANES, last - LANES), add, rows, 2,
                )
            else:
                tile_rows(
                    c + m * c_row + n, a + m * a_row, b + n, k_n, c_row, a_row, a_step, b_step,
                    LANES if whole else last, add, rows, 1,
                )
            m += TILE_ROWS
        n += PANEL
