"""Powers as libm's pow gives them, vector by vector.

The oracle's powers are libm's, which are not always the correctly rounded results:
pow errs by up to half a unit in the last place and a little more. A vector product,
quotient or square root is correctly rounded, and its exact error is known (one
fused multiply-add). So the two can differ only where the exact result lies within
that "little more" of the midpoint between two doubles: then pow itself is called.

The margins, in units of the last place: glibc states for its pow (since 2.28,
sysdeps/ieee754/dbl-64/e_pow.c) that exp adds 0.511 and the logarithm 1.5 * 2**-68
of relative error without a fused multiply-add, less with one. For results within
1e-19 and 1e19 the latter is log(1e19) * 1.5 * 2**-15 = 0.0021, within 1e-100 and 1e100
it is 0.0106: 0.0131 and 0.0216 beyond one half. For roots of numbers within 1e-70 and
1e70 it is half of 0.0074: 0.0147. What lies outside, and every lane under another libm,
goes to pow.
"""

cimport cython
from libc.math cimport pow

from simd cimport (
    LANES, first_bit, mask, mask_bits, pow_keeps_bound, vec, vec_before, vec_exceeds, vec_fma,
    vec_load, vec_residual, vec_set, vec_size, vec_sqrt, vec_store_part, vec_units,
)


cdef inline vec other_square(vec square, vec root) noexcept nogil:
    """Return what pow(root, 2.0) may be instead of square, the rounded product, or square.

    Adding the error of square, slightly enlarged, gives the neighbour where pow may do so.
    The square has to be 0 or within 1e-100 and 1e100.
    """
    cdef vec lacking = vec_residual(square, root, root)
    return vec_fma(square, lacking, vec_set(-1.0 / (1.0 - 2.0 * 0.022)))


cdef inline mask root_is_doubtful(vec root, vec residual) noexcept nogil:
    """Return where pow(square, 0.5) may be another double than root, the rounded square root.

    The exact root is root + residual / (2 * root) but for a part in 2**53. Just
    below a power of two no root rounds up to it, so units are no question here.
    The square has to be within 1e-70 and 1e70.
    """
    return vec_exceeds(vec_size(residual), root * vec_units(root, 1.0 - 2.0 * 0.015))


@cython.cdivision(True)
cdef inline vec inverse_power(mask *doubtful, vec x, double exponent) noexcept nogil:
    """Return x ** exponent, which is -0.5, -1.0, -1.5 or -2.0, and where pow may differ.

    x ** -exponent is a sum of two doubles, and so is 1 divided by it: the quotient and
    its error. The first 50 bits of that error are right; the margin needs 7.

    Writes:  doubtful
    """
    cdef vec whole = x
    cdef vec part = vec_set(0.0)
    cdef vec root, quotient, lacking, result
    if exponent == -2.0:
        whole = x * x
        part = -vec_residual(whole, x, x)
    elif exponent != -1.0:
        root = vec_sqrt(x)
        whole = root
        part = vec_residual(x, root, root) / (root + root)
        if exponent == -1.5:
            whole = x * root
            part = x * part - vec_residual(whole, x, root)
    quotient = vec_set(1.0) / whole
    lacking = quotient * (vec_residual(vec_set(1.0), quotient, whole) - quotient * part)
    result = quotient + lacking
    lacking = (quotient - result) + lacking
    doubtful[0] = (
        vec_exceeds(vec_set(1e-19), result)
        | vec_exceeds(result, vec_set(1e19))
        | vec_exceeds(
            vec_size(lacking),
            vec_units(vec_before(result), (1.0 - 2.0 * 0.0135) * 0.5),
        )
    )
    return result


cdef inline void powers(double *y, const double *x, Py_ssize_t n, double exponent) noexcept nogil:
    """Write x ** exponent, which is -0.5, -1.0, -1.5 or -2.0.

    Shapes:  y (n,), x (n,), readable up to whole vectors
    """
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t size
    cdef unsigned int doubt
    cdef mask doubtful
    while i < n:
        size = min(<Py_ssize_t>LANES, n - i)
        vec_store_part(y + i, inverse_power(&doubtful, vec_load(x + i), exponent), size)
        doubt = mask_bits(doubtful) if pow_keeps_bound() else ~(<unsigned int>0)
        doubt &= ~(<unsigned int>0) >> (32 - size)
        while doubt:
            y[i + first_bit(doubt)] = pow(x[i + first_bit(doubt)], exponent)
            doubt &= doubt - 1
        i += LANES
