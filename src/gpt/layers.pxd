"""The model's functions on flat buffers, forward and backward side by side.

Every row of a buffer is one position; the positions of a batch follow each
other, document after document. A function takes m of them at once, because
positions depend on each other in the attention alone.

Each `backward` adds its terms in the order of the oracle's backward pass: see
docs/order.md. Gradients start from 0.0, so that adding a zero of either sign to one
changes nothing.
"""

cimport cython
from libc.math cimport log

from exponential cimport exponentials
from matmul cimport (
    LEAST_STEPS, Product, is_packed, multiply_matrices, multiply_packed, packed_scratch, transpose,
)
from powers cimport powers
from simd cimport (
    LANES, MOST_LANES, PANEL, TILE_ROWS, padded, vec, vec_load, vec_max, vec_set, vec_store,
)
from sparse cimport has_negative_zeros, is_sparse, multiply_sparse


cdef extern from "sums.h" nogil:
    void sum_rows(
        double *totals, const double *x, Py_ssize_t m, Py_ssize_t n, Py_ssize_t row
    )
    void dot_rows(
        double *totals, const double *x, const double *y, Py_ssize_t m, Py_ssize_t n,
        Py_ssize_t row, Py_ssize_t step,
    )


cdef enum:
    K_PANEL = 128  # steps of a sum at once: their panel fits into L1
    OUT_BLOCK = 256  # outputs at once, before they are transposed back
    L2_WEIGHTS = 32768  # weights that fit into L2


cdef enum zeros_in:  # which operand of a linear layer has many zeros
    IN_NONE
    IN_X
    IN_DY


cdef inline void embedding_forward(
    double *x, const double *wte, const double *wpe, const Py_ssize_t *tokens,
    const Py_ssize_t *positions, Py_ssize_t m, Py_ssize_t n, Py_ssize_t row,
) noexcept nogil:
    """Write the token's row plus the position's row.

    Shapes:  x (m, n), wte (vocab_size, n), wpe (block_size, n), tokens (m,), positions (m,)
    """
    cdef Py_ssize_t i, k
    cdef const double *t
    cdef const double *p
    for i in range(m):
        t = wte + tokens[i] * n
        p = wpe + positions[i] * n
        for k in range(n):
            x[i * row + k] = t[k] + p[k]


cdef inline void embedding_backward(
    double *dw, const double *dx, const Py_ssize_t *ids, Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t row,
) noexcept nogil:
    """Add each position's gradient to the row that it came from, for rows first up to last.

    Shapes:  dw (last - first, n), dx (m, n), ids (m,)
    Order:   positions last to first
    Adds to: dw
    """
    cdef Py_ssize_t i, k
    cdef double *to
    for i in range(m - 1, -1, -1):
        if not first <= ids[i] < last:
            continue
        to = dw + (ids[i] - first) * n
        for k in range(n):
            to[k] += dx[i * row + k]


cdef inline Py_ssize_t linear_scratch(
    Py_ssize_t m, Py_ssize_t n_out, Py_ssize_t n_in
) noexcept nogil:
    """Return how many scratch numbers linear layers of at most these sizes need, if not sparse."""
    cdef Py_ssize_t most = max(n_out, n_in)
    cdef Py_ssize_t size = (max(n_in, <Py_ssize_t>K_PANEL) + OUT_BLOCK) * PANEL
    if is_packed(max(m, most), max(m, most), max(m, most)):
        size = max(size, packed_scratch(most, max(m, most)))
    return size


cdef inline void linear_forward(
    double *y, const double *x, const double *w, const double *packed, double *scratch,
    Py_ssize_t m, Py_ssize_t n_out, Py_ssize_t n_in, Py_ssize_t y_row, Py_ssize_t x_row,
    bint sparse,
) noexcept nogil:
    """Write w x for each position. If sparse, x has many zeros.

    Either x is transposed, and y back, and vectors run across positions; or w is, and vectors
    run across outputs: the cheaper one. If packed is not NULL, it is w transposed.

    Shapes:  y (m, n_out), x (m, n_in), w (n_out, n_in), packed by `pack_weights`, scratch
             (linear_scratch(...),)
    Order:   products summed over n_in left to right, from 0
    Writes:  y, up to whole vectors
    """
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t k, size
    cdef Product p
    if is_packed(m, n_out, n_in) or sparse and is_sparse(m, n_out, n_in):
        p = Product(
            c=y, a=x, b=w, m=m, n=n_out, k=n_in, c_row=y_row, a_row=x_row, a_step=1, b_row=n_in,
            b_step=1, add=False, whole=True, fetch=NULL, fetch_step=0, scratch=scratch, run=n_in,
            runs=1,
        )
        if sparse:
            multiply_sparse(&p, False)
        else:
            multiply_packed(&p)
        return
    if 2 < m <= PANEL:
        transpose(scratch, x, m, n_in, padded(m), x_row)
        while start < n_out:
            size = min(<Py_ssize_t>OUT_BLOCK, n_out - start)
            p = Product(
                c=scratch + n_in * PANEL, a=w + start * n_in, b=scratch, m=size, n=m, k=n_in,
                c_row=padded(m), a_row=n_in, a_step=1, b_row=1, b_step=padded(m), add=False,
                whole=True, fetch=w + (start + TILE_ROWS) * n_in, fetch_step=TILE_ROWS,
                scratch=NULL, run=n_in, runs=1,
            )
            multiply_matrices(&p)
            transpose(y + start, scratch + n_in * PANEL, size, m, y_row, padded(m))
            start += OUT_BLOCK
        return
    if n_in < LEAST_STEPS and m > PANEL and n_in * padded(n_out) <= OUT_BLOCK * PANEL:
        transpose(scratch, w, n_out, n_in, padded(n_out), n_in)
        p = Product(
            c=y, a=x, b=scratch, m=m, n=n_out, k=n_in, c_row=y_row, a_row=x_row, a_step=1, b_row=1,
            b_step=padded(n_out), add=False, whole=True, fetch=NULL, fetch_step=0, scratch=NULL,
            run=n_in, runs=1,
        )
        multiply_matrices(&p)
        return
    p = Product(
        c=y, a=x, b=packed, m=m, n=0, k=n_in, c_row=y_row, a_row=x_row, a_step=1, b_row=1,
        b_step=PANEL, add=False, whole=True, fetch=NULL, fetch_step=0, scratch=NULL, run=n_in,
        runs=1,
    )
    while start < n_out:
        p.n = min(<Py_ssize_t>PANEL, n_out - start)
        k = 0
        while k < n_in:
            if packed == NULL:
                p.k = min(<Py_ssize_t>K_PANEL, n_in - k)
                transpose(scratch, w + start * n_in + k, p.n, p.k, PANEL, n_in)
                p.b, p.a, p.add = scratch, x + k, k > 0
            multiply_matrices(&p)
            k += p.k
        p.c += PANEL
        p.b += PANEL * n_in
        start += PANEL


@cython.cdivision(True)
cdef inline Py_ssize_t rows_in_l2(Py_ssize_t n_in) noexcept nogil:
    """Return how many rows of a matrix are multiplied at once in the backward pass."""
    return max(<Py_ssize_t>8, L2_WEIGHTS // n_in)


cdef inline void linear_backward_input(
    double *dx, const double *dy, const double *w, double *scratch, Py_ssize_t m, Py_ssize_t n_out,
    Py_ssize_t n_in, Py_ssize_t dx_row, Py_ssize_t dy_row, bint add, bint sparse,
) noexcept nogil:
    """Write the gradient of a linear layer's input, or continue it. If sparse, dy has many zeros.

    Shapes:  dx (m, n_in), dy (m, n_out), w (n_out, n_in), scratch (linear_scratch(...),)
    Order:   rows of w last to first: the oracle visits the outputs first to last
    Writes:  dx, up to whole vectors. Adds to: dx if add, which sparse forbids
    """
    cdef bint packs = is_packed(m, n_in, n_out) or sparse and is_sparse(m, n_in, n_out)
    cdef Py_ssize_t most = n_out if packs else rows_in_l2(n_in)
    cdef Py_ssize_t rows
    cdef Product p
    while n_out > 0:
        rows = min(most, n_out)
        n_out -= rows
        p = Product(
            c=dx, a=dy + n_out + rows - 1, b=w + (n_out + rows - 1) * n_in, m=m, n=n_in, k=rows,
            c_row=dx_row, a_row=dy_row, a_step=-1, b_row=1, b_step=-n_in, add=add, whole=True,
            fetch=NULL, fetch_step=PANEL if m <= TILE_ROWS else PANEL // 2, scratch=scratch,
            run=rows, runs=1,
        )
        if packs:
            if sparse:
                multiply_sparse(&p, False)
            else:
                multiply_packed(&p)
            return
        if m <= 2 * TILE_ROWS and n_out >= most:
            p.fetch = w + (n_out - most) * n_in
        multiply_matrices(&p)
        add = True


@cython.cdivision(True)
cdef inline void qkv_backward_input(
    double *dx, const double *dqkv, const double *w, double *scratch, Py_ssize_t m, Py_ssize_t n,
    Py_ssize_t n_head, Py_ssize_t dx_row, Py_ssize_t dqkv_row,
) noexcept nogil:
    """Write the gradient of the input of queries, keys and values.

    Shapes:  dx (m, n), dqkv (m, 3 * n), w (3 * n, n), scratch (linear_scratch(...),)
    Order:   heads last to first, of each its rows of values, keys and queries, last to first
    Writes:  dx, up to whole vectors
    """
    cdef Py_ssize_t head_dim = n // n_head
    cdef Py_ssize_t i, j, at
    cdef Product p
    if is_packed(m, n, 3 * n):
        p = Product(
            c=dx, a=dqkv + 3 * n - 1, b=w + (3 * n - 1) * n, m=m, n=n, k=3 * n, c_row=dx_row,
            a_row=dqkv_row, a_step=-1, b_row=1, b_step=-n, add=False, whole=True, fetch=NULL,
            fetch_step=0, scratch=scratch, run=head_dim, runs=3,
        )
        multiply_packed(&p)
        return
    for i in range(n_head - 1, -1, -1):
        for j in range(2, -1, -1):
            at = j * n + i * head_dim
            linear_backward_input(
                dx, dqkv + at, w + at * n, scratch, m, head_dim, n, dx_row, dqkv_row,
                i < n_head - 1 or j < 2, False,
            )


cdef inline void linear_backward_weights(
    double *dw, const double *dy, const double *x, double *scratch, Py_ssize_t m, Py_ssize_t n_out,
    Py_ssize_t n_in, Py_ssize_t dy_row, Py_ssize_t x_row, bint add, zeros_in zeros,
) noexcept nogil:
    """Write the gradient of a linear layer's weights, or continue it.

    Shapes:  dw (n_out, n_in), dy (m, n_out), x (m, n_in), scratch (linear_scratch(...),)
    Order:   positions last to first, the last document first; -0.0 in dw is continued by every term
    Writes:  dw. Adds to: dw if add
    """
    cdef Product p
    p = Product(
        c=dw, a=dy + (m - 1) * dy_row, b=x + (m - 1) * x_row, m=n_out, n=n_in, k=m, c_row=n_in,
        a_row=1, a_step=-dy_row, b_row=1, b_step=-x_row, add=add, whole=False, fetch=NULL,
        fetch_step=0, scratch=scratch, run=m, runs=1,
    )
    if add and zeros != IN_NONE and has_negative_zeros(dw, n_out * n_in):
        zeros = IN_NONE
    if zeros == IN_X and n_in % LANES == 0 and is_sparse(n_in, n_out, m):
        p.a, p.m, p.a_step, p.b, p.n, p.b_step = p.b, p.n, p.b_step, p.a, p.m, p.a_step
        multiply_sparse(&p, True)
    elif zeros == IN_DY and is_sparse(n_out, n_in, m):
        multiply_sparse(&p, False)
    elif is_packed(n_out, n_in, m):
        multiply_packed(&p)
    else:
        multiply_matrices(&p)


@cython.cdivision(True)
cdef inline void rmsnorm_forward(
    double *y, double *mean, double *scale, const double *x, double inverse_n, Py_ssize_t m,
    Py_ssize_t n, Py_ssize_t row,
) noexcept nogil:
    """Write x divided by the root of its mean square.

    Shapes:  y (m, n), mean (m,) with the 1e-5 in it, scale (m,), x (m, n)
    Order:   squares summed left to right from 0
    """
    cdef Py_ssize_t i, k
    dot_rows(mean, x, x, m, n, row, 1)
    for i in range(m):
        mean[i] = mean[i] * inverse_n + 1e-5
    powers(scale, mean, m, -0.5)
    for i in range(m):
        for k in range(n):
            y[i * row + k] = x[i * row + k] * scale[i]


@cython.cdivision(True)
cdef inline void rmsnorm_backward(
    double *dx, const double *dresidual, const double *dy, const double *mean,
    const double *scale, const double *x, double inverse_n, Py_ssize_t m, Py_ssize_t n,
    Py_ssize_t row,
) noexcept nogil:
    """Write the gradient of rmsnorm's input: the residual's term, then the normalization's.

    Shapes:  dx, dresidual, dy, x (m, n), mean, scale (m,)
    Order:   the scale's gradient is summed right to left; x gets the product
             with scale first, then its square, which is x twice
    Writes:  dx, which may be dresidual
    """
    cdef Py_ssize_t i, k
    cdef double dsquare, term
    cdef double roots[MOST_LANES]
    cdef double dscales[MOST_LANES]
    cdef Py_ssize_t rows = 0
    for i in range(m):
        if i % MOST_LANES == 0:
            rows = min(<Py_ssize_t>MOST_LANES, m - i)
            powers(roots, mean + i, rows, -1.5)
            dot_rows(dscales, x + i * row, dy + i * row, rows, n, row, -1)
        dsquare = inverse_n * (-0.5 * roots[i % MOST_LANES] * dscales[i % MOST_LANES])
        for k in range(n):
            term = x[i * row + k] * dsquare
            dx[i * row + k] = dresidual[i * row + k] + scale[i] * dy[i * row + k] + term + term


cdef inline void residual_forward(
    double *x, const double *residual, Py_ssize_t m, Py_ssize_t n, Py_ssize_t row
) noexcept nogil:
    """Add the residual to each position of x (m, n). Adds to: x"""
    cdef Py_ssize_t i, k
    for i in range(m):
        for k in range(n):
            x[i * row + k] += residual[i * row + k]


cdef inline void dropout_forward(
    double *x, const double *mask, Py_ssize_t n
) noexcept nogil:
    """Multiply x (n,) by its mask. Writes: x"""
    cdef Py_ssize_t k
    for k in range(n):
        x[k] = x[k] * mask[k]


cdef inline void dropout_backward(
    double *dx, const double *dy, const double *mask, Py_ssize_t n
) noexcept nogil:
    """Write the gradient of what dropout multiplied by its mask. Writes: dx (n,)

    Order:   a sum of one term, from 0: it is not -0.0
    """
    cdef Py_ssize_t k
    for k in range(n):
        dx[k] = 0.0 + mask[k] * dy[k]


cdef inline void relu_forward(double *x, Py_ssize_t n) noexcept nogil:
    """Set all that is not positive, NaN too, to zero. Writes: x (n,)"""
    cdef Py_ssize_t k
    for k in range(n):
        x[k] = x[k] if x[k] > 0.0 else 0.0


cdef inline void relu_backward(double *dx, const double *y, Py_ssize_t n) noexcept nogil:
    """Multiply dx by 1.0 where the output was positive, else by 0.0. Writes: dx (n,)

    Order:   a sum of one term, from 0: it is not -0.0
    """
    cdef Py_ssize_t k
    for k in range(n):
        dx[k] = 0.0 + dx[k] * (1.0 if y[k] > 0.0 else 0.0)


cdef inline double largest_of(const double *x, Py_ssize_t n, double largest) noexcept nogil:
    """Return the largest of a number and those of x (n,) that are larger: as max does."""
    cdef Py_ssize_t i
    for i in range(n):
        if x[i] > largest:
            largest = x[i]
    return largest


cdef inline void exps_forward(
    double *exps, const double *logits, double factor, Py_ssize_t n
) noexcept nogil:
    """Write the exponentials of n logits, times a positive factor, readable up to whole vectors.

    Order:   the largest product, of the largest logit, is subtracted as a constant
    """
    cdef Py_ssize_t i = 0
    cdef double largest = logits[0]
    cdef double lanes[LANES]
    cdef vec top = vec_set(largest)
    if n >= 2 * LANES:
        while i + LANES <= n:
            top = vec_max(top, vec_load(logits + i))
            i += LANES
        vec_store(lanes, top)
        largest = largest_of(lanes, LANES, largest)
    largest = largest_of(logits + i, n - i, largest)
    vec_store(lanes, vec_set(largest * factor))
    exponentials(exps, logits, factor, lanes, LANES, n)


cdef inline void softmax_forward(
    double *probs, double *exps, double *totals, double *inverses, const double *logits,
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t row,
) noexcept nogil:
    """Write each position's exponentials, their total, its inverse and the probabilities.

    Shapes:  probs, exps, logits (m, n); totals, inverses (m,)
    Order:   as `exps_forward`; exponentials summed left to right from 0; each is multiplied by
             total ** -1
    """
    cdef Py_ssize_t i, k
    for i in range(m):
        exps_forward(exps + i * row, logits + i * row, 1.0, n)
    sum_rows(totals, exps, m, n, row)
    powers(inverses, totals, m, -1.0)
    for i in range(m):
        for k in range(n):
            probs[i * row + k] = exps[i * row + k] * inverses[i]


cdef inline double cross_entropy_forward(double prob) noexcept nogil:
    """Return one position's loss, -log(prob); -1.0 where log would raise."""
    return log(prob) * -1.0 if not prob <= 0.0 else -1.0


@cython.cdivision(True)
cdef inline void cross_entropy_backward(
    double *dlogits, double dloss, const double *probs, const double *exps, double inverse,
    double square, Py_ssize_t target, Py_ssize_t n,
) noexcept nogil:
    """Write the gradient of one position's logits.

    Shapes:  dlogits, probs, exps (n,); inverse and square are total ** -1 and total ** -2
    Order:   the target's exponential gets its own quotient's term first, then the total's;
             a logit's gradient is a sum of one term, from 0, and so never -0.0; only the
             target's term could be
    """
    cdef Py_ssize_t i
    cdef double dprob = 1.0 / probs[target] * (-1.0 * dloss)
    cdef double dtotal = -square * (exps[target] * dprob)
    for i in range(n):
        dlogits[i] = exps[i] * dtotal
    dlogits[target] = 0.0 + exps[target] * (inverse * dprob + dtotal)
