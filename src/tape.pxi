# ------------------------------------------------------------------ the tape

cdef struct Entry:
    # A node; of a sum, the terms from start to stop.
    PyObject *node
    uint32_t start
    uint32_t stop


cdef struct Frame:
    # A node on the way down, which of its children comes next, and the first
    # of its terms that is not yet on the tape.
    PyObject *node
    Py_ssize_t next
    Py_ssize_t start


cdef struct Walk:
    Entry *entries
    Py_ssize_t n
    Py_ssize_t capacity
    Frame *frames
    Py_ssize_t depth
    Py_ssize_t max_depth
    PyObject *held  # a node that has to be shown first

cdef Walk scratch = Walk(NULL, 0, 0, NULL, 0, 0, NULL)

cdef enum:
    MAX_SCRATCH = 1 << 18  # entries; beyond, a walk returns its memory when done


cdef enum Purpose:
    FOR_BACKWARD, FOR_TAPE, FOR_REPLAY


cdef bint walk(PyObject *root, Walk *w, Purpose purpose) noexcept:
    """Do `walk_shown`, where a tape holds nodes after it has shown them."""
    w.held = NULL
    while not walk_shown(root, w, purpose):
        if w.held is NULL:
            return False
        show(holder_of(w.held))
        w.held = NULL
    return True


cdef bint walk_shown(PyObject *root, Walk *w, Purpose purpose) noexcept:
    """Write what root depends on, in the order in which the nodes are finished.

    For a tape, sums are expanded and leaves included. For one backward, leaves, which
    pass nothing on, are left out, and a sum is cut into segments where one of its
    terms is the first to reach a node: the part before it, the nodes below, the
    rest. For replay, constants are included, a LARGEST after the values it depends on.
    Leaves a mark in `place` of every node written, which `play` or `unmark` clears.

    Return False, with no mark left, if there is no memory, or a tape holds a node.
    """
    cdef PyObject *node = root
    cdef PyObject *child
    cdef PyObject **children
    cdef Term *term
    cdef Py_ssize_t i = 0, n, start = 0
    w.n = w.depth = 0
    if not enter(node, purpose):
        return fail(w, node)
    while True:
        child = NULL
        if (<Value>node).op == SUM:
            term = term_of(<Terms *>(<Value>node).child[0])
            n = (<Terms *>(<Value>node).child[0]).n
            while i < 2 * n:
                child = term[i >> 1].b if i & 1 else term[i >> 1].a
                i += 1
                if child is not NULL:
                    if (<Value>child).flags & HELD:
                        w.held = child
                        return fail(w, node)
                    if (<Value>child).n and not (<Value>child).place:
                        break
                    child = NULL
            if child is not NULL and (i - 1) >> 1 > start:
                if not emit(w, node, start, (i - 1) >> 1):
                    return fail(w, node)
                start = (i - 1) >> 1
        else:
            children = children_of(node, &n)
            if (<Value>node).op == LARGEST and purpose == FOR_REPLAY:
                n = (<Block *>(<Value>node).child[0]).n_children
                children = (<Block *>(<Value>node).child[0]).children
            while i < n:
                child = children[i]
                i += 1
                if (<Value>child).flags & HELD:
                    w.held = child
                    return fail(w, node)
                if not (<Value>child).place and (
                    (<Value>child).n
                    or purpose == FOR_TAPE
                    or purpose == FOR_REPLAY and (<Value>child).flags & CONSTANT
                ):
                    break
                child = NULL
            n = 0
        if child is not NULL:
            if w.depth == w.max_depth and not grow(
                <void **>&w.frames, &w.max_depth, sizeof(Frame)
            ):
                return fail(w, node)
            w.frames[w.depth] = Frame(node, i, start)
            w.depth += 1
            node = child
            i = start = 0
            if not enter(node, purpose):
                return fail(w, node)
        else:
            if not emit(w, node, start, n):
                return fail(w, node)
            if w.depth == 0:
                return True
            w.depth -= 1
            node = w.frames[w.depth].node
            i = w.frames[w.depth].next
            start = w.frames[w.depth].start


cdef inline bint enter(PyObject *node, Purpose purpose) noexcept:
    """Mark a node as reached. A sum can be played once; the next time it is its nodes."""
    (<Value>node).place = 1
    if (<Value>node).op == SUM and (
        purpose != FOR_BACKWARD or (<Value>node).flags & PLAYED
    ):
        return expand(node)
    return True


cdef inline bint emit(Walk *w, PyObject *node, Py_ssize_t start, Py_ssize_t stop) noexcept:
    if w.n == w.capacity and not grow(<void **>&w.entries, &w.capacity, sizeof(Entry)):
        return False
    w.entries[w.n] = Entry(node, <uint32_t>start, <uint32_t>stop)
    w.n += 1
    return True


cdef bint fail(Walk *w, PyObject *node) noexcept:
    unmark(w)
    (<Value>node).place = 0
    trim(w)
    return False


cdef bint grow(void **array, Py_ssize_t *capacity, size_t size) noexcept:
    """Double an array; False, with the array as it was, if there is no memory."""
    cdef Py_ssize_t larger = 2 * capacity[0] if capacity[0] else 256
    cdef void *moved = PyMem_Realloc(array[0], larger * size)
    if moved is NULL:
        return False
    array[0] = moved
    capacity[0] = larger
    return True


cdef void trim(Walk *w) noexcept:
    if w.capacity > MAX_SCRATCH:
        PyMem_Free(w.entries)
        w.entries = NULL
        w.capacity = 0
    if w.max_depth > MAX_SCRATCH:
        PyMem_Free(w.frames)
        w.frames = NULL
        w.max_depth = 0


cdef void unmark(Walk *w) noexcept:
    cdef Py_ssize_t i
    for i in range(w.n):
        (<Value>w.entries[i].node).place = 0
    for i in range(w.depth):
        (<Value>w.frames[i].node).place = 0


cdef void play(Entry *entries, Py_ssize_t n) noexcept:
    """Apply the chain rule along a walk, last entry first, and clear its marks.

    Order:   entries n-1 to 0; within a node, children left to right; within a
             sum, terms last to first
    Writes:  grad of the last node, as 1.0. Adds to: grad of all other nodes
    """
    cdef Py_ssize_t i, j, n_children, n_grads
    cdef PyObject *node
    cdef PyObject **children
    cdef double *local_grads
    cdef double grad
    (<Value>entries[n - 1].node).c_grad = 1.0
    for i in range(n - 1, -1, -1):
        node = entries[i].node
        (<Value>node).place = 0
        grad = (<Value>node).c_grad
        if (<Value>node).op == SUM:
            play_terms(node, entries[i].start, entries[i].stop)
        elif (<Value>node).n == 2:
            (<Value>(<Value>node).child[0]).c_grad += (<Value>node).local_grad[0] * grad
            (<Value>(<Value>node).child[1]).c_grad += (<Value>node).local_grad[1] * grad
        else:
            children = children_of(node, &n_children)
            local_grads = local_grads_of(node, &n_grads)
            for j in range(min(n_children, n_grads)):
                (<Value>children[j]).c_grad += local_grads[j] * grad


cdef class Tape:
    """Tape(loss, inputs=None)\n--\n\n\
The nodes a value depends on, in the order in which they are finished.

    With inputs, leaves whose numbers will change, the compiled engine's tape computes
    the graph again. The oracle keeps no operations: to it, that is a new graph.

    Shapes:  len(tape) is the number of distinct nodes, the value itself included
    Order:   depth-first post-order, children left to right; an explicit stack,
             so that depth is no limit
    Raises:  TypeError if loss or an input is not a `Value`; ValueError if an input
             is no leaf, or a node cannot be computed again: one made through the
             constructor, whose rule is unknown; NotImplementedError for inputs, here
    """

    cdef Entry *entries
    cdef Py_ssize_t n
    cdef Entry *computed
    cdef Py_ssize_t n_computed
    cdef tuple inputs
    cdef Program program
    cdef bint is_compiled
    cdef State state

    def __cinit__(self, loss, inputs=None):
        if not isinstance(loss, Value):
            raise TypeError(f"Tape takes a Value, not {type(loss).__name__}")
        cdef Py_ssize_t i
        reclaim(<PyObject *>loss)
        self.entries = own_walk(<PyObject *>loss, FOR_TAPE, &self.n)
        for i in range(self.n):
            Py_INCREF(self.entries[i].node)
        if inputs is None:
            return
        self.inputs = tuple(inputs)
        for value in self.inputs:
            if not isinstance(value, Value):
                raise TypeError(f"inputs must be Values, not {type(value).__name__}")
            if (<Value>value).n or (<Value>value).op == LARGEST:
                raise ValueError(f"an input must be a leaf: {value!r} has been computed")
        for i in range(self.n):
            if (<Value>self.entries[i].node).op == CUSTOM:
                raise ValueError(
                    f"{<object>self.entries[i].node!r} was made through the constructor, so its "
                    "rule is unknown and it cannot be computed again: make it an Operation"
                )
        self.computed = own_walk(<PyObject *>loss, FOR_REPLAY, &self.n_computed)

    def __dealloc__(self):
        cdef Py_ssize_t i
        show(self)
        for i in range(self.n):
            Py_DECREF(self.entries[i].node)
        PyMem_Free(self.entries)
        PyMem_Free(self.computed)

    def __len__(self):
        return self.n

    def forward(self, values=None):
        """Compute every node again from the leaves' numbers, and return the value's number.

        Shapes:  values, one number an input, written to the inputs first; None
                 leaves them as they are
        Writes:  data, _local_grads and grad (as 0.0) of all nodes but leaves
        Raises:  what the operations raise, as in a new graph; ValueError if there
                 are not as many values as inputs; TypeError without inputs
        """
        if self.inputs is None:
            raise TypeError("this tape has no inputs: make it as Tape(loss, inputs=[...])")
        if values is not None:
            numbers = [to_double(value) for value in values]
            if len(numbers) != len(self.inputs):
                raise ValueError(f"{len(numbers)} values for {len(self.inputs)} inputs")
            for value, number in zip(self.inputs, numbers):
                reclaim(<PyObject *>value)
                (<Value>value).c_data = number
        if has_program(self):
            return replay(self)
        return compute_nodes(self)

    def backward(self):
        """Play the tape in reverse: set the value's grad to 1.0, add into the others.

        Writes:  grad of the last node, as 1.0. Adds to: grad of all other nodes
        """
        play_back(self)

    def run(self, batch, threads=1):
        """Do `forward` and `backward` for every row of a batch, and return the losses.

        The gradients are those of one row after the other, for any number of threads.

        Shapes:  batch (rows, inputs), a buffer of doubles or rows of numbers; returns
                 (rows,), an array of doubles
        Writes:  as `forward` does for the last row. Adds to: grad of the leaves
        Raises:  as `forward`, at the first row that does; the rows before it are done
        """
        if self.inputs is None:
            raise TypeError("this tape has no inputs: make it as Tape(loss, inputs=[...])")
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads!r}")
        rows = rows_of(batch, len(self.inputs))
        n_rows = len(rows) // len(self.inputs) if self.inputs else len(batch)
        return run_rows(self, rows, n_rows, threads)


cdef Entry *own_walk(PyObject *root, Purpose purpose, Py_ssize_t *n) except NULL:
    """Return the entries of a walk, which the caller frees, and their number."""
    cdef Walk w = Walk(NULL, 0, 0, NULL, 0, 0, NULL)
    cdef bint walked = walk(root, &w, purpose)
    PyMem_Free(w.frames)
    if not walked:
        PyMem_Free(w.entries)
        raise MemoryError(f"no memory for a tape of more than {w.n} nodes")
    w.depth = 0
    unmark(&w)
    n[0] = w.n
    return w.entries
