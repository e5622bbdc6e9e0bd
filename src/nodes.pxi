# ------------------------------------------------- children and local gradients

cdef inline PyObject **children_of(PyObject *node, Py_ssize_t *n) noexcept:
    cdef Block *block
    if (<Value>node).n == IN_BLOCK:
        block = <Block *>(<Value>node).child[0]
        n[0] = block.n_children
        return block.children
    n[0] = (<Value>node).n
    return (<Value>node).child


cdef inline double *local_grads_of(PyObject *node, Py_ssize_t *n) noexcept:
    cdef Block *block
    if (<Value>node).n == IN_BLOCK:
        block = <Block *>(<Value>node).child[0]
        n[0] = block.n_grads
        return block.local_grads
    n[0] = (<Value>node).n
    return (<Value>node).local_grad


cdef Block *new_block(Py_ssize_t n, Py_ssize_t m) except NULL:
    """Return a block for n children, not yet written, and m local gradients."""
    cdef Block *block = <Block *>PyMem_Malloc(
        sizeof(Block) + n * sizeof(PyObject *) + m * sizeof(double)
    )
    if block is NULL:
        raise MemoryError(f"no memory for a node of {n} children")
    block.n_children = n
    block.n_grads = m
    block.children = <PyObject **>(block + 1)
    block.local_grads = <double *>(block.children + n)
    block.operation = NULL
    block.shared = 0
    block.slot = NONE
    return block


cdef int adopt(Value self, tuple children, tuple local_grads, bint in_block=False) except -1:
    """Give a node that has no children these."""
    cdef Py_ssize_t i, n = len(children), m = len(local_grads)
    cdef Block *block
    cdef PyObject **nodes = self.child
    cdef double *grads = self.local_grad
    cdef uint8_t kept = <uint8_t>n
    if n != m or n > 2 or in_block:
        kept = IN_BLOCK
        block = new_block(n, m)
        nodes = block.children
        grads = block.local_grads
        self.child[0] = <PyObject *>block
    for i in range(n):
        nodes[i] = <PyObject *>children[i]
        Py_INCREF(nodes[i])
    for i in range(m):
        grads[i] = local_grads[i]
    self.op = CUSTOM if n or m else LEAF
    self.n = kept
    return 0


cdef void release_block(Block *block) noexcept:
    cdef Py_ssize_t i
    if block.shared:
        block.shared -= 1
        return
    for i in range(block.n_children):
        Py_DECREF(block.children[i])
    Py_XDECREF(block.operation)
    PyMem_Free(block)


cdef void release_children(PyObject *node) noexcept:
    """Drop a node's children. May run other deallocators, and so any Python code."""
    cdef PyObject *first = (<Value>node).child[0]
    cdef PyObject *second = (<Value>node).child[1]
    cdef uint8_t n = (<Value>node).n, op = (<Value>node).op
    (<Value>node).n = 0
    (<Value>node).op = LEAF
    if op == SUM:
        release_terms(<Terms *>first, (<Value>node).flags & PLAYED)
    elif op == LARGEST:
        release_block(<Block *>first)
    elif n == IN_BLOCK:
        release_block(<Block *>first)
    elif n > 0:
        Py_DECREF(first)
        if n > 1:
            Py_DECREF(second)


# ------------------------------------------------------ birth and death of nodes

cdef enum:
    # Nodes kept for reuse. Not more: each graph shuffles them a little, and after twenty
    # they lie so far apart that a step takes three times as long. Python's pools do not.
    MAX_FREE = 1 << 8

cdef PyObject *free_nodes[MAX_FREE]
cdef Py_ssize_t n_free = 0
cdef Py_ssize_t n_held = 0  # nodes that have memory, the free ones among them
cdef PyObject *dying = NULL
cdef bint draining = False


cdef inline PyObject *take_node(Op op, uint8_t n) noexcept:
    """Return a new reference to a node with data and n children not set; NULL if no memory.

    Runs no Python code and raises nothing, so that it serves in the middle of a walk.
    """
    global n_free, n_held
    cdef PyObject *node
    if n_free > 0:
        n_free -= 1
        node = free_nodes[n_free]
    else:
        node = <PyObject *>PyObject_Malloc((<TypeSlots *>Value).tp_basicsize)
        if node is NULL:
            return NULL
        n_held += 1
    (<Value>node).c_grad = 0.0
    (<Value>node).place = 0
    (<Value>node).op = op
    (<Value>node).n = n
    (<Value>node).flags = 0
    return begin_life(node, <PyTypeObject *>Value)


cdef int raise_no_node() except -1:
    raise MemoryError("no memory for a node")


cdef inline Value new_node():
    cdef PyObject *node = take_node(LEAF, 0)
    if unlikely(node is NULL):
        raise_no_node()
    return OWNED_NODE(node)


cdef inline PyObject *pointer_in(double *slot) noexcept:
    """Return the pointer kept in a double that is not in use."""
    cdef PyObject *pointer
    memcpy(&pointer, slot, sizeof(pointer))
    return pointer


cdef inline void keep_pointer(double *slot, void *pointer) noexcept:
    memcpy(slot, &pointer, sizeof(pointer))


cdef void dealloc(PyObject *self) noexcept:
    """Free a node and all that dies with it, without recursion.

    Nodes that die while others are being freed only join the list; so no chain,
    of whatever classes, is too long. `next` is the list, and `dying` wherever
    other deallocators may run.
    """
    global dying, draining
    cdef PyObject *node
    cdef PyObject *next
    cdef uint8_t n
    if (<Value>self).flags & ABSORBED:
        leave_sum(self)
        free_node(self)
        return
    # subtype_dealloc drops its reference to the class before the node is freed.
    if Py_TYPE(self) != <PyTypeObject *>Value:
        Py_INCREF(<PyObject *>Py_TYPE(self))
    if draining:
        dying = put_before(dying, self)
        return
    draining = True
    next = put_before(NULL, self)
    while next is not NULL:
        node = next
        next = pointer_in(&(<Value>node).c_data)
        n = (<Value>node).n
        if n == 2:
            next = let_go((<Value>node).child[0], next)
            next = let_go((<Value>node).child[1], next)
        elif n == 1:
            next = let_go((<Value>node).child[0], next)
        elif n or (<Value>node).op == LARGEST:
            dying = next
            release_children(node)
            next = dying
        if Py_TYPE(node) == <PyTypeObject *>Value:
            free_node(node)
        else:
            dying = next
            free_node(node)
            next = dying
    draining = False


cdef inline PyObject *put_before(PyObject *next, PyObject *node) noexcept:
    """Put a node on the list: the dying have no use for their number. Return the first."""
    keep_pointer(&(<Value>node).c_data, next)
    return node


cdef inline PyObject *let_go(PyObject *child, PyObject *next) noexcept:
    """Drop a dying node's child; with its last reference it joins the list. Return the first."""
    global dying
    if Py_REFCNT(child) > 1:
        Py_DECREF(child)
        return next
    if Py_TYPE(child) == <PyTypeObject *>Value and not IS_COUNTED:
        return put_before(next, child)
    dying = next
    Py_DECREF(child)
    return dying


cdef inline bint is_plain_sized(PyTypeObject *kind) noexcept:
    """Return whether objects of a class have room for a node and nothing more."""
    return (<TypeSlots *>kind).tp_basicsize == (<TypeSlots *>Value).tp_basicsize and not (
        (<TypeSlots *>kind).tp_flags & Py_TPFLAGS_HAVE_GC
    )


cdef inline void free_node(PyObject *node) noexcept:
    """Keep a node for reuse, whatever its class, if it has nothing more than a `Value`."""
    global n_free, n_held
    cdef PyTypeObject *kind = Py_TYPE(node)
    if n_free < MAX_FREE and (kind == <PyTypeObject *>Value or is_plain_sized(kind)):
        free_nodes[n_free] = node
        n_free += 1
    else:
        n_held -= 1
        (<TypeSlots *>kind).tp_free(node)
    if kind != <PyTypeObject *>Value:
        Py_DECREF(<PyObject *>kind)


def _live():
    """Return how many nodes there are; for tests, since the garbage collector knows none."""
    return n_held - n_free


cdef PyObject *call_value(
    PyObject *kind, PyObject *const *args, size_t nargsf, PyObject *names
) except NULL:
    """Make `Value(number)` at once; all other calls take Python's way through `__init__`."""
    cdef Py_ssize_t i, n = PyVectorcall_NARGS(nargsf)
    cdef Value node
    if n == 1 and names is NULL:
        node = new_leaf(to_double(<object>args[0]))
        Py_INCREF(<PyObject *>node)
        return <PyObject *>node
    cdef tuple positional = tuple([<object>args[i] for i in range(n)])
    cdef dict named = {}
    if names is not NULL:
        for i, name in enumerate(<tuple>names):
            named[name] = <object>args[n + i]
    return (<TypeSlots *>type).tp_call(kind, <PyObject *>positional, <PyObject *>named)


(<TypeSlots *>Value).tp_dealloc = dealloc
(<TypeSlots *>Value).tp_vectorcall = call_value
PyType_Modified(<PyTypeObject *>Value)
