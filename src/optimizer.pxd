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
    first_bit, mask, mask_bits, other_square, pow_keeps_bound, root_is_doubtful,
    square_is_out_of_range, vec_differ, vec_exceeds, vec_residual, vec_size, vec_sqrt,
)


cdef extern from "simd.h" nogil:
    ctypedef struct divisor:
        double number
    divisor divisor_of(double number)
    vec vec_quotient(vec x, divisor d)
    vec vec_with_sign(double size, vec x)


cdef extern from *:
    bint unlikely(bint condition) nogil
    void prefetch "__builtin_prefetch"(const void *) nogil


cdef enum:
    FETCHED = 512  # numbers ahead of which memory is asked for weights and moments


cdef struct AdamStep:
    double beta1
    double beta2
    double eps_adam
    divisor correction1
    divisor correction2
    double learning_rate  # of this step
    double initial_rate
    double num_steps


cdef inline vec other_term(vec term, vec residual) noexcept nogil:
    """Return a bound of the term that the neighbour on the residual's side leads to.

    The neighbour is off by 2**-52 of itself at most, and each of up to two roundings
    on the way to the term by another; the roundings here are within the fourth. Where
    the term is too small for that, it must not matter to the sum.
    """
    return term * (1.0 - vec_with_sign(4.0 * DBL_EPSILON, residual))


cdef inline bint is_usual(const AdamStep *a) noexcept nogil:
    """Return whether the settings are such that what is very small shows nowhere.

    A first moment below 1e-250, whose quotient may be wrong, makes a step below
    1e-170, and a root below 1e-35 vanishes in the sum with eps_adam.
    """
    return (
        1e-18 <= a.eps_adam <= 1e30
        and fabs(a.learning_rate) <= 1e30
        and 1e-30 <= a.correction1.number <= 2.0
        and 1e-30 <= a.correction2.number <= 2.0
    )


cdef struct Update:  # of LANES parameters, up to the square root
    vec first
    vec second
    vec corrected
    vec numerator
    mask squares  # in doubt


cdef inline Update begin_update(
    const double *g, const double *m, const double *v, const AdamStep *a
) noexcept nogil:
    """Return the moments, what the step is made of, and where a doubtful square matters.

    It does not where both squares lead to one sum.
    """
    cdef Update update
    cdef vec grad = vec_load(g)
    cdef vec square = grad * grad
    cdef vec old = a.beta2 * vec_load(v)
    update.first = a.beta1 * vec_load(m) + (1.0 - a.beta1) * grad
    update.second = old + (1.0 - a.beta2) * square
    update.corrected = vec_quotient(update.second, a.correction2)
    update.numerator = a.learning_rate * vec_quotient(update.first, a.correction1)
    update.squares = square_is_out_of_range(square, grad) | vec_differ(
        update.second, old + (1.0 - a.beta2) * other_square(square, grad)
    )
    return update


cdef inline mask root_matters(
    vec updated, vec data, vec step, vec root, vec corrected
) noexcept nogil:
    """Return where a doubtful root matters, or a bound of those above does not hold.

    Sums are monotone: it does not where both ends of the step's range lead to one sum.
    """
    cdef vec residual = vec_residual(corrected, root, root)
    return (
        root_is_doubtful(root, residual) & vec_differ(updated, data - other_term(step, residual))
    ) | vec_exceeds(corrected, vec_set(1e19)) | vec_exceeds(vec_set(1e-140), vec_size(updated))


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
        square = seconds[i] / a.correction2.number
        if square < 0.0:
            return False
        updated[i] = p[i] - a.learning_rate * (firsts[i] / a.correction1.number) / (
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

    Less than n says that the next one raises: its square overflows, its second
    moment is negative or a divisor is zero. Its moments are then updated as far as
    the oracle comes.
    """
    cdef Py_ssize_t i
    cdef double square, corrected, divisor
    for i in range(n):
        m[i] = a.beta1 * m[i] + (1.0 - a.beta1) * g[i]
        square = pow(fabs(g[i]), 2.0)
        if isinf(square) and not isinf(g[i]):
            return i
        v[i] = a.beta2 * v[i] + (1.0 - a.beta2) * square
        corrected = v[i] / a.correction2.number
        divisor = pow(corrected, 0.5) + a.eps_adam
        if divisor == 0.0 or corrected < 0.0 or a.correction1.number == 0.0:
            return i
        p[i] -= a.learning_rate * (m[i] / a.correction1.number) / divisor
        g[i] = 0.0
    return n


@cython.cdivision(True)
cdef inline Py_ssize_t adam_step(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a, bint clear
) noexcept nogil:
    """Update n parameters, and clear their gradients or not; return how many were updated.

    Less than n says that the next one raises, as in `adam_one_by_one`.

    Shapes:  p, g, m, v (n,), readable up to LANES numbers more
    Writes:  p, m, v, and g, which may be left as it is if not clear
    """
    cdef AdamStep near = a[0]  # in no memory that the stores could change
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t done
    cdef Update update, next_update
    cdef vec data, root, step, updated
    cdef mask roots
    if pow_keeps_bound() and is_usual(a):
        # A root takes long: meanwhile the next vector's update is begun.
        next_update = begin_update(g, m, v, &near)
        while i + LANES <= n:
            update = next_update
            root = vec_sqrt(update.corrected)
            next_update = begin_update(g + i + LANES, m + i + LANES, v + i + LANES, &near)
            prefetch(p + i + FETCHED)
            prefetch(m + i + FETCHED)
            prefetch(v + i + FETCHED)
            data = vec_load(p + i)
            step = update.numerator / (root + near.eps_adam)
            updated = data - step
            roots = root_matters(updated, data, step, root, update.corrected)
            if unlikely(mask_bits(update.squares | roots) != 0):
                if not adam_lanes(
                    p + i, g + i, m + i, v + i, updated, update.first, update.second,
                    mask_bits(update.squares), mask_bits(roots), a,
                ):
                    done = adam_one_by_one(p + i, g + i, m + i, v + i, LANES, a)
                    if done < LANES:
                        return i + done
            else:
                vec_store(p + i, updated)
                vec_store(m + i, update.first)
                vec_store(v + i, update.second)
                if clear:
                    vec_store(g + i, vec_set(0.0))
            i += LANES
    return i + adam_one_by_one(p + i, g + i, m + i, v + i, n - i, a)
