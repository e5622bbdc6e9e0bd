"""Adam on flat buffers: every square and root is the power that the oracle asks libm for.

The oracle computes g**2 and v**0.5 by libm's pow, which is not always the
correctly rounded result: it errs by up to half a unit in the last place and a
little more. A vector multiplication or square root is correctly rounded, and its
exact error is known (one fused multiply-add). So the two can differ only where the
exact result lies within that "little more" of the midpoint between two doubles.
There, in a few lanes of a hundred, pow is one of two neighbours: where both lead
to the same weight it is all one, where they may not, pow itself is called.

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
from libc.string cimport memcpy

from matmul cimport LANES, vec, vec_load, vec_set, vec_store


cdef extern from "simd.h" nogil:
    ctypedef long long mask
    mask vec_exceeds(vec a, vec b)
    mask vec_differ(mask among, vec a, vec b)
    vec vec_size(vec x)
    vec vec_with_sign(double size, vec x)
    vec vec_before(vec x)
    vec vec_power_of_two(vec x)
    vec vec_sqrt(vec x)
    vec vec_residual(vec x, vec s)
    unsigned int mask_bits(mask m)
    int first_bit "__builtin_ctz"(unsigned int bits)


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


cdef inline mask square_is_doubtful(vec square, vec root, vec residual) noexcept nogil:
    """Return where pow(root, 2.0) may be another double than square, the rounded product.

    Half a unit in the last place of square is 2**-53 of its power of two. Below a
    power of two itself the units are smaller, and those count.
    """
    cdef vec power = vec_power_of_two(vec_before(square))
    return vec_exceeds(vec_size(residual), power * ((1.0 - 2.0 * 0.0135) * 0.5 * DBL_EPSILON))


cdef inline mask root_is_doubtful(vec root, vec square, vec residual) noexcept nogil:
    """Return where pow(square, 0.5) may be another double than root, the rounded square root.

    The exact root is root + residual / (2 * root) but for a part in 2**53. Just
    below a power of two no root rounds up to it, so units are no question here.
    """
    cdef vec power = vec_power_of_two(root)
    return vec_exceeds(vec_size(residual), root * (power * ((1.0 - 2.0 * 0.0125) * DBL_EPSILON)))


cdef inline mask is_out_of_range(vec square, vec x) noexcept nogil:
    """Return where pow's bounds are not those above: square is far from 1, and x is not 0."""
    return vec_differ(vec_exceeds(vec_set(1e-19), square), x, vec_set(0.0)) | vec_exceeds(
        square, vec_set(1e19)
    )


cdef inline vec other_term(vec term, vec residual) noexcept nogil:
    """Return a bound of the term that the neighbour on the residual's side leads to.

    The neighbour is off by 2**-52 of itself at most, and each of up to two roundings
    on the way to the term by another; the roundings here are within the fourth. Where
    the term is too small for that, it must not matter to the sum.
    """
    return term - term * vec_with_sign(4.0 * DBL_EPSILON, residual)


@cython.cdivision(True)
cdef inline bint adam_vector(
    double *p, double *g, double *m, double *v, const AdamStep *a
) noexcept nogil:
    """Update LANES parameters, or none if one of them would raise; return whether.

    Sums are monotone: a doubt is none where both ends of its range lead to one sum.
    """
    cdef vec data = vec_load(p)
    cdef vec grad = vec_load(g)
    cdef vec square = grad * grad
    cdef vec old = a.beta2 * vec_load(v)
    cdef vec term = (1.0 - a.beta2) * square
    cdef vec first = a.beta1 * vec_load(m) + (1.0 - a.beta1) * grad
    cdef vec second = old + term
    cdef vec corrected = second / vec_set(a.correction2)
    cdef vec root = vec_sqrt(corrected)
    cdef vec step = a.learning_rate * (first / vec_set(a.correction1)) / (root + a.eps_adam)
    cdef vec residual = vec_residual(square, grad)
    cdef mask squares = vec_differ(
        square_is_doubtful(square, grad, residual), second, old + other_term(term, residual)
    ) | is_out_of_range(square, grad)
    residual = vec_residual(corrected, root)
    cdef mask roots = vec_differ(
        root_is_doubtful(root, corrected, residual), data - step, data - other_term(step, residual)
    ) | is_out_of_range(corrected, second) | vec_exceeds(vec_set(1e-290), vec_size(data))
    if mask_bits(squares | roots):
        return adam_lanes(
            p, g, m, v, data - step, first, second, mask_bits(squares), mask_bits(roots), a
        )
    vec_store(p, data - step)
    vec_store(m, first)
    vec_store(v, second)
    vec_store(g, vec_set(0.0))
    return True


@cython.cdivision(True)
cdef inline bint adam_lanes(
    double *p, double *g, double *m, double *v, vec data, vec first, vec second,
    unsigned int squares, unsigned int roots, const AdamStep *a,
) noexcept nogil:
    """Update LANES parameters, those in doubt by pow, or none if one of them would raise."""
    cdef double updated[LANES]
    cdef double firsts[LANES]
    cdef double seconds[LANES]
    cdef double square
    cdef unsigned int doubt = squares | roots
    cdef int i
    vec_store(updated, data)
    vec_store(firsts, first)
    vec_store(seconds, second)
    while doubt:
        i = first_bit(doubt)
        doubt &= doubt - 1
        if squares >> i & 1:
            square = pow(fabs(g[i]), 2.0)
            if isinf(square) and not isinf(g[i]):
                return False
            seconds[i] = a.beta2 * v[i] + (1.0 - a.beta2) * square
        square = seconds[i] / a.correction2
        if square < 0.0:
            return False
        updated[i] = p[i] - a.learning_rate * (firsts[i] / a.correction1) / (
            pow(square, 0.5) + a.eps_adam
        )
    memcpy(p, updated, sizeof(updated))
    memcpy(m, firsts, sizeof(firsts))
    memcpy(v, seconds, sizeof(seconds))
    vec_store(g, vec_set(0.0))
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
    cdef AdamStep near = a[0]  # in no memory that the stores could change
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t done
    if a.certified and a.eps_adam > 0.0:
        while i + LANES <= n:
            if not adam_vector(p + i, g + i, m + i, v + i, &near):
                done = adam_one_by_one(p + i, g + i, m + i, v + i, LANES, a)
                if done < LANES:
                    return i + done
            i += LANES
    return i + adam_one_by_one(p + i, g + i, m + i, v + i, n - i, a)
