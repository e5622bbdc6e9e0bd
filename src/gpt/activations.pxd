"""The memory of a batch's activations, which the forward pass writes and the backward pass reads.

`Activations` of kernels.pxd lists them with their shapes. They lie one after the other in one
block of memory, the arena, which grows for a larger batch and is used again by later steps.
"""

cimport cython
from libc.stdlib cimport calloc, free, malloc

from attention cimport WIDE, head_scratch, map_size, panel_at
from generator cimport draw_number
from kernels cimport Activations, Layer
from layers cimport linear_scratch
from matmul cimport pack
from simd cimport PANEL, padded
from sparse cimport sparse_scratch
from weights cimport LM_HEAD, Shape, Sizes, matrix_count, shape_of
from zeros cimport free_zeros, zeros


cdef struct Arena:
    double *start
    Py_ssize_t used


cdef inline double *arena_take(Arena *arena, Py_ssize_t n) noexcept nogil:
    """Return the next n numbers of the arena, or NULL while only its size is computed."""
    arena.used += padded(n)
    return arena.start + arena.used - padded(n) if arena.start != NULL else NULL


cdef inline void take_each(
    Arena *arena, double **first, double **end, Py_ssize_t n
) noexcept nogil:
    """Point each pointer from first up to end to the next n numbers of the arena."""
    while first < end:
        first[0] = arena_take(arena, n)
        first += 1


cdef inline void assign_gradients(Activations *acts, Arena *arena, Py_ssize_t i) noexcept nogil:
    """Point the gradients of a layer's activations to their numbers in the arena."""
    cdef const Sizes *net = &acts.sizes
    cdef Layer *layer = &acts.layers[i]
    cdef const Layer *below = &acts.layers[i - 1]
    if i and acts.reuses:
        layer.dmid, layer.dqkv, layer.dhidden = below.dmid, below.dqkv, below.dhidden
        layer.dout, layer.dx = below.dx, below.dout
        layer.dattn, layer.dmlp = below.dattn, layer.dout
        if acts.dropout > 0.0:
            layer.dmlp = below.dmlp
        return
    take_each(arena, &layer.dmid, &layer.dqkv, acts.m * net.row)
    layer.dqkv = arena_take(arena, acts.m * net.qkv_row)
    layer.dhidden = arena_take(arena, acts.m * net.mlp_row)
    layer.dattn, layer.dmlp = layer.dmid, layer.dout
    if acts.dropout > 0.0:
        take_each(arena, &layer.dattn, &layer.dx, acts.m * net.row)
    layer.dx = below.dout if i else arena_take(arena, acts.m * net.row)


@cython.cdivision(True)
cdef inline void assign_buffers(Activations *acts, Arena *arena) noexcept nogil:
    """Point every activation of m positions to its numbers in the arena."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t m = acts.m
    cdef Py_ssize_t n = min(m, net.block_size)  # positions of a document, at most
    cdef Py_ssize_t maps = acts.maps[acts.n_documents]
    cdef Py_ssize_t i
    cdef Layer *layer
    take_each(arena, &acts.embedding, &acts.logits, m * net.row)
    take_each(arena, &acts.logits, &acts.mean, m * net.vocab_row)
    take_each(arena, &acts.mean, &acts.embedding_mask, m)
    for i in range(net.n_layer):
        layer = &acts.layers[i]
        take_each(arena, &layer.x, &layer.qkv, m * net.row)
        layer.qkv = arena_take(arena, m * net.qkv_row)
        layer.hidden = arena_take(arena, m * net.mlp_row)
        take_each(arena, &layer.mean1, &layer.totals, m)
        take_each(arena, &layer.totals, &layer.exps, m * net.n_head)
        layer.exps = arena_take(arena, maps)
        if acts.dropout > 0.0:
            layer.weights_mask = arena_take(arena, maps)
            take_each(arena, &layer.attn_mask, &layer.dmid, m * net.row)
        assign_gradients(acts, arena, i)
    if acts.dropout > 0.0:
        acts.embedding_mask = arena_take(arena, m * net.row)
    acts.scratch_size = max(
        linear_scratch(m, max(net.mlp_row, net.vocab_row), net.mlp_row),
        max(sparse_scratch(net.n_embd), head_scratch(n, net.n_embd // net.n_head)),
    )
    acts.scratches = arena_take(arena, acts.barrier.size * acts.scratch_size)
    arena_take(arena, PANEL)  # whole vectors may be read, not used, behind the last row


cdef inline bint begin_batch(
    Activations *acts, const Py_ssize_t *tokens, const Py_ssize_t *ends, Py_ssize_t n_documents
) noexcept nogil:
    """Set up the activations of a batch; return whether there was memory for them.

    The memory is kept from batch to batch, and grows only for a larger one.

    Shapes:  ends (n_documents + 1,), document d is tokens[ends[d]:ends[d + 1]]
    """
    cdef Arena arena
    cdef Py_ssize_t d, t, n, at
    cdef Py_ssize_t size = 2 * (n_documents + 1) + 3 * (ends[n_documents] - ends[0])
    if acts.layers == NULL:
        acts.layers = <Layer *>calloc(acts.sizes.n_layer, sizeof(Layer))
    if size > acts.ints_size:
        free(acts.ints)
        acts.ints = <Py_ssize_t *>calloc(size, sizeof(Py_ssize_t))
        acts.ints_size = size if acts.ints != NULL else 0
    if acts.layers == NULL or acts.ints == NULL:
        return False
    acts.n_documents = acts.batch = n_documents
    acts.starts = acts.ints
    acts.maps = acts.starts + n_documents + 1
    acts.starts[0] = 0
    acts.maps[0] = 0
    for d in range(n_documents):
        n = min(acts.sizes.block_size, ends[d + 1] - ends[d] - 1)
        acts.starts[d + 1] = acts.starts[d] + n
        acts.maps[d + 1] = acts.maps[d] + acts.sizes.n_head * map_size(n)
    acts.m = acts.starts[n_documents]
    acts.reuses = acts.m > acts.sizes.n_embd  # else the weights are more than the activations
    acts.tokens = acts.maps + n_documents + 1
    acts.targets = acts.tokens + acts.m
    acts.positions = acts.targets + acts.m
    for d in range(n_documents):
        at = acts.starts[d]
        for t in range(acts.starts[d + 1] - at):
            acts.tokens[at + t] = tokens[ends[d] + t]
            acts.targets[at + t] = tokens[ends[d] + t + 1]
            acts.positions[at + t] = t
    arena.start = NULL
    arena.used = 0
    assign_buffers(acts, &arena)
    if arena.used > acts.arena_size:
        free_zeros(acts.arena)
        acts.arena = <double *>zeros(arena.used * sizeof(double))
        acts.arena_size = arena.used if acts.arena != NULL else 0
    if acts.arena == NULL:
        return False
    arena.start = acts.arena
    arena.used = 0
    assign_buffers(acts, &arena)
    return True


cdef inline Py_ssize_t packed_start(const Sizes *net, Py_ssize_t i) noexcept nogil:
    """Return where matrix i begins in `acts.packed`, each padded by a panel of its widest."""
    return shape_of(net, i).start + i * 4 * net.n_embd * PANEL


cdef inline bint pack_weights(Activations *acts, const double *w) noexcept nogil:
    """Pack all matrices for passes of single positions; return whether there was memory."""
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t i, n = matrix_count(net)
    cdef Shape shape
    if acts.packed == NULL:
        acts.packed = <double *>malloc(packed_start(net, n) * sizeof(double))
    if acts.packed == NULL:
        return False
    for i in range(LM_HEAD, n):
        shape = shape_of(net, i)
        pack(
            acts.packed + packed_start(net, i), w + shape.start, shape.n_out, shape.n_in, PANEL,
            shape.n_in, 1, shape.n_in,
        )
    return True


cdef inline double *scratch_of(const Activations *acts, int thread) noexcept nogil:
    """Return the scratch memory of a thread."""
    return acts.scratches + thread * acts.scratch_size


@cython.cdivision(True)
cdef inline void draw_masks(Activations *acts) noexcept nogil:
    """Draw the masks of dropout.

    Order:   that of the oracle's computation: position after position the embedding, then
             per layer the attention weights, head by head, and both projections
    """
    cdef const Sizes *net = &acts.sizes
    cdef Py_ssize_t d, start, n, t, i, h, at, first
    cdef Layer *layer
    for d in range(acts.n_documents):
        start = acts.starts[d]
        n = acts.starts[d + 1] - start
        for t in range(n):
            at = (start + t) * net.row
            first = t // WIDE * WIDE
            draw_mask(acts, acts.embedding_mask + at, net.n_embd, 1)
            for i in range(net.n_layer):
                layer = &acts.layers[i]
                for h in range(net.n_head):
                    draw_mask(
                        acts,
                        layer.weights_mask + acts.maps[d] + h * map_size(n) + panel_at(first)
                        + t - first,
                        t + 1, padded(min(<Py_ssize_t>WIDE, n - first)),
                    )
                draw_mask(acts, layer.attn_mask + at, net.n_embd, 1)
                draw_mask(acts, layer.mlp_mask + at, net.n_embd, 1)


@cython.cdivision(True)
cdef inline void draw_mask(
    Activations *acts, double *mask, Py_ssize_t n, Py_ssize_t step
) noexcept nogil:
    cdef double scale = 1.0 / (1.0 - acts.dropout)
    cdef Py_ssize_t i
    for i in range(n):
        mask[i * step] = 0.0 if draw_number(acts.generator) < acts.dropout else scale
