"""The whole step: the model's functions put together, forward and backward.

The forward pass leaves all activations in a `Trace` for the backward pass, which
has two halves: `backward_inputs` goes through the activations, layer by layer,
`backward_weights` through the weights, matrix by matrix.
"""

cimport cython
from libc.string cimport memcpy, memset

from layers cimport (
    attention_backward, attention_forward, cross_entropy_backward, cross_entropy_forward,
    dropout_backward, dropout_forward,
    embedding_backward, embedding_forward, linear_backward_input, linear_backward_weights,
    linear_forward, relu_backward, relu_forward, residual_forward, rmsnorm_backward,
    rmsnorm_forward, softmax_forward,
)
from matmul cimport padded
from powers cimport powers
from trace cimport Layer, Sizes, Trace, meet


cdef inline void forward(
    Trace *trace, const double *w, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the logits of positions first up to last, and all that leads to them.

    Of other positions keys and values are read: those before first have been
    through, or other threads of the team are at them.

    Shapes:  w (n_params,), 0 <= first <= last <= m
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
    cdef double *room = trace.rooms + thread * trace.room_size
    cdef const double *wpe = w + net.vocab_size * n
    cdef const double *lm_head = wpe + net.block_size * n
    cdef const double *wq = lm_head + net.vocab_size * n
    cdef const double *fc1
    embedding_forward(
        trace.embedding + at, w, wpe, trace.tokens + first, trace.positions + first, m, n, row
    )
    if trace.dropout > 0.0:
        dropout_forward(trace.embedding + at, trace.embedding_mask + at, m * row)
    rmsnorm_forward(
        x, trace.mean + first, trace.scale + first, trace.embedding + at, net.inverse_n, m, n, row
    )
    for i in range(net.n_layer):
        layer = &trace.layers[i]
        mid = layer.mid + at
        fc1 = wq + 4 * n * n
        rmsnorm_forward(
            layer.norm1 + at, layer.mean1 + first, layer.scale1 + first, x, net.inverse_n, m, n, row
        )
        linear_forward(layer.q + at, layer.norm1 + at, wq, room, m, n, n, row, row)
        linear_forward(layer.k + at, layer.norm1 + at, wq + n * n, room, m, n, n, row, row)
        linear_forward(layer.v + at, layer.norm1 + at, wq + 2 * n * n, room, m, n, n, row, row)
        meet(&trace.team)
        heads_forward(trace, layer, first, last, room)
        linear_forward(mid, layer.attended + at, wq + 3 * n * n, room, m, n, n, row, row)
        if trace.dropout > 0.0:
            dropout_forward(mid, layer.attn_mask + at, m * row)
        residual_forward(mid, x, m, n, row)
        rmsnorm_forward(
            layer.norm2 + at, layer.mean2 + first, layer.scale2 + first, mid, net.inverse_n, m, n,
            row,
        )
        linear_forward(
            layer.hidden + mlp_at, layer.norm2 + at, fc1, room, m, 4 * n, n, net.mlp_row, row
        )
        relu_forward(layer.hidden + mlp_at, m * net.mlp_row)
        x = (trace.layers[i + 1].x if i + 1 < net.n_layer else trace.out) + at
        linear_forward(
            x, layer.hidden + mlp_at, fc1 + 4 * n * n, room, m, n, 4 * n, row, net.mlp_row
        )
        if trace.dropout > 0.0:
            dropout_forward(x, layer.mlp_mask + at, m * row)
        residual_forward(x, mid, m, n, row)
        wq += 12 * n * n
    linear_forward(
        trace.logits + first * net.vocab_row, x, lm_head, room, m, net.vocab_size, n,
        net.vocab_row, row,
    )


@cython.cdivision(True)
cdef inline void heads_forward(
    Trace *trace, Layer *layer, Py_ssize_t first, Py_ssize_t last, double *scores
) noexcept nogil:
    """Run positions first up to last through a layer's attention, per document and head."""
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t d, h, start, size, at, map_at, head_at
    for d in range(trace.n_documents):
        start = trace.starts[d]
        size = trace.starts[d + 1] - start
        if start >= last or start + size <= first:
            continue
        for h in range(net.n_head):
            at = start * net.row + h * head_dim
            head_at = start * net.n_head + h * size
            map_at = trace.maps[d] + h * size * padded(size)
            attention_forward(
                layer.attended + at, layer.weights + map_at, layer.dropped + map_at,
                layer.weights_mask + map_at if trace.dropout > 0.0 else NULL, layer.exps + map_at,
                layer.totals + head_at, layer.inverses + head_at, layer.q + at, layer.k + at,
                layer.v + at, scores, net.inverse_root, max(first - start, 0),
                min(last - start, size), head_dim, net.row, padded(size),
            )


@cython.cdivision(True)
cdef inline void heads_backward(
    Trace *trace, Layer *layer, const double *dy, int thread
) noexcept nogil:
    """Run the gradient of a layer's attention back into queries, keys and values.

    Positions depend on each other here, so the team shares documents and heads.
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t d, h, start, size, at, map_at, head_at
    meet(&trace.team)
    for d in range(trace.n_documents):
        start = trace.starts[d]
        size = trace.starts[d + 1] - start
        for h in range(net.n_head):
            if (d * net.n_head + h) % trace.team.size != thread:
                continue
            at = start * net.row + h * head_dim
            head_at = start * net.n_head + h * size
            map_at = trace.maps[d] + h * size * padded(size)
            attention_backward(
                layer.dq + at, layer.dk + at, layer.dv + at, dy + at, layer.dropped + map_at,
                layer.weights_mask + map_at if trace.dropout > 0.0 else NULL,
                layer.exps + map_at, layer.totals + head_at, layer.inverses + head_at,
                layer.q + at, layer.k + at, layer.v + at,
                trace.rooms + thread * trace.room_size, net.inverse_root, size, head_dim,
                net.row, padded(size),
            )
    meet(&trace.team)


cdef inline void losses_forward(Trace *trace, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Write the losses of positions first up to last; note where the oracle's log raises."""
    cdef Py_ssize_t row = trace.sizes.vocab_row
    cdef Py_ssize_t i
    softmax_forward(
        trace.probs + first * row, trace.exps + first * row, trace.totals + first,
        trace.inverses + first, trace.logits + first * row, last - first, trace.sizes.vocab_size,
        row,
    )
    for i in range(first, last):
        trace.losses[i] = cross_entropy_forward(trace.probs[i * row + trace.targets[i]])
        if trace.losses[i] == -1.0:
            trace.failed = True


@cython.cdivision(True)
cdef inline void loss_forward(Trace *trace) noexcept nogil:
    """Compute the loss from those of the positions.

    Order:   positions left to right from 0, times 1 / n; documents likewise
    """
    cdef Py_ssize_t d, i
    cdef double loss
    trace.loss = 0.0
    for d in range(trace.n_documents):
        loss = 0.0
        for i in range(trace.starts[d], trace.starts[d + 1]):
            loss += trace.losses[i]
        trace.loss += 1.0 / (trace.starts[d + 1] - trace.starts[d]) * loss
    trace.loss = 1.0 / trace.n_documents * trace.loss


@cython.cdivision(True)
cdef inline void loss_backward(
    Trace *trace, double *dx, const double *lm_head, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the gradient of the logits, and of what they are computed from.

    Order:   dx gets the rows of lm_head last to first without the target's, then
             that one: the walk comes to probs[target] before the total
    Writes:  trace.dlogits, dx
    """
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t row = net.vocab_row
    cdef Py_ssize_t d, i, k
    cdef double *dlogits
    cdef double dloss
    powers(trace.squares + first, trace.totals + first, last - first, -2.0)
    for d in range(trace.n_documents):
        dloss = 1.0 / (trace.starts[d + 1] - trace.starts[d]) * (1.0 / trace.n_documents)
        for i in range(max(first, trace.starts[d]), min(last, trace.starts[d + 1])):
            dlogits = trace.dlogits + i * row
            cross_entropy_backward(
                dlogits, dloss, trace.probs + i * row, trace.exps + i * row,
                trace.inverses[i], trace.squares[i], trace.targets[i], net.vocab_size,
            )
            trace.dtargets[i] = dlogits[trace.targets[i]]
            dlogits[trace.targets[i]] = 0.0
    linear_backward_input(
        dx + first * net.row, trace.dlogits + first * row, lm_head, last - first, net.vocab_size,
        n, net.row, row, False,
    )
    for i in range(first, last):
        trace.dlogits[i * row + trace.targets[i]] = trace.dtargets[i]
        for k in range(n):
            dx[i * net.row + k] += trace.dtargets[i] * lm_head[trace.targets[i] * n + k]


@cython.cdivision(True)
cdef inline void backward_inputs(
    Trace *trace, const double *w, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the gradients of the activations of positions first up to last."""
    cdef const Sizes *net = &trace.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t mlp_row = net.mlp_row
    cdef Py_ssize_t at = first * row
    cdef Py_ssize_t mlp_at = first * mlp_row
    cdef Py_ssize_t head_dim = n // net.n_head
    cdef Py_ssize_t i, h
    cdef Layer *layer
    cdef double *dx
    cdef double *dmid
    cdef double *dhidden
    cdef double *dnorm = trace.dnorm + at
    cdef const double *lm_head = w + (net.vocab_size + net.block_size) * n
    cdef const double *wq = lm_head + net.vocab_size * n + net.n_layer * 12 * n * n
    cdef const double *head
    loss_backward(trace, trace.layers[net.n_layer - 1].dout, lm_head, first, last)
    for i in range(net.n_layer - 1, -1, -1):
        wq -= 12 * n * n
        layer = &trace.layers[i]
        dx = layer.dout + at
        dmid = layer.dmid + at
        dhidden = layer.dhidden + mlp_at
        if trace.dropout > 0.0:
            dropout_backward(layer.dmlp + at, dx, layer.mlp_mask + at, m * row)
        linear_backward_input(
            dhidden, layer.dmlp + at, wq + 8 * n * n, m, n, 4 * n, mlp_row, row, False
        )
        relu_backward(dhidden, layer.hidden + mlp_at, m * mlp_row)
        linear_backward_input(dnorm, dhidden, wq + 4 * n * n, m, 4 * n, n, row, mlp_row, False)
        memcpy(dmid, dx, m * row * sizeof(double))
        rmsnorm_backward(
            dmid, dnorm, layer.mean2 + first, layer.scale2 + first, layer.mid + at, net.inverse_n,
            m, n, row,
        )
        if trace.dropout > 0.0:
            dropout_backward(layer.dattn + at, dmid, layer.attn_mask + at, m * row)
        linear_backward_input(
            dnorm, layer.dattn + at, wq + 3 * n * n, m, n, n, row, row, False
        )
        heads_backward(trace, layer, trace.dnorm, thread)
        h = n
        while h:
            h -= head_dim
            head = wq + h * n
            linear_backward_input(
                dnorm, layer.dv + at + h, head + 2 * n * n, m, head_dim, n, row, row,
                h + head_dim < n,
            )
            linear_backward_input(
                dnorm, layer.dk + at + h, head + n * n, m, head_dim, n, row, row, True
            )
            linear_backward_input(dnorm, layer.dq + at + h, head, m, head_dim, n, row, row, True)
        dx = (trace.layers[i - 1].dout if i else trace.dx) + at
        memcpy(dx, dmid, m * row * sizeof(double))
        rmsnorm_backward(
            dx, dnorm, layer.mean1 + first, layer.scale1 + first, layer.x + at, net.inverse_n, m,
            n, row,
        )
    dx = trace.dembedding + at
    memset(dx, 0, m * row * sizeof(double))
    rmsnorm_backward(
        dx, trace.dx + at, trace.mean + first, trace.scale + first, trace.embedding + at,
        net.inverse_n, m, n, row,
    )
    if trace.dropout > 0.0:
        dropout_backward(dx, dx, trace.embedding_mask + at, m * row)


cdef struct Matrix:  # one of the weight matrices, with what its gradient is made of
    Py_ssize_t start  # where it is among the weights
    Py_ssize_t n_out
    Py_ssize_t n_in
    const Py_ssize_t *ids  # an embedding's rows, else NULL
    const double *dy
    Py_ssize_t dy_row
    const double *x
    Py_ssize_t x_row


cdef inline Matrix linear_matrix(
    Matrix before, Py_ssize_t n_out, Py_ssize_t n_in, const double *dy, Py_ssize_t dy_row,
    const double *x, Py_ssize_t x_row,
) noexcept nogil:
    """Return the matrix that lies behind another one."""
    cdef Matrix matrix
    matrix.start = before.start + before.n_out * before.n_in
    matrix.n_out = n_out
    matrix.n_in = n_in
    matrix.ids = NULL
    matrix.dy = dy
    matrix.dy_row = dy_row
    matrix.x = x
    matrix.x_row = x_row
    return matrix


cdef inline Matrix next_matrix(const Trace *trace, Matrix before, Py_ssize_t i) noexcept nogil:
    """Return matrix i, in the order of `Config.shapes`, given the one before."""
    cdef const Sizes *net = &trace.sizes
    cdef const Layer *layer
    cdef Matrix matrix
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t row = net.row
    if i < 2:
        matrix.start = 0 if i == 0 else net.vocab_size * n
        matrix.n_out = net.vocab_size if i == 0 else net.block_size
        matrix.n_in = n
        matrix.ids = trace.tokens if i == 0 else trace.positions
        matrix.dy = trace.dembedding
        matrix.dy_row = row
        matrix.x = NULL
        matrix.x_row = 0
        return matrix
    if i == 2:
        return linear_matrix(
            before, net.vocab_size, n, trace.dlogits, net.vocab_row, trace.out, row
        )
    layer = &trace.layers[(i - 3) // 6]
    i = (i - 3) % 6
    if i == 4:
        return linear_matrix(before, 4 * n, n, layer.dhidden, net.mlp_row, layer.norm2, row)
    if i == 5:
        return linear_matrix(before, n, 4 * n, layer.dmlp, row, layer.hidden, net.mlp_row)
    return linear_matrix(
        before, n, n,
        layer.dq if i == 0 else layer.dk if i == 1 else layer.dv if i == 2 else layer.dattn, row,
        layer.norm1 if i < 3 else layer.attended, row,
    )


cdef inline void backward_weights(
    const Trace *trace, const Matrix *matrix, double *dw, Py_ssize_t first, Py_ssize_t last,
    bint add,
) noexcept nogil:
    """Write the gradients of a matrix's rows first up to last, or continue them.

    Order:   positions last to first, the last document first
    Writes:  dw (last - first, n_in). Adds to: dw if add
    """
    cdef Py_ssize_t n_in = matrix.n_in
    if matrix.ids != NULL:
        if not add:
            memset(dw, 0, (last - first) * n_in * sizeof(double))
        embedding_backward(dw, matrix.dy, matrix.ids, first, last, trace.m, n_in, matrix.dy_row)
    else:
        linear_backward_weights(
            dw, matrix.dy + first, matrix.x, trace.m, last - first, n_in,
            matrix.dy_row, matrix.x_row, add,
        )
