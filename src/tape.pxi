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
    uint32_t next
    uint32_t start


cdef struct Walk:
    Entry *entries
    Py_ssize_t n
    Py_ssize_t capacity
    Frame *frames
    Py_ssize_t max_depth

cdef Walk scratch = Walk(NULL, 0, 0, NULL, 0)

cdef enum:
    MAX_SCRATCH = 1 << 18  # entries; beyond, a walk returns its memory when done


cdef enum Purpose:
    FOR_BACKWARD, FOR_TAPE, FOR_REPLAY


cdef bint walk(PyObject *root, Walk *w, Purpose purpose) noexcept:
    """Write what root depends on, in the order in which the nodes are finished.

    For a tape, sums are expanded and leaves included. For one backward, leaves, which
    pass nothing on, are left out, and a sum is cut into segments where one of its
    terms is the first to reach a node: the part before it, the nodes below, the
    rest. For replay, constants are included, a LARGEST after the values it depends on.
    Leaves a mark in `place` of every node written, which `play` or `unmark` clears.

    Nodes that a tape holds are shown on the way.

    Return False, with no mark left, if there is no memory.
    """
    cdef PyObject *child
    cdef PyObject **children
    cdef Term *term
    cdef Frame frame = Frame(root, 0, 0)
    cdef Py_ssize_t n, depth = 0, n_entries = 0
    cdef uint32_t stop
    (<Value>root).place = 1
    while True:
        n = (<Value>frame.node).n
        stop = 0
        child = NULL
        if n == 2 or n == 1:
            if frame.next == 0:
                frame.next = 1
                child = if_new((<Value>frame.node).child[0], purpose)
            if child is NULL and frame.next < n:
                frame.next = 2
                child = if_new((<Value>frame.node).child[1], purpose)
        elif (<Value>frame.node).op != SUM:
            children = children_of(frame.node, &n)
            if (<Value>frame.node).op == LARGEST and purpose == FOR_REPLAY:
                n = (<Block *>(<Value>frame.node).child[0]).n_children
                children = (<Block *>(<Value>frame.node).child[0]).children
            while child is NULL and frame.next < n:
                child = if_new(children[frame.next], purpose)
                frame.next += 1
        elif purpose != FOR_BACKWARD or (<Value>frame.node).flags & PLAYED:
            # A sum can be played once; the next time it is its nodes.
            if not expand(frame.node):
                return fail(w, n_entries, depth, frame.node)
            continue
        else:
            term = term_of(<Terms *>(<Value>frame.node).child[0])
            stop = (<Terms *>(<Value>frame.node).child[0]).n
            while child is NULL and frame.next < 2 * stop:
                child = term[frame.next >> 1].b if frame.next & 1 else term[frame.next >> 1].a
                if child is not NULL:
                    child = if_new(child, purpose)
                frame.next += 1
            if child is not NULL:
                stop = (frame.next - 1) >> 1
                if stop > frame.start:
                    if not emit(w, &n_entries, frame.node, frame.start, stop):
                        return fail(w, n_entries, depth, frame.node)
                    frame.start = stop
        if child is not NULL:
            if depth == w.max_depth and not grow(
                <void **>&w.frames, &w.max_depth, sizeof(Frame)
            ):
                return fail(w, n_entries, depth, frame.node)
            w.frames[depth] = frame
            depth += 1
            frame = Frame(child, 0, 0)
            (<Value>child).place = 1
        else:
            if not emit(w, &n_entries, frame.node, frame.start, stop):
                return fail(w, n_entries, depth, frame.node)
            if depth == 0:
                w.n = n_entries
                return True
            depth -= 1
            frame = w.frames[depth]


cdef inline PyObject *if_new(PyObject *child, Purpose purpose) noexcept:
    """Return a child that is still to be reached, else NULL."""
    if (<Value>child).place:
        return NULL
    if (<Value>child).flags & HELD:
        show(holder_of(child))
    if (
        (<Value>child).n
        or purpose == FOR_TAPE
        or purpose == FOR_REPLAY and (<Value>child).flags & CONSTANT
    ):
        return child
    return NULL


cdef inline bint emit(
    Walk *w, Py_ssize_t *n, PyObject *node, uint32_t start, uint32_t stop
) noexcept:
    if n[0] == w.capacity and not grow(<void **>&w.entries, &w.capacity, sizeof(Entry)):
        return False
    w.entries[n[0]] = Entry(node, start, stop)
    n[0] += 1
    return True


cdef bint fail(Walk *w, Py_ssize_t n, Py_ssize_t depth, PyObject *node) noexcept:
    w.n = n
    unmark(w, depth)
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


cdef void unmark(Walk *w, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t i
    for i in range(w.n):
        (<Value>w.entries[i].node).place = 0
    for i in range(depth):
        (<Value>w.frames[i].node).place = 0


cdef void play(Entry *entries, Py_ssize_t n, bint marked) noexcept:
    """Apply the chain rule along a walk, last entry first, and clear its marks if it has left some.

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
        if marked:
            (<Value>node).place = 0
        grad = (<Value>node).c_grad
        if (<Value>node).n == 2:
            add_to_grad((<Value>node).child[0], (<Value>node).local_grad[0] * grad)
            add_to_grad((<Value>node).child[1], (<Value>node).local_grad[1] * grad)
        elif (<Value>node).n == 1:
            add_to_grad((<Value>node).child[0], (<Value>node).local_grad[0] * grad)
        elif (<Value>node).op == SUM:
            play_terms(node, entries[i].start, entries[i].stop)
        else:
            children = children_of(node, &n_children)
            local_grads = local_grads_of(node, &n_grads)
            for j in range(min(n_children, n_grads)):
                add_to_grad(children[j], local_grads[j] * grad)


cdef inline void add_to_grad(PyObject *node, double term) noexcept:
    # Not `+=`, for which Cython would hold the node meanwhile.
    (<Value>node).c_grad = (<Value>node).c_grad + term


@cython.no_gc_clear  # nodes that are held need the program until the end
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
    cdef State state

    def __cinit__(self, loss, inputs=None):
        if not isinstance(loss, Value):
            raise TypeError(f"Tape takes a Value, not {type(loss).__name__}")
        cdef Py_ssize_t i
        if inputs is not None:
            self.inputs = tuple(inputs)
            for value in self.inputs:
                if not isinstance(value, Value):
                    raise TypeError(f"inputs must be Values, not {type(value).__name__}")
                if (<Value>value).n or (<Value>value).op == LARGEST:
                    raise ValueError(f"an input must be a leaf: {value!r} has been computed")
            for value in self.inputs:
                reclaim(<PyObject *>value)
                (<Value>value).flags &= ~CONSTANT
        reclaim(<PyObject *>loss)
        self.entries = own_walk(<PyObject *>loss, FOR_TAPE, &self.n)
        if inputs is None:
            return
        for i in range(self.n):
            refuse_unknown(self.entries[i].node)
        self.computed = own_walk(<PyObject *>loss, FOR_REPLAY, &self.n_computed)
        self.program = compile_tape(self)

    def __dealloc__(self):
        cdef Py_ssize_t i
        show(self)
        for i in range(self.n):
            Py_DECREF(self.entries[i].node)
        for i in range(self.n_computed):
            Py_DECREF(self.computed[i].node)
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
            numbers = converted(values)
            if len(numbers) != len(self.inputs):
                raise ValueError(f"{len(numbers)} values for {len(self.inputs)} inputs")
            for value, number in zip(self.inputs, numbers):
                reclaim(<PyObject *>value)
                (<Value>value).c_data = number
        if self.program is not None:
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
        if not self.inputs:
            batch = list(batch)
        rows = rows_of(batch, len(self.inputs))
        n_rows = len(rows) // len(self.inputs) if self.inputs else len(batch)
        return run_rows(self, rows, n_rows, threads)


cdef Entry *own_walk(PyObject *root, Purpose purpose, Py_ssize_t *n) except NULL:
    """Return the entries of a walk and their number; both, and the nodes, are the caller's."""
    cdef Walk w = Walk(NULL, 0, 0, NULL, 0)
    cdef bint walked = walk(root, &w, purpose)
    cdef Py_ssize_t i
    PyMem_Free(w.frames)
    if not walked:
        PyMem_Free(w.entries)
        raise MemoryError(f"no memory for a tape of more than {w.n} nodes")
    unmark(&w, 0)
    for i in range(w.n):
        Py_INCREF(w.entries[i].node)
    n[0] = w.n
    return w.entries
