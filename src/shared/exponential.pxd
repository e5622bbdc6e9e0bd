"""Exponentials as libm's exp gives them, vector by vector.

As with `powers.pxd`: glibc states that its exp errs by 0.511 units in the last place (since
2.28, sysdeps/ieee754/dbl-64/e_exp_data.c), and the error of `vec_exp` before its result is rounded
is known. The two can differ only where the exact result lies within 0.011 units and that error of
the midpoint between two doubles: where a result a margin larger is rounded to another double than
one a margin smaller. Then exp itself is called. So it is for numbers beyond -708 to 708, and for
every number under another libm.

The error of `vec_exp`, in units of the last place of a result from 1 to 2, 2**-52:
- With 128 powers |r| <= 2**-8.5. rest is rounded to 2**-61, before that once more without a fused
  multiply-add, and with the margin: 3 * 0.002. The product of r and low is left out: 0.0014. What
  else is rounded, and what the polynomial leaves out, r**7 / 5040, is below 2**-66. The margin of
  0.0195 is above 0.011 + 0.0075.
- With 16 powers |r| <= 2**-5.5. The sum of a power and its product with head is exact together with
  what it lacks. r is off by 2**-59, which its square makes 2**-64.5; the square, the tail, and
  rest are off by 2**-65 each. A power at most doubles that, and rest is rounded twice more, with
  the margin too, to 2**-64: 0.0018 at most. The polynomial leaves out r**9 / 362880, below 2**-68.
  The margin of 0.013 is above 0.011 + 0.0018.
"""

from libc.math cimport exp

from simd cimport (
    LANES, first_bit, mask, mask_bits, pow_keeps_bound, vec, vec_differ, vec_exceeds, vec_load,
    vec_max, vec_set, vec_size, vec_store,
)


cdef extern from "exponential.h" nogil:
    vec vec_exp(vec *above, vec *below, vec x)


cdef inline vec exponential(mask *doubtful, vec x) noexcept nogil:
    """Return exp(x), x from -708 to 708, and where libm's exp may differ. Writes: doubtful"""
    cdef vec above, below
    cdef vec result = vec_exp(&above, &below, x)
    doubtful[0] = vec_differ(above, below)
    return result


cdef inline unsigned long long exponentials_of_block(
    double *y, double *differences, const double *x, double factor, const double *largest,
    Py_ssize_t width, Py_ssize_t n,
) noexcept nogil:
    """Write exp(x * factor - largest) for at most 64 numbers; return a bit for each in doubt."""
    cdef unsigned long long doubts = 0
    cdef mask doubtful
    cdef vec difference
    cdef vec farthest = vec_set(0.0)
    cdef Py_ssize_t i = 0
    while i < n:
        difference = factor * vec_load(x + i) - vec_load(largest + (i & (width - 1)))
        vec_store(differences + i, difference)
        farthest = vec_max(farthest, vec_size(difference))
        vec_store(y + i, exponential(&doubtful, difference))
        doubts |= <unsigned long long>mask_bits(doubtful) << i
        i += LANES
    if not pow_keeps_bound() or mask_bits(vec_exceeds(farthest, vec_set(708.0))):
        doubts = ~<unsigned long long>0
    return doubts & ~<unsigned long long>0 >> (64 - n)


cdef inline void ask_libm(
    double *y, const double *differences, unsigned long long doubts
) noexcept nogil:
    """Write libm's exponential of each number that has its bit in doubts."""
    while doubts:
        y[first_bit(doubts)] = exp(differences[first_bit(doubts)])
        doubts &= doubts - 1


cdef inline void exponentials(
    double *y, const double *x, double factor, const double *largest, Py_ssize_t width,
    Py_ssize_t n,
) noexcept nogil:
    """Write exp(x * factor - largest), which is subtracted from each width numbers.

    libm gets the numbers in doubt only after the next 64 have been started: a branch on their
    results at once would often be mispredicted, and discard the work started after it.

    Shapes:  y (n,), x (n,), readable up to whole vectors, largest (width,), one vector or two
    Writes:  y, up to whole vectors
    """
    cdef double differences[2][64]
    cdef unsigned long long doubts
    cdef unsigned long long waiting = 0
    cdef bint side = False
    while n > 0:
        doubts = exponentials_of_block(
            y, differences[side], x, factor, largest, width, min(<Py_ssize_t>64, n)
        )
        side = not side
        ask_libm(y - 64, differences[side], waiting)
        waiting = doubts
        x += 64
        y += 64
        n -= 64
    ask_libm(y - 64, differences[not side], waiting)
