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
    AdamStep, adam_step, divisor, divisor_of, first_that_raises, vec_divisor, vec_quotient,
    vec_set_divisor,
)
from powers cimport (
    inverse_power, mask, mask_bits, other_square, root_is_doubtful, vec_differ, vec_residual,
    vec_sqrt,
)
from scalar cimport FIRST, SECOND, floats, invert
from trace cimport Layer, Sizes, Team, Trace, begin, end, meet
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
        cdef Trace *trace = &self.trace
        self.network = network
        self.kept = Buffer(network.sizes.n_params)
        memcpy(self.kept.at, network.data.at, network.sizes.n_params * sizeof(double))
        trace.sizes = network.sizes
        trace.team.size = 1
        with nogil:
            fine = begin(trace, checked.tokens, checked.ends, checked.n)
            if fine:
                forward(trace, self.kept.at, 0, trace.m, 0)
                losses_forward(trace, 0, trace.m)
                loss_forward(trace)
        if not fine:
            raise MemoryError()
        if trace.failed:
            math.log(0.0)

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
    step.learning_rate = adam.learning_rate * (1 - adam.t / adam.num_steps)
    step.correction1 = divisor_of(1 - adam.beta1 ** (adam.t + 1))
    step.correction2 = divisor_of(1 - adam.beta2 ** (adam.t + 1))
    with nogil:
        raises = first_that_raises(grad, v, n, &step)
        if raises == n:
            adam_step(data, grad, m, v, n, &step, True)
    if raises < n:
        raise_at(data[raises], grad[raises], m[raises], v[raises], &step)
    adam.t += 1
    return 0


cdef AdamStep read(adam):
    cdef AdamStep step
    step.beta1 = adam.beta1
    step.beta2 = adam.beta2
    step.eps_adam = adam.eps_adam
    step.initial_rate = adam.learning_rate
    return step


cdef int raise_first(Moments moments, Py_ssize_t i, const AdamStep *step) except -1:
    return raise_at(
        moments.network.data.at[i], moments.network.grad.at[i], moments.m.at[i], moments.v.at[i],
        step,
    )


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

    Raises:  OSError if the system refuses a thread
    """

    cdef Moments moments
    cdef Job job
    cdef Team team
    cdef bint closed
    cdef Helper *helpers
    cdef Buffer near

    def __init__(self, Moments moments, int threads):
        cdef Py_ssize_t n_in = 4 * moments.network.sizes.n_embd  # at most
        cdef int i, error
        self.job.near_size = padded(max(<Py_ssize_t>NEAR, rows_at_once(n_in) * n_in))
        self.near = Buffer(threads * self.job.near_size)
        self.job.near = self.near.at
        self.moments = moments
        self.job.trace.sizes = moments.network.sizes
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

    def run(self, Documents documents, Py_ssize_t batch_size, adam, list losses, double seconds):
        """Train on documents batch by batch, until all are used or the time is over.

        Step by step as the oracle: a step whose loss would raise is left undone,
        for the caller to raise it; where Adam raises, it raises here.

        Units:   seconds, after which no new step is begun
        Writes:  the network's weights, the moments, adam.t. Adds to: losses
        """
        cdef Job *job = &self.job
        cdef Network network = self.moments.network
        cdef Buffer kept = Buffer(documents.n // batch_size)
        job.adam = read(adam)
        job.adam.num_steps = adam.num_steps
        job.t = adam.t
        job.data = network.data.at
        job.grad = network.grad.at
        job.m = self.moments.m.at
        job.v = self.moments.v.at
        job.tokens = documents.tokens
        job.ends = documents.ends
        job.n_steps = kept.n
        job.batch_size = batch_size
        job.until = now() + seconds
        job.losses = kept.at
        job.done = 0
        job.failed = False
        job.trace.m = 0
        job.trace.failed = False
        with nogil:
            meet(&self.team)
            work(job, 0)
            meet(&self.team)
        adam.t += job.done
        losses.extend(floats(kept.at, job.done))
        if job.out_of_memory:
            raise MemoryError()
        if job.failed:
            raise_first(self.moments, min([job.raises[i] for i in range(job.trace.team.size)]),
                     &job.adam)


include "sampler.pxi"
include "measure.pxi"
