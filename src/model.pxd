"""The whole step: the model's functions put together, forward and backward.

`Trace` holds what the forward pass of a batch leaves behind for the backward
pass: every activation, and room for its gradient. The backward pass has two
halves: `backward_inputs` goes through the activations, layer by layer,
`backward_weights` through the weights, matrix by matrix.
"""

cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from layers cimport (
    attention_backward, attention_forward, cross_entropy_backward, cross_entropy_forward,
    embedding_backward, embedding_forward, linear_backward_input, linear_backward_weights,
    linear_forward, relu_backward, relu_forward, residual_forward, rmsnorm_backward,
    rmsnorm_forward,
)
from matmul cimport PANEL, padded


cdef extern from "memory.h" nogil:
    void *zeros(size_t n_bytes)


cdef struct Sizes:
    Py_ssize_t vocab_size
    Py_ssize_t n_embd
    Py_ssize_t n_head
    Py_ssize_t n_layer
    Py_ssize_t block_size
    Py_ssize_t n_params
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
    double *losses
    double *dlogits  # (m, vocab_size)
    double *dembedding  # (m, n_embd)
    double *dx
    double *dnorm
    double *panel


cdef struct Slab:
    double *start
    Py_ssize_t used


cdef inline double *take(Slab *slab, Py_ssize_t n) noexcept nogil:
    """Return the next n numbers of the slab, or NULL while it is only being measured."""
    slab.used += n
    return slab.start + slab.used - n if slab.start != NULL else NULL


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
    trace.out = take(slab, m * net.row)
    trace.logits = take(slab, m * net.vocab_row)
    trace.exps = take(slab, m * net.vocab_row)
    trace.probs = take(slab, m * net.vocab_row)
    trace.totals = take(slab, m)
    trace.losses = take(slab, m)
    trace.dlogits = take(slab, m * net.vocab_row)
    trace.dembedding = take(slab, m * net.row)
    trace.dx = take(slab, m * net.row)
    trace.dnorm = take(slab, m * net.row)
    trace.panel = take(slab, 4 * net.n_embd * PANEL + padded(net.block_size))
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


cdef inline void end(Trace *trace) noexcept nogil:
    """Give the memory back."""
    free(trace.ints)
    free(trace.slab)
    free(trace.layers)


cdef inline void forward(
    Trace *trace, const double *w, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the logits of positions first up to last, and all that leads to them.

    Of the positions before first, which have been through, keys and values are read.

    Shapes:  w (n_params,), 0 <= first < last <= m
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t at = first * row
    cdef Py_ssize_t mlp_at = first * net.mlp_row
    cdef Py_ssize_t i
    cdef Layer *layer
    cdef double *x = trace.layers[0].x + at
    cdef double *mid
    cdef double *panel = trace.panel
    cdef const double *wpe = w + net.vocab_size * n
    cdef const double *lm_head = wpe + net.block_size * n
    cdef const double *wq = lm_head + net.vocab_size * n
    cdef const double *fc1
    embedding_forward(
        trace.embedding + at, w, wpe, trace.tokens + first, trace.positions + first, m, n, row
    )
    rmsnorm_forward(x, trace.mean + first, trace.scale + first, trace.embedding + at, m, n, row)
    for i in range(net.n_layer):
        layer = &trace.layers[i]
        mid = layer.mid + at
        fc1 = wq + 4 * n * n
        rmsnorm_forward(layer.norm1 + at, layer.mean1 + first, layer.scale1 + first, x, m, n, row)
        linear_forward(layer.q + at, layer.norm1 + at, wq, panel, m, n, n, row, row)
        linear_forward(layer.k + at, layer.norm1 + at, wq + n * n, panel, m, n, n, row, row)
        linear_forward(layer.v + at, layer.norm1 + at, wq + 2 * n * n, panel, m, n, n, row, row)
        heads_forward(trace, layer, first, last)
        linear_forward(mid, layer.attended + at, wq + 3 * n * n, panel, m, n, n, row, row)
        residual_forward(mid, x, m, n, row)
        rmsnorm_forward(layer.norm2 + at, layer.mean2 + first, layer.scale2 + first, mid, m, n, row)
        linear_forward(
            layer.hidden + mlp_at, layer.norm2 + at, fc1, panel, m, 4 * n, n, net.mlp_row, row
        )
        relu_forward(layer.hidden + mlp_at, m * net.mlp_row)
        x = (trace.layers[i + 1].x if i + 1 < net.n_layer else trace.out) + at
        linear_forward(
            x, layer.hidden + mlp_at, fc1 + 4 * n * n, panel, m, n, 4 * n, row, net.mlp_row
        )
        residual_forward(x, mid, m, n, row)
        wq += 12 * n * n
    linear_forward(
        trace.logits + first * net.vocab_row, x, lm_head, panel, m, net.vocab_size, n,
        net.vocab_row, row,
    )


@cython.cdivision(True)
cdef inline void heads_forward(
    Trace *trace, Layer *layer, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Run positions first up to last through a layer's attention, per document and head."""
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t d, h, start, size, at, map_at
    for d in range(trace.n_documents):
        start = trace.starts[d]
        size = trace.starts[d + 1] - start
        for h in range(net.n_head):
            at = start * net.row + h * head_dim
            map_at = trace.maps[d] + h * size * padded(size)
            attention_forward(
                layer.attended + at, layer.weights + map_at, layer.exps + map_at,
                layer.totals + start * net.n_head + h * size, layer.q + at, layer.k + at,
                layer.v + at, trace.panel, max(first - start, 0), min(last - start, size),
                head_dim, net.row, padded(size),
            )


@cython.cdivision(True)
cdef inline void heads_backward(Trace *trace, Layer *layer, const double *dy) noexcept nogil:
    """Run the gradient of a layer's attention back into queries, keys and values."""
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t d, h, start, size, at, map_at
    for d in range(trace.n_documents):
        start = trace.starts[d]
        size = trace.starts[d + 1] - start
        for h in range(net.n_head):
            at = start * net.row + h * head_dim
            map_at = trace.maps[d] + h * size * padded(size)
            attention_backward(
                layer.dq + at, layer.dk + at, layer.dv + at, dy + at, layer.weights + map_at,
                layer.exps + map_at, layer.totals + start * net.n_head + h * size, layer.q + at,
                layer.k + at, layer.v + at, trace.panel, size, head_dim, net.row, padded(size),
            )


@cython.cdivision(True)
cdef inline bint loss_forward(Trace *trace) noexcept nogil:
    """Compute the loss from the logits; return False where the oracle's log raises.

    Order:   positions left to right from 0, times 1 / n; documents likewise
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t d, i
    cdef double loss
    for i in range(trace.m):
        trace.losses[i] = cross_entropy_forward(
            trace.probs + i * net.vocab_row, trace.exps + i * net.vocab_row,
            trace.logits + i * net.vocab_row, trace.totals + i, trace.targets[i], net.vocab_size,
        )
        if trace.losses[i] == -1.0:
            return False
    trace.loss = 0.0
    for d in range(trace.n_documents):
        loss = 0.0
        for i in range(trace.starts[d], trace.starts[d + 1]):
            loss += trace.losses[i]
        trace.loss += 1.0 / (trace.starts[d + 1] - trace.starts[d]) * loss
    trace.loss = 1.0 / trace.n_documents * trace.loss
    return True


@cython.cdivision(True)
cdef inline void loss_backward(Trace *trace, double *dx, const double *lm_head) noexcept nogil:
    """Write the gradient of the logits, and of what they are computed from.

    Order:   dx gets the rows of lm_head last to first without the target's, then
             that one: the walk comes to probs[target] before the total
    Writes:  trace.dlogits, dx
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t d, i, k
    cdef double *dlogits
    cdef double *dtargets = trace.dnorm
    for d in range(trace.n_documents):
        for i in range(trace.starts[d], trace.starts[d + 1]):
            dlogits = trace.dlogits + i * net.vocab_row
            cross_entropy_backward(
                dlogits, 1.0 / (trace.starts[d + 1] - trace.starts[d]) * (1.0 / trace.n_documents),
                trace.probs + i * net.vocab_row, trace.exps + i * net.vocab_row, trace.totals[i],
                trace.targets[i], net.vocab_size,
            )
            dtargets[i] = dlogits[trace.targets[i]]
            dlogits[trace.targets[i]] = 0.0
    linear_backward_input(
        dx, trace.dlogits, lm_head, trace.m, net.vocab_size, n, net.row, net.vocab_row, False
    )
    for i in range(trace.m):
        trace.dlogits[i * net.vocab_row + trace.targets[i]] = dtargets[i]
        for k in range(n):
            dx[i * net.row + k] += dtargets[i] * lm_head[trace.targets[i] * n + k]


@cython.cdivision(True)
cdef inline void backward_inputs(Trace *trace, const double *w) noexcept nogil:
    """Write the gradients of all activations."""
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = trace.m
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t head_dim = n // net.n_head
    cdef Py_ssize_t i, h
    cdef Layer *layer
    cdef double *dx
    cdef double *dnorm = trace.dnorm
    cdef const double *lm_head = w + (net.vocab_size + net.block_size) * n
    cdef const double *wq = lm_head + net.vocab_size * n + net.n_layer * 12 * n * n
    cdef const double *head
    loss_backward(trace, trace.layers[net.n_layer - 1].dout, lm_head)
    for i in range(net.n_layer - 1, -1, -1):
        wq -= 12 * n * n
        layer = &trace.layers[i]
        linear_backward_input(
            layer.dhidden, layer.dout, wq + 8 * n * n, m, n, 4 * n, net.mlp_row, row, False
        )
        relu_backward(layer.dhidden, layer.hidden, m * net.mlp_row)
        linear_backward_input(
            dnorm, layer.dhidden, wq + 4 * n * n, m, 4 * n, n, row, net.mlp_row, False
        )
        memcpy(layer.dmid, layer.dout, m * row * sizeof(double))
        rmsnorm_backward(layer.dmid, dnorm, layer.mean2, layer.scale2, layer.mid, m, n, row)
        linear_backward_input(dnorm, layer.dmid, wq + 3 * n * n, m, n, n, row, row, False)
        heads_backward(trace, layer, dnorm)
        h = n
        while h:
            h -= head_dim
            head = wq + h * n
            linear_backward_input(
                dnorm, layer.dv + h, head + 2 * n * n, m, head_dim, n, row, row, h + head_dim < n
            )
            linear_backward_input(
                dnorm, layer.dk + h, head + n * n, m, head_dim, n, row, row, True
            )
            linear_backward_input(dnorm, layer.dq + h, head, m, head_dim, n, row, row, True)
        dx = trace.layers[i - 1].dout if i else trace.dx
        memcpy(dx, layer.dmid, m * row * sizeof(double))
        rmsnorm_backward(dx, dnorm, layer.mean1, layer.scale1, layer.x, m, n, row)
    memset(trace.dembedding, 0, m * row * sizeof(double))
    rmsnorm_backward(
        trace.dembedding, trace.dx, trace.mean, trace.scale, trace.embedding, m, n, row
    )


cdef inline void backward_weights(Trace *trace, double *dw) noexcept nogil:
    """Add the gradients of all weights.

    Order:   positions last to first, the last document first
    Adds to: dw (n_params,)
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = trace.m
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t i
    cdef Layer *layer
    embedding_backward(dw, trace.dembedding, trace.tokens, m, n, row)
    dw += net.vocab_size * n
    embedding_backward(dw, trace.dembedding, trace.positions, m, n, row)
    dw += net.block_size * n
    linear_backward_weights(
        dw, trace.dlogits, trace.out, m, net.vocab_size, n, net.vocab_row, row
    )
    dw += net.vocab_size * n
    for i in range(net.n_layer):
        layer = &trace.layers[i]
        linear_backward_weights(dw, layer.dq, layer.norm1, m, n, n, row, row)
        linear_backward_weights(dw + n * n, layer.dk, layer.norm1, m, n, n, row, row)
        linear_backward_weights(dw + 2 * n * n, layer.dv, layer.norm1, m, n, n, row, row)
        linear_backward_weights(dw + 3 * n * n, layer.dmid, layer.attended, m, n, n, row, row)
        linear_backward_weights(
            dw + 4 * n * n, layer.dhidden, layer.norm2, m, 4 * n, n, net.mlp_row, row
        )
        linear_backward_weights(
            dw + 8 * n * n, layer.dout, layer.hidden, m, n, 4 * n, row, net.mlp_row
        )
        dw += 12 * n * n
