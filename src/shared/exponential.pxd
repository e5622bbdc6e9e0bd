"""Exponentials as libm's exp gives them, vector by vector.

glibc since 2.28 and musl since 1.2 compute exp by one routine of Arm's: x = number * log(2) / 128
+ rest; the power of the 128th root of 2 comes from a table, with the error of its double, and
exp(rest) from a polynomial. `vec_reduce` and `vec_exp` are the same operations in the same
order, on vectors: each result is rounded as there. glibc has the routine with fused
multiply-adds for processors that have them, and so do vectors of these.

Whether libm is that routine, `agrees_with_libm` finds out when a module is imported: it computes
65,536 exponentials both ways, from -509 to 112, a quarter of them halfway between two powers.
Another routine gives other doubles for some (counted in C beside glibc 2.36: 51 without fused
multiply-adds, 25 with halves of the number rounded away from 0, 51 correctly rounded). With one
difference all exponentials are libm's own.
"""

from libc.math cimport exp
from libc.string cimport memcpy

from simd cimport (
    LANES, mask_bits, vec, vec_exceeds, vec_load, vec_max, vec_set, vec_size, vec_store,
)


cdef extern from "exponential.h" nogil:
    enum: POWERS
    enum: BLOCK
    double powers_of_root[]
    bint libm_agrees
    ctypedef struct exp_block:
        pass
    void vec_reduce(exp_block *block, Py_ssize_t i, vec x)
    vec vec_exp(const exp_block *block, Py_ssize_t i)


cdef inline int prepare_exponentials() except -1:
    """Compute the powers of the root, exactly rounded, and find out whether libm has them."""
    global libm_agrees
    from math import isqrt
    cdef Py_ssize_t i
    cdef long long bits
    one = 1 << 400
    root = 2 * one
    for _ in range(7):
        root = isqrt(root * one)
    power = one
    for i in range(POWERS):
        powers_of_root[2 * i + 1] = power / one
        rounded = int((power / one) * 2.0**52) << 348
        powers_of_root[2 * i] = (power - rounded) / rounded
        memcpy(&bits, &powers_of_root[2 * i + 1], sizeof(bits))
        bits -= i << 45
        memcpy(&powers_of_root[2 * i + 1], &bits, sizeof(bits))
        power = power * root // one
    libm_agrees = True
    libm_agrees = agrees_with_libm()
    return 0


cdef inline bint agrees_with_libm() noexcept nogil:
    """Return whether 65,536 exponentials are libm's."""
    cdef double x[BLOCK]
    cdef double y[BLOCK]
    cdef double largest[LANES]
    cdef Py_ssize_t i, k
    vec_store(largest, vec_set(0.0))
    for i in range(1024):
        for k in range(BLOCK):
            x[k] = (1.75 * (i * BLOCK + k) - 94000.0) * (0.6931471805599453 / POWERS)
        exponentials(y, x, 1.0, largest, LANES, BLOCK)
        for k in range(BLOCK):
            if y[k] != exp(x[k]):
                return False
    return True


cdef inline void exponentials(
    double *y, const double *x, double factor, const double *largest, Py_ssize_t width,
    Py_ssize_t n,
) noexcept nogil:
    """Write exp(x * factor - largest), which is subtracted from each width numbers.

    Shapes:  y (n,), which may be x, x (n,), readable up to whole vectors, largest (width,), one
             vector or two
    Writes:  y, up to whole vectors
    """
    cdef exp_block block
    cdef vec difference
    cdef vec farthest
    cdef Py_ssize_t i, size
    while n > 0:
        size = min(<Py_ssize_t>BLOCK, n)
        farthest = vec_set(0.0)
        i = 0
        while i < size:
            difference = factor * vec_load(x + i) - vec_load(largest + (i & (width - 1)))
            farthest = vec_max(farthest, vec_size(difference))
            vec_reduce(&block, i, difference)
            i += LANES
        i = 0
        if not libm_agrees or mask_bits(vec_exceeds(farthest, vec_set(511.0))):
            for i in range(size):
                y[i] = exp(factor * x[i] - largest[i & (width - 1)])
            i = size
        while i < size:
            vec_store(y + i, vec_exp(&block, i))
            i += LANES
        x += BLOCK
        y += BLOCK
        n -= BLOCK
