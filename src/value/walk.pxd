"""The walk over a graph, and the chain rule along it.

`walk` lists the nodes that a value depends on, in the order in which a depth-first walk
finishes them; a stack of its own takes the place of recursion. `play` goes through that list
from the end and adds each node's terms to the gradients of its children.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.math cimport fabs
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from node cimport (
    BOXED, CALLS, CONSTANT, GRAD_INT, LATE, PLAYED, STALE, Node, Term, Terms, children_of,
    ints_of_two, is_int_slope, set_grad, slopes_of,
)
from rules cimport (
    CUSTOM, DATA_INT, EXP, FIRST_INT, FOR_RUN, LEAF, LOGISTIC, MUL, NEG_MAX, POW, RAISES_SLOPE,
    SECOND_INT, SUM, apply_unary, is_unary, product_fits, sum_fits, unlikely,
)
from sums cimport expand_sum, raise_stale, term_ints, term_of


cdef struct Entry:
    # A node; of a sum, the terms from start to stop.
    Node *node
    uint32_t start
    uint32_t stop


cdef struct Frame:
    # A node that is not finished, which of its children comes next (ALL: none), and the
    # first of its terms that has no entry yet.
    Node *node
    uint32_t next
    uint32_t start


cdef struct Walk:
    Entry *entries
    Py_ssize_t n
    Py_ssize_t capacity
    Frame *frames
    Py_ssize_t max_depth
    bint calls  # whether a node has a function to be called


cdef enum:
    MAX_SCRATCH = 1 << 18  # entries; beyond, a walk returns its memory when done
    ALL = 0xffffffff


cdef enum Purpose:
    FOR_BACKWARD, FOR_TAPE, FOR_REPLAY


cdef enum Walked:
    NO_MEMORY, FOUND_STALE, DONE


cdef extern from *:
    """
    /* `place`, `n` and `flags` of a node, read at once. */
    typedef struct { uint32_t place; uint8_t op; uint8_t n; uint16_t flags; } Header;
    static INLINED uint64_t header_of(const Node *node) {
        uint64_t bits;
        memcpy(&bits, (const char *)node + offsetof(Node, place), sizeof(bits));
        return bits;
    }
    static INLINED uint64_t header_mask(uint32_t place, uint8_t n, uint16_t flags) {
        Header header = {place, 0, n, flags};
        uint64_t bits;
        memcpy(&bits, &header, sizeof(bits));
        return bits;
    }

    /* Return a child that the walk has not reached, else NULL; seen collects their headers. */
    static INLINED Node *if_new(Node *child, uint64_t mask, uint64_t skipped, uint64_t *seen) {
        uint64_t header = header_of(child);
        if (header & header_mask(0xffffffff, 0, 0) || (header & mask) == skipped) return NULL;
        *seen |= header;
        return child;
    }
    """
    uint64_t header_of(Node *) noexcept
    uint64_t header_mask(uint32_t place, uint8_t n, uint16_t flags) noexcept
    Node *if_new(Node *, uint64_t mask, uint64_t skipped, uint64_t *seen) noexcept


cdef inline Walked walk(Node *root, Walk *w, const Purpose purpose) noexcept:
    """Write the nodes that root depends on, in the order in which they are finished.

    For a tape, sums are expanded and leaves included. For one backward, leaves, which
    pass nothing on, are left out, and a sum is cut into segments where one of its
    terms is the first to reach a node: the part before it, the nodes below, the
    rest. For replay, constants are included, a NEG_MAX after the values it depends on.
    Leaves a mark in `place` of every node written, which `play` or `unmark` clears;
    no mark if there is no memory or a node is stale.
    """
    cdef Node *child
    cdef Node *node = root
    cdef Node **children
    cdef Term *term
    cdef Entry *entry = w.entries
    cdef Frame *frame = w.frames
    cdef Py_ssize_t n
    cdef uint32_t next = 0, start = 0, stop  # of the node; see Frame
    cdef uint64_t seen = header_of(root), skipped = 0
    # A leaf is skipped unless one of these flags is set.
    cdef uint64_t mask = header_mask(0, 255, STALE | BOXED | CALLS)
    if purpose == FOR_REPLAY:
        mask |= header_mask(0, 0, CONSTANT)
    elif purpose == FOR_TAPE:
        mask = 0
        skipped = 1  # none
    root.place = 1
    while True:
        stop = 0
        child = NULL
        if node.n == 2:
            if next == 0:
                next = 1
                child = if_new(node.child[0], mask, skipped, &seen)
            if child is NULL:
                next = ALL
                child = if_new(node.child[1], mask, skipped, &seen)
        elif node.n == 1:
            next = ALL
            child = if_new(node.child[0], mask, skipped, &seen)
        elif node.op != SUM:
            children = children_of(node, &n)
            if node.op == NEG_MAX and purpose == FOR_REPLAY:
                n = node.block.n_children
                children = node.block.children
            while child is NULL and next < n:
                child = if_new(children[next], mask, skipped, &seen)
                next += 1
        elif purpose != FOR_BACKWARD or node.flags & PLAYED:
            # A sum can be played once; the next time it is expanded.
            if not expand_sum(node):
                return fail(w, entry, frame, node, NO_MEMORY)
            continue
        else:
            term = term_of(node.terms)
            stop = node.terms.n
            while child is NULL and next < 2 * stop:
                child = term[next >> 1].b if next & 1 else term[next >> 1].a
                if child is not NULL:
                    child = if_new(child, mask, skipped, &seen)
                next += 1
            if child is not NULL:
                stop = (next - 1) >> 1
                if stop > start:
                    if entry == w.entries + w.capacity and not more_entries(w, &entry):
                        return fail(w, entry, frame, node, NO_MEMORY)
                    entry[0] = Entry(node, start, stop)
                    entry += 1
                    start = stop
        if child is not NULL:
            if frame == w.frames + w.max_depth and not more_frames(w, &frame):
                return fail(w, entry, frame, node, NO_MEMORY)
            frame[0] = Frame(node, next, start)
            frame += 1
            node = child
            node.place = 1
            next = start = 0
            continue
        while True:  # the node is finished; and all above it of which this was the last child
            if entry == w.entries + w.capacity and not more_entries(w, &entry):
                return fail(w, entry, frame, node, NO_MEMORY)
            entry[0] = Entry(node, start, stop)
            entry += 1
            if frame == w.frames:
                if unlikely(seen & header_mask(0, 0, STALE | BOXED)):
                    return fail(w, entry, frame, node, FOUND_STALE)
                w.n = entry - w.entries
                w.calls = seen & header_mask(0, 0, CALLS) != 0
                return DONE
            frame -= 1
            node = frame.node
            next = frame.next
            start = frame.start
            stop = 0
            if next != ALL:
                break


cdef inline bint more_entries(Walk *w, Entry **entry) noexcept:
    cdef Py_ssize_t n = entry[0] - w.entries
    cdef bint done = grow(<void **>&w.entries, &w.capacity, sizeof(Entry))
    entry[0] = w.entries + n
    return done


cdef inline bint more_frames(Walk *w, Frame **frame) noexcept:
    cdef Py_ssize_t depth = frame[0] - w.frames
    cdef bint done = grow(<void **>&w.frames, &w.max_depth, sizeof(Frame))
    frame[0] = w.frames + depth
    return done


cdef inline Walked fail(Walk *w, Entry *entry, Frame *frame, Node *node, Walked why) noexcept:
    w.n = entry - w.entries
    unmark(w, frame - w.frames)
    node.place = 0
    trim(w)
    return why


cdef inline int raise_unwalked(Walked why, Py_ssize_t n) except -1:
    if why == FOUND_STALE:
        raise_stale()
    raise MemoryError(f"no memory for a tape of more than {n} nodes")


cdef inline bint grow(void **array, Py_ssize_t *capacity, size_t size) noexcept:
    """Double an array; False, with the array as it was, if there is no memory."""
    cdef Py_ssize_t larger = 2 * capacity[0] if capacity[0] else 256
    cdef void *moved = PyMem_Realloc(array[0], larger * size)
    if moved is NULL:
        return False
    array[0] = moved
    capacity[0] = larger
    return True


cdef inline void trim(Walk *w) noexcept:
    if w.capacity > MAX_SCRATCH:
        PyMem_Free(w.entries)
        w.entries = NULL
        w.capacity = 0
    if w.max_depth > MAX_SCRATCH:
        PyMem_Free(w.frames)
        w.frames = NULL
        w.max_depth = 0


cdef inline void unmark(Walk *w, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t i
    for i in range(w.n):
        w.entries[i].node.place = 0
    for i in range(depth):
        w.frames[i].node.place = 0


# --------------------------------------------------------------------- the chain rule

cdef inline void add_to_grad(Node *node, double term) noexcept nogil:
    """Add a float, which makes the gradient a float."""
    node.grad = node.grad + term
    node.flags = node.flags & ~<uint16_t>GRAD_INT


cdef inline void add_int_part(Node *node, double slope, bint is_int, double grad) noexcept nogil:
    """Add slope times an int gradient: an int if all three are, up to 2**53."""
    cdef double term = slope * grad
    if not (is_int and product_fits(term, slope, grad)):
        add_to_grad(node, term)
        return
    term += 0.0  # no int is -0.0
    if node.flags & GRAD_INT and sum_fits(node.grad + term, node.grad, term):
        node.grad = node.grad + term
    else:
        add_to_grad(node, term)


cdef inline void play(Entry *entries, Py_ssize_t n) noexcept:
    """Apply the chain rule along a walk, last entry first, and clear the marks that it has left.

    Order:   entries n-1 to 0; within a node, children left to right; within a
             sum, terms last to first
    Writes:  grad of the last node, as 1. Adds to: grad of all other nodes
    """
    cdef Py_ssize_t i
    set_grad(entries[n - 1].node, 1.0, True)
    for i in range(n - 1, -1, -1):
        entries[i].node.place = 0
        play_entry(entries[i].node, entries[i].start, entries[i].stop)


cdef inline bint play_entry(Node *node, uint32_t start, uint32_t stop) noexcept:
    """Apply the chain rule to a node.

    For `run` False, with nothing done, where a late local gradient raises, or an int may get
    beyond 2**53.
    """
    cdef double grad = node.grad
    if unlikely(node.flags & (GRAD_INT | LATE if FOR_RUN else GRAD_INT)):
        if FOR_RUN and node.flags & LATE and node.op != LEAF:
            if node.op == CUSTOM:
                return True  # it has none
            if not late_slopes(node):
                return False
        if node.flags & GRAD_INT:
            if FOR_RUN and not ints_are_small(node):
                return False
            play_int(node, start, stop)
            return True
    if node.n == 2:
        add_to_grad(node.child[0], node.slope[0] * grad)
        add_to_grad(node.child[1], node.slope[1] * grad)
    elif node.n == 1:
        add_to_grad(node.child[0], node.slope[0] * grad)
    elif node.op == SUM:
        play_terms(node, start, stop)
    else:
        play_block(node)
    return True


cdef inline bint is_small(Node *child, double slope, bint is_int, double grad) noexcept:
    return not is_int or fabs(slope * grad) < 1LL << 40 and fabs(child.grad) < 1LL << 40


cdef inline bint ints_are_small(Node *node) noexcept:
    """Return whether no gradient that a node with an int adds to gets near 2**53."""
    cdef double *slopes
    cdef Node **children
    cdef Term *term
    cdef uint16_t ints
    cdef Py_ssize_t j, n, n_slopes
    cdef bint small = True
    if node.op == SUM:
        for j in range(node.terms.n):
            term = term_of(node.terms) + j
            ints = late_ints(term) if is_late(node.terms) else term_ints(node.terms, j)
            if term.b is NULL:
                small &= is_small(term.a, 1.0, True, node.grad)
            else:
                small &= is_small(term.a, slope_a(node.terms, term), ints & FIRST_INT, node.grad)
                small &= is_small(term.b, slope_b(node.terms, term), ints & SECOND_INT, node.grad)
        return small
    children = children_of(node, &n)
    slopes = slopes_of(node, &n_slopes)
    for j in range(min(n, n_slopes)):
        small &= is_small(children[j], slopes[j], is_int_slope(node, j), node.grad)
    return small


cdef inline void play_block(Node *node) noexcept:
    cdef Py_ssize_t j, n_children, n_grads
    cdef Node **children = children_of(node, &n_children)
    cdef double *slopes = slopes_of(node, &n_grads)
    for j in range(min(n_children, n_grads)):
        add_to_grad(children[j], slopes[j] * node.grad)


cdef inline void play_terms(Node *node, Py_ssize_t start, Py_ssize_t stop) noexcept:
    """Apply the chain rule to the terms of a sum from stop-1 down to start.

    Order:   per term a, then b. Every node inside has the gradient 0 + grad.
    """
    cdef Terms *terms = node.terms
    cdef Term *term = term_of(terms)
    cdef double grad = 0.0 + node.grad
    cdef Py_ssize_t k
    terms.inner_grad = grad
    terms.inner_int = False
    node.flags |= PLAYED
    for k in range(stop - 1, start - 1, -1):
        add_float_term(terms, term + k, grad)


cdef inline void play_int(Node *node, Py_ssize_t start, Py_ssize_t stop) noexcept:
    """Apply the chain rule to a node whose gradient is an int."""
    cdef Py_ssize_t j, n_children, n_grads
    cdef Node **children
    cdef double *slopes
    cdef Terms *terms
    cdef Term *term
    cdef double grad = node.grad
    cdef uint16_t ints
    if node.op != SUM:
        children = children_of(node, &n_children)
        slopes = slopes_of(node, &n_grads)
        for j in range(min(n_children, n_grads)):
            add_int_part(children[j], slopes[j], is_int_slope(node, j), grad)
        return
    terms = node.terms
    term = term_of(terms)
    terms.inner_grad = grad
    terms.inner_int = terms.adds_ints and terms.fresh & GRAD_INT
    node.flags |= PLAYED
    for j in range(stop - 1, start - 1, -1):
        ints = late_ints(term + j) if is_late(terms) else term_ints(terms, j)
        if j == terms.n - 1 and term[j].b is NULL and terms.adds_ints:
            add_int_part(term[j].a, 1.0, True, grad)  # a child of the root itself
        elif not terms.inner_int:
            add_float_term(terms, term + j, grad)
        elif term[j].b is NULL:
            add_int_part(term[j].a, 1.0, True, grad)
        else:
            add_int_part(term[j].a, slope_a(terms, term + j), ints & FIRST_INT, grad)
            add_int_part(term[j].b, slope_b(terms, term + j), ints & SECOND_INT, grad)


cdef inline bint is_late(Terms *terms) noexcept:
    return FOR_RUN and terms.fresh & LATE  # a Value's class that is late has no sums


cdef inline double slope_a(Terms *terms, Term *term) noexcept:
    return term.b.data if is_late(terms) else term.slope_a


cdef inline double slope_b(Terms *terms, Term *term) noexcept:
    return term.a.data if is_late(terms) else term.slope_b


cdef inline uint16_t late_ints(Term *term) noexcept:
    return <uint16_t>ints_of_two(term.b, term.a) if term.b is not NULL else 0


cdef inline void add_float_term(Terms *terms, Term *term, double grad) noexcept:
    if term.b is NULL:
        add_to_grad(term.a, grad)
    else:
        add_to_grad(term.a, slope_a(terms, term) * grad)
        add_to_grad(term.b, slope_b(terms, term) * grad)


cdef inline bint late_slopes(Node *node) noexcept:
    """Take a node's local gradients from the numbers as they are now; False if Python raises."""
    cdef Node *a = node.child[0]
    cdef Node *b
    cdef uint32_t ints
    cdef double y = node.data
    if node.op == MUL:
        b = node.child[1]
        node.slope[0] = b.data
        node.slope[1] = a.data
        ints = (FIRST_INT if b.flags & DATA_INT else 0) | (SECOND_INT if a.flags & DATA_INT else 0)
        node.flags = (node.flags & ~<uint16_t>(FIRST_INT | SECOND_INT)) | <uint16_t>ints
    elif is_unary(node.op):
        if FOR_RUN and node.op >= LOGISTIC:
            return True  # whose functions keep the number that they made
        ints = (FIRST_INT if a.flags & DATA_INT else 0)
        if node.op == POW:
            ints |= node.flags & SECOND_INT
        if apply_unary(node.op, &y, &node.slope[0], a.data, node.slope[1], &ints, True) & (
            RAISES_SLOPE
        ):
            return False
        if FOR_RUN and node.op == EXP:
            ints = FIRST_INT if node.flags & DATA_INT else 0
        if FOR_RUN and node.op == POW and not ints & FIRST_INT and node.slope[1] >= 1.0 and (
            a.flags & DATA_INT and node.flags & SECOND_INT
        ):
            return False  # beyond 2**53
        node.flags = (node.flags & ~<uint16_t>FIRST_INT) | <uint16_t>(ints & FIRST_INT)
    return True
