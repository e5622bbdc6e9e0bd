"""Adam on flat buffers: every square and root is the power that the oracle asks libm for.

The oracle computes g**2 and v**0.5 by libm's pow, which is not always the
correctly rounded result: it errs by up to half a unit in the last place and a
little more. A vector multiplication or square root is correctly rounded, and its
exact error is known (one fused multiply-add). So the two can differ only where the
exact result lies within that "little more" of the midpoint between two doubles.
There, in a few lanes of a hundred, pow is one of two neighbours: where both lead
to the same weight it is all one, where they do not, pow itself is called.

The margins, in units of the last place: glibc states for its pow (since 2.28,
sysdeps/ieee754/dbl-64/e_pow.c) that exp adds 0.511 and the logarithm 1.5 * 2**-68
of relative error without a fused multiply-add, less with one. For squares within
1e-19 and 1e19 the latter is log(1e19) * 1.5 * 2**-15 = 0.0021, for roots half of
that: 0.0131 and 0.0121 beyond one half. What lies outside, and every lane under
another libm, goes to pow.
"""

cimport cython
from libc.float cimport DBL_EPSILON
from libc.math cimport fabs, isinf, pow

from matmul cimport LANES, vec, vec_load, vec_set, vec_store


cdef extern from "simd.h" nogil:
    ctypedef long long mask
    mask vec_within(vec low, vec x, vec high)
    mask vec_equal(vec a, vec b)
    vec vec_power_of_two(vec x)
    vec vec_neighbour(vec x, vec side)
    vec vec_sqrt(vec x)
    vec vec_residual(vec x, vec s)
    unsigned int mask_bits(mask m)
    int first_bit "__builtin_ctzll"(unsigned long long bits)


cdef enum:
    BLOCK = 64  # parameters at once: the lanes in doubt fit into one word


cdef struct AdamStep:
    double beta1
    double beta2
    double eps_adam
    double correction1
    double correction2
    double learning_rate  # of this step
    double initial_rate
    double num_steps
    bint certified  # whether libm's pow keeps to the bound


cdef inline mask square_is_certain(vec square, vec root) noexcept nogil:
    """Return where pow(root, 2.0) can only be square, the rounded product.

    Half a unit in the last place of square is 2**-53 of its power of two; below
    a power of two itself the units are smaller, so that one is never certain.
    """
    cdef vec power = vec_power_of_two(square)
    cdef vec limit = power * ((1.0 - 2.0 * 0.0135) * 0.5 * DBL_EPSILON)
    cdef mask inside = vec_within(vec_set(1e-19), square, vec_set(1e19))
    cdef mask close = vec_within(-limit, vec_residual(square, root), limit)
    return (inside & close & ~vec_equal(power, square)) | vec_equal(root, vec_set(0.0))


cdef inline mask root_is_certain(vec root, vec square) noexcept nogil:
    """Return where pow(square, 0.5) can only be root, the rounded square root.

    The exact root is root + residual / (2 * root) but for a part in 2**53. Just
    below a power of two no root rounds up to it, so units are no question here.
    """
    cdef vec limit = root * vec_power_of_two(root) * ((1.0 - 2.0 * 0.0125) * DBL_EPSILON)
    cdef mask inside = vec_within(vec_set(1e-19), square, vec_set(1e19))
    cdef mask close = vec_within(-limit, vec_residual(square, root), limit)
    return (inside & close) | vec_equal(square, vec_set(0.0))


cdef inline mask square_is_either(vec square) noexcept nogil:
    """Return where pow can only be square or its neighbour on the exact product's side."""
    cdef mask inside = vec_within(vec_set(1e-19), square, vec_set(1e19))
    return inside & ~vec_equal(vec_power_of_two(square), square)


@cython.cdivision(True)
cdef inline bint adam_block(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a
) noexcept nogil:
    """Update n <= BLOCK parameters, whole vectors, or none if one of them would raise.

    A doubt between two neighbours is none where both lead to the same v, or p.
    """
    cdef double firsts[BLOCK]
    cdef double seconds[BLOCK]
    cdef double others[BLOCK]
    cdef double steps[BLOCK]
    cdef double updated[BLOCK]
    cdef unsigned long long every = ~(<unsigned long long>0) >> (64 - LANES)
    cdef unsigned long long doubt = 0
    cdef unsigned int bits
    cdef double square
    cdef Py_ssize_t i, j
    cdef vec x, y, old, new
    cdef vec correction1 = vec_set(a.correction1)
    cdef vec correction2 = vec_set(a.correction2)
    for j in range(n // LANES):
        i = j * LANES
        x = vec_load(g + i)
        y = x * x
        old = a.beta2 * vec_load(v + i)
        new = old + (1.0 - a.beta2) * y
        vec_store(seconds + i, new)
        bits = mask_bits(square_is_certain(y, x))
        x = old + (1.0 - a.beta2) * vec_neighbour(y, -vec_residual(y, x))
        bits |= mask_bits(square_is_either(y) & vec_equal(x, new))
        doubt |= (every & ~bits) << i
    while doubt:
        i = first_bit(doubt)
        doubt &= doubt - 1
        square = pow(fabs(g[i]), 2.0)
        if isinf(square) and not isinf(g[i]):
            return False
        seconds[i] = a.beta2 * v[i] + (1.0 - a.beta2) * square
    for j in range(n // LANES):
        i = j * LANES
        x = a.beta1 * vec_load(m + i) + (1.0 - a.beta1) * vec_load(g + i)
        vec_store(firsts + i, x)
        x = a.learning_rate * (x / correction1)
        vec_store(steps + i, x)
        y = vec_load(seconds + i) / correction2
        new = vec_sqrt(y)
        vec_store(updated + i, vec_load(p + i) - x / (new + a.eps_adam))
        vec_store(others + i, vec_neighbour(new, vec_residual(y, new)))
        doubt |= (every & ~mask_bits(root_is_certain(new, y))) << i
    while doubt:
        i = first_bit(doubt)
        doubt &= doubt - 1
        square = seconds[i] / a.correction2
        if square < 0.0:
            return False
        # In this range pow can only be the rounded root or the other.
        if 1e-19 <= square <= 1e19 and p[i] - steps[i] / (others[i] + a.eps_adam) == updated[i]:
            continue
        updated[i] = p[i] - steps[i] / (pow(square, 0.5) + a.eps_adam)
    for j in range(n // LANES):
        i = j * LANES
        vec_store(p + i, vec_load(updated + i))
        vec_store(m + i, vec_load(firsts + i))
        vec_store(v + i, vec_load(seconds + i))
        vec_store(g + i, vec_set(0.0))
    return True


@cython.cdivision(True)
cdef inline Py_ssize_t adam_one_by_one(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a
) noexcept nogil:
    """Update n parameters as the oracle does; return how many were updated.

    Less than n says that the next one raises: its square overflows, or the
    divisor is zero. Its moments are then updated as far as the oracle comes.
    """
    cdef Py_ssize_t i
    cdef double square, divisor
    for i in range(n):
        m[i] = a.beta1 * m[i] + (1.0 - a.beta1) * g[i]
        square = pow(fabs(g[i]), 2.0)
        if isinf(square) and not isinf(g[i]):
            return i
        v[i] = a.beta2 * v[i] + (1.0 - a.beta2) * square
        divisor = pow(v[i] / a.correction2, 0.5) + a.eps_adam
        if divisor == 0.0 or v[i] < 0.0:
            return i
        p[i] -= a.learning_rate * (m[i] / a.correction1) / divisor
        g[i] = 0.0
    return n


@cython.cdivision(True)
cdef inline Py_ssize_t adam_step(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a
) noexcept nogil:
    """Update n parameters and clear their gradients; return how many were updated.

    Less than n says that the next one raises, as in `adam_one_by_one`.

    Writes:  p, g, m, v
    """
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t size, done
    while i < n:
        size = min(<Py_ssize_t>BLOCK, n - i)
        if a.certified and a.eps_adam > 0.0 and size >= LANES:
            size = size // LANES * LANES
            if adam_block(p + i, g + i, m + i, v + i, size, a):
                i += size
                continue
        done = adam_one_by_one(p + i, g + i, m + i, v + i, size, a)
        i += done
        if done < size:
            break
    return i
