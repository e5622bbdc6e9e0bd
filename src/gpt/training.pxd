"""Many steps, by any number of threads, with the same bits.

Threads take the next share of the positions, of the heads or of a matrix's rows by turns, so
that one on a busy core takes fewer. No sum is divided between threads.
"""

cimport cython
from libc.math cimport pow, sqrt
from libc.string cimport memset

from activations cimport begin_batch, draw_masks, scratch_of
from barrier cimport barrier_wait, take_share
from clock cimport now
from kernels cimport SQUARES, Activations, AdamStep, Job
from matmul cimport K_BLOCK, LEAST_ROWS, is_packed
from model cimport (
    Matrix, backward, backward_weights, document_loss, forward, matrices_backward, matrix_of,
)
from optimizer cimport (
    adam_step, block_of_squares, clip_factor, first_that_raises, multiply, numbers_are_small,
)
from simd cimport LANES, divisor_of, padded, vec, vec_load, vec_max, vec_set, vec_size, vec_store
from weights cimport WPE, Sizes, matrix_count


cdef enum:
    L1_WEIGHTS = 8192  # weights updated together, while their gradients are in L1
    L2_WEIGHTS = 131072  # the same in L2: in batches, whose products have to be packed


@cython.cdivision(True)
cdef inline void worker_loop(Job *job, int thread) noexcept nogil:
    """Take steps until they are done, the time is over or one of them would raise.

    A step runs group after group of its documents, from the last, forward and backward, so that a
    group's activations are in the caches. Every thread calls this once, with its number.
    """
    cdef Activations *acts = &job.acts
    cdef double *dw
    cdef int size = acts.barrier.size
    cdef bint last_group
    while True:
        if thread == 0:
            next_group(job)
        barrier_wait(&acts.barrier)
        last_group = job.left == 0
        if job.over:
            break
        forward(acts, job.data, 0, acts.m, True, thread)
        if acts.failed:
            break
        if job.evaluates:
            if thread == 0:
                add_losses(job)
            continue
        if thread == 0:
            group_loss(job)
        dw = job.grad if job.whole else NULL
        backward(acts, job.data, dw, job.add or job.continues, thread)
        if not last_group:
            continue
        if dw == NULL:
            if not updates_cannot_overflow(
                job, acts.m * thread // size, acts.m * (thread + 1) // size
            ):
                job.whole = True
            barrier_wait(&acts.barrier)
            update_by_blocks(job, thread)
            if job.whole:
                barrier_wait(&acts.barrier)
        if job.whole:
            update_at_once(job, thread, size)
        barrier_wait(&acts.barrier)
        if job.failed:
            break
    if thread == 0 and job.continues and (acts.failed or job.out_of_memory):
        memset(job.grad, 0, acts.sizes.n_params * sizeof(double))


cdef inline void next_group(Job *job) noexcept nogil:
    """Make the next group of documents ready, of this step or the next, or end the work."""
    cdef const AdamStep *adam = &job.adam
    cdef Py_ssize_t n_params = job.acts.sizes.n_params
    cdef Py_ssize_t first, end
    job.continues = job.left > 0
    if not job.continues:
        next_step(job)
    if job.over:
        return
    first = job.done * job.batch_size
    end = job.left
    job.left = first_of_group(job, job.ends + first, end)
    job.out_of_memory = not begin_batch(
        &job.acts, job.tokens, job.ends + first + job.left, end - job.left
    )
    job.over = job.out_of_memory
    job.acts.batch = min(job.batch_size, job.n_documents - first)
    if job.acts.dropout > 0.0 and not job.over:
        job.before = job.acts.generator[0]
        draw_masks(&job.acts)
    if not job.continues and not job.over and not job.evaluates:
        job.whole = (
            job.add or job.acts.reuses or n_params <= L1_WEIGHTS or adam.eps_adam == 0.0
            or adam.clip > 0.0
            # Here all of job.grad is 0.0, and not read again.
            or (job.done == 0 and not numbers_are_small(job.v, job.v, n_params))
        )


cdef inline Py_ssize_t first_of_group(
    const Job *job, const Py_ssize_t *ends, Py_ssize_t last
) noexcept nogil:
    """Return the first document of the group that ends with document last - 1 of a step.

    It has at least as many positions as products take at once, and more than n_embd, for
    `acts.reuses`; all that are left, where these are not enough for another group.
    """
    cdef const Sizes *net = &job.acts.sizes
    cdef Py_ssize_t least = job.acts.barrier.size * max(<Py_ssize_t>K_BLOCK, net.n_embd + 1)
    cdef Py_ssize_t positions = 0
    cdef Py_ssize_t first = 0
    cdef Py_ssize_t d
    if job.evaluates or job.add or job.acts.dropout > 0.0:  # whose masks are drawn at once
        return 0
    for d in range(last - 1, -1, -1):
        positions += min(net.block_size, ends[d + 1] - ends[d] - 1)
        if positions >= least:
            if first > 0:
                return first
            first = d
            positions = 0
    return 0


@cython.cdivision(True)
cdef inline void group_loss(Job *job) noexcept nogil:
    """Write the losses of a group's documents; after the last, the step's, as `loss_forward`."""
    cdef Activations *acts = &job.acts
    cdef Py_ssize_t d
    for d in range(acts.n_documents):
        job.document_losses[job.left + d] = document_loss(acts, d)
    if job.left > 0:
        return
    acts.loss = 0.0
    for d in range(acts.batch):
        acts.loss += job.document_losses[d]
    acts.loss = 1.0 / acts.batch * acts.loss


@cython.cdivision(True)
cdef inline void next_step(Job *job) noexcept nogil:
    """Choose the next step's documents and rates, or end the work."""
    cdef AdamStep *adam = &job.adam
    cdef Py_ssize_t n_params = job.acts.sizes.n_params
    cdef double t
    if job.acts.m:
        if not job.evaluates:
            job.losses[job.done] = job.acts.loss
        job.done += 1
    job.over = job.done == job.n_steps or (job.done > 0 and now() > job.until)
    if job.over:
        return
    job.left = min(job.batch_size, job.n_documents - job.done * job.batch_size)
    if job.evaluates:
        return
    t = job.t + job.done
    adam.learning_rate = job.rates[job.done]
    adam.correction1 = divisor_of(1.0 - pow(adam.beta1, t + 1.0))
    adam.correction2 = divisor_of(1.0 - pow(adam.beta2, t + 1.0))
    job.add = job.done == 0 and not are_zero(job.grad, n_params)


cdef inline void add_losses(Job *job) noexcept nogil:
    """Add a batch's losses: positions left to right from 0, then documents likewise."""
    cdef const Activations *acts = &job.acts
    cdef Py_ssize_t d, i
    cdef double total
    for d in range(acts.n_documents):
        total = 0.0
        for i in range(acts.starts[d], acts.starts[d + 1]):
            total += acts.losses[i]
        job.nats += total
    job.predicted += acts.m


@cython.cdivision(True)
cdef inline void update_by_blocks(Job *job, int thread) noexcept nogil:
    """Compute the gradients of every matrix block by block, and update the weights.

    Each block of rows is updated while its gradients are in L1, unless a step may raise,
    which changes no weight.
    """
    cdef Activations *acts = &job.acts
    cdef Py_ssize_t number = take_share(&acts.barrier)
    cdef Py_ssize_t before = 0
    cdef Py_ssize_t i, row, last, rows, start, n
    cdef double *grad = job.gradients + thread * job.gradients_size
    cdef Matrix matrix
    cdef double decay = 1.0 - job.adam.learning_rate * job.adam.weight_decay
    if job.whole:
        matrices_backward(
            acts, job.grad, job.add, 0, matrix_count(&acts.sizes), number, before, thread
        )
        return
    for i in range(matrix_count(&acts.sizes)):
        matrix = matrix_of(acts, i)
        rows = rows_at_once(matrix.shape.n_in, acts.m)
        while (number - before) * rows < matrix.shape.n_out:
            row = (number - before) * rows
            last = min(matrix.shape.n_out, row + rows)
            start = matrix.shape.start + row * matrix.shape.n_in
            n = (last - row) * matrix.shape.n_in
            backward_weights(acts, &matrix, grad, scratch_of(acts, thread), row, last, False)
            if decay != 1.0:
                multiply(job.data + start, decay, n)
            adam_step(job.data + start, grad, job.m + start, job.v + start, n, &job.adam, False)
            number = take_share(&acts.barrier)
        before += (matrix.shape.n_out + rows - 1) // rows


@cython.cdivision(True)
cdef inline void update_at_once(Job *job, int thread, int size) noexcept nogil:
    """Update this thread's share of the weights, whose gradients are all computed, or none.

    A step that raises changes no weight.
    """
    cdef Py_ssize_t n_params = job.acts.sizes.n_params
    cdef Py_ssize_t start = n_params * thread // size
    cdef Py_ssize_t n = n_params * (thread + 1) // size - start
    cdef Py_ssize_t blocks = (n_params + SQUARES - 1) // SQUARES
    cdef Py_ssize_t i
    cdef double decay = 1.0 - job.adam.learning_rate * job.adam.weight_decay
    cdef double squares = 0.0
    cdef double factor = 1.0
    if job.adam.clip > 0.0:
        for i in range(blocks * thread // size, blocks * (thread + 1) // size):
            job.squares[i] = block_of_squares(
                job.grad + i * SQUARES, min(<Py_ssize_t>SQUARES, n_params - i * SQUARES)
            )
        barrier_wait(&job.acts.barrier)
        for i in range(blocks):
            squares += job.squares[i]
        factor = clip_factor(squares, job.adam.clip)
    i = first_that_raises(job.grad + start, job.v + start, n, &job.adam, factor)
    job.raises[thread] = start + i if i < n else n_params
    if i < n:
        job.failed = True
    barrier_wait(&job.acts.barrier)
    if not job.failed:
        if thread == 0:
            job.norms[job.done] = sqrt(squares)
        if factor != 1.0:
            multiply(job.grad + start, factor, n)
        if decay != 1.0:
            multiply(job.data + start, decay, n)
        adam_step(
            job.data + start, job.grad + start, job.m + start, job.v + start, n, &job.adam, True
        )


@cython.cdivision(True)
cdef inline Py_ssize_t rows_at_once(Py_ssize_t n_in, Py_ssize_t m) noexcept nogil:
    """Return how many rows of a matrix are updated together after m positions."""
    cdef bint packs = is_packed(LEAST_ROWS, n_in, m)
    return max(<Py_ssize_t>8, (L2_WEIGHTS if packs else L1_WEIGHTS) // n_in)


cdef inline Py_ssize_t gradients_size(const Sizes *net) noexcept nogil:
    """Return the most weights that are updated together."""
    cdef Py_ssize_t rows = max(4 * net.n_embd, max(net.vocab_size, net.block_size))
    cdef Py_ssize_t largest = min(rows * net.n_embd, <Py_ssize_t>L2_WEIGHTS)
    return max(max(largest, <Py_ssize_t>L1_WEIGHTS), 8 * 4 * net.n_embd)


cdef inline bint are_zero(const double *x, Py_ssize_t n) noexcept nogil:
    """Return whether all of x (n,) are 0.0, and none is -0.0."""
    cdef const unsigned long long *bits = <const unsigned long long *>x
    cdef unsigned long long any_bit = 0
    cdef Py_ssize_t i
    for i in range(n):
        any_bit |= bits[i]
    return any_bit == 0


cdef inline bint updates_cannot_overflow(
    const Job *job, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Return whether positions first up to last make no gradient too large for Adam.

    A gradient's size is at most the sum, over positions, of the largest dy times the
    largest x.
    """
    cdef const Activations *acts = &job.acts
    cdef Py_ssize_t i, k
    cdef vec dy = vec_set(0.0)
    cdef vec x = vec_set(1.0)
    cdef double bound[LANES]
    cdef Matrix matrix
    for i in range(matrix_count(&acts.sizes)):
        matrix = matrix_of(acts, i)
        if i == WPE:  # of the same dy as WTE
            continue
        for k in range(first, last):
            dy = largest(
                dy, matrix.dy + k * matrix.dy_row,
                matrix.shape.n_in if matrix.ids != NULL else matrix.shape.n_out,
            )
            if matrix.x != NULL:
                x = largest(x, matrix.x + k * matrix.x_row, matrix.shape.n_in)
    vec_store(bound, dy)
    for i in range(1, LANES):
        bound[0] = max(bound[0], bound[i])
    vec_store(bound, x * (bound[0] * acts.m))
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
        size = vec_max(size, vec_size(vec_load(x + i * LANES)))
    return size
