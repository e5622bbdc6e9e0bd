"""Many steps, by one thread or a team of them, with the same bits.

Forward and backward, the team shares the positions. Then it shares the weights:
each thread takes rows of every matrix, computes their gradients and updates them
while they are still near. No sum is ever divided between threads.
"""

cimport cython
from libc.math cimport fabs, pow
from libc.string cimport memmove

from matmul cimport LANES, padded, vec, vec_load, vec_set, vec_store
from model cimport (
    Matrix, backward_inputs, backward_weights, forward, loss_forward, losses_forward, next_matrix,
)
from optimizer cimport AdamStep, adam_step, divisor_of
from trace cimport Trace, begin, meet


cdef extern from "simd.h" nogil:
    vec vec_max_size(vec size, vec x)


cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)


cdef enum:
    NEAR = 8192  # weights that are updated together, while their gradients are near


cdef struct Job:
    Trace trace
    AdamStep adam
    double t  # the optimizer's steps before these
    double *data  # (n_params,)
    double *grad
    double *m
    double *v
    double *near  # (threads, near_size)
    Py_ssize_t near_size
    const Py_ssize_t *tokens
    const Py_ssize_t *ends  # (n_steps * batch_size + 1,)
    Py_ssize_t n_steps
    Py_ssize_t batch_size
    double until  # the time when no new step is begun
    double *losses  # (n_steps,)
    Py_ssize_t done  # steps
    Py_ssize_t raises  # the parameter at which Adam raises, or n_params
    bint out_of_memory
    bint alone  # whether one thread has to update all weights, in order
    bint over


cdef inline double now() noexcept nogil:
    """Return the seconds on a clock that never goes back."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + 1e-9 * time.tv_nsec


@cython.cdivision(True)
cdef inline void work(Job *job, int thread) noexcept nogil:
    """Take steps until they are done, the time is over or one of them would raise.

    Every thread of the team calls this once, with its number.
    """
    cdef Trace *trace = &job.trace
    cdef Py_ssize_t first, last
    cdef int size = trace.team.size
    while True:
        if thread == 0:
            prepare(job)
        meet(&trace.team)
        if job.over:
            break
        first = trace.m * thread // size
        last = trace.m * (thread + 1) // size
        forward(trace, job.data, first, last, thread)
        losses_forward(trace, first, last)
        backward_inputs(trace, job.data, first, last, thread)
        if size > 1 and not is_tame(job, first, last):
            job.alone = True
        meet(&trace.team)
        if trace.failed:
            break
        if thread == 0:
            loss_forward(trace)
        if not job.alone:
            learn(job, thread, size)
        elif thread == 0:
            learn(job, 0, 1)
        meet(&trace.team)
        if job.raises < trace.sizes.n_params:
            break


@cython.cdivision(True)
cdef inline void prepare(Job *job) noexcept nogil:
    """Make the next step ready, or end the work."""
    cdef AdamStep *adam = &job.adam
    cdef double t
    if job.trace.m:
        job.losses[job.done] = job.trace.loss
        job.done += 1
    job.over = job.done == job.n_steps or (job.done > 0 and now() > job.until)
    if job.over:
        return
    job.out_of_memory = not begin(
        &job.trace, job.tokens, job.ends + job.done * job.batch_size, job.batch_size
    )
    job.over = job.out_of_memory
    t = job.t + job.done
    job.alone = not starts_tame(job)
    adam.learning_rate = adam.initial_rate * (1.0 - t / adam.num_steps)
    adam.correction1 = divisor_of(1.0 - pow(adam.beta1, t + 1.0))
    adam.correction2 = divisor_of(1.0 - pow(adam.beta2, t + 1.0))


@cython.cdivision(True)
cdef inline void learn(Job *job, int thread, int size) noexcept nogil:
    """Compute the gradients of this thread's rows of every matrix, and update them.

    Between two steps all gradients are zero, so they need no memory but a little
    that stays near; only what the first step finds is added to.

    Order:   rows first to last; where Adam raises, the gradients behind are
             still computed, as the oracle has them by then
    """
    cdef const Trace *trace = &job.trace
    cdef Py_ssize_t n_matrices = 3 + 6 * trace.sizes.n_layer
    cdef Py_ssize_t n_params = trace.sizes.n_params
    cdef Py_ssize_t i, row, last, rows, start, n, done
    cdef double *grad
    cdef bint keep
    cdef Matrix matrix
    for i in range(n_matrices):
        matrix = next_matrix(trace, matrix, i)
        row = matrix.n_out * thread // size
        last = matrix.n_out * (thread + 1) // size
        while row < last:
            rows = min(last - row, rows_at_once(matrix.n_in))
            start = matrix.start + row * matrix.n_in
            n = rows * matrix.n_in
            keep = job.done == 0 or job.raises < n_params
            grad = job.grad + start if keep else job.near + thread * job.near_size
            backward_weights(trace, &matrix, grad, row, row + rows, keep)
            if job.raises == n_params:
                done = adam_step(
                    job.data + start, grad, job.m + start, job.v + start, n, &job.adam, keep
                )
                if done < n:
                    job.raises = start + done
                    memmove(job.grad + job.raises, grad + done, (n - done) * sizeof(double))
            row += rows


@cython.cdivision(True)
cdef inline Py_ssize_t rows_at_once(Py_ssize_t n_in) noexcept nogil:
    """Return how many rows of a matrix are updated together."""
    return max(<Py_ssize_t>8, NEAR // n_in)


cdef inline bint starts_tame(const Job *job) noexcept nogil:
    """Return whether what the first step finds lets no parameter's update raise."""
    cdef Py_ssize_t i
    if job.trace.team.size == 1 or job.adam.eps_adam == 0.0:
        return False
    if job.done == 0:
        for i in range(job.trace.sizes.n_params):
            if not (fabs(job.grad[i]) < 1e140 and job.v[i] >= 0.0):
                return False
    return True


cdef inline bint is_tame(const Job *job, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Return whether positions first up to last let no parameter's update raise.

    Where none can, their order shows nowhere. A gradient's size is at most that of
    the one before it plus, per position, the product of the largest dy and x.
    """
    cdef const Trace *trace = &job.trace
    cdef Py_ssize_t i, k
    cdef vec dy = vec_set(0.0)
    cdef vec x = vec_set(1.0)
    cdef double bound[LANES]
    cdef Matrix matrix
    for i in range(3 + 6 * trace.sizes.n_layer):
        matrix = next_matrix(trace, matrix, i)
        if i == 1:
            continue
        for k in range(first, last):
            dy = largest(
                dy, matrix.dy + k * matrix.dy_row,
                matrix.n_in if matrix.ids != NULL else matrix.n_out,
            )
            if matrix.x != NULL:
                x = largest(x, matrix.x + k * matrix.x_row, matrix.n_in)
    vec_store(bound, dy)
    for i in range(1, LANES):
        bound[0] = max(bound[0], bound[i])
    vec_store(bound, x * (bound[0] * trace.m))
    for i in range(LANES):
        if not bound[i] < 1e140:
            return False
    return True


@cython.cdivision(True)
cdef inline vec largest(vec size, const double *x, Py_ssize_t n) noexcept nogil:
    """Return the larger of size and the sizes of x (n,), lane by lane; NaN is left out.

    What lies behind x up to whole vectors counts too: a bound may be too large.
    """
    cdef Py_ssize_t i
    for i in range(padded(n) // LANES):
        size = vec_max_size(size, vec_load(x + i * LANES))
    return size
