"""Adam on flat buffers: every square and root is the power that the oracle asks libm for.

`powers.pxd` says where a vector's square or root may differ from pow's: in a few
lanes of a hundred pow is one of two neighbours. Where both lead to the same weight
it is all one, where they may not, pow itself is called.
"""

cimport cython
from libc.float cimport DBL_EPSILON
from libc.math cimport fabs, isinf, pow
from libc.string cimport memcpy

from matmul cimport LANES, vec, vec_load, vec_set, vec_store
from powers cimport (
    first_bit, is_out_of_range, mask, mask_bits, pow_keeps_bound, root_is_doubtful,
    square_is_doubtful, vec_differ, vec_exceeds, vec_residual, vec_size, vec_sqrt,
)


cdef extern from "simd.h" nogil:
    vec vec_with_sign(double size, vec x)


cdef struct AdamStep:
    double beta1
    double beta2
    double eps_adam
    double correction1
    double correction2
    double learning_rate  # of this step
    double initial_rate
    double num_steps


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
    cdef vec residual = vec_residual(square, grad, grad)
    cdef mask squares = vec_differ(
        square_is_doubtful(square, grad, residual), second, old + other_term(term, residual)
    ) | is_out_of_range(square, grad)
    residual = vec_residual(corrected, root, root)
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
    if pow_keeps_bound() and a.eps_adam > 0.0:
        while i + LANES <= n:
            if not adam_vector(p + i, g + i, m + i, v + i, &near):
                done = adam_one_by_one(p + i, g + i, m + i, v + i, LANES, a)
                if done < LANES:
                    return i + done
            i += LANES
    return i + adam_one_by_one(p + i, g + i, m + i, v + i, n - i, a)
