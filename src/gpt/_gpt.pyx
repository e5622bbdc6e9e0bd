"""The fused engine: a whole training step on flat buffers, without Python objects.

weights.pxd lists the weights, activations.pxd what a batch computes from them. layers.pxd has
the model's functions, matmul.pxd their products, model.pxd puts them together, optimizer.pxd is
Adam, training.pxd takes many steps on many threads. This file is the interface to Python:
`Network` holds the weights, `Pass` runs documents forward and backward, `Moments` updates the
weights, `Trainer` does all three many times, `Sampler` draws token by token. Arguments are
checked here; the kernels trust them.

It is compiled once. The kernels, which _kernels.pyx compiles once for each instruction set,
are reached through the table that a network was given. It has more than 500 lines because
classes in files of their own would each be a module of their own.
"""

import math
import random
from types import SimpleNamespace

from cpython.array cimport array
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, pow, sqrt
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from barrier cimport (
    Barrier, barrier_init, barrier_wait, getpid, pthread_join, pthread_t, start_thread,
)
from clock cimport now
from generator cimport WORDS, Generator
from kernels cimport SQUARES, Activations, AdamStep, Job, Kernels, Layer, free_buffers
from scalar cimport floats
from simd cimport MOST_LANES, WIDEST_PANEL, runs_avx2, runs_avx512
from weights cimport Sizes
from zeros cimport free_zeros, zeros

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object, object, object) except -1


def runs(str simd):
    """Return whether this processor runs the kernels of an instruction set."""
    return simd == "baseline" or bool(
        runs_avx2() if simd == "avx2" else simd == "avx512" and runs_avx512()
    )


cdef class Buffer:
    """Hold n doubles, zero at first.

    Shapes:  (n,), writable through `View`
    Raises:  MemoryError if they do not fit
    """

    cdef double *at
    cdef readonly Py_ssize_t n

    def __cinit__(self, Py_ssize_t n):
        # Whole vectors may be read behind the last number.
        if not 0 <= n < (<Py_ssize_t>1 << 59):
            raise MemoryError(f"{n} numbers do not fit into memory")
        self.at = <double *>zeros((n + WIDEST_PANEL) * sizeof(double))
        if self.at == NULL:
            raise MemoryError(f"{n} numbers do not fit into memory")
        self.n = n

    def __dealloc__(self):
        free_zeros(self.at)


cdef class View:
    """A part of a buffer, which Python reads through the buffer protocol without a copy.

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


cdef object as_memoryview(object owner, double *at, tuple shape, tuple rows, bint writable=False):
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


cdef const Kernels *table_of(kernels) except NULL:
    return <const Kernels *>PyCapsule_GetPointer(kernels, "microgpt.Kernels")


cdef class Network:
    """The weights and gradients of a model, flat, in the order of `Config.shapes`.

    kernels is the `table` of a module of _kernels.pyx.
    """

    cdef const Kernels *kernels
    cdef Sizes sizes
    cdef Buffer data
    cdef Buffer grad
    cdef readonly object config

    def __cinit__(self, config, kernels):
        cdef Sizes *sizes = &self.sizes
        self.kernels = table_of(kernels)
        self.config = config
        sizes.vocab_size = config.vocab_size
        sizes.n_embd = config.n_embd
        sizes.n_head = config.n_head
        sizes.n_layer = config.n_layer
        sizes.block_size = config.block_size
        sizes.n_params = config.num_params
        sizes.inverse_n = pow(<double>sizes.n_embd, -1.0)
        sizes.inverse_root = pow(pow(<double>config.head_dim, 0.5), -1.0)
        sizes.row = self.kernels.padded(sizes.n_embd)
        sizes.qkv_row = self.kernels.padded(3 * sizes.n_embd)
        sizes.mlp_row = self.kernels.padded(4 * sizes.n_embd)
        sizes.vocab_row = self.kernels.padded(sizes.vocab_size)
        self.data = Buffer(sizes.n_params)
        self.grad = Buffer(sizes.n_params)

    def view(self, bint grad, Py_ssize_t start, *shape):
        """Return the weights from start on, or their gradients, in the given shape."""
        cdef Buffer buffer = self.grad if grad else self.data
        if start < 0 or start + math.prod(shape) > buffer.n:
            raise IndexError("there are no such weights")
        return as_memoryview(buffer, buffer.at + start, shape, shape[1:], True)


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


ctypedef struct PythonsRandom:  # CPython's own, as Modules/_randommodule.c has it
    PyObject ob_base
    int next
    unsigned int words[624]


cdef bint _knows_pythons_random():
    """Return whether a random.Random is laid out as PythonsRandom says."""
    rng = random.Random(7)
    cdef PythonsRandom *inner = <PythonsRandom *><PyObject *>rng
    cdef Py_ssize_t i
    if rng.__class__.__base__.__basicsize__ != sizeof(PythonsRandom):
        return False
    for _ in range(3):
        if [inner.words[i] for i in range(WORDS)] + [inner.next] != list(rng.getstate()[1]):
            return False
        rng.random()
    return True


# Copying 2.5 KB takes 0.1 us where getstate and setstate take 40, longer than a small step.
cdef bint KNOWS_PYTHONS_RANDOM = _knows_pythons_random()


cdef int load_generator(Generator *generator, rng) except -1:
    """Read the state of a random.Random."""
    cdef PythonsRandom *inner = <PythonsRandom *><PyObject *>rng
    cdef Py_ssize_t i
    if KNOWS_PYTHONS_RANDOM and type(rng) is random.Random:
        memcpy(generator.words, inner.words, sizeof(generator.words))
        generator.next = inner.next
        return 0
    version, state = rng.getstate()[:2]
    if version != 3 or len(state) != WORDS + 1:
        raise ValueError("dropout_rng must be a random.Random")
    for i in range(WORDS):
        generator.words[i] = state[i]
    generator.next = state[WORDS]
    return 0


cdef int save_generator(const Generator *generator, rng) except -1:
    """Write the state of a random.Random."""
    cdef PythonsRandom *inner = <PythonsRandom *><PyObject *>rng
    cdef list state = [None] * (WORDS + 1)
    cdef Py_ssize_t i
    if KNOWS_PYTHONS_RANDOM and type(rng) is random.Random:
        memcpy(inner.words, generator.words, sizeof(generator.words))
        inner.next = generator.next
        return 0
    for i in range(WORDS):
        state[i] = generator.words[i]
    state[WORDS] = generator.next
    rng.setstate((3, tuple(state), rng.getstate()[2]))
    return 0


cdef class Pass:
    """The forward pass of one batch through a network, and once the backward pass.

    The weights are copied, because a graph of `Value`s keeps those it was made with.

    Raises:  ValueError as `GPT.loss`, and for the logarithm of a probability of zero
    """

    cdef Activations acts
    cdef readonly Network network
    cdef Buffer copied

    def __init__(self, Network network, documents, dropout=0.0, rng=None):
        cdef Generator generator
        cdef bint fine
        cdef Documents checked = Documents(network, documents)
        cdef Activations *acts = &self.acts
        cdef const Kernels *kernels = network.kernels
        self.network = network
        self.copied = Buffer(network.sizes.n_params)
        memcpy(self.copied.at, network.data.at, network.sizes.n_params * sizeof(double))
        acts.sizes = network.sizes
        acts.barrier.size = 1
        acts.dropout = dropout
        acts.generator = &generator
        if acts.dropout > 0.0:
            load_generator(&generator, rng)
        with nogil:
            fine = kernels.begin_batch(acts, checked.tokens, checked.ends, checked.n)
            if fine:
                if acts.dropout > 0.0:
                    kernels.draw_masks(acts)
                kernels.forward(acts, self.copied.at, 0, acts.m, True, 0)
                kernels.loss_forward(acts)
        if not fine:
            raise MemoryError()
        if acts.failed:
            math.log(0.0)
        if acts.dropout > 0.0:
            save_generator(&generator, rng)

    def __dealloc__(self):
        free_buffers(&self.acts)

    @property
    def loss(self):
        return self.acts.loss

    def weights(self):
        """Return the weights as they were when the loss was computed."""
        return as_memoryview(self.copied, self.copied.at, (self.copied.n,), ())

    def positions(self):
        """Return each document's first position, and at the end their number."""
        cdef Py_ssize_t d
        starts = []
        for d in range(self.acts.n_documents + 1):
            starts.append(self.acts.starts[d])
        return starts

    def activation(self, str name, Py_ssize_t layer=0):
        """Return what the forward pass computed at all positions, by name.

        Shapes:  (positions, n_embd), the hidden ones 4 * n_embd, logits and probs vocab_size
        """
        cdef Activations *acts = &self.acts
        cdef Sizes *net = &acts.sizes
        cdef Layer *at = &acts.layers[layer]
        if name == "logits" or name == "probs":
            return as_memoryview(
                self, acts.logits if name == "logits" else acts.probs, (acts.m, net.vocab_size),
                (net.vocab_row,),
            )
        if name == "mlp_hidden":
            return as_memoryview(self, at.hidden, (acts.m, 4 * net.n_embd), (net.mlp_row,))
        if name in ("q", "k", "v"):
            return as_memoryview(
                self, at.qkv + "qkv".index(name) * net.n_embd, (acts.m, net.n_embd), (net.qkv_row,)
            )
        return as_memoryview(
            self,
            acts.embedding if name == "embedding" else acts.out if name == "output"
            else at.x if name == "input" else at.norm1 if name == "attn_norm"
            else at.attended if name == "attended" else at.mid if name == "mlp_input" else at.norm2,
            (acts.m, net.n_embd), (net.row,),
        )

    def attention(self, Py_ssize_t layer, Py_ssize_t document):
        """Return a layer's attention weights for a document.

        Shapes:  (n_head, n, n): head, query position, key position
        """
        cdef Activations *acts = &self.acts
        cdef Buffer weights
        if not (0 <= layer < acts.sizes.n_layer and 0 <= document < acts.n_documents):
            raise IndexError(f"there is no layer {layer} or no document {document}")
        n = acts.starts[document + 1] - acts.starts[document]
        weights = Buffer(acts.sizes.n_head * n * n)
        self.network.kernels.attention_weights(acts, weights.at, layer, document)
        return as_memoryview(weights, weights.at, (acts.sizes.n_head, n, n), (n * n, n))

    def backward(self):
        """Add the gradients of the loss to the network's."""
        cdef Activations *acts = &self.acts
        with nogil:
            self.network.kernels.backward(acts, self.copied.at, self.network.grad.at, True, 0)


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
        return as_memoryview(buffer, buffer.at, (buffer.n,), (), True)

    def step(self, adam):
        """Take step adam.t with adam's settings, and count it."""
        cdef Network network = self.network
        take_step(
            network.kernels, adam, network.data.at, network.grad.at, self.m.at, self.v.at, self.m.n
        )


def step_arrays(kernels, adam, array data, array grads):
    """Take step adam.t on the beginning of arrays of numbers, with adam's moments, and count it."""
    cdef array m = adam.m
    cdef array v = adam.v
    if not len(v) == len(m) <= min(len(data), len(grads)):
        raise ValueError(f"{len(m)} moments for {len(data)} numbers")
    take_step(
        table_of(kernels), adam, data.data.as_doubles, grads.data.as_doubles,
        m.data.as_doubles, v.data.as_doubles, len(m),
    )


cdef int take_step(
    const Kernels *kernels, adam, double *data, double *grad, double *m, double *v, Py_ssize_t n
) except -1:
    cdef AdamStep step = read(adam)
    cdef Py_ssize_t raises
    cdef double decay, squares = 0.0, factor = 1.0
    step.learning_rate = adam.rate(adam.t)
    decay = 1.0 - step.learning_rate * step.weight_decay
    step.correction1 = kernels.divisor_of(1 - adam.beta1 ** (adam.t + 1))
    step.correction2 = kernels.divisor_of(1 - adam.beta2 ** (adam.t + 1))
    with nogil:
        if step.clip > 0.0:
            squares = kernels.sum_of_squares(grad, n)
            factor = kernels.clip_factor(squares, step.clip)
        raises = kernels.first_that_raises(grad, v, n, &step, factor)
        if raises == n:
            if factor != 1.0:
                kernels.multiply(grad, factor, n)
            if decay != 1.0:
                kernels.multiply(data, decay, n)
            kernels.adam_step(data, grad, m, v, n, &step, True)
    if raises < n:
        raise_at(data[raises], grad[raises] * factor, m[raises], v[raises], &step)
    if adam.norms is not None:
        adam.norms[adam.t] = sqrt(squares)
    advance(adam, 1)
    return 0


cdef AdamStep read(adam):
    cdef AdamStep step
    step.beta1 = adam.beta1
    step.beta2 = adam.beta2
    step.eps_adam = adam.eps_adam
    step.weight_decay = adam.weight_decay
    step.clip = adam.clip or (0.0 if adam.norms is None else INFINITY)  # which clips nothing
    return step


cdef int raise_at(
    double data, double grad, double m, double v, const AdamStep *step
) except -1:
    """Raise what the oracle raises at a parameter, by calling the oracle's update."""
    from microgpt.adam import update

    parameter = SimpleNamespace(data=data, grad=grad)
    update(
        [parameter], [m], [v], step.learning_rate, step.beta1,
        step.beta2, step.eps_adam, step.correction1.number, step.correction2.number,
    )
    raise AssertionError("the oracle's update does not raise")


cdef struct Worker:
    const Kernels *kernels
    Job *job
    Barrier *barrier
    bint *closed
    int number
    pthread_t thread


cdef void *run_worker(void *argument) noexcept nogil:
    """Take the steps of each job with the other threads, until the trainer is closed."""
    cdef Worker *worker = <Worker *>argument
    while True:
        barrier_wait(worker.barrier)
        if worker.closed[0]:
            return NULL
        worker.kernels.worker_loop(worker.job, worker.number)
        barrier_wait(worker.barrier)


cdef class Trainer:
    """Take many steps in one call, by threads that wait between the calls.

    Without moments it only evaluates.

    Raises:  OSError if the system refuses a thread
    """

    cdef Network network
    cdef Moments moments
    cdef Generator generator
    cdef Buffer squares
    cdef Job job
    cdef Barrier barrier
    cdef bint closed
    cdef Worker *workers
    cdef int process  # whose workers they are: a fork has none
    cdef Buffer gradients

    def __cinit__(self, *_):
        self.barrier.size = 1  # `close` waits for no worker, even where `__init__` did not begin

    def __init__(self, Network network, Moments moments, int threads):
        self.job.gradients_size = network.kernels.padded(
            network.kernels.gradients_size(&network.sizes)
        )
        self.gradients = Buffer(threads * self.job.gradients_size)
        self.squares = Buffer(network.sizes.n_params // SQUARES + 1)
        self.job.gradients, self.job.squares = self.gradients.at, self.squares.at
        self.network, self.moments = network, moments
        self.job.acts.sizes = network.sizes
        self.job.acts.generator = &self.generator
        self.job.acts.barrier.size = threads
        self.job.raises = <Py_ssize_t *>calloc(threads, sizeof(Py_ssize_t))
        self.workers = <Worker *>calloc(threads, sizeof(Worker))
        if self.job.raises == NULL or self.workers == NULL:
            raise MemoryError()
        self.start_workers()

    cdef int start_workers(self) except -1:
        cdef int i, error, threads = self.job.acts.barrier.size
        self.process = getpid()
        barrier_init(&self.job.acts.barrier, threads)
        # The barrier grows with each thread: one that arrives early waits for the rest.
        barrier_init(&self.barrier, 1)
        for i in range(1, threads):
            self.workers[i].kernels = self.network.kernels
            self.workers[i].job = &self.job
            self.workers[i].barrier = &self.barrier
            self.workers[i].closed = &self.closed
            self.workers[i].number = i
            self.barrier.size = i + 1
            error = start_thread(&self.workers[i].thread, run_worker, &self.workers[i])
            if error:
                self.barrier.size = i
                self.close()
                raise OSError(
                    error, f"the system starts {i} of {threads} threads: ask for fewer"
                )
        return 0

    def __dealloc__(self):
        self.close()
        free_buffers(&self.job.acts)
        free(self.job.raises)
        free(self.workers)

    cpdef close(self):
        """Stop and join the threads."""
        cdef int i
        if not self.closed:
            self.closed = True
            if self.process != getpid():
                return
            with nogil:
                barrier_wait(&self.barrier)
                for i in range(1, self.barrier.size):
                    pthread_join(self.workers[i].thread, NULL)

    def run(
        self, Documents documents, Py_ssize_t batch_size, adam, list losses, double seconds,
        dropout=0.0, rng=None,
    ):
        """Train on documents batch by batch, until all are used or the time is over.

        As the oracle step by step. It stops before a step whose loss would raise, for the
        caller to raise it; where Adam raises, it raises here.

        Units:   seconds, after which no new step is begun
        Writes:  the network's weights, the moments, adam.t, rng. Adds to: losses
        """
        cdef Job *job = &self.job
        cdef Network network = self.network
        cdef Buffer copied = Buffer(documents.n // batch_size)
        cdef Buffer rates = Buffer(copied.n)
        cdef Buffer norms = Buffer(copied.n)
        cdef Buffer document_losses = Buffer(batch_size)
        cdef Py_ssize_t i
        fill_rates(rates.at, copied.n, adam)
        job.adam = read(adam)
        job.t = adam.t
        job.rates = rates.at
        job.norms = norms.at
        job.data = network.data.at
        job.grad = network.grad.at
        job.m = self.moments.m.at
        job.v = self.moments.v.at
        job.losses = copied.at
        job.document_losses = document_losses.at
        job.acts.dropout = dropout
        if job.acts.dropout > 0.0:
            load_generator(&self.generator, rng)
        self.run_job(documents, batch_size, copied.n, seconds)
        advance(adam, job.done)
        if adam.norms is not None:
            for i in range(job.done):
                adam.norms[adam.t - job.done + i] = norms.at[i]
        losses.extend(floats(copied.at, job.done))
        if job.acts.dropout > 0.0:
            failed = job.failed or job.acts.failed
            save_generator(&job.before if failed else &self.generator, rng)
        if job.failed:
            i = min([job.raises[i] for i in range(job.acts.barrier.size)])
            raise_at(
                network.data.at[i], network.grad.at[i] * self.factor(), self.moments.m.at[i],
                self.moments.v.at[i], &job.adam,
            )

    cdef double factor(self):
        cdef const double *grad = self.network.grad.at
        if not self.job.adam.clip > 0.0:
            return 1.0
        squares = self.network.kernels.sum_of_squares(grad, self.network.grad.n)
        return self.network.kernels.clip_factor(squares, self.job.adam.clip)

    def evaluate(self, Documents documents, Py_ssize_t batch_size, double nats, double seconds):
        """Run documents forward, batch by batch, until all are used or the time is over.

        Units:   nats, the total of the documents before these, to which these are added
        Shapes:  returns (nats, tokens predicted, documents done)
        Raises:  ValueError for the logarithm of a probability of zero
        """
        cdef Job *job = &self.job
        job.data = self.network.data.at
        job.nats = nats
        job.predicted = 0
        job.acts.dropout = 0.0
        job.evaluates = True
        self.run_job(documents, batch_size, (documents.n + batch_size - 1) // batch_size, seconds)
        job.evaluates = False
        if job.acts.failed:
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
        job.failed = job.acts.failed = False
        job.acts.m = job.left = 0
        if self.process != getpid():
            self.start_workers()
        with nogil:
            barrier_wait(&self.barrier)
            self.network.kernels.worker_loop(job, 0)
            barrier_wait(&self.barrier)
        if job.out_of_memory:
            raise MemoryError()
        return 0


cdef int advance(adam, Py_ssize_t steps) except -1:
    """Count steps whose weights are written; no Python code runs that a signal could interrupt."""
    return PyObject_GenericSetAttr(adam, "t", adam.t + steps)


cdef int fill_rates(double *rates, Py_ssize_t n, adam) except -1:
    """Write the learning rates of adam's next n steps."""
    cdef double t = adam.t, num_steps = adam.num_steps
    cdef double rate = adam.learning_rate, min_lr = adam.min_lr
    cdef Py_ssize_t i
    if adam.schedule != "linear" or adam.warmup != 0:
        for i in range(n):
            rates[i] = adam.rate(adam.t + i)
        return 0
    for i in range(n):  # the original's rates, without a Python call a step
        rates[i] = min_lr + (1.0 - (t + i) / num_steps) * (rate - min_lr)
    return 0


cdef object CHOICES = random.Random.choices


cdef class Sampler:
    """Draw token after token, keeping the keys and values of those before."""

    cdef Activations acts
    cdef Network network
    cdef Buffer scaled
    cdef Buffer weights
    cdef Buffer cumulated

    def __cinit__(self, Network network):
        cdef Py_ssize_t size = network.sizes.block_size + 1
        cdef Py_ssize_t *tokens = <Py_ssize_t *>calloc(size, sizeof(Py_ssize_t))
        cdef Py_ssize_t[2] ends = [0, size]
        self.network = network
        self.acts.sizes = network.sizes
        self.acts.barrier.size = 1
        fine = tokens != NULL and network.kernels.begin_batch(&self.acts, tokens, ends, 1)
        free(tokens)
        if not fine:
            raise MemoryError()
        self.scaled = Buffer(network.sizes.vocab_size)
        self.weights = Buffer(network.sizes.vocab_size)
        self.cumulated = Buffer(network.sizes.vocab_size)

    def __dealloc__(self):
        free_buffers(&self.acts)

    def generate(
        self, list tokens, temperature, top_k, top_p, Py_ssize_t length, list stop, bint bos, rng
    ):
        """Return the prompt and the tokens drawn after it, as `GPT.generate` does."""
        cdef Py_ssize_t end = self.acts.sizes.vocab_size - 1
        cdef Py_ssize_t block_size = self.acts.sizes.block_size
        cdef Py_ssize_t start = len(tokens)
        cdef Py_ssize_t read = 0
        cdef Py_ssize_t first, i, n
        cdef double factor = temperature**-1 if temperature else -1.0
        cdef const double *w = self.network.data.at
        # Methods of the user's own may change the weights between two tokens.
        pythons = type(rng) is random.Random and vars(rng).keys() <= {"gauss_next"}
        if pythons and not self.network.kernels.pack_weights(&self.acts, w):
            raise MemoryError()
        while len(tokens) < length:
            n = len(tokens) + bos
            first = max(n - block_size, 0)  # of BOS and the tokens
            if first > 0:
                read = 0
            n = n - first
            for i in range(read, n):
                self.set_token(i, end if bos and first + i == 0 else tokens[first + i - bos])
            with nogil:
                self.network.kernels.forward(&self.acts, w, read, n, False, 0)
            read = n
            token = self.draw(n - 1, end + bos, factor, top_k, top_p, rng)
            if token == end:
                break
            tokens.append(token)
            if stop and tokens[start:][-len(stop):] == stop:
                break
        return tokens

    cdef int set_token(self, Py_ssize_t position, Py_ssize_t token) except -1:
        if not (0 <= position < self.acts.m and 0 <= token < self.acts.sizes.vocab_size):
            raise IndexError(f"there is no token {token} or no position {position}")
        self.acts.tokens[position] = token
        return 0

    cdef object draw(
        self, Py_ssize_t position, Py_ssize_t n, double factor, top_k, top_p, rng
    ):
        """Draw one of the first n tokens after a position, as `rng.choices` does.

        A factor below 0 takes the largest logit.

        Order:   weights summed left to right from the first; one number of rng.random
        """
        cdef double *logits = self.acts.logits + position * self.acts.sizes.vocab_row
        cdef double *scaled = self.scaled.at
        cdef double *weights = self.weights.at
        cdef double *cumulated = self.cumulated.at
        cdef double totals[MOST_LANES]
        cdef double inverses[MOST_LANES]
        cdef double x
        cdef Py_ssize_t i, low, middle, high
        ids = range(n)
        if factor < 0.0:
            high = 0
            for i in range(1, n):
                if logits[i] > logits[high]:
                    high = i
            return high
        if top_k is None:
            for i in range(n):
                scaled[i] = logits[i] * factor
        else:
            for i in range(n):
                scaled[i] = -logits[i]
            negated = floats(scaled, n)
            ids = sorted(sorted(ids, key=negated.__getitem__)[:top_k])
            n = len(ids)
            if n == 0:
                raise IndexError("there is no token to draw from")
            for i in range(n):
                scaled[i] = logits[<Py_ssize_t>ids[i]] * factor
        self.network.kernels.softmax_forward(weights, cumulated, totals, inverses, scaled, 1, n, n)
        x = 0.0
        for i in range(n):
            x += weights[i]
            cumulated[i] = x
        choices = rng.choices
        if top_p is not None:
            from microgpt.model import nucleus

            ids, probs = nucleus(ids, floats(weights, n), top_p)
            return choices(ids, weights=probs)[0]
        pythons = getattr(choices, "__func__", None) is CHOICES
        if not (pythons and 0.0 < cumulated[n - 1] < INFINITY):
            return choices(ids, weights=floats(weights, n))[0]
        x = choices.__self__.random() * cumulated[n - 1]
        low = 0
        high = n - 1
        while low < high:
            middle = (low + high) // 2
            if x < cumulated[middle]:
                high = middle
            else:
                low = middle + 1
        return ids[low]
