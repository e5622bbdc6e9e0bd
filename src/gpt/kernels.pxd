"""The interface of the kernels: the structs that they take, and the table of their functions.

`_kernels.pyx` is compiled once for each instruction set, and each of these modules exports one
table. `_gpt.pyx` is compiled once: it calls the functions through the table that its network has.
"""

from libc.stdlib cimport free

from barrier cimport Barrier
from generator cimport Generator
from simd cimport divisor
from weights cimport Sizes
from zeros cimport free_zeros


cdef enum:
    SQUARES = 1024  # numbers of a block of `sum_of_squares`


cdef struct Layer:  # pointers of one shape follow each other: see activations.pxd
    double *x  # (m, n_embd)
    double *norm1
    double *attended
    double *mid
    double *norm2
    double *qkv  # (m, 3 * n_embd): queries, keys, values
    double *hidden  # (m, 4 * n_embd)
    double *mean1  # (m,)
    double *scale1
    double *mean2
    double *scale2
    double *totals  # per document (n_head, n)
    double *inverses
    double *exps  # per document n_head maps of attention.pxd
    double *weights_mask  # with dropout: what each weight is multiplied by
    double *attn_mask  # with dropout: (m, n_embd)
    double *mlp_mask
    double *dmid  # (m, n_embd)
    double *dout
    double *dqkv  # (m, 3 * n_embd)
    double *dhidden  # (m, 4 * n_embd)
    double *dattn  # gradients of both projections before dropout
    double *dmlp
    double *dx  # dout of the layer below


cdef struct Activations:  # of a batch; activations.pxd gives each its memory
    Sizes sizes
    Py_ssize_t m  # positions of all documents
    Py_ssize_t n_documents
    Py_ssize_t batch  # documents of the step, of which these may be a group
    Py_ssize_t *ints
    Py_ssize_t ints_size
    Py_ssize_t *starts  # (n_documents + 1,) a document's first position
    Py_ssize_t *maps  # (n_documents + 1,) where its maps are
    Py_ssize_t *tokens  # (m,)
    Py_ssize_t *targets
    Py_ssize_t *positions
    double loss
    bint failed  # whether a logarithm would have raised
    bint reuses  # whether all layers have their gradients in the same buffers, one after the other
    Barrier barrier  # of the threads that share the positions
    double *arena
    Py_ssize_t arena_size
    Layer *layers
    double *embedding  # (m, n_embd)
    double *out
    double *dembedding
    double *dnorm
    double *logits  # (m, vocab_size)
    double *exps
    double *probs
    double *dlogits
    double *mean  # (m,)
    double *scale
    double *totals
    double *inverses  # total ** -1, total ** -2
    double *squares
    double *losses
    double *dtargets
    double *embedding_mask  # (m, n_embd), with dropout
    double dropout
    Generator *generator
    double *scratches  # scratch memory of each thread
    Py_ssize_t scratch_size
    double *packed  # the weights as `pack_weights` has packed them, or NULL


cdef inline void free_buffers(Activations *acts) noexcept nogil:
    """Free the memory of the activations."""
    free(acts.ints)
    free_zeros(acts.arena)
    free(acts.packed)
    free(acts.layers)


cdef struct AdamStep:
    double beta1
    double beta2
    double eps_adam
    divisor correction1
    divisor correction2
    double learning_rate  # of this step
    double weight_decay
    double clip  # 0.0 for none


cdef struct Job:
    Activations acts
    AdamStep adam
    bint evaluates  # whether documents are only run forward
    double nats  # the evaluation so far
    Py_ssize_t predicted
    double t  # the optimizer's steps before these
    const double *rates  # (n_steps,)
    double *squares  # (n_params / SQUARES,) of the gradients, by block, if they are clipped
    double *norms  # (n_steps,) of the gradients, with squares
    Generator before  # the generator before this step
    double *data  # (n_params,)
    double *grad
    double *m
    double *v
    double *gradients  # (threads, gradients_size)
    Py_ssize_t gradients_size
    const Py_ssize_t *tokens
    const Py_ssize_t *ends  # (n_documents + 1,)
    Py_ssize_t n_documents
    Py_ssize_t n_steps
    Py_ssize_t batch_size
    Py_ssize_t left  # documents of the step before those that are run now
    double *document_losses  # (batch_size,)
    double until  # the time when no new step is begun
    double *losses  # (n_steps,)
    Py_ssize_t done  # steps
    Py_ssize_t *raises  # (threads,) the first parameter at which Adam raises, or n_params
    bint out_of_memory
    bint continues  # whether other documents of the step were run before these
    bint add  # whether gradients continue those of before
    bint whole  # whether all gradients are computed before the first update
    bint failed  # whether Adam raises
    bint over


cdef struct Kernels:
    Py_ssize_t (*padded)(Py_ssize_t n) noexcept nogil
    divisor (*divisor_of)(double number) noexcept nogil
    bint (*begin_batch)(
        Activations *acts, const Py_ssize_t *tokens, const Py_ssize_t *ends, Py_ssize_t n_documents
    ) noexcept nogil
    void (*draw_masks)(Activations *acts) noexcept nogil
    bint (*pack_weights)(Activations *acts, const double *w) noexcept nogil
    void (*forward)(
        Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, bint losses,
        int thread,
    ) noexcept nogil
    void (*loss_forward)(Activations *acts) noexcept nogil
    void (*softmax_forward)(
        double *probs, double *exps, double *totals, double *inverses, const double *logits,
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t row,
    ) noexcept nogil
    void (*attention_weights)(
        const Activations *acts, double *weights, Py_ssize_t layer, Py_ssize_t document
    ) noexcept nogil
    void (*backward)(
        Activations *acts, const double *w, double *dw, bint add, int thread
    ) noexcept nogil
    double (*sum_of_squares)(const double *x, Py_ssize_t n) noexcept nogil
    double (*clip_factor)(double squares, double clip) noexcept nogil
    Py_ssize_t (*first_that_raises)(
        const double *g, const double *v, Py_ssize_t n, const AdamStep *a, double factor
    ) noexcept nogil
    void (*multiply)(double *x, double factor, Py_ssize_t n) noexcept nogil
    void (*adam_step)(
        double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a, bint clear
    ) noexcept nogil
    Py_ssize_t (*gradients_size)(const Sizes *sizes) noexcept nogil
    void (*worker_loop)(Job *job, int thread) noexcept nogil
