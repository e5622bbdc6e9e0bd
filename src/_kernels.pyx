"""The fused engine: a whole training step on flat buffers, without Python objects.

The mathematics is in layers.pxd (the model's functions), matmul.pxd (their
products), model.pxd (the step) and optimizer.pxd (Adam). Here is the door:
`Network` holds the weights, `Pass` runs documents forward and backward,
`Moments` updates the weights, `train` does all three many times, `Sampler`
predicts token by token. Arguments are checked here; the mathematics trusts them.

This file is compiled once for each instruction set, from the same lines.
"""

import math

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.math cimport pow
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from layers cimport softmax_forward
from matmul cimport PANEL, padded
from model cimport (
    Sizes, Trace, backward_inputs, backward_weights, begin, end, forward, loss_forward,
)
from optimizer cimport AdamStep, adam_step


cdef extern from "memory.h":
    void *zeros(size_t n_bytes)


cdef extern from "simd.h":
    bint pow_keeps_bound()
    bint runs_avx2()
    bint runs_avx512()


cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)


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

    def __init__(self, config):
        cdef Sizes *sizes = &self.sizes
        sizes.vocab_size = config.vocab_size
        sizes.n_embd = config.n_embd
        sizes.n_head = config.n_head
        sizes.n_layer = config.n_layer
        sizes.block_size = config.block_size
        sizes.n_params = config.num_params
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

    def __cinit__(self, Network network, documents):
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

    def __dealloc__(self):
        free(self.tokens)
        free(self.ends)


cdef class Pass:
    """One batch on its way through a network, forward and, once, backward.

    The weights are copied, because a graph of `Value`s keeps those it was made with.

    Raises:  ValueError as `GPT.loss`, and where the logarithm of a probability of zero is asked
    """

    cdef Trace trace
    cdef readonly Network network
    cdef Buffer kept

    def __init__(self, Network network, documents):
        cdef bint fine
        cdef Documents checked = Documents(network, documents)
        self.network = network
        self.kept = Buffer(network.sizes.n_params)
        memcpy(self.kept.at, network.data.at, network.sizes.n_params * sizeof(double))
        self.trace.sizes = network.sizes
        with nogil:
            fine = begin(&self.trace, checked.tokens, checked.ends, checked.n)
            if fine:
                forward(&self.trace, self.kept.at, 0, self.trace.m)
        if not fine:
            raise MemoryError()
        with nogil:
            fine = loss_forward(&self.trace)
        if not fine:
            math.log(0.0)

    def __dealloc__(self):
        end(&self.trace)

    @property
    def loss(self):
        return self.trace.loss

    def weights(self):
        """Return the weights as they were when the loss was computed."""
        return show(self.kept, self.kept.at, (self.kept.n,), ())

    def backward(self):
        """Add the gradients of the loss to the network's."""
        with nogil:
            backward_inputs(&self.trace, self.kept.at)
            backward_weights(&self.trace, self.network.grad.at)


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
        cdef AdamStep step = read(adam)
        cdef Py_ssize_t done
        prepare(&step, adam.t)
        with nogil:
            done = update(self, &step)
        if done < self.m.n:
            explain(self, done)
        adam.t += 1


cdef AdamStep read(adam):
    cdef AdamStep step
    step.beta1 = adam.beta1
    step.beta2 = adam.beta2
    step.eps_adam = adam.eps_adam
    step.initial_rate = adam.learning_rate
    step.num_steps = adam.num_steps
    step.certified = pow_keeps_bound()
    return step


@cython.cdivision(True)
cdef void prepare(AdamStep *step, double t) noexcept nogil:
    """Compute what is the same for all parameters of step t."""
    step.learning_rate = step.initial_rate * (1.0 - t / step.num_steps)
    step.correction1 = 1.0 - pow(step.beta1, t + 1.0)
    step.correction2 = 1.0 - pow(step.beta2, t + 1.0)


cdef Py_ssize_t update(Moments moments, const AdamStep *step) noexcept nogil:
    return adam_step(
        moments.network.data.at, moments.network.grad.at, moments.m.at, moments.v.at,
        moments.m.n, step,
    )


cdef int explain(Moments moments, Py_ssize_t i) except -1:
    """Raise what the oracle raises at parameter i."""
    cdef double grad = moments.network.grad.at[i]
    grad**2
    if moments.v.at[i] < 0.0:
        raise TypeError(f"the root of v[{i}] = {moments.v.at[i]} is not a real number")
    raise ZeroDivisionError("float division by zero")


def train(Moments moments, Documents documents, Py_ssize_t batch_size, adam, list losses,
          double seconds):
    """Train on documents batch by batch, until all are used or the time is over.

    Step by step as the oracle: a step that would raise is left undone where its
    loss raises, for the caller to raise it; where Adam raises, it raises here.

    Units:   seconds, after which no new step is begun
    Writes:  the network's weights, moments, adam.t. Adds to: losses
    """
    cdef Network network = moments.network
    cdef AdamStep step = read(adam)
    cdef Trace trace
    cdef Py_ssize_t steps = documents.n // batch_size
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t done = network.sizes.n_params
    cdef double t = adam.t
    cdef double until = now() + seconds
    cdef bint fine = True
    cdef Buffer kept = Buffer(steps)
    memset(&trace, 0, sizeof(trace))
    trace.sizes = network.sizes
    with nogil:
        while i < steps:
            fine = begin(&trace, documents.tokens, documents.ends + i * batch_size, batch_size)
            if not fine:
                break
            forward(&trace, network.data.at, 0, trace.m)
            if not loss_forward(&trace):
                break
            backward_inputs(&trace, network.data.at)
            backward_weights(&trace, network.grad.at)
            prepare(&step, t + i)
            done = update(moments, &step)
            if done < network.sizes.n_params:
                break
            kept.at[i] = trace.loss
            i += 1
            if now() > until:
                break
        end(&trace)
    adam.t += i
    losses.extend([kept.at[j] for j in range(i)])
    if not fine:
        raise MemoryError()
    if done < network.sizes.n_params:
        explain(moments, done)


cdef double now() noexcept nogil:
    """Return the seconds on a clock that never goes back."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec + 1e-9 * time.tv_nsec


cdef class Sampler:
    """Predict token after token, keeping the keys and values of those before."""

    cdef Trace trace
    cdef Network network
    cdef Py_ssize_t position

    def __cinit__(self, Network network):
        cdef Py_ssize_t size = network.sizes.block_size + 1
        cdef Py_ssize_t *tokens = <Py_ssize_t *>calloc(size, sizeof(Py_ssize_t))
        cdef Py_ssize_t[2] ends = [0, size]
        self.network = network
        self.trace.sizes = network.sizes
        fine = tokens != NULL and begin(&self.trace, tokens, ends, 1)
        free(tokens)
        if not fine:
            raise MemoryError()

    def __dealloc__(self):
        end(&self.trace)

    def logits(self, tokens):
        """Return the logits after tokens, which follow those of earlier calls.

        Shapes:  tokens (n,), returns (vocab_size,), a buffer until the next call
        """
        cdef Py_ssize_t first = self.position
        cdef Py_ssize_t last = first + len(tokens)
        if not first < last <= self.trace.m:
            raise IndexError("there is no room for these tokens")
        for i, token in enumerate(tokens):
            if not 0 <= token < self.trace.sizes.vocab_size:
                raise IndexError(f"token {token} is not in the vocabulary")
            self.trace.tokens[first + i] = token
        with nogil:
            forward(&self.trace, self.network.data.at, first, last)
        self.position = last
        return show(self, self.trace.logits + (last - 1) * self.trace.sizes.vocab_row,
                    (self.trace.sizes.vocab_size,), ())


def softmax(numbers):
    """Return the probabilities proportional to exp(numbers), as `microgpt.softmax` does."""
    cdef Py_ssize_t i
    cdef Py_ssize_t n = len(numbers)
    cdef Buffer buffer = Buffer(3 * n)
    for i in range(n):
        buffer.at[i] = numbers[i]
    if n:
        softmax_forward(buffer.at + n, buffer.at + 2 * n, buffer.at, n)
    return [buffer.at[n + i] for i in range(n)]
