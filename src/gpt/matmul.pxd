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


cdef struct Product:  # c[i, j] = sum over k of a[i, k] * b[k, j]
    double *c  # (m, n), rows c_row apart
    const double *a  # (m, k), rows a_row apart, columns a_step
    const double *b  # (k, n), rows b_step apart, readable up to whole vectors
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    Py_ssize_t c_row
    Py_ssize_t a_row
    Py_ssize_t a_step  # negative, as b_step, for a sum in descending order
    Py_ssize_t b_step
    bint add  # whether the sums continue those in c
    bint whole  # whether c may be written up to whole vectors
    const double *fetch  # what is read next, or NULL: fetch_step numbers for each k of a tile
    Py_ssize_t fetch_step


@cython.cdivision(True)
cdef inline void multiply_matrices(const Product *p) noexcept nogil:
    """Compute a product.

    Memory that is read in steps is prefetched: no processor predicts such reads.

    Order:   k first to last, from 0, or from c if add
    Writes:  c
    """
    cdef Tile t
    cdef Py_ssize_t m, vecs, rows
    cdef Py_ssize_t n = 0
    t.k_n = p.k
    t.c_row = p.c_row
    t.a_row = p.a_row
    t.a_step = p.a_step
    t.b_step = p.b_step
    t.add = p.add
    t.fetch = p.fetch
    t.fetch_step = p.fetch_step
    while n < p.n:
        vecs = min(<Py_ssize_t>PANEL, padded(p.n - n)) // LANES
        t.last = LANES if p.whole else min(<Py_ssize_t>LANES, p.n - n - (vecs - 1) * LANES)
        t.b = p.b + n
        m = 0
        while m < p.m:
            rows = min(<Py_ssize_t>TILE_ROWS, p.m - m)
            t.c = p.c + m * p.c_row + n
            t.a = p.a + m * p.a_row
            tile(t, rows, vecs)
            if t.fetch != NULL:
                t.fetch += p.k * p.fetch_step
            m += rows
        n += PANEL
