"""The weights, listed once: in the order of `Config.shapes`, each matrix row by row."""

cimport cython


cdef struct Sizes:
    Py_ssize_t vocab_size
    Py_ssize_t n_embd
    Py_ssize_t n_head
    Py_ssize_t n_layer
    Py_ssize_t block_size
    Py_ssize_t n_params
    double inverse_n  # n_embd ** -1
    double inverse_root  # (head_dim ** 0.5) ** -1
    Py_ssize_t row  # n_embd, 3 * n_embd, 4 * n_embd and vocab_size in whole vectors
    Py_ssize_t qkv_row
    Py_ssize_t mlp_row
    Py_ssize_t vocab_row


cdef enum:  # the matrices' numbers; those of layer i are PER_LAYER * i more
    WTE
    WPE
    LM_HEAD
    ATTN_WQKV  # attn_wq, attn_wk and attn_wv, which follow each other
    ATTN_WO
    MLP_FC1
    MLP_FC2
    PER_LAYER = 4


cdef struct Shape:
    Py_ssize_t start  # of its weights among all
    Py_ssize_t n_out
    Py_ssize_t n_in


cdef inline Py_ssize_t matrix_count(const Sizes *net) noexcept nogil:
    """Return the number of matrices."""
    return ATTN_WQKV + PER_LAYER * net.n_layer


@cython.cdivision(True)
cdef inline Shape shape_of(const Sizes *net, Py_ssize_t i) noexcept nogil:
    """Return where matrix i lies, and its rows and columns."""
    cdef Py_ssize_t n = net.n_embd
    cdef Shape shape
    shape.start = 0
    shape.n_out = net.vocab_size
    shape.n_in = n
    if i == WTE:
        return shape
    shape.start += net.vocab_size * n
    if i == WPE:
        shape.n_out = net.block_size
        return shape
    shape.start += net.block_size * n
    if i == LM_HEAD:
        return shape
    shape.start += net.vocab_size * n + (i - ATTN_WQKV) // PER_LAYER * 12 * n * n
    i = ATTN_WQKV + (i - ATTN_WQKV) % PER_LAYER
    shape.n_out = 3 * n
    if i == ATTN_WQKV:
        return shape
    shape.start += 3 * n * n
    shape.n_out = n
    if i == ATTN_WO:
        return shape
    shape.start += n * n
    if i == MLP_FC1:
        shape.n_out = 4 * n
    else:
        shape.start += 4 * n * n
        shape.n_in = 4 * n
    return shape
