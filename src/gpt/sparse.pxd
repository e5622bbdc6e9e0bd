"""Products whose left operand has many zeros: relu's output, and its gradient.

A term of a zero adds a zero to a sum that is not -0.0, which changes nothing if its other factor is
finite. It is left out, so that about half of such a product is computed. Zeros lie elsewhere in
each row: rows are multiplied one by one, each by panels of b that stay in L1.
"""

cimport cython

from matmul cimport K_BLOCK, LEAST_ROWS, M_BLOCK, Product, pack, transpose
from simd cimport LANES, MOST_LANES, mask_bits, vec, vec_differ, vec_load, vec_set


cdef extern from "sparse.h" nogil:
    enum: SPARSE_PANEL
    enum: SPARSE_STEPS
    ctypedef unsigned long long step_bits
    ctypedef struct SparseRows:
        double *c
        const double *a
        const double *b
        const step_bits *steps
        Py_ssize_t c_row, a_row, a_step, last
        bint add
    step_bits nonzero_steps(const double *x, Py_ssize_t n, Py_ssize_t step, bint all)
    void sparse_rows(SparseRows t, Py_ssize_t m, Py_ssize_t vecs)


cdef enum:
    COLUMNS = 512  # of b, packed at once: a whole number of panels
    LEAST_SUMMED = 16  # the least steps of a sum


cdef inline bint is_sparse(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Return whether leaving out half of a product of these sizes is worth finding the zeros."""
    return m >= LEAST_ROWS and n >= LEAST_ROWS and k >= LEAST_SUMMED


cdef inline Py_ssize_t in_panels(Py_ssize_t n) noexcept nogil:
    """Return n columns, or as many as are packed at once, rounded up to whole panels."""
    return (min(n, <Py_ssize_t>COLUMNS) + SPARSE_PANEL - 1) // SPARSE_PANEL * SPARSE_PANEL


cdef inline Py_ssize_t sparse_scratch(Py_ssize_t n) noexcept nogil:
    """Return how many numbers `multiply_sparse` needs for at most n columns, if `is_sparse`."""
    if n < LEAST_ROWS:
        return 0
    return (K_BLOCK + M_BLOCK) * in_panels(n) + M_BLOCK * (MOST_LANES + SPARSE_STEPS)


cdef inline bint are_finite(const double *x, Py_ssize_t n) noexcept nogil:
    """Return whether no number of x (n,), whole vectors, is infinite or NaN."""
    cdef Py_ssize_t i
    cdef unsigned int others = 0
    cdef vec zero = vec_set(0.0)
    for i in range(n // LANES):
        others |= mask_bits(vec_differ(vec_load(x + i * LANES) * zero, zero))
    return others == 0


cdef inline bint has_negative_zeros(const double *x, Py_ssize_t n) noexcept nogil:
    """Return whether one of x (n,) is -0.0."""
    cdef const unsigned long long *bits = <const unsigned long long *>x
    cdef bint any_such = False
    cdef Py_ssize_t i
    for i in range(n):
        any_such |= bits[i] == 1ULL << 63
    return any_such


@cython.cdivision(True)
cdef inline void multiply_sparse(const Product *p, bint turned) noexcept nogil:
    """Compute a product as `multiply_packed`, without the terms of zeros in a.

    Shapes:  c (m, n), or if turned (n, m), where m is a number of whole vectors; none that is
             continued is -0.0; p.runs is 1
    """
    cdef Py_ssize_t width = in_panels(p.n)
    cdef double *b_packed = p.scratch
    cdef double *c_block = b_packed + K_BLOCK * width
    cdef Py_ssize_t c_row = width + MOST_LANES  # no power of two: columns use all sets of L1
    cdef double *a_block = c_block + M_BLOCK * c_row
    cdef step_bits kept[M_BLOCK]
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t i, j, k, m, columns, rows, steps, some
    cdef bint whole
    cdef SparseRows t
    t.steps = kept
    while n < p.n:
        columns = min(<Py_ssize_t>COLUMNS, p.n - n)
        k = 0
        while k < p.k:
            steps = min(<Py_ssize_t>K_BLOCK, p.k - k)
            i = 0
            while i < steps:
                some = min(<Py_ssize_t>SPARSE_STEPS, steps - i)
                pack(
                    b_packed + i * width, p.b + n * p.b_row + (k + i) * p.b_step, columns, some,
                    SPARSE_PANEL, p.b_row, p.b_step, some,
                )
                i += SPARSE_STEPS
            whole = not are_finite(b_packed, steps * width)
            m = 0
            while m < p.m:
                rows = min(<Py_ssize_t>M_BLOCK, p.m - m)
                if turned and (p.add or k > 0):
                    transpose(c_block, p.c + n * p.c_row + m, columns, rows, c_row, p.c_row)
                i = 0
                while i < steps:
                    some = min(<Py_ssize_t>SPARSE_STEPS, steps - i)
                    t.a, t.a_row = p.a + m * p.a_row + (k + i) * p.a_step, p.a_row
                    t.a_step = p.a_step
                    if p.a_row == 1:
                        transpose(a_block, t.a, some, rows, SPARSE_STEPS, p.a_step)
                        t.a, t.a_row, t.a_step = a_block, SPARSE_STEPS, 1
                    for j in range(rows):
                        kept[j] = nonzero_steps(t.a + j * t.a_row, some, t.a_step, whole)
                    t.add = p.add or k + i > 0
                    t.c, t.c_row = p.c + m * p.c_row + n, p.c_row
                    if turned:
                        t.c, t.c_row = c_block, c_row
                    multiply_rows(&t, b_packed + i * width, rows, columns, some, turned or p.whole)
                    i += SPARSE_STEPS
                i = 0
                while turned and i < columns:  # a cache line of each row in turn
                    transpose(
                        p.c + (n + i) * p.c_row + m, c_block + i, rows,
                        min(<Py_ssize_t>MOST_LANES, columns - i), p.c_row, c_row,
                    )
                    i += MOST_LANES
                m += M_BLOCK
            k += K_BLOCK
        n += COLUMNS


@cython.cdivision(True)
cdef inline void multiply_rows(
    SparseRows *t, const double *b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t steps, bint whole
) noexcept nogil:
    """Multiply m rows by n columns, panel by panel."""
    cdef Py_ssize_t j = 0
    cdef Py_ssize_t vecs
    while j < n:
        vecs = (min(<Py_ssize_t>SPARSE_PANEL, n - j) + LANES - 1) // LANES
        t.b = b + j * steps
        t.last = LANES if whole else min(<Py_ssize_t>LANES, n - j - (vecs - 1) * LANES)
        sparse_rows(t[0], m, vecs)
        t.c += SPARSE_PANEL
        j += SPARSE_PANEL
