"""What a batch leaves behind in memory between its forward and its backward pass.

`Trace` holds every activation, and room for its gradient, in one block: it grows
for a larger batch, and is kept from step to step.
"""

cimport cython
from libc.stdlib cimport calloc, free

from layers cimport room_of_linear
from matmul cimport PANEL, padded


cdef extern from "memory.h" nogil:
    void *zeros(size_t n_bytes)


cdef extern from "team.h" nogil:
    ctypedef struct Team:
        int size
        int arrived
        int round
    void meet(Team *team)


cdef extern from "generator.h" nogil:
    enum: WORDS
    ctypedef struct Generator:
        unsigned int words[624]
        int next
    double draw_number(Generator *g)


cdef struct Sizes:
    Py_ssize_t vocab_size
    Py_ssize_t n_embd
    Py_ssize_t n_head
    Py_ssize_t n_layer
    Py_ssize_t block_size
    Py_ssize_t n_params
    double inverse_n  # n_embd ** -1
    double inverse_root  # (head_dim ** 0.5) ** -1
    Py_ssize_t row  # n_embd, 4 * n_embd and vocab_size in whole vectors
    Py_ssize_t mlp_row
    Py_ssize_t vocab_row


cdef struct Layer:  # (m, n_embd) unless it says otherwise
    double *x
    double *mean1  # (m,)
    double *scale1
    double *norm1
    double *q
    double *k
    double *v
    double *weights  # per document (n_head, n, n)
    double *exps
    double *totals  # per document (n_head, n)
    double *inverses
    double *attended
    double *mid
    double *mean2  # (m,)
    double *scale2
    double *norm2
    double *hidden  # (m, 4 * n_embd)
    double *dq
    double *dk
    double *dv
    double *dmid
    double *dhidden  # (m, 4 * n_embd)
    double *dout
    double *weights_mask  # with dropout: what each number is multiplied by, as weights
    double *attn_mask  # (m, n_embd)
    double *mlp_mask
    double *dropped  # weights times their mask
    double *dattn  # gradients of both projections before dropout
    double *dmlp


cdef struct Trace:
    Sizes sizes
    Py_ssize_t m  # positions of all documents
    Py_ssize_t n_documents
    Py_ssize_t *ints
    Py_ssize_t ints_size
    Py_ssize_t *starts  # (n_documents + 1,) a document's first position
    Py_ssize_t *maps  # (n_documents + 1,) where its attention weights are
    Py_ssize_t *tokens  # (m,)
    Py_ssize_t *targets
    Py_ssize_t *positions
    double loss
    bint failed  # whether a logarithm would have raised
    Team team  # of the threads that share the positions
    double *slab
    Py_ssize_t slab_size
    Layer *layers
    double *embedding  # (m, n_embd)
    double *mean  # (m,)
    double *scale
    double *out  # (m, n_embd)
    double *logits  # (m, vocab_size)
    double *exps
    double *probs
    double *totals  # (m,)
    double *inverses  # total ** -1, total ** -2
    double *squares
    double *losses
    double *dtargets
    double *dlogits  # (m, vocab_size)
    double *dembedding  # (m, n_embd)
    double *dx
    double *dnorm
    double dropout
    Generator *generator
    double *embedding_mask  # (m, n_embd), with dropout
    double *rooms  # for what each thread keeps for a moment
    Py_ssize_t room_size


cdef struct Slab:
    double *start
    Py_ssize_t used


cdef inline double *take(Slab *slab, Py_ssize_t n) noexcept nogil:
    """Return the next n numbers of the slab, or NULL while it is only being measured."""
    slab.used += padded(n)
    return slab.start + slab.used - padded(n) if slab.start != NULL else NULL


cdef inline void place(Trace *trace, Slab *slab) noexcept nogil:
    """Give every activation of m positions its place in the slab."""
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t m = trace.m
    cdef Py_ssize_t maps = trace.maps[trace.n_documents]
    cdef Py_ssize_t i
    cdef Layer *layer
    trace.embedding = take(slab, m * net.row)
    trace.mean = take(slab, m)
    trace.scale = take(slab, m)
    for i in range(net.n_layer):
        layer = &trace.layers[i]
        layer.x = take(slab, m * net.row)
        layer.mean1 = take(slab, m)
        layer.scale1 = take(slab, m)
        layer.norm1 = take(slab, m * net.row)
        layer.q = take(slab, m * net.row)
        layer.k = take(slab, m * net.row)
        layer.v = take(slab, m * net.row)
        layer.weights = take(slab, maps)
        layer.exps = take(slab, maps)
        layer.totals = take(slab, m * net.n_head)
        layer.inverses = take(slab, m * net.n_head)
        layer.attended = take(slab, m * net.row)
        layer.mid = take(slab, m * net.row)
        layer.mean2 = take(slab, m)
        layer.scale2 = take(slab, m)
        layer.norm2 = take(slab, m * net.row)
        layer.hidden = take(slab, m * net.mlp_row)
        layer.dq = take(slab, m * net.row)
        layer.dk = take(slab, m * net.row)
        layer.dv = take(slab, m * net.row)
        layer.dmid = take(slab, m * net.row)
        layer.dhidden = take(slab, m * net.mlp_row)
        layer.dout = take(slab, m * net.row)
        layer.dropped, layer.dattn, layer.dmlp = layer.weights, layer.dmid, layer.dout
        if trace.dropout > 0.0:
            layer.weights_mask = take(slab, maps)
            layer.attn_mask = take(slab, m * net.row)
            layer.mlp_mask = take(slab, m * net.row)
            layer.dropped = take(slab, maps)
            layer.dattn = take(slab, m * net.row)
            layer.dmlp = take(slab, m * net.row)
    trace.out = take(slab, m * net.row)
    trace.logits = take(slab, m * net.vocab_row)
    trace.exps = take(slab, m * net.vocab_row)
    trace.probs = take(slab, m * net.vocab_row)
    trace.totals = take(slab, m)
    trace.inverses = take(slab, m)
    trace.squares = take(slab, m)
    trace.losses = take(slab, m)
    trace.dtargets = take(slab, m)
    trace.dlogits = take(slab, m * net.vocab_row)
    trace.dembedding = take(slab, m * net.row)
    trace.dx = take(slab, m * net.row)
    trace.dnorm = take(slab, m * net.row)
    if trace.dropout > 0.0:
        trace.embedding_mask = take(slab, m * net.row)
    trace.room_size = max(room_of_linear(net.mlp_row), padded(net.block_size))
    trace.rooms = take(slab, trace.team.size * trace.room_size)
    take(slab, PANEL)  # whole vectors may be read, not used, behind the last row


cdef inline bint begin(
    Trace *trace, const Py_ssize_t *tokens, const Py_ssize_t *ends, Py_ssize_t n_documents
) noexcept nogil:
    """Take the documents to run through; return whether there was memory for them.

    The memory is kept from batch to batch, and grows only for a larger one.

    Shapes:  ends (n_documents + 1,), document d is tokens[ends[d]:ends[d + 1]]
    """
    cdef Slab slab
    cdef Py_ssize_t d, t, n, at
    cdef Py_ssize_t size = 2 * (n_documents + 1) + 3 * (ends[n_documents] - ends[0])
    if trace.layers == NULL:
        trace.layers = <Layer *>calloc(trace.sizes.n_layer, sizeof(Layer))
    if size > trace.ints_size:
        free(trace.ints)
        trace.ints = <Py_ssize_t *>calloc(size, sizeof(Py_ssize_t))
        trace.ints_size = size if trace.ints != NULL else 0
    if trace.layers == NULL or trace.ints == NULL:
        return False
    trace.n_documents = n_documents
    trace.starts = trace.ints
    trace.maps = trace.starts + n_documents + 1
    trace.starts[0] = 0
    trace.maps[0] = 0
    for d in range(n_documents):
        n = min(trace.sizes.block_size, ends[d + 1] - ends[d] - 1)
        trace.starts[d + 1] = trace.starts[d] + n
        trace.maps[d + 1] = trace.maps[d] + trace.sizes.n_head * n * padded(n)
    trace.m = trace.starts[n_documents]
    trace.tokens = trace.maps + n_documents + 1
    trace.targets = trace.tokens + trace.m
    trace.positions = trace.targets + trace.m
    for d in range(n_documents):
        at = trace.starts[d]
        for t in range(trace.starts[d + 1] - at):
            trace.tokens[at + t] = tokens[ends[d] + t]
            trace.targets[at + t] = tokens[ends[d] + t + 1]
            trace.positions[at + t] = t
    slab.start = NULL
    slab.used = 0
    place(trace, &slab)
    if slab.used > trace.slab_size:
        free(trace.slab)
        trace.slab = <double *>zeros(slab.used * sizeof(double))
        trace.slab_size = slab.used if trace.slab != NULL else 0
    if trace.slab == NULL:
        return False
    slab.start = trace.slab
    slab.used = 0
    place(trace, &slab)
    return True


cdef inline void draw_masks(Trace *trace) noexcept nogil:
    """Draw the masks of dropout.

    Order:   that of the oracle's computation: position after position the embedding, then
             per layer the attention weights, head by head, and both projections
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t d, start, n, t, i, h, at
    cdef Layer *layer
    for d in range(trace.n_documents):
        start = trace.starts[d]
        n = trace.starts[d + 1] - start
        for t in range(n):
            at = (start + t) * net.row
            draw_mask(trace, trace.embedding_mask + at, net.n_embd)
            for i in range(net.n_layer):
                layer = &trace.layers[i]
                for h in range(net.n_head):
                    draw_mask(
                        trace, layer.weights_mask + trace.maps[d] + (h * n + t) * padded(n), t + 1
                    )
                draw_mask(trace, layer.attn_mask + at, net.n_embd)
                draw_mask(trace, layer.mlp_mask + at, net.n_embd)


@cython.cdivision(True)
cdef inline void draw_mask(Trace *trace, double *mask, Py_ssize_t n) noexcept nogil:
    cdef double scale = 1.0 / (1.0 - trace.dropout)
    cdef Py_ssize_t i
    for i in range(n):
        mask[i] = 0.0 if draw_number(trace.generator) < trace.dropout else scale


cdef inline void end(Trace *trace) noexcept nogil:
    """Give the memory back."""
    free(trace.ints)
    free(trace.slab)
    free(trace.layers)
