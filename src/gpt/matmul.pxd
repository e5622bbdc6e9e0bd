"""The one kernel under every matrix product, forward and backward.

A float sum has an order, so a product of matrices here is a set of chains:
each output is its own sum, taken one term after the other in the order of k.
Vectors run across outputs, and a tile keeps TILE_ROWS x TILE_VECS of them in
registers, so that many chains advance together and none waits for its adder.
The order within a chain never changes: not with the instruction set, not with
the size of the tile, not where a chain is cut and taken up again.
"""

cimport cython

from simd cimport LANES, PANEL, TILE_ROWS, TILE_VECS, padded


cdef extern from "tile.h" nogil:
    ctypedef struct Tile:
        double *c
        const double *a
        const double *b
        const double *fetch
        Py_ssize_t k_n, c_row, a_row, a_step, b_step, fetch_step, last
        bint add
    void tile(Tile t, Py_ssize_t rows, Py_ssize_t vecs)


@cython.cdivision(True)
cdef inline void chains(
    double *c, const double *a, const double *b, Py_ssize_t m_n, Py_ssize_t n_n, Py_ssize_t k_n,
    Py_ssize_t c_row, Py_ssize_t a_row, Py_ssize_t a_step, Py_ssize_t b_step,
    bint add, bint whole, const double *fetch, Py_ssize_t fetch_step,
) noexcept nogil:
    """Write c[m, n] = sum over k of a[m, k] * b[k, n], or continue the sums in c.

    Element a[m, k] is at a[m * a_row + k * a_step], b[k, n] at b[k * b_step + n]:
    a step may be negative, for a sum in descending order. From fetch on, fetch_step
    numbers for each step of a tile are brought near: a processor that reads rows a few
    numbers at a time does not guess what comes next.

    Shapes:  c (m, n), a (m, k), b (k, n); b is readable up to whole vectors
    Order:   k first to last, from 0, or from c if add
    Writes:  c, with garbage up to whole vectors if whole, else nothing after n
    """
    cdef Tile t
    cdef Py_ssize_t m, vecs, rows
    cdef Py_ssize_t n = 0
    t.k_n = k_n
    t.c_row = c_row
    t.a_row = a_row
    t.a_step = a_step
    t.b_step = b_step
    t.add = add
    t.fetch = fetch
    t.fetch_step = fetch_step
    while n < n_n:
        vecs = min(<Py_ssize_t>PANEL, padded(n_n - n)) // LANES
        t.last = LANES if whole else min(<Py_ssize_t>LANES, n_n - n - (vecs - 1) * LANES)
        t.b = b + n
        m = 0
        while m < m_n:
            rows = min(<Py_ssize_t>TILE_ROWS, m_n - m)
            t.c = c + m * c_row + n
            t.a = a + m * a_row
            tile(t, rows, vecs)
            if t.fetch != NULL:
                t.fetch += k_n * fetch_step
            m += rows
        n += PANEL
