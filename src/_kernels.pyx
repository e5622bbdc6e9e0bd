"""The fused engine: a whole training step on flat buffers, without Python objects.

The mathematics is in layers.pxd (the model's functions), matmul.pxd (their products),
powers.pxd, trace.pxd (a batch's activations), model.pxd (the step) and optimizer.pxd
(Adam). Here is the door: `Network` holds the weights, `Pass` runs documents forward and
backward, `Moments` updates the weights, `Trainer` does all three many times, `Sampler`
draws token by token. Arguments are checked here; the mathematics trusts them.

This file is compiled once for each instruction set, from the same lines.
"""

import math
import random
from types import SimpleNamespace

cimport cython
from cpython.array cimport array
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.float cimport DBL_EPSILON
from libc.math cimport INFINITY, floor, ldexp, nextafter, pow
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from layers cimport softmax_forward
from matmul cimport LANES, PANEL, padded, vec, vec_load, vec_set, vec_store
from model cimport (
    Matrix, backward_inputs, backward_weights, forward, loss_forward, losses_forward, next_matrix,
)
from optimizer cimport (
    SQUARES, AdamStep, adam_step, clip_factor, divisor, divisor_of, first_that_raises, multiply,
    sum_of_squares, vec_divisor, vec_quotient, vec_set_divisor,
)
from powers cimport (
    inverse_power, mask, mask_bits, other_square, root_is_doubtful, vec_differ, vec_residual,
    vec_sqrt,
)
from scalar cimport FIRST, SECOND, floats, invert
from trace cimport (
    WORDS, Generator, Layer, Sizes, Team, Trace, begin, draw_masks, end, meet,
)
from training cimport NEAR, Job, now, rows_at_once, work


cdef extern from "team.h" nogil:
    ctypedef struct pthread_t:
        pass
    int start_thread(pthread_t *thread, void *(*work)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)


cdef extern from "memory.h":
    void *zeros(size_t n_bytes)


cdef extern from "simd.h":
    bint runs_avx2()
    bint runs_avx512()


def runs(str simd):
    """Return whether this processor runs the kernels of an instruction set."""
    return simd == "baseline" or bool(
        runs_avx2() if simd == "avx2" else simd == "avx512" and runs_avx512()
    )


cdef class Buffer:
    """Hold n doubles, zero at first.

    Shapes:  (n,), writable through `View`
    Raises:  MemoryError if there is no room for them
    """

    cdef double *at
    cdef readonly Py_ssize_t n

    def __cinit__(self, Py_ssize_t n):
        # Whole vectors may be read behind the last number.
        if not 0 <= n < (<Py_ssize_t>1 << 59):
            raise MemoryError(f"{n} numbers do not fit into memory")
        self.at = <double *>zeros((n + PANEL) * sizeof(double))
        if self.at == NULL:
            raise MemoryError(f"{n} numbers do not fit into memory")
        self.n = n

    def __dealloc__(self):
        free(self.at)


cdef class View:
    """Show a part of a buffer to whoever takes buffers, without a copy.

    Shapes:  up to three dimensions, the last one contiguous
    """

    cdef object owner
    cdef double *at
    cdef int ndim
    cdef bint writable
    cdef Py_ssize_t shape[3]
    cdef Py_ssize_t strides[3]

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not flags & PyBUF_STRIDES == PyBUF_STRIDES and not self._is_contiguous():
            raise BufferError("the rows are apart: ask for strides")
        view.obj = self
        view.buf = self.at
        view.itemsize = sizeof(double)
        view.len = self.itemcount() * sizeof(double)
        view.readonly = not self.writable
        view.ndim = self.ndim
        view.format = NULL
        if flags & PyBUF_FORMAT == PyBUF_FORMAT:
            view.format = b"d"
        view.shape = self.shape if flags & PyBUF_ND == PyBUF_ND else NULL
        view.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    cdef Py_ssize_t itemcount(self):
        cdef Py_ssize_t i
        cdef Py_ssize_t n = 1
        for i in range(self.ndim):
            n *= self.shape[i]
        return n

    cdef bint _is_contiguous(self):
        cdef Py_ssize_t i
        cdef Py_ssize_t n = sizeof(double)
        for i in range(self.ndim - 1, -1, -1):
            if self.strides[i] != n:
                return False
            n *= self.shape[i]
        return True


cdef object show(object owner, double *at, tuple shape, tuple rows, bint writable=False):
    """Return a memoryview of numbers that owner keeps; rows are strides without the last, 1."""
    cdef View view = View.__new__(View)
    cdef Py_ssize_t i
    view.owner = owner
    view.at = at
    view.writable = writable
    view.ndim = len(shape)
    for i in range(view.ndim):
        view.shape[i] = shape[i]
        view.strides[i] = (rows[i] if i < view.ndim - 1 else 1) * sizeof(double)
    return memoryview(view)


cdef class Network:
    """The weights and gradients of a model, flat, in the order of `Config.shapes`."""

    cdef Sizes sizes
    cdef Buffer data
    cdef Buffer grad
    cdef readonly object config

    def __init__(self, config):
        cdef Sizes *sizes = &self.sizes
        self.config = config
        sizes.vocab_size = config.vocab_size
        sizes.n_embd = config.n_embd
        sizes.n_head = config.n_head
        sizes.n_layer = config.n_layer
        sizes.block_size = config.block_size
        sizes.n_params = config.num_params
        sizes.inverse_n = pow(<double>sizes.n_embd, -1.0)
        sizes.inverse_root = pow(pow(<double>config.head_dim, 0.5), -1.0)
        sizes.row = padded(sizes.n_embd)
        sizes.mlp_row = padded(4 * sizes.n_embd)
        sizes.vocab_row = padded(sizes.vocab_size)
        self.data = Buffer(sizes.n_params)
        self.grad = Buffer(sizes.n_params)

    def view(self, bint grad, Py_ssize_t start, *shape):
        """Return the weights from start on, or their gradients, in the given shape."""
        cdef Buffer buffer = self.grad if grad else self.data
        if start < 0 or start + math.prod(shape) > buffer.n:
            raise IndexError("there are no such weights")
        return show(buffer, buffer.at + start, shape, shape[1:], True)


cdef class Documents:
    """Documents of token ids, checked, in one block of memory.

    Raises:  ValueError as `GPT.loss`
    """

    cdef Py_ssize_t *tokens
    cdef Py_ssize_t *ends
    cdef readonly Py_ssize_t n

    def __cinit__(self, Network network, documents, bint bos=False):
        cdef Py_ssize_t vocab_size = network.sizes.vocab_size
        cdef Py_ssize_t d, at, i
        cdef Py_ssize_t size = 0
        self.n = len(documents)
        for tokens in documents:
            size += len(tokens)
        self.tokens = <Py_ssize_t *>calloc(size + 1, sizeof(Py_ssize_t))
        self.ends = <Py_ssize_t *>calloc(self.n + 1, sizeof(Py_ssize_t))
        if self.tokens == NULL or self.ends == NULL:
            raise MemoryError()
        at = 0
        for d in range(self.n):
            tokens = documents[d]
            for i in range(min(<Py_ssize_t>len(tokens), size - at)):
                token = tokens[i]
                if not 0 <= token < vocab_size:
                    raise ValueError(f"token {token} is not in the vocabulary 0..{vocab_size - 1}")
                self.tokens[at] = token
                at += 1
            self.ends[d + 1] = at
            if self.ends[d + 1] - self.ends[d] < 2:
                raise ValueError(f"a document needs at least two tokens, not {len(tokens)}")
            if bos and self.tokens[self.ends[d]] != vocab_size - 1:
                raise ValueError("a document must begin with BOS")

    def __dealloc__(self):
        free(self.tokens)
        free(self.ends)


cdef int load_generator(Generator *generator, rng) except -1:
    """Take the state of a random.Random."""
    cdef Py_ssize_t i
    version, state = rng.getstate()[:2]
    if version != 3 or len(state) != WORDS + 1:
        raise ValueError("dropout_rng must be a random.Random")
    for i in range(WORDS):
        generator.words[i] = state[i]
    generator.next = state[WORDS]
    return 0


cdef int save_generator(const Generator *generator, rng) except -1:
    """Set a random.Random to go on from a state."""
    cdef list state = [None] * (WORDS + 1)
    cdef Py_ssize_t i
    for i in range(WORDS):
        state[i] = generator.words[i]
    state[WORDS] = generator.next
    rng.setstate((3, tuple(state), rng.getstate()[2]))
    return 0


cdef class Pass:
    """One batch on its way through a network, forward and, once, backward.

    The weights are copied, because a graph of `Value`s keeps those it was made with.

    Raises:  ValueError as `GPT.loss`, and where the logarithm of a probability of zero is asked
    """

    cdef Trace trace
    cdef readonly Network network
    cdef Buffer kept

    def __init__(self, Network network, documents, dropout=0.0, rng=None):
        cdef Generator generator
        cdef bint fine
        cdef Documents checked = Documents(network, documents)
        cdef Trace *trace = &self.trace
        self.network = network
        self.kept = Buffer(network.sizes.n_params)
        memcpy(self.kept.at, network.data.at, network.sizes.n_params * sizeof(double))
        trace.sizes = network.sizes
        trace.team.size = 1
        trace.dropout = dropout
        trace.generator = &generator
        if trace.dropout > 0.0:
            load_generator(&generator, rng)
        with nogil:
            fine = begin(trace, checked.tokens, checked.ends, checked.n)
            if fine:
                if trace.dropout > 0.0:
                    draw_masks(trace)
                forward(trace, self.kept.at, 0, trace.m, 0)
                losses_forward(trace, 0, trace.m)
                loss_forward(trace)
        if not fine:
            raise MemoryError()
        if trace.failed:
            math.log(0.0)
        if trace.dropout > 0.0:
            save_generator(&generator, rng)

    def __dealloc__(self):
        end(&self.trace)

    @property
    def loss(self):
        return self.trace.loss

    def weights(self):
        """Return the weights as they were when the loss was computed."""
        return show(self.kept, self.kept.at, (self.kept.n,), ())

    def positions(self):
        """Return each document's first position, and at the end their number."""
        cdef Py_ssize_t d
        starts = []
        for d in range(self.trace.n_documents + 1):
            starts.append(self.trace.starts[d])
        return starts

    def activation(self, str name, Py_ssize_t layer=0):
        """Return what the forward pass computed at all positions, by name.

        Shapes:  (positions, n_embd), the hidden ones 4 * n_embd, logits and probs vocab_size
        """
        cdef Trace *trace = &self.trace
        cdef Sizes *net = &trace.sizes
        cdef Layer *at = &trace.layers[layer]
        if name == "logits" or name == "probs":
            return show(self, trace.logits if name == "logits" else trace.probs,
                        (trace.m, net.vocab_size), (net.vocab_row,))
        if name == "mlp_hidden":
            return show(self, at.hidden, (trace.m, 4 * net.n_embd), (net.mlp_row,))
        return show(
            self,
            trace.embedding if name == "embedding" else trace.out if name == "output"
            else at.x if name == "input" else at.norm1 if name == "attn_norm"
            else at.q if name == "q" else at.k if name == "k" else at.v if name == "v"
            else at.attended if name == "attended" else at.mid if name == "mlp_input" else at.norm2,
            (trace.m, net.n_embd), (net.row,),
        )

    def attention(self, Py_ssize_t layer, Py_ssize_t document):
        """Return a layer's attention weights for a document.

        Shapes:  (n_head, n, n): head, the position that looks, the one looked at
        """
        cdef Trace *trace = &self.trace
        if not (0 <= layer < trace.sizes.n_layer and 0 <= document < trace.n_documents):
            raise IndexError(f"there is no layer {layer} or no document {document}")
        n = trace.starts[document + 1] - trace.starts[document]
        return show(self, trace.layers[layer].weights + trace.maps[document],
                    (trace.sizes.n_head, n, n), (n * padded(n), padded(n)))

    def backward(self):
        """Add the gradients of the loss to the network's."""
        cdef Trace *trace = &self.trace
        cdef Matrix matrix
        cdef Py_ssize_t i
        with nogil:
            backward_inputs(trace, self.kept.at, 0, trace.m, 0)
            for i in range(3 + 6 * trace.sizes.n_layer):
                matrix = next_matrix(trace, matrix, i)
                backward_weights(
                    trace, &matrix, self.network.grad.at + matrix.start, 0, matrix.n_out, True
                )


cdef class Moments:
    """Adam's two moments of a network's weights."""

    cdef readonly Network network
    cdef Buffer m
    cdef Buffer v

    def __init__(self, Network network):
        self.network = network
        self.m = Buffer(network.sizes.n_params)
        self.v = Buffer(network.sizes.n_params)

    def view(self, bint second):
        """Return the first or the second moments."""
        cdef Buffer buffer = self.v if second else self.m
        return show(buffer, buffer.at, (buffer.n,), (), True)

    def step(self, adam):
        """Take step adam.t with adam's settings, and count it."""
        cdef Network network = self.network
        take_step(adam, network.data.at, network.grad.at, self.m.at, self.v.at, self.m.n)


def step_arrays(adam, array data, array grads):
    """Take step adam.t on the beginning of arrays of numbers, with adam's moments, and count it."""
    cdef array m = adam.m
    cdef array v = adam.v
    if not len(v) == len(m) <= min(len(data), len(grads)):
        raise ValueError(f"{len(m)} moments for {len(data)} numbers")
    take_step(
        adam, data.data.as_doubles, grads.data.as_doubles, m.data.as_doubles,
        v.data.as_doubles, len(m),
    )


cdef int take_step(
    adam, double *data, double *grad, double *m, double *v, Py_ssize_t n
) except -1:
    cdef AdamStep step = read(adam)
    cdef Py_ssize_t raises
    cdef double decay, factor = 1.0
    step.learning_rate = adam.rate(adam.t)
    decay = 1.0 - step.learning_rate * step.weight_decay
    step.correction1 = divisor_of(1 - adam.beta1 ** (adam.t + 1))
    step.correction2 = divisor_of(1 - adam.beta2 ** (adam.t + 1))
    with nogil:
        if step.clip > 0.0:
            factor = clip_factor(sum_of_squares(grad, n), step.clip)
        raises = first_that_raises(grad, v, n, &step, factor)
        if raises == n:
            if factor != 1.0:
                multiply(grad, factor, n)
            if decay != 1.0:
                multiply(data, decay, n)
            adam_step(data, grad, m, v, n, &step, True)
    if raises < n:
        raise_at(data[raises], grad[raises] * factor, m[raises], v[raises], &step)
    adam.t += 1
    return 0


cdef AdamStep read(adam):
    cdef AdamStep step
    step.beta1 = adam.beta1
    step.beta2 = adam.beta2
    step.eps_adam = adam.eps_adam
    step.weight_decay = adam.weight_decay
    step.clip = adam.clip or 0.0
    return step


cdef int raise_at(
    double data, double grad, double m, double v, const AdamStep *step
) except -1:
    """Raise what the oracle raises at a parameter: let the plain update do it."""
    from microgpt.adam import update

    parameter = SimpleNamespace(data=data, grad=grad)
    update(
        [parameter], [m], [v], step.learning_rate, step.beta1,
        step.beta2, step.eps_adam, step.correction1.number, step.correction2.number,
    )
    raise AssertionError("the plain update of a parameter that raises did not")


cdef struct Helper:
    Job *job
    Team *team
    bint *closed
    int number
    pthread_t thread


cdef void *help(void *argument) noexcept nogil:
    """Work as one of the team until it is closed."""
    cdef Helper *helper = <Helper *>argument
    while True:
        meet(helper.team)
        if helper.closed[0]:
            return NULL
        work(helper.job, helper.number)
        meet(helper.team)


cdef class Trainer:
    """Take many steps in one call, by a team of threads that waits between the calls.

    Without moments it only evaluates.

    Raises:  OSError if the system refuses a thread
    """

    cdef Network network
    cdef Moments moments
    cdef Generator generator
    cdef Buffer squares
    cdef Job job
    cdef Team team
    cdef bint closed
    cdef Helper *helpers
    cdef Buffer near

    def __init__(self, Network network, Moments moments, int threads):
        cdef Py_ssize_t n_in = 4 * network.sizes.n_embd  # at most
        cdef int i, error
        self.job.near_size = padded(max(<Py_ssize_t>NEAR, rows_at_once(n_in) * n_in))
        self.near = Buffer(threads * self.job.near_size)
        self.squares = Buffer(network.sizes.n_params // SQUARES + 1)
        self.job.near, self.job.squares = self.near.at, self.squares.at
        self.network, self.moments = network, moments
        self.job.trace.sizes = network.sizes
        self.job.trace.generator = &self.generator
        self.job.trace.team.size = threads
        self.team.size = 1
        self.job.raises = <Py_ssize_t *>calloc(threads, sizeof(Py_ssize_t))
        self.helpers = <Helper *>calloc(threads, sizeof(Helper))
        if self.job.raises == NULL or self.helpers == NULL:
            raise MemoryError()
        # The team grows by each that has started: a helper that comes early waits for the rest.
        for i in range(1, threads):
            self.helpers[i].job = &self.job
            self.helpers[i].team = &self.team
            self.helpers[i].closed = &self.closed
            self.helpers[i].number = i
            self.team.size = i + 1
            error = start_thread(&self.helpers[i].thread, help, &self.helpers[i])
            if error:
                self.team.size = i
                self.close()
                raise OSError(
                    error, f"the system starts {i} of {threads} threads: ask for fewer"
                )

    def __dealloc__(self):
        self.close()
        end(&self.job.trace)
        free(self.job.raises)
        free(self.helpers)

    cpdef close(self):
        """Stop and join the threads."""
        cdef int i
        if not self.closed:
            self.closed = True
            with nogil:
                meet(&self.team)
                for i in range(1, self.team.size):
                    pthread_join(self.helpers[i].thread, NULL)

    def run(
        self, Documents documents, Py_ssize_t batch_size, adam, list losses, double seconds,
        dropout=0.0, rng=None,
    ):
        """Train on documents batch by batch, until all are used or the time is over.

        Step by step as the oracle: a step whose loss would raise is left undone,
        for the caller to raise it; where Adam raises, it raises here.

        Units:   seconds, after which no new step is begun
        Writes:  the network's weights, the moments, adam.t, rng. Adds to: losses
        """
        cdef Job *job = &self.job
        cdef Network network = self.network
        cdef Buffer kept = Buffer(documents.n // batch_size)
        cdef Buffer rates = Buffer(kept.n)
        cdef Py_ssize_t i
        fill_rates(rates.at, kept.n, adam)
        job.adam = read(adam)
        job.t = adam.t
        job.rates = rates.at
        job.data = network.data.at
        job.grad = network.grad.at
        job.m = self.moments.m.at
        job.v = self.moments.v.at
        job.losses = kept.at
        job.trace.dropout = dropout
        if job.trace.dropout > 0.0:
            load_generator(&self.generator, rng)
        self.run_job(documents, batch_size, kept.n, seconds)
        adam.t += job.done
        losses.extend(floats(kept.at, job.done))
        if job.trace.dropout > 0.0:
            failed = job.failed or job.trace.failed
            save_generator(&job.before if failed else &self.generator, rng)
        if job.failed:
            i = min([job.raises[i] for i in range(job.trace.team.size)])
            raise_at(
                network.data.at[i], network.grad.at[i] * self.factor(), self.moments.m.at[i],
                self.moments.v.at[i], &job.adam,
            )

    cdef double factor(self):
        cdef const double *grad = self.network.grad.at
        if not self.job.adam.clip > 0.0:
            return 1.0
        return clip_factor(sum_of_squares(grad, self.network.grad.n), self.job.adam.clip)

    def evaluate(self, Documents documents, Py_ssize_t batch_size, double nats, double seconds):
        """Run documents forward, batch by batch, until all are used or the time is over.

        Units:   nats, the total of the documents before these, to which these are added
        Shapes:  returns (nats, tokens predicted, documents done)
        Raises:  ValueError where the logarithm of a probability of zero is asked
        """
        cdef Job *job = &self.job
        job.data = self.network.data.at
        job.nats = nats
        job.predicted = 0
        job.trace.dropout = 0.0
        job.evaluates = True
        self.run_job(documents, batch_size, (documents.n + batch_size - 1) // batch_size, seconds)
        job.evaluates = False
        if job.trace.failed:
            math.log(0.0)
        return job.nats, job.predicted, min(documents.n, job.done * batch_size)

    cdef int run_job(
        self, Documents documents, Py_ssize_t batch_size, Py_ssize_t n_steps, double seconds
    ) except -1:
        cdef Job *job = &self.job
        job.tokens = documents.tokens
        job.ends = documents.ends
        job.n_documents = documents.n
        job.n_steps = n_steps
        job.batch_size = batch_size
        job.until = now() + seconds
        job.done = 0
        job.failed = job.trace.failed = False
        job.trace.m = 0
        with nogil:
            meet(&self.team)
            work(job, 0)
            meet(&self.team)
        if job.out_of_memory:
            raise MemoryError()
        return 0


cdef int fill_rates(double *rates, Py_ssize_t n, adam) except -1:
    """Write the learning rates of adam's next n steps."""
    cdef double t = adam.t, num_steps = adam.num_steps
    cdef double rate = adam.learning_rate, min_lr = adam.min_lr
    cdef Py_ssize_t i
    if adam.schedule != "linear" or adam.warmup != 0:
        for i in range(n):
            rates[i] = adam.rate(adam.t + i)
        return 0
    for i in range(n):  # the original's, without a call of Python's a step
        rates[i] = min_lr + (1.0 - (t + i) / num_steps) * (rate - min_lr)
    return 0


include "sampler.pxi"
include "measure.pxi"
