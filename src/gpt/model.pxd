"""The whole step: the model's functions put together, forward and backward.

The forward pass leaves all activations in `Activations` for the backward pass, which goes
through the layers from last to first (`mlp_backward`, `heads_backward`, `qkv_backward`), and
through the weights matrix by matrix (`matrices_backward`).

The file is longer than 500 lines because forward and backward name the same layers, matrices and
buffers in the same order, and are checked against each other.
"""

cimport cython
from libc.string cimport memset

from activations cimport packed_start, scratch_of
from attention cimport (
    WIDE, Head, Panel, attention_backward, attention_forward, map_size, panel_of,
)
from barrier cimport barrier_wait, take_share
from kernels cimport Activations, Layer
from layers cimport (
    IN_DY, IN_NONE, IN_X, cross_entropy_backward, cross_entropy_forward, dropout_backward,
    dropout_forward, embedding_backward, embedding_forward, linear_backward_input,
    linear_backward_weights, linear_forward, qkv_backward_input, relu_backward, relu_forward,
    residual_forward, rmsnorm_backward, rmsnorm_forward, softmax_forward, zeros_in,
)
from powers cimport powers
from simd cimport padded
from weights cimport (
    ATTN_WO, ATTN_WQKV, LM_HEAD, MLP_FC1, MLP_FC2, PER_LAYER, WPE, WTE, Shape, Sizes, shape_of,
)


cdef enum:
    LEAST_SHARE = 96  # rows of a product for which packing its other operand pays


@cython.cdivision(True)
cdef inline Py_ssize_t rows_of_share(Py_ssize_t n, int size) noexcept nogil:
    """Return how many of n rows one of size threads takes at once.

    Two shares a thread, so that a slow thread takes fewer; one if they would be so small that
    packing, which each share repeats, takes long.
    """
    cdef Py_ssize_t shares = size
    if n >= 2 * size * LEAST_SHARE:
        shares = 2 * size
    return n if size == 1 else (n + shares - 1) // shares


cdef struct Rows:  # the next share of the positions first up to last
    Py_ssize_t first
    Py_ssize_t last
    Py_ssize_t size
    Py_ssize_t start
    Py_ssize_t end
    Py_ssize_t number  # of the share taken last, counted from the last wait on


cdef inline Rows rows_between(Activations *acts, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Rows rows
    rows.first, rows.last = first, last
    rows.size = rows_of_share(last - first, acts.barrier.size)
    rows.start = rows.end = rows.number = 0
    return rows


cdef inline bint take_rows(Activations *acts, Rows *rows) noexcept nogil:
    """Take the next share of positions; return whether there was one."""
    rows.number = take_share(&acts.barrier)
    rows.start = rows.first + rows.number * rows.size
    rows.end = min(rows.last, rows.start + rows.size)
    return rows.start < rows.last


cdef inline void forward(
    Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, bint losses, int thread
) noexcept nogil:
    """Write the activations, logits and losses of positions first up to last.

    Threads take shares of the positions by turns. Keys and values of
    positions before first have been computed.

    Shapes:  w (n_params,), 0 <= first <= last <= m
    """
    cdef Rows rows = rows_between(acts, first, last)
    cdef Py_ssize_t i
    while take_rows(acts, &rows):
        inputs_forward(acts, w, rows.start, rows.end)
        qkv_forward(acts, w, 0, rows.start, rows.end, thread)
    for i in range(acts.sizes.n_layer):
        barrier_wait(&acts.barrier)
        heads_forward(acts, &acts.layers[i], first, last, thread)
        barrier_wait(&acts.barrier)
        while take_rows(acts, &rows):
            layer_forward(acts, w, i, rows.start, rows.end, thread)
            if i + 1 < acts.sizes.n_layer:
                qkv_forward(acts, w, i + 1, rows.start, rows.end, thread)
            else:
                logits_forward(acts, w, rows.start, rows.end, thread)
                if losses:
                    losses_forward(acts, rows.start, rows.end)
    barrier_wait(&acts.barrier)


cdef inline void inputs_forward(
    Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the first layer's input at positions first up to last."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t at = first * net.row
    embedding_forward(
        acts.embedding + at, w, w + shape_of(net, WPE).start, acts.tokens + first,
        acts.positions + first, m, net.n_embd, net.row,
    )
    if acts.dropout > 0.0:
        dropout_forward(acts.embedding + at, acts.embedding_mask + at, m * net.row)
    rmsnorm_forward(
        acts.layers[0].x + at, acts.mean + first, acts.scale + first, acts.embedding + at,
        net.inverse_n, m, net.n_embd, net.row,
    )


@cython.cdivision(True)
cdef inline zeros_in zeros_of(Py_ssize_t i) noexcept nogil:
    """Return which operand of matrix i has many zeros: relu's output, and its gradient."""
    if i < ATTN_WQKV:
        return IN_NONE
    i = ATTN_WQKV + (i - ATTN_WQKV) % PER_LAYER
    return IN_DY if i == MLP_FC1 else IN_X if i == MLP_FC2 else IN_NONE


cdef inline void matrix_forward(
    const Activations *acts, double *y, const double *x, const double *w, Py_ssize_t i,
    Py_ssize_t m, Py_ssize_t y_row, Py_ssize_t x_row, int thread,
) noexcept nogil:
    """Write matrix i times x for each of m positions."""
    cdef Shape shape = shape_of(&acts.sizes, i)
    cdef const double *packed = NULL
    if acts.packed != NULL:
        packed = acts.packed + packed_start(&acts.sizes, i)
    linear_forward(
        y, x, w + shape.start, packed, scratch_of(acts, thread), m, shape.n_out, shape.n_in, y_row,
        x_row, zeros_of(i) == IN_X,
    )


cdef inline void matrix_backward_input(
    const Activations *acts, double *dx, const double *dy, const double *w, Py_ssize_t i,
    Py_ssize_t m, Py_ssize_t dx_row, Py_ssize_t dy_row, int thread,
) noexcept nogil:
    """Write the gradient of the input of matrix i, for each of m positions."""
    cdef Shape shape = shape_of(&acts.sizes, i)
    linear_backward_input(
        dx, dy, w + shape.start, scratch_of(acts, thread), m, shape.n_out, shape.n_in, dx_row,
        dy_row, False, zeros_of(i) == IN_DY,
    )


cdef inline void qkv_forward(
    Activations *acts, const double *w, Py_ssize_t i, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write a layer's queries, keys and values at positions first up to last."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t at = first * net.row
    cdef Layer *layer = &acts.layers[i]
    rmsnorm_forward(
        layer.norm1 + at, layer.mean1 + first, layer.scale1 + first, layer.x + at, net.inverse_n,
        last - first, net.n_embd, net.row,
    )
    matrix_forward(
        acts, layer.qkv + first * net.qkv_row, layer.norm1 + at, w, PER_LAYER * i + ATTN_WQKV,
        last - first, net.qkv_row, net.row, thread,
    )


cdef inline void layer_forward(
    Activations *acts, const double *w, Py_ssize_t i, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write a layer's output from that of its heads, at positions first up to last."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t at = first * row
    cdef Py_ssize_t mlp_at = first * net.mlp_row
    cdef Py_ssize_t before = PER_LAYER * i
    cdef Layer *layer = &acts.layers[i]
    cdef double *mid = layer.mid + at
    cdef double *hidden = layer.hidden + mlp_at
    cdef double *x = (acts.layers[i + 1].x if i + 1 < net.n_layer else acts.out) + at
    matrix_forward(acts, mid, layer.attended + at, w, before + ATTN_WO, m, row, row, thread)
    if acts.dropout > 0.0:
        dropout_forward(mid, layer.attn_mask + at, m * row)
    residual_forward(mid, layer.x + at, m, n, row)
    rmsnorm_forward(
        layer.norm2 + at, layer.mean2 + first, layer.scale2 + first, mid, net.inverse_n, m, n, row
    )
    matrix_forward(
        acts, hidden, layer.norm2 + at, w, before + MLP_FC1, m, net.mlp_row, row, thread
    )
    relu_forward(hidden, m * net.mlp_row)
    matrix_forward(acts, x, hidden, w, before + MLP_FC2, m, row, net.mlp_row, thread)
    if acts.dropout > 0.0:
        dropout_forward(x, layer.mlp_mask + at, m * row)
    residual_forward(x, mid, m, n, row)


cdef inline void logits_forward(
    Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the logits of positions first up to last."""
    cdef const Sizes *net = &acts.sizes
    matrix_forward(
        acts, acts.logits + first * net.vocab_row, acts.out + first * net.row, w, LM_HEAD,
        last - first, net.vocab_row, net.row, thread,
    )


@cython.cdivision(True)
cdef inline Head head_of(
    const Activations *acts, const Layer *layer, Py_ssize_t d, Py_ssize_t number, int thread
) noexcept nogil:
    """Return one head of a document in a layer."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t start = acts.starts[d]
    cdef Py_ssize_t m = acts.starts[d + 1] - start
    cdef Py_ssize_t head_dim = net.n_embd // net.n_head
    cdef Py_ssize_t at = start * net.row + number * head_dim
    cdef Py_ssize_t qkv_at = start * net.qkv_row + number * head_dim
    cdef Py_ssize_t totals_at = start * net.n_head + number * m
    cdef Py_ssize_t map_at = acts.maps[d] + number * map_size(m)
    cdef Head head
    head.m = m
    head.head_dim = head_dim
    head.row = net.qkv_row
    head.y_row = net.row
    head.inverse_root = net.inverse_root
    head.q = layer.qkv + qkv_at
    head.k = head.q + net.n_embd
    head.v = head.k + net.n_embd
    head.y = layer.attended + at
    head.exps = layer.exps + map_at
    head.totals = layer.totals + totals_at
    head.inverses = layer.inverses + totals_at
    head.mask = layer.weights_mask + map_at if acts.dropout > 0.0 else NULL
    head.dq = layer.dqkv + qkv_at
    head.dk = head.dq + net.n_embd
    head.dv = head.dk + net.n_embd
    head.dy = acts.dnorm + at
    head.scratch = scratch_of(acts, thread)
    return head


@cython.cdivision(True)
cdef inline void heads_forward(
    Activations *acts, const Layer *layer, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Run positions first up to last through a layer's attention.

    Positions depend on each other here, so the threads take documents and heads by turns.
    """
    cdef Py_ssize_t i = take_share(&acts.barrier)
    cdef Py_ssize_t d = i // acts.sizes.n_head
    cdef Py_ssize_t start
    cdef Head head
    while d < acts.n_documents:
        start = acts.starts[d]
        if start < last and first < acts.starts[d + 1]:
            head = head_of(acts, layer, d, i % acts.sizes.n_head, thread)
            attention_forward(&head, max(first - start, 0), min(last - start, head.m))
        i = take_share(&acts.barrier)
        d = i // acts.sizes.n_head


@cython.cdivision(True)
cdef inline void attention_weights(
    const Activations *acts, double *weights, Py_ssize_t i, Py_ssize_t d
) noexcept nogil:
    """Write layer i's attention weights for document d, before dropout.

    Shapes:  weights (n_head, n, n), all zero
    """
    cdef Py_ssize_t h, t, s
    cdef Head head
    cdef Panel panel
    for h in range(acts.sizes.n_head):
        head = head_of(acts, &acts.layers[i], d, h, 0)
        for t in range(head.m):
            panel = panel_of(&head, t // WIDE * WIDE, head.m)
            for s in range(t + 1):
                weights[s] = panel.exps[s * panel.width + t - panel.first] * head.inverses[t]
            weights += head.m


@cython.cdivision(True)
cdef inline void heads_backward(
    Activations *acts, const Layer *layer, int thread
) noexcept nogil:
    """Write the gradients of queries, keys and values from acts.dnorm, the heads' output's."""
    cdef Py_ssize_t n_head = acts.sizes.n_head
    cdef Py_ssize_t i = take_share(&acts.barrier)
    cdef Head head
    while i < acts.n_documents * n_head:
        head = head_of(acts, layer, i // n_head, i % n_head, thread)
        attention_backward(&head)
        i = take_share(&acts.barrier)


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
cdef inline double document_loss(const Activations *acts, Py_ssize_t d) noexcept nogil:
    """Return the mean of a document's losses: left to right from 0, times 1 / n."""
    cdef double loss = 0.0
    cdef Py_ssize_t i
    for i in range(acts.starts[d], acts.starts[d + 1]):
        loss += acts.losses[i]
    return 1.0 / (acts.starts[d + 1] - acts.starts[d]) * loss


@cython.cdivision(True)
cdef inline void loss_forward(Activations *acts) noexcept nogil:
    """Compute the loss: the mean of the documents', left to right from 0, times 1 / n."""
    cdef Py_ssize_t d
    acts.loss = 0.0
    for d in range(acts.n_documents):
        acts.loss += document_loss(acts, d)
    acts.loss = 1.0 / acts.n_documents * acts.loss


@cython.cdivision(True)
cdef inline void loss_backward(
    Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the gradients of the logits and of the last layer's output.

    Order:   dx gets the rows of lm_head last to first without the target's, then
             that one: the oracle visits probs[target] before the total
    Writes:  acts.dlogits, the last layer's dout
    """
    cdef const Sizes *net = &acts.sizes
    cdef double *dx = acts.layers[net.n_layer - 1].dout
    cdef const double *lm_head = w + shape_of(net, LM_HEAD).start
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t row = net.vocab_row
    cdef Py_ssize_t d, i, k
    cdef double *dlogits
    cdef double dloss
    powers(acts.squares + first, acts.totals + first, last - first, -2.0)
    for d in range(acts.n_documents):
        dloss = 1.0 / (acts.starts[d + 1] - acts.starts[d]) * (1.0 / acts.batch)
        for i in range(max(first, acts.starts[d]), min(last, acts.starts[d + 1])):
            dlogits = acts.dlogits + i * row
            cross_entropy_backward(
                dlogits, dloss, acts.probs + i * row, acts.exps + i * row,
                acts.inverses[i], acts.squares[i], acts.targets[i], net.vocab_size,
            )
            acts.dtargets[i] = dlogits[acts.targets[i]]
            dlogits[acts.targets[i]] = 0.0
    matrix_backward_input(
        acts, dx + first * net.row, acts.dlogits + first * row, w, LM_HEAD, last - first, net.row,
        row, thread,
    )
    for i in range(first, last):
        acts.dlogits[i * row + acts.targets[i]] = acts.dtargets[i]
        for k in range(n):
            dx[i * net.row + k] += acts.dtargets[i] * lm_head[acts.targets[i] * n + k]


cdef struct Matrix:  # one weight matrix, and the operands of its gradient
    Shape shape
    const Py_ssize_t *ids  # an embedding's rows, else NULL
    const double *dy
    Py_ssize_t dy_row
    const double *x  # NULL of an embedding
    Py_ssize_t x_row
    zeros_in zeros


@cython.cdivision(True)
cdef inline Matrix matrix_of(const Activations *acts, Py_ssize_t i) noexcept nogil:
    """Return matrix i of `weights.pxd`."""
    cdef const Sizes *net = &acts.sizes
    cdef const Layer *layer
    cdef Matrix matrix
    matrix.shape = shape_of(net, i)
    matrix.zeros = zeros_of(i)
    matrix.ids = NULL
    matrix.x = NULL
    matrix.dy_row = matrix.x_row = net.row
    if i <= WPE:
        matrix.ids = acts.positions if i == WPE else acts.tokens
        matrix.dy = acts.dembedding
        return matrix
    if i == LM_HEAD:
        matrix.x, matrix.dy, matrix.dy_row = acts.out, acts.dlogits, net.vocab_row
        return matrix
    layer = &acts.layers[(i - ATTN_WQKV) // PER_LAYER]
    i = ATTN_WQKV + (i - ATTN_WQKV) % PER_LAYER
    if i == ATTN_WQKV:
        matrix.x, matrix.dy, matrix.dy_row = layer.norm1, layer.dqkv, net.qkv_row
    elif i == ATTN_WO:
        matrix.x, matrix.dy = layer.attended, layer.dattn
    elif i == MLP_FC1:
        matrix.x, matrix.dy, matrix.dy_row = layer.norm2, layer.dhidden, net.mlp_row
    else:
        matrix.x, matrix.dy, matrix.x_row = layer.hidden, layer.dmlp, net.mlp_row
    return matrix


cdef inline void backward_weights(
    const Activations *acts, const Matrix *matrix, double *dw, double *scratch, Py_ssize_t first,
    Py_ssize_t last, bint add,
) noexcept nogil:
    """Write the gradients of a matrix's rows first up to last, or continue them.

    Order:   positions last to first, the last document first
    Writes:  dw (last - first, n_in). Adds to: dw if add
    """
    cdef Py_ssize_t n_in = matrix.shape.n_in
    if matrix.ids != NULL:
        if not add:
            memset(dw, 0, (last - first) * n_in * sizeof(double))
        embedding_backward(dw, matrix.dy, matrix.ids, first, last, acts.m, n_in, matrix.dy_row)
    else:
        linear_backward_weights(
            dw, matrix.dy + first, matrix.x, scratch, acts.m, last - first, n_in,
            matrix.dy_row, matrix.x_row, add, matrix.zeros,
        )


@cython.cdivision(True)
cdef inline void matrices_backward(
    Activations *acts, double *dw, bint add, Py_ssize_t first, Py_ssize_t last, Py_ssize_t number,
    Py_ssize_t before, int thread,
) noexcept nogil:
    """Write the gradients of matrices first up to last, or continue them, share by share.

    The thread has taken share number; shares up to before belong to other work.
    """
    cdef Matrix matrix
    cdef Py_ssize_t rows, row
    cdef Py_ssize_t i = last
    while i > first:  # the largest first
        i -= 1
        matrix = matrix_of(acts, i)
        rows = (matrix.shape.n_out + acts.barrier.size - 1) // acts.barrier.size
        while (number - before) * rows < matrix.shape.n_out:
            row = (number - before) * rows
            backward_weights(
                acts, &matrix, dw + matrix.shape.start + row * matrix.shape.n_in,
                scratch_of(acts, thread), row, min(matrix.shape.n_out, row + rows), add,
            )
            number = take_share(&acts.barrier)
        before += (matrix.shape.n_out + rows - 1) // rows


cdef inline void mlp_backward(
    Activations *acts, const double *w, Py_ssize_t i, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write acts.dnorm, the gradient of the heads' output, from a layer's dout."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t n = net.n_embd
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t at = first * row
    cdef Py_ssize_t mlp_at = first * net.mlp_row
    cdef Layer *layer = &acts.layers[i]
    cdef Py_ssize_t before = PER_LAYER * i
    cdef double *dhidden = layer.dhidden + mlp_at
    cdef double *dnorm = acts.dnorm + at
    if acts.dropout > 0.0:
        dropout_backward(layer.dmlp + at, layer.dout + at, layer.mlp_mask + at, m * row)
    matrix_backward_input(
        acts, dhidden, layer.dmlp + at, w, before + MLP_FC2, m, net.mlp_row, row, thread
    )
    relu_backward(dhidden, layer.hidden + mlp_at, m * net.mlp_row)
    matrix_backward_input(
        acts, dnorm, dhidden, w, before + MLP_FC1, m, row, net.mlp_row, thread
    )
    rmsnorm_backward(
        layer.dmid + at, layer.dout + at, dnorm, layer.mean2 + first, layer.scale2 + first,
        layer.mid + at, net.inverse_n, m, n, row,
    )
    if acts.dropout > 0.0:
        dropout_backward(layer.dattn + at, layer.dmid + at, layer.attn_mask + at, m * row)
    matrix_backward_input(acts, dnorm, layer.dattn + at, w, before + ATTN_WO, m, row, row, thread)


cdef inline void qkv_backward(
    Activations *acts, const double *w, Py_ssize_t i, Py_ssize_t first, Py_ssize_t last, int thread
) noexcept nogil:
    """Write the gradient of a layer's input from those of its queries, keys and values."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t row = net.row
    cdef Py_ssize_t at = first * row
    cdef Layer *layer = &acts.layers[i]
    cdef double *dnorm = acts.dnorm + at
    qkv_backward_input(
        dnorm, layer.dqkv + first * net.qkv_row, w + shape_of(net, PER_LAYER * i + ATTN_WQKV).start,
        scratch_of(acts, thread), m, net.n_embd, net.n_head, row, net.qkv_row,
    )
    rmsnorm_backward(
        layer.dx + at, layer.dmid + at, dnorm, layer.mean1 + first, layer.scale1 + first,
        layer.x + at, net.inverse_n, m, net.n_embd, row,
    )


cdef inline void inputs_backward(
    Activations *acts, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Write the gradients of the embeddings' sums at positions first up to last."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t m = last - first
    cdef Py_ssize_t at = first * net.row
    cdef double *dx = acts.dembedding + at
    memset(dx, 0, m * net.row * sizeof(double))
    rmsnorm_backward(
        dx, dx, acts.layers[0].dx + at, acts.mean + first, acts.scale + first,
        acts.embedding + at, net.inverse_n, m, net.n_embd, net.row,
    )
    if acts.dropout > 0.0:
        dropout_backward(dx, dx, acts.embedding_mask + at, m * net.row)


@cython.cdivision(True)
cdef inline void backward(
    Activations *acts, const double *w, double *dw, bint add, int thread
) noexcept nogil:
    """Write the gradients of the activations of all positions, and of the weights.

    Threads take shares of positions, heads and rows of matrices by turns. If dw is NULL, which
    `acts.reuses` forbids, the weights' gradients are left for later.

    Writes:  dw (n_params,). Adds to: dw if add
    """
    cdef Rows rows = rows_between(acts, 0, acts.m)
    cdef Py_ssize_t shares = (acts.m + rows.size - 1) // rows.size
    cdef Py_ssize_t i = acts.sizes.n_layer - 1
    while take_rows(acts, &rows):
        loss_backward(acts, w, rows.start, rows.end, thread)
        mlp_backward(acts, w, i, rows.start, rows.end, thread)
    while i >= 0:
        barrier_wait(&acts.barrier)
        heads_backward(acts, &acts.layers[i], thread)
        barrier_wait(&acts.barrier)
        while take_rows(acts, &rows):
            qkv_backward(acts, w, i, rows.start, rows.end, thread)
            if i == 0:
                inputs_backward(acts, rows.start, rows.end)
            elif dw == NULL:
                mlp_backward(acts, w, i - 1, rows.start, rows.end, thread)
        if dw != NULL:
            matrices_backward(
                acts, dw, add, ATTN_WQKV + PER_LAYER * i, ATTN_WQKV + PER_LAYER * (i + 1),
                rows.number, shares, thread,
            )
            barrier_wait(&acts.barrier)
            while i > 0 and take_rows(acts, &rows):
                mlp_backward(acts, w, i - 1, rows.start, rows.end, thread)
        i -= 1
    if dw != NULL:
        matrices_backward(acts, dw, add, WTE, ATTN_WQKV, take_share(&acts.barrier), 0, thread)
    barrier_wait(&acts.barrier)
