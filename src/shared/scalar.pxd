"""Scalar mathematics exactly as CPython computes and raises it.

Each function makes the libm call of its Python counterpart, on doubles. Where C returns an
infinity or NaN and Python raises, Python's function is called: the exception and its text are
those of the version in use.
"""

cimport cython
from libc.float cimport DBL_EPSILON
from libc.math cimport INFINITY, copysign, exp, fabs, fmod, isfinite, isinf, isnan, log, pow


cdef extern from *:
    bint unlikely(bint) nogil


cdef extern from "simd.h" nogil:
    double first_half(double x)
    double power_of_two(double x)


cdef enum PowError:
    NO_ERROR, ZERO_DIVISION, OVERFLOW, NOT_REAL


cdef inline double c_pow(double x, double y) except? -1.0:
    """Return x ** y as floats do, but refuse a result that is not real.

    Raises:  ZeroDivisionError for 0 to a negative power; OverflowError if the
             result exceeds the largest float; ValueError for a negative base
             with a fractional exponent
    Source:  CPython Objects/floatobject.c `float_pow`; rule of exactness 4
    """
    cdef PowError error = NO_ERROR
    cdef double result = pow_or_error(x, y, &error)
    if unlikely(error != NO_ERROR):
        raise_pow_error(x, y)
    return result


cdef inline int raise_pow_error(object x, object y) except -1:
    """Raise what Python raises for x ** y, or for a complex result ValueError."""
    x**y
    raise ValueError(f"{x} ** {y} is not a real number")


cdef inline int raise_math_error(str function, object x) except -1:
    """Raise what a function of `math` raises for x."""
    getattr(__import__("math"), function)(x)


cdef inline double pow_or_error(double x, double y, PowError *error) noexcept nogil:
    """Return x ** y, or say what `c_pow` raises."""
    cdef double result, remainder
    if unlikely(x == 0.0 or not isfinite(x) or not isfinite(y)):
        return special_pow(x, y, error)
    result = pow(fabs(x), y)
    if unlikely(isinf(result)):  # before a fraction: Python's complex power overflows too
        error[0] = OVERFLOW
    elif x < 0.0:
        remainder = modulo_2(y)
        if remainder == 1.0:
            return -result
        if remainder != 0.0:
            error[0] = NOT_REAL
    return result


cdef inline double modulo_2(double y) noexcept nogil:
    """Return abs(y) % 2 of a finite number: 1 for the odd, 0 for the even."""
    y = fabs(y)
    if y < 2147483648.0 and y == <int>y:
        return <int>y & 1
    return fmod(y, 2.0)


cdef inline double special_pow(double x, double y, PowError *error) noexcept nogil:
    """Return x ** y where x is zero, or one of the two infinite or NaN."""
    cdef bint odd
    if y == 0.0:
        return 1.0
    if isnan(x):
        return x
    if isnan(y):
        return 1.0 if x == 1.0 else y
    if isinf(y):
        x = fabs(x)
        if x == 1.0:
            return 1.0
        return fabs(y) if (y > 0.0) == (x > 1.0) else 0.0
    odd = modulo_2(y) == 1.0
    if isinf(x):
        if y > 0.0:
            return x if odd else fabs(x)
        return copysign(0.0, x) if odd else 0.0
    if y < 0.0:
        error[0] = ZERO_DIVISION
        return 0.0
    return x if odd else 0.0


cdef enum Doubt:
    CLEAR = 0
    FIRST = 1
    SECOND = 2
    BOTH = 3


@cython.cdivision(True)
cdef inline int invert(double x, double *inverse, double *square) noexcept nogil:
    """Write pow(x, -1.0) and pow(x, -2.0); return which of them need pow itself.

    Both are computed to twice a double's precision, as head + rest. pow returns head,
    unless head + rest is close to the midpoint between two doubles.

    Source:  T. J. Dekker, 1971, doi:10.1007/BF01397083: products of halves are exact
    """
    cdef double q, q_high, q_low, x_high, x_low, rest, head, tail
    if not 1e-9 < x < 1e9:
        return BOTH
    q = 1.0 / x
    q_high = first_half(q)
    q_low = q - q_high
    x_high = first_half(x)
    x_low = x - x_high
    # 1 - q * x; its rounding errors are below 2**-78.
    rest = 1.0 - q_high * x_high - q_high * x_low - q_low * x_high - q_low * x_low
    # The square of q * (1 + rest), without the square of rest.
    head = q * q
    tail = (q_high * q_high - head + 2.0 * q_high * q_low + q_low * q_low) + 2.0 * rest * head
    inverse[0] = q
    square[0] = head + tail
    tail -= square[0] - head
    rest *= q
    if is_clear(q, rest) and is_clear(square[0], tail):
        return CLEAR
    return (0 if is_clear(q, rest) else FIRST) | (0 if is_clear(square[0], tail) else SECOND)


cdef inline bint is_clear(double head, double rest) noexcept nogil:
    """Return whether head + rest is so far from a midpoint that pow can only give head.

    In the range of `invert` pow errs by 0.5 and at most 0.0129 units in the last place
    (see powers.pxd). The distance below head, which is never the longer one, has to
    be enough for both sides.
    """
    return head - (fabs(rest) + power_of_two(head) * (0.0135 * DBL_EPSILON)) == head


@cython.cdivision(True)
cdef inline double c_sigmoid(double x) noexcept nogil:
    """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
    cdef double e
    if x >= 0.0:
        return 1.0 / (1.0 + exp(-x))
    e = exp(x)
    return e / (1.0 + e)


cdef inline list floats(const double *x, Py_ssize_t n):
    """Return numbers as Python's.

    Not a comprehension: Cython 3.3 drops a new item's reference twice if appending it runs
    out of memory. No comprehension in these modules creates its items.
    """
    cdef list out = [None] * n
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = x[i]
    return out
