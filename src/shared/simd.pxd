"""The vector type of simd.h and its operations: what differs between instruction sets.

LANES doubles are one vector. `+ - * /` work on vectors, lane by lane. The product keeps
TILE_ROWS x TILE_VECS vectors in registers; PANEL is TILE_VECS vectors wide.
"""

cimport cython


cdef extern from "simd.h" nogil:
    enum: LANES
    enum: TILE_ROWS
    enum: TILE_VECS
    enum: PANEL
    enum: MOST_LANES
    enum: WIDEST_PANEL
    ctypedef double vec
    ctypedef long long mask
    vec vec_set(double x)
    vec vec_load(const double *p)
    void vec_store(double *p, vec x)
    void vec_store_part(double *p, vec x, Py_ssize_t count)
    void vec_transpose(double *to, Py_ssize_t to_row, const double *const *from_, Py_ssize_t k)
    vec vec_join(vec before, vec after, Py_ssize_t first)
    vec vec_max(vec a, vec x)
    vec vec_units(vec x, double factor)
    vec vec_before(vec x)
    vec vec_neighbour(vec x, vec side)
    vec vec_size(vec x)
    vec vec_sqrt(vec x)
    vec vec_fma(vec x, vec a, vec b)
    vec vec_residual(vec x, vec a, vec b)
    mask vec_exceeds(vec a, vec b)
    mask vec_differ(vec a, vec b)
    mask vec_is_outside(vec x, vec sign, double low, double high)
    unsigned int mask_bits(mask m)
    int first_bit "__builtin_ctzll"(unsigned long long bits)
    ctypedef struct divisor:
        double number
    ctypedef struct vec_divisor:
        pass
    divisor divisor_of(double number)
    vec_divisor vec_set_divisor(divisor d)
    vec vec_quotient(vec x, vec_divisor d)
    bint pow_keeps_bound()
    bint runs_avx2()
    bint runs_avx512()


@cython.cdivision(True)
cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """Return n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES
