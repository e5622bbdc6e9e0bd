"""The whole step: the model's functions put together, forward and backward.

The forward pass leaves all activations in a `Trace` for the backward pass, which
has two halves: `backward_inputs` goes through the activations, layer by layer,
`backward_weights` through the weights, matrix by matrix.
"""

cimport cython
from libc.string cimport memcpy, memset

from activations cimport Activations, Layer, Sizes
from barrier cimport barrier_wait
from layers cimport (
    attention_backward, attention_forward, cross_entropy_backward, cross_entropy_forward,
    dropout_backward, dropout_forward, embedding_backward, embedding_forward, linear_backward_input,
    linear_backward_weights, linear_forward, relu_backward, relu_forward, residual_forward,
    rmsnorm_backward, rmsnorm_forward, softmax_forward,
)
from powers cimport powers
from simd cimport padded


cdef inline void forward(
    Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the logits of positions first up to last, and all that leads to them.

    Of other positions keys and values are read: those before first have been
    through, or other threads of the team are at them.

    Shapes:  w (n_params,), 0 <= first <= last <= m
    """
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t at = first * row
    cdef Py_ssize_t mlp_at = first * net.mlp_row
    cdef Py_ssize_t i
    cdef Layer *layer
    cdef double *x = acts.layers[0].x + at
    cdef double *mid
    cdef double *scratch = acts.scratches + thread * acts.scratch_size
    cdef const double *wpe = w + net.vocab_size * n
    cdef const double *lm_head = wpe + net.block_size * n
    cdef const double *wq = lm_head + net.vocab_size * n
    cdef const double *fc1
    embedding_forward(
        acts.embedding + at, w, wpe, acts.tokens + first, acts.positions + first, m, n, row
    )
    if acts.dropout > 0.0:
        dropout_forward(acts.embedding + at, acts.embedding_mask + at, m * row)
    rmsnorm_forward(
        x, acts.mean + first, acts.scale + first, acts.embedding + at, net.inverse_n, m, n, row
    )
    for i in range(net.n_layer):
        layer = &acts.layers[i]
        mid = layer.mid + at
        fc1 = wq + 4 * n * n
        rmsnorm_forward(
            layer.norm1 + at, layer.mean1 + first, layer.scale1 + first, x, net.inverse_n, m, n, row
        )
        linear_forward(layer.q + at, layer.norm1 + at, wq, scratch, m, n, n, row, row)
        linear_forward(layer.k + at, layer.norm1 + at, wq + n * n, scratch, m, n, n, row, row)
        linear_forward(layer.v + at, layer.norm1 + at, wq + 2 * n * n, scratch, m, n, n, row, row)
        barrier_wait(&acts.barrier)
        heads_forward(acts, layer, first, last, scratch)
        linear_forward(mid, layer.attended + at, wq + 3 * n * n, scratch, m, n, n, row, row)
        if acts.dropout > 0.0:
            dropout_forward(mid, layer.attn_mask + at, m * row)
        residual_forward(mid, x, m, n, row)
        rmsnorm_forward(
            layer.norm2 + at, layer.mean2 + first, layer.scale2 + first, mid, net.inverse_n, m, n,
            row,
        )
        linear_forward(
            layer.hidden + mlp_at, layer.norm2 + at, fc1, scratch, m, 4 * n, n, net.mlp_row, row
        )
        relu_forward(layer.hidden + mlp_at, m * net.mlp_row)
        x = (acts.layers[i + 1].x if i + 1 < net.n_layer else acts.out) + at
        linear_forward(
            x, layer.hidden + mlp_at, fc1 + 4 * n * n, scratch, m, n, 4 * n, row, net.mlp_row
        )
        if acts.dropout > 0.0:
            dropout_forward(x, layer.mlp_mask + at, m * row)
        residual_forward(x, mid, m, n, row)
        wq += 12 * n * n
    linear_forward(
        acts.logits + first * net.vocab_row, x, lm_head, scratch, m, net.vocab_size, n,
        net.vocab_row, row,
    )


@cython.cdivision(True)
cdef inline void heads_forward(
    Activations *acts, Layer *layer, Py_ssize_t first, Py_ssize_t last, double *scores
) noexcept nogil:
    """Run positions first up to last through a layer's attention, per document and head."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t d, h, start, size, at, map_at, head_at
    for d in range(acts.n_documents):
        start = acts.starts[d]
        size = acts.starts[d + 1] - start
        if start >= last or start + size <= first:
            continue
        for h in range(net.n_head):
            at = start * net.row + h * head_dim
            head_at = start * net.n_head + h * size
            map_at = acts.maps[d] + h * size * padded(size)
            attention_forward(
                layer.attended + at, layer.weights + map_at, layer.dropped + map_at,
                layer.weights_mask + map_at if acts.dropout > 0.0 else NULL, layer.exps + map_at,
                layer.totals + head_at, layer.inverses + head_at, layer.q + at, layer.k + at,
                layer.v + at, scores, net.inverse_root, max(first - start, 0),
                min(last - start, size), head_dim, net.row, padded(size),
            )


@cython.cdivision(True)
cdef inline void heads_backward(
    Activations *acts, Layer *layer, const double *dy, int thread
) noexcept nogil:
    """Run the gradient of a layer's attention back into queries, keys and values.

    Positions depend on each other here, so the team shares documents and heads.
    """
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t d, h, start, size, at, map_at, head_at
    barrier_wait(&acts.barrier)
    for d in range(acts.n_documents):
        start = acts.starts[d]
        size = acts.starts[d + 1] - start
        for h in range(net.n_head):
            if (d * net.n_head + h) % acts.barrier.size != thread:
                continue
            at = start * net.row + h * head_dim
            head_at = start * net.n_head + h * size
            map_at = acts.maps[d] + h * size * padded(size)
            attention_backward(
                layer.dq + at, layer.dk + at, layer.dv + at, dy + at, layer.dropped + map_at,
                layer.weights_mask + map_at if acts.dropout > 0.0 else NULL,
                layer.exps + map_at, layer.totals + head_at, layer.inverses + head_at,
                layer.q + at, layer.k + at, layer.v + at,
                acts.scratches + thread * acts.scratch_size, net.inverse_root, size, head_dim,
                net.row, padded(size),
            )
    barrier_wait(&acts.barrier)


cdef inline void losses_forward(
    Activations *acts, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the losses of positions first up to last; note where the oracle's log raises."""
    cdef Py_ssize_t row = acts.sizes.vocab_row
    cdef Py_ssize_t i
    softmax_forward(
        acts.probs + first * row, acts.exps + first * row, acts.totals + first,
        acts.inverses + first, acts.logits + first * row, last - first, acts.sizes.vocab_size,
        row,
    )
    for i in range(first, last):
        acts.losses[i] = cross_entropy_forward(acts.probs[i * row + acts.targets[i]])
        if acts.losses[i] == -1.0:
            acts.failed = True


@cython.cdivision(True)
cdef inline void loss_forward(Activations *acts) noexcept nogil:
    """Compute the loss from those of the positions.

    Order:   positions left to right from 0, times 1 / n; documents likewise
    """
    cdef Py_ssize_t d, i
    cdef double loss
    acts.loss = 0.0
    for d in range(acts.n_documents):
        loss = 0.0
        for i in range(acts.starts[d], acts.starts[d + 1]):
            loss += acts.losses[i]
        acts.loss += 1.0 / (acts.starts[d + 1] - acts.starts[d]) * loss
    acts.loss = 1.0 / acts.n_documents * acts.loss


@cython.cdivision(True)
cdef inline void loss_backward(
    Activations *acts, double *dx, const double *lm_head, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the gradient of the logits, and of what they are computed from.

    Order:   dx gets the rows of lm_head last to first without the target's, then
             that one: the walk comes to probs[target] before the total
    Writes:  trace.dlogits, dx
    """
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t row = net.vocab_row
    cdef Py_ssize_t d, i, k
    cdef double *dlogits
    cdef double dloss
    powers(acts.squares + first, acts.totals + first, last - first, -2.0)
    for d in range(acts.n_documents):
        dloss = 1.0 / (acts.starts[d + 1] - acts.starts[d]) * (1.0 / acts.n_documents)
        for i in range(max(first, acts.starts[d]), min(last, acts.starts[d + 1])):
            dlogits = acts.dlogits + i * row
            cross_entropy_backward(
                dlogits, dloss, acts.probs + i * row, acts.exps + i * row,
                acts.inverses[i], acts.squares[i], acts.targets[i], net.vocab_size,
            )
            acts.dtargets[i] = dlogits[acts.targets[i]]
            dlogits[acts.targets[i]] = 0.0
    linear_backward_input(
        dx + first * net.row, acts.dlogits + first * row, lm_head, last - first, net.vocab_size,
        n, net.row, row, False,
    )
    for i in range(first, last):
        acts.dlogits[i * row + acts.targets[i]] = acts.dtargets[i]
        for k in range(n):
            dx[i * net.row + k] += acts.dtargets[i] * lm_head[acts.targets[i] * n + k]


@cython.cdivision(True)
cdef inline void backward_inputs(
    Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the gradients of the activations of positions first up to last."""
    cdef const Sizes *net = &acts.sizes
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
    cdef double *dnorm = acts.dnorm + at
    cdef const double *lm_head = w + (net.vocab_size + net.block_size) * n
    cdef const double *wq = lm_head + net.vocab_size * n + net.n_layer * 12 * n * n
    cdef const double *head
    loss_backward(acts, acts.layers[net.n_layer - 1].dout, lm_head, first, last)
    for i in range(net.n_layer - 1, -1, -1):
        wq -= 12 * n * n
        layer = &acts.layers[i]
        dx = layer.dout + at
        dmid = layer.dmid + at
        dhidden = layer.dhidden + mlp_at
        if acts.dropout > 0.0:
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
        if acts.dropout > 0.0:
            dropout_backward(layer.dattn + at, dmid, layer.attn_mask + at, m * row)
        linear_backward_input(
            dnorm, layer.dattn + at, wq + 3 * n * n, m, n, n, row, row, False
        )
        heads_backward(acts, layer, acts.dnorm, thread)
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
        dx = (acts.layers[i - 1].dout if i else acts.dx) + at
        memcpy(dx, dmid, m * row * sizeof(double))
        rmsnorm_backward(
            dx, dnorm, layer.mean1 + first, layer.scale1 + first, layer.x + at, net.inverse_n, m,
            n, row,
        )
    dx = acts.dembedding + at
    memset(dx, 0, m * row * sizeof(double))
    rmsnorm_backward(
        dx, acts.dx + at, acts.mean + first, acts.scale + first, acts.embedding + at,
        net.inverse_n, m, n, row,
    )
    if acts.dropout > 0.0:
        dropout_backward(dx, dx, acts.embedding_mask + at, m * row)


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


cdef inline Matrix next_matrix(const Activations *acts, Matrix before, Py_ssize_t i) noexcept nogil:
    """Return matrix i, in the order of `Config.shapes`, given the one before."""
    cdef const Sizes *net = &acts.sizes
    cdef const Layer *layer
    cdef Matrix matrix
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t row = net.row
    if i < 2:
        matrix.start = 0 if i == 0 else net.vocab_size * n
        matrix.n_out = net.vocab_size if i == 0 else net.block_size
        matrix.n_in = n
        matrix.ids = acts.tokens if i == 0 else acts.positions
        matrix.dy = acts.dembedding
        matrix.dy_row = row
        matrix.x = NULL
        matrix.x_row = 0
        return matrix
    if i == 2:
        return linear_matrix(
            before, net.vocab_size, n, acts.dlogits, net.vocab_row, acts.out, row
        )
    layer = &acts.layers[(i - 3) // 6]
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
    const Activations *acts, const Matrix *matrix, double *dw, Py_ssize_t first, Py_ssize_t last,
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
        embedding_backward(dw, matrix.dy, matrix.ids, first, last, acts.m, n_in, matrix.dy_row)
    else:
        linear_backward_weights(
            dw, matrix.dy + first, matrix.x, acts.m, last - first, n_in,
            matrix.dy_row, matrix.x_row, add,
        )
