"""Adam on flat buffers: every square and root is the power that the oracle asks libm for.

`powers.pxd` says where a vector's square or root may differ from pow's: in a few lanes
of a hundred, pow is one of two neighbours. If both candidates round to the same weight,
either is used; otherwise pow is called.
"""

cimport cython
from libc.float cimport DBL_EPSILON
from libc.math cimport fabs, isinf, pow, sqrt
from libc.string cimport memcpy

from kernels cimport SQUARES, AdamStep
from powers cimport other_square, root_is_doubtful
from simd cimport (
    LANES, first_bit, mask, mask_bits, pow_keeps_bound, vec, vec_differ, vec_divisor,
    vec_exceeds, vec_fma, vec_is_outside, vec_load, vec_neighbour, vec_quotient, vec_residual,
    vec_set, vec_set_divisor, vec_size, vec_sqrt, vec_store,
)


cdef extern from *:
    bint unlikely(bint condition) nogil
    void prefetch "__builtin_prefetch"(const void *, int writes, int level) nogil


cdef enum:
    FETCHED = 1024  # how many numbers ahead weights and moments are prefetched into L2


cdef struct StepVectors:  # AdamStep as vectors; a local copy, which no store can alias
    vec beta1
    vec rest1  # 1 - beta1
    vec beta2
    vec rest2
    vec eps_adam
    vec learning_rate
    vec_divisor correction1
    vec_divisor correction2


cdef struct Update:  # of LANES parameters, stage by stage
    vec numerator
    vec corrected
    vec root
    vec step
    mask doubtful  # where pow may give another root


cdef inline StepVectors vectors_of(const AdamStep *a) noexcept nogil:
    cdef StepVectors s
    s.beta1 = vec_set(a.beta1)
    s.rest1 = vec_set(1.0 - a.beta1)
    s.beta2 = vec_set(a.beta2)
    s.rest2 = vec_set(1.0 - a.beta2)
    s.eps_adam = vec_set(a.eps_adam)
    s.learning_rate = vec_set(a.learning_rate)
    s.correction1 = vec_set_divisor(a.correction1)
    s.correction2 = vec_set_divisor(a.correction2)
    return s


cdef inline bint is_usual(const AdamStep *a) noexcept nogil:
    """Return whether very small moments and roots cannot change a weight by these settings.

    A first moment below 1e-250, whose quotient may be wrong, makes a step below
    1e-170, and a root below 1e-35 vanishes in the sum with eps_adam.
    """
    return (
        1e-18 <= a.eps_adam <= 1e30
        and fabs(a.learning_rate) <= 1e30
        and 1e-30 <= a.correction1.number <= 2.0
        and 1e-30 <= a.correction2.number <= 2.0
    )


cdef inline bint begin_update(
    Update *u, double *g, double *m, double *v, const StepVectors *s, const AdamStep *a, bint clear
) noexcept nogil:
    """Update the moments of LANES parameters, or none if these are not for vectors.

    A doubtful square does not matter where both squares lead to one sum. Where the old
    moment is not negative, the new one keeps the square far below 1e100; where the new one is
    not below 1e-80, a square below 1e-100 vanishes in it.

    Writes:  u.numerator, u.corrected
    """
    cdef vec grad = vec_load(g)
    cdef vec square = grad * grad
    cdef vec old = s.beta2 * vec_load(v)
    cdef vec first = s.beta1 * vec_load(m) + s.rest1 * grad
    cdef vec second = old + s.rest2 * square
    cdef mask doubt = vec_differ(second, old + s.rest2 * other_square(square, grad))
    u.corrected = vec_quotient(second, s.correction2)
    u.numerator = s.learning_rate * vec_quotient(first, s.correction1)
    if unlikely(mask_bits(doubt | vec_is_outside(second, old, 1e-80, 1e9)) != 0):
        doubt = (
            doubt | vec_exceeds(vec_set(1e-100), square) & vec_differ(grad, vec_set(0.0))
            | vec_is_outside(u.corrected, old, 0.0, 1e19)
        )
        if mask_bits(doubt) != 0:
            if not moments_by_pow(&second, g, v, mask_bits(doubt), a):
                return False
            u.corrected = vec_quotient(second, s.correction2)
    vec_store(m, first)
    vec_store(v, second)
    if clear:
        vec_store(g, vec_set(0.0))
    return True


@cython.cdivision(True)
cdef inline bint moments_by_pow(
    vec *second, const double *g, const double *v, unsigned int doubt, const AdamStep *a
) noexcept nogil:
    """Compute the new second moments of the lanes in doubt by pow.

    Return False if one of those is out of the vectors' bounds.
    """
    cdef double seconds[LANES]
    cdef int i
    vec_store(seconds, second[0])
    while doubt:
        i = first_bit(doubt)
        doubt &= doubt - 1
        seconds[i] = a.beta2 * v[i] + (1.0 - a.beta2) * pow(fabs(g[i]), 2.0)
        if not 0.0 <= seconds[i] / a.correction2.number <= 1e19:
            return False
    second[0] = vec_load(seconds)
    return True


@cython.cdivision(True)
cdef inline void divide(Update *u, vec eps_adam) noexcept nogil:
    """Compute the step from what `begin_update` left and its root. Writes: u.step, u.doubtful"""
    u.step = u.numerator / (u.root + eps_adam)
    u.doubtful = root_is_doubtful(u.root, vec_residual(u.corrected, u.root, u.root))


cdef inline void end_update(
    const Update *u, double *p, const double *m, const double *v, const StepVectors *s,
    const AdamStep *a,
) noexcept nogil:
    """Update LANES parameters, whose moments are updated.

    A doubtful root's neighbour is off by 2**-52 of itself at most, its sum with eps_adam by no
    more, and each of two steps is rounded by half of that: less than 3 * 2**-52. Sums
    are monotone: it does not matter where both ends of this range lead to one sum.
    Where the step is too small for that, it must not matter either.
    """
    cdef vec data = vec_load(p)
    cdef vec updated = data - u.step
    cdef vec least = vec_fma(data, u.step, vec_set(-1.0 - 3.0 * DBL_EPSILON))
    cdef vec most = vec_fma(data, u.step, vec_set(-1.0 + 3.0 * DBL_EPSILON))
    cdef mask doubt = u.doubtful & vec_differ(least, most)
    if unlikely(mask_bits(doubt | vec_exceeds(vec_set(1e-140), vec_size(updated))) != 0):
        end_slowly(p, m, v, s, a)
    else:
        vec_store(p, updated)


@cython.cdivision(True)
cdef inline void end_slowly(
    double *p, const double *m, const double *v, const StepVectors *s, const AdamStep *a
) noexcept nogil:
    """Update LANES parameters, whose moments are updated, and find out whether roots matter."""
    cdef Update u
    cdef vec data = vec_load(p)
    cdef vec updated, residual, step
    cdef mask doubt
    u.corrected = vec_quotient(vec_load(v), s.correction2)
    u.numerator = s.learning_rate * vec_quotient(vec_load(m), s.correction1)
    u.root = vec_sqrt(u.corrected)
    divide(&u, s.eps_adam)
    updated = data - u.step
    residual = vec_residual(u.corrected, u.root, u.root)
    step = u.numerator / (vec_neighbour(u.root, residual) + s.eps_adam)
    doubt = (
        u.doubtful & vec_differ(updated, data - step)
        | vec_exceeds(vec_set(1e-140), vec_size(updated))
    )
    if mask_bits(doubt) != 0:
        weights_by_pow(p, m, v, updated, mask_bits(doubt), a)
    else:
        vec_store(p, updated)


@cython.cdivision(True)
cdef inline void weights_by_pow(
    double *p, const double *m, const double *v, vec updated, unsigned int doubt, const AdamStep *a
) noexcept nogil:
    """Update LANES parameters, whose moments are updated, those in doubt by pow."""
    cdef double weights[LANES]
    cdef int i
    vec_store(weights, updated)
    while doubt:
        i = first_bit(doubt)
        doubt &= doubt - 1
        weights[i] = p[i] - a.learning_rate * (m[i] / a.correction1.number) / (
            pow(v[i] / a.correction2.number, 0.5) + a.eps_adam
        )
    memcpy(p, weights, sizeof(weights))


cdef inline Py_ssize_t adam_vectors(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a, bint clear
) noexcept nogil:
    """Update whole vectors of n parameters; return how many were updated.

    What is left is less than a vector, or begins with one that is not for vectors.
    Roots and quotients have long latencies: three earlier updates go through them while one
    is begun. Of `begin_update` there is one call: gcc may not inline two of them.
    """
    cdef StepVectors s = vectors_of(a)
    cdef Py_ssize_t whole = n - n % LANES
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t k = -3 * LANES
    cdef Update fresh, begun, rooted, stepped
    fresh.numerator = vec_set(0.0)
    fresh.corrected = fresh.root = fresh.step = fresh.numerator
    fresh.doubtful = vec_differ(fresh.root, fresh.root)
    begun = rooted = stepped = fresh
    while i < whole:
        prefetch(p + i + FETCHED, False, 2)
        prefetch(m + i + FETCHED, False, 2)
        prefetch(v + i + FETCHED, False, 2)
        if not begin_update(&fresh, g + i, m + i, v + i, &s, a, clear):
            whole = i
            break
        if k >= 0:
            end_update(&stepped, p + k, m + k, v + k, &s, a)
        divide(&rooted, s.eps_adam)
        stepped = rooted
        rooted = begun
        rooted.root = vec_sqrt(rooted.corrected)
        begun = fresh
        i += LANES
        k += LANES
    while k < whole:
        if k >= 0:
            end_slowly(p + k, m + k, v + k, &s, a)
        k += LANES
    return whole


@cython.cdivision(True)
cdef inline void adam_one_by_one(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a
) noexcept nogil:
    """Update n parameters as the oracle does, and clear their gradients."""
    cdef Py_ssize_t i
    for i in range(n):
        m[i] = a.beta1 * m[i] + (1.0 - a.beta1) * g[i]
        v[i] = a.beta2 * v[i] + (1.0 - a.beta2) * pow(fabs(g[i]), 2.0)
        p[i] -= a.learning_rate * (m[i] / a.correction1.number) / (
            pow(v[i] / a.correction2.number, 0.5) + a.eps_adam
        )
        g[i] = 0.0


cdef inline void adam_step(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a, bint clear
) noexcept nogil:
    """Update n parameters, none of which may raise, and clear their gradients or not.

    Shapes:  p, g, m, v (n,)
    Writes:  p, m, v, and g, which may be left as it is if not clear
    """
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t size
    cdef bint by_vectors = pow_keeps_bound() and is_usual(a)
    while i < n:
        size = n - i
        if by_vectors:
            i += adam_vectors(p + i, g + i, m + i, v + i, size, a, clear)
            size = min(<Py_ssize_t>LANES, n - i)
        adam_one_by_one(p + i, g + i, m + i, v + i, size, a)
        i += size


cdef inline void multiply(double *x, double factor, Py_ssize_t n) noexcept nogil:
    """Multiply x (n,) by a factor."""
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = x[i] * factor


cdef inline double block_of_squares(const double *x, Py_ssize_t n) noexcept nogil:
    """Return a block's part of `microgpt.adam.sum_of_squares`: n numbers, at most BLOCK."""
    cdef double sums[8]
    cdef double total = 0.0
    cdef Py_ssize_t i, k
    for k in range(8):
        sums[k] = 0.0
    for i in range(0, n - n % 8, 8):
        for k in range(8):
            sums[k] += x[i + k] * x[i + k]
    for i in range(n - n % 8, n):
        sums[i % 8] += x[i] * x[i]
    for k in range(8):
        total += sums[k]
    return total


cdef inline double sum_of_squares(const double *x, Py_ssize_t n) noexcept nogil:
    """Return the sum of squares in the order of `microgpt.adam.sum_of_squares`."""
    cdef double total = 0.0
    cdef Py_ssize_t i = 0
    while i < n:
        total += block_of_squares(x + i, min(<Py_ssize_t>SQUARES, n - i))
        i += SQUARES
    return total


@cython.cdivision(True)
cdef inline double clip_factor(double squares, double clip) noexcept nogil:
    """Return what gradients are multiplied by so that their norm is at most clip, or 1.0."""
    cdef double factor = clip / (sqrt(squares) + 1e-6)
    return factor if factor < 1.0 else 1.0


cdef inline bint numbers_are_small(
    const double *g, const double *v, Py_ssize_t n
) noexcept nogil:
    """Return whether no square of a gradient overflows and no second moment is negative.

    Shapes:  g, v (n,)
    """
    cdef vec largest = vec_set(1e150)
    cdef mask beyond = vec_exceeds(vec_set(0.0), vec_set(0.0))
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        beyond = (
            beyond | vec_exceeds(vec_size(vec_load(g + i)), largest)
            | vec_exceeds(vec_set(0.0), vec_load(v + i))
        )
        i += LANES
    if mask_bits(beyond) != 0:
        return False
    for i in range(i, n):
        if not (fabs(g[i]) <= 1e150 and v[i] >= 0.0):
            return False
    return True


@cython.cdivision(True)
cdef inline Py_ssize_t first_that_raises(
    const double *g, const double *v, Py_ssize_t n, const AdamStep *a, double factor
) noexcept nogil:
    """Return the first of n parameters at which the oracle's update raises, or n.

    Gradients are taken times factor, which is at most 1.

    Its gradient's square overflows, its second moment is negative or a divisor is zero.

    Shapes:  g, v (n,)
    """
    cdef Py_ssize_t i
    cdef double square, corrected, grad
    if (
        a.eps_adam > 0.0 and a.correction1.number != 0.0 and a.correction2.number > 0.0
        and numbers_are_small(g, v, n)
    ):
        return n
    for i in range(n):
        grad = g[i] * factor
        square = pow(fabs(grad), 2.0)
        if isinf(square) and not isinf(grad):
            return i
        corrected = (a.beta2 * v[i] + (1.0 - a.beta2) * square) / a.correction2.number
        if a.correction1.number == 0.0 or a.correction2.number == 0.0 or corrected < 0.0:
            return i
        if pow(corrected, 0.5) + a.eps_adam == 0.0:
            return i
    return n
