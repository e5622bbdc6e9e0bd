"""Adam on flat buffers: every square and root is the power that the oracle asks libm for."""

cimport cython
from libc.math cimport fabs, isinf, pow


cdef struct AdamStep:
    double beta1
    double beta2
    double eps_adam
    double correction1
    double correction2
    double learning_rate  # of this step
    double initial_rate
    double num_steps


@cython.cdivision(True)
cdef inline Py_ssize_t adam_step(
    double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a
) noexcept nogil:
    """Update n parameters and clear their gradients; return how many were updated.

    Less than n says that the next one raises: its square overflows, or the
    divisor is zero. Its moments are then updated as far as the oracle comes.

    Writes:  p, g, m, v
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
