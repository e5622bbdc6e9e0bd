"""Exponentials as libm's exp gives them, vector by vector.

As with `powers.pxd`: glibc states that its exp errs by 0.511 units in the last place (since
2.28, sysdeps/ieee754/dbl-64/e_exp_data.c), `vec_exp` errs by less than 0.008 before its result
is rounded, and knows what the rounded result lacks. The two can differ only where the exact
result lies within 0.019 units of the midpoint between two doubles: then exp itself is called.
So it is for numbers outside -708 to 0, and for every number under another libm.

The error of `vec_exp`, in units of the last place of a result from 1 to 2, of which the numbers
below have r <= 2**-8.5: r, and its sum with the polynomial's tail, are off by 2**-62 each,
which the power at most doubles: 2 * 0.002. Its product with the power is off by 2**-61, and so
is their sum, or both together where they are fused: 2 * 0.002. What the polynomial leaves out,
r**7 / 5040, is below 2**-71.
"""

from libc.float cimport DBL_EPSILON
from libc.math cimport exp

from simd cimport (
    LANES, first_bit, mask, mask_bits, pow_keeps_bound, vec, vec_before, vec_exceeds, vec_load,
    vec_power_of_two, vec_set, vec_size, vec_store, vec_store_part,
)


cdef extern from "exponential.h" nogil:
    vec vec_exp(vec *unscaled, vec *lacking, vec x)


cdef inline vec exponential(mask *doubtful, vec x) noexcept nogil:
    """Return exp(x), and where libm's exp may differ. Writes: doubtful"""
    cdef vec unscaled, lacking
    cdef vec result = vec_exp(&unscaled, &lacking, x)
    doubtful[0] = (
        vec_exceeds(vec_set(-708.0), x)
        | vec_exceeds(x, vec_set(0.0))
        | vec_exceeds(
            vec_size(lacking),
            vec_power_of_two(vec_before(unscaled)) * ((1.0 - 2.0 * 0.02) * 0.5 * DBL_EPSILON),
        )
    )
    return result


cdef inline void exponentials(
    double *y, const double *x, double factor, const double *largest, Py_ssize_t width,
    Py_ssize_t n,
) noexcept nogil:
    """Write exp(x * factor - largest), which is subtracted from each width numbers.

    Numbers in doubt wait until 64 are through: a branch at each vector is often mispredicted.

    Shapes:  y (n,), x (n,), readable up to whole vectors, largest (width,), one vector or two
    """
    cdef double differences[64]
    cdef unsigned long long doubts
    cdef mask doubtful
    cdef vec result
    cdef Py_ssize_t i, size
    while n > 0:
        size = min(<Py_ssize_t>64, n)
        doubts = 0
        i = 0
        while i < size:
            result = factor * vec_load(x + i) - vec_load(largest + (i & (width - 1)))
            vec_store(differences + i, result)
            result = exponential(&doubtful, result)
            vec_store_part(y + i, result, min(<Py_ssize_t>LANES, size - i))
            doubts |= <unsigned long long>mask_bits(doubtful) << i
            i += LANES
        if not pow_keeps_bound():
            doubts = ~<unsigned long long>0
        doubts &= ~<unsigned long long>0 >> (64 - size)
        while doubts:
            y[first_bit(doubts)] = exp(differences[first_bit(doubts)])
            doubts &= doubts - 1
        x += size
        y += size
        n -= size
