"""The compiled scalar engine: the oracle's `Value` and `Tape` as typed objects.

A node is 72 bytes: two doubles, up to two child pointers with their local
gradients, and its place on the tape during a walk. Nodes with another number
of children, which only the three-argument constructor makes, keep them in a
block of their own.

Operators take the fast path when every `Value` is exactly a `Value`. For a
subclass they evaluate the oracle's expression through Python's operators, so
that whatever the subclass overrides is called.

Nothing here recurses: the walk has an explicit stack, and nodes are freed from
a list of pending ones. No Python code runs between the start of a walk and the
end of its backward, so marks on nodes are never seen half done.
"""

from cpython.float cimport PyFloat_AsDouble, PyFloat_CheckExact, PyFloat_AS_DOUBLE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

from scalar cimport c_exp, c_log, c_pow

import copyreg

cdef extern from "Python.h":
    void Py_INCREF(PyObject *)
    void Py_DECREF(PyObject *)
    PyTypeObject *Py_TYPE(PyObject *)
    object PyObject_Init(PyObject *, PyTypeObject *)
    void PyType_Modified(PyTypeObject *)
    Py_ssize_t PyVectorcall_NARGS(size_t)
    bint PyLong_CheckExact(object)
    ctypedef PyObject *(*vectorcallfunc)(
        PyObject *, PyObject *const *, size_t, PyObject *
    ) except NULL
    ctypedef struct TypeSlots "PyTypeObject":
        Py_ssize_t tp_basicsize
        void (*tp_dealloc)(PyObject *) noexcept
        void (*tp_free)(void *) noexcept
        PyObject *(*tp_alloc)(PyTypeObject *, Py_ssize_t) except NULL
        PyObject *(*tp_call)(PyObject *, PyObject *, PyObject *) except NULL
        vectorcallfunc tp_vectorcall


cdef enum Op:
    LEAF, ADD, MUL, POW, LOG, EXP, RELU, CUSTOM


cdef enum:
    IN_BLOCK = 255


cdef struct Block:
    # The children and local gradients of a node that has no room for them.
    Py_ssize_t n_children
    Py_ssize_t n_grads
    PyObject **children
    double *local_grads


# ---------------------------------------------------------------- nodes

cdef class Value:
    """Value(data, children=(), local_grads=())\n--\n\nOne scalar node of a computation graph.

    Raises:  TypeError if data is not a number
    Source:  microgpt `Value`
    """

    cdef public double data
    cdef public double grad
    cdef PyObject *child[2]
    cdef double local_grad[2]
    cdef uint32_t place
    cdef uint8_t op
    cdef uint8_t n

    def __init__(self, data, children=(), local_grads=()):
        cdef double number = to_double(data)
        cdef tuple nodes = tuple(children)
        cdef tuple grads = tuple([to_double(grad) for grad in local_grads])
        for node in nodes:
            if not isinstance(node, Value):
                raise TypeError(f"children must be Values, not {type(node).__name__}")
        release_children(<PyObject *>self)
        self.data = number
        self.grad = 0.0
        adopt(self, nodes, grads)

    @property
    def _children(self):
        """Return the nodes that this one was computed from."""
        cdef Py_ssize_t n
        cdef PyObject **children = children_of(<PyObject *>self, &n)
        return tuple([<object>children[i] for i in range(n)])

    @property
    def _local_grads(self):
        """Return the derivative by each child, taken when the node was made."""
        cdef Py_ssize_t n
        cdef double *grads = local_grads_of(<PyObject *>self, &n)
        return tuple([grads[i] for i in range(n)])

    def __repr__(self):
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def __reduce__(self):
        attributes = getattr(self, "__dict__", None)
        state = (self.data, self.grad, self._children, self._local_grads, attributes)
        return copyreg.__newobj__, (type(self),), state

    def __setstate__(self, state):
        data, grad, children, local_grads, attributes = state
        Value.__init__(self, data, children, local_grads)
        self.grad = grad
        if attributes:
            self.__dict__.update(attributes)

    def __add__(left, right):
        if type(left) is Value and type(right) is Value:
            return add(<Value>left, <Value>right)
        if isinstance(left, Value):
            if reflected(left, right, "__radd__"):
                return right + left
            return add(<Value>left, operand(right))
        if type(right) is Value:
            return add(<Value>right, new_leaf(to_double(left)))
        return right + left

    def __mul__(left, right):
        if type(left) is Value and type(right) is Value:
            return mul(<Value>left, <Value>right)
        if isinstance(left, Value):
            if reflected(left, right, "__rmul__"):
                return right * left
            return mul(<Value>left, operand(right))
        if type(right) is Value:
            return mul(<Value>right, new_leaf(to_double(left)))
        return right * left

    def __sub__(left, right):
        if type(left) is Value:
            if type(right) is Value:
                return add(<Value>left, neg(<Value>right))
            if PyFloat_CheckExact(right):
                return add(<Value>left, new_leaf(-PyFloat_AS_DOUBLE(right)))
        elif type(right) is Value and PyFloat_CheckExact(left):
            return add(neg(<Value>right), new_leaf(PyFloat_AS_DOUBLE(left)))
        return left + (-right)

    def __truediv__(left, right):
        if type(left) is Value:
            if type(right) is Value:
                return mul(<Value>left, power(<Value>right, -1.0, -2.0))
            if PyFloat_CheckExact(right):
                return mul(<Value>left, new_leaf(c_pow(PyFloat_AS_DOUBLE(right), -1.0)))
        elif type(right) is Value and PyFloat_CheckExact(left):
            return mul(power(<Value>right, -1.0, -2.0), new_leaf(PyFloat_AS_DOUBLE(left)))
        return left * right**-1

    def __pow__(left, right, modulo):
        if not isinstance(left, Value) or modulo is not None:
            return NotImplemented
        if PyFloat_CheckExact(right):
            return power(<Value>left, PyFloat_AS_DOUBLE(right), PyFloat_AS_DOUBLE(right) - 1.0)
        if PyLong_CheckExact(right) and -MAX_EXACT_INT <= right <= MAX_EXACT_INT:
            return power(<Value>left, <double>right, <double>right - 1.0)
        return power_of_object(<Value>left, right)

    def __neg__(self):
        if type(self) is Value:
            return neg(self)
        return self * -1

    def log(self):
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        cdef double data = c_log(self.data)
        return new_unary(LOG, data, self, 1.0 / self.data)

    def exp(self):
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        cdef double data = c_exp(self.data)
        return new_unary(EXP, data, self, data)

    def relu(self):
        """Return the value itself where positive, else zero (for NaN too)."""
        cdef bint positive = self.data > 0.0
        return new_unary(RELU, self.data if positive else 0.0, self, 1.0 if positive else 0.0)

    def backward(self):
        """Add the derivative of this value by each node into that node's `grad`.

        Order:   depth-first post-order, children left to right, reversed
        Writes:  grad of this value, as 1.0. Adds to: grad of all it depends on
        """
        cdef Py_ssize_t n = walk(<PyObject *>self, &scratch)
        play(scratch.nodes, n)
        trim(&scratch)


cdef object MAX_EXACT_INT = 2**53


cdef inline double to_double(object x) except? -1.0:
    """Return x as a float, as `math` functions read a number."""
    if PyFloat_CheckExact(x):
        return PyFloat_AS_DOUBLE(x)
    return PyFloat_AsDouble(x)


cdef inline Value operand(object x):
    """Return x itself if it is a `Value`, else a leaf of that number."""
    if isinstance(x, Value):
        return <Value>x
    return new_leaf(to_double(x))


cdef inline bint reflected(object left, object right, str name):
    """Tell whether a subclass's own reflected operator has come here through `super()`.

    The slot is one for both directions; in the other one Python would not have
    asked left before right.
    """
    return (
        type(right) is not type(left)
        and isinstance(right, type(left))
        and getattr(type(right), name) is not getattr(Value, name)
    )


cdef inline Value new_leaf(double data):
    cdef Value node = new_node()
    node.data = data
    return node


cdef inline Value new_unary(Op op, double data, Value a, double grad_a):
    cdef Value node = new_node()
    node.op = op
    node.n = 1
    node.data = data
    node.local_grad[0] = grad_a
    Py_INCREF(<PyObject *>a)
    node.child[0] = <PyObject *>a
    return node


cdef inline Value new_binary(Op op, double data, Value a, Value b, double grad_a, double grad_b):
    cdef Value node = new_node()
    node.op = op
    node.n = 2
    node.data = data
    node.local_grad[0] = grad_a
    node.local_grad[1] = grad_b
    Py_INCREF(<PyObject *>a)
    node.child[0] = <PyObject *>a
    Py_INCREF(<PyObject *>b)
    node.child[1] = <PyObject *>b
    return node


cdef inline Value add(Value a, Value b):
    return new_binary(ADD, a.data + b.data, a, b, 1.0, 1.0)


cdef inline Value mul(Value a, Value b):
    return new_binary(MUL, a.data * b.data, a, b, b.data, a.data)


cdef inline Value neg(Value a):
    return mul(a, new_leaf(-1.0))


cdef inline Value power(Value a, double k, double k_minus_1):
    cdef double data = c_pow(a.data, k)
    cdef double grad_a = k * c_pow(a.data, k_minus_1)
    cdef Value node = new_unary(POW, data, a, grad_a)
    node.local_grad[1] = k
    return node


cdef Value power_of_object(Value a, object k):
    """Return a ** k for what is neither a float nor a moderate int: the oracle's own words."""
    x = a.data
    data = x**k
    if isinstance(data, complex):
        raise ValueError(f"{x} ** {k} is not a real number")
    cdef double number = to_double(data)
    return new_unary(CUSTOM, number, a, to_double(k * x**(k - 1)))


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


cdef int adopt(Value self, tuple children, tuple local_grads) except -1:
    """Give a node that has no children these."""
    cdef Py_ssize_t i, n = len(children), m = len(local_grads)
    cdef Block *block
    cdef PyObject **nodes = self.child
    cdef double *grads = self.local_grad
    cdef uint8_t kept = <uint8_t>n
    if n != m or n > 2:
        kept = IN_BLOCK
        block = <Block *>PyMem_Malloc(sizeof(Block) + n * sizeof(PyObject *) + m * sizeof(double))
        if block is NULL:
            raise MemoryError(f"no memory for a node of {n} children")
        block.n_children = n
        block.n_grads = m
        block.children = nodes = <PyObject **>(block + 1)
        block.local_grads = grads = <double *>(nodes + n)
        self.child[0] = <PyObject *>block
    for i in range(n):
        nodes[i] = <PyObject *>children[i]
        Py_INCREF(nodes[i])
    for i in range(m):
        grads[i] = local_grads[i]
    self.op = CUSTOM if n or m else LEAF
    self.n = kept
    return 0


cdef void release_children(PyObject *node) noexcept:
    """Drop a node's children. May run other deallocators, and so any Python code."""
    cdef Py_ssize_t i
    cdef PyObject *first = (<Value>node).child[0]
    cdef PyObject *second = (<Value>node).child[1]
    cdef Block *block
    cdef uint8_t kept = (<Value>node).n
    (<Value>node).n = 0
    (<Value>node).op = LEAF
    if kept == IN_BLOCK:
        block = <Block *>first
        for i in range(block.n_children):
            Py_DECREF(block.children[i])
        PyMem_Free(block)
        return
    if kept > 0:
        Py_DECREF(first)
    if kept > 1:
        Py_DECREF(second)


# ------------------------------------------------------ birth and death of nodes

cdef enum:
    MAX_FREE = 1 << 17  # nodes kept for reuse, 9 MiB: two steps of the default model

cdef PyObject *free_nodes = NULL
cdef Py_ssize_t n_free = 0
cdef PyObject *dying = NULL
cdef bint draining = False


cdef inline Value new_node():
    """Return a leaf, from the freed nodes where there are any. Its data is not set."""
    global free_nodes, n_free
    cdef PyObject *node = free_nodes
    if node is NULL:
        return Value.__new__(Value)
    free_nodes = (<Value>node).child[0]
    n_free -= 1
    (<Value>node).grad = 0.0
    (<Value>node).place = 0
    (<Value>node).op = LEAF
    (<Value>node).n = 0
    return <Value>PyObject_Init(node, <PyTypeObject *>Value)


cdef inline PyObject **next_dying(PyObject *node) noexcept:
    # A dying node has no use for its gradient.
    return <PyObject **>&(<Value>node).grad


cdef void dealloc(PyObject *self) noexcept:
    """Free a node and all that dies with it, without recursion.

    Nodes that die while others are being freed only join the list; so no chain,
    of whatever classes, is too long.
    """
    global dying, draining
    cdef PyObject *node
    # subtype_dealloc drops its reference to the class before the node is freed.
    if Py_TYPE(self) != <PyTypeObject *>Value:
        Py_INCREF(<PyObject *>Py_TYPE(self))
    next_dying(self)[0] = dying
    dying = self
    if draining:
        return
    draining = True
    while dying is not NULL:
        node = dying
        dying = next_dying(node)[0]
        release_children(node)
        free_node(node)
    draining = False


cdef inline void free_node(PyObject *node) noexcept:
    global free_nodes, n_free
    cdef PyTypeObject *kind = Py_TYPE(node)
    if kind != <PyTypeObject *>Value:
        (<TypeSlots *>kind).tp_free(node)
        Py_DECREF(<PyObject *>kind)
    elif n_free < MAX_FREE:
        (<Value>node).child[0] = free_nodes
        free_nodes = node
        n_free += 1
    else:
        (<TypeSlots *>kind).tp_free(node)


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


# ------------------------------------------------------------------ the tape

cdef struct Frame:
    # A node on the way down, and which of its children comes next.
    PyObject *node
    Py_ssize_t next


cdef struct Walk:
    PyObject **nodes
    Py_ssize_t capacity
    Frame *frames
    Py_ssize_t depth_capacity

cdef Walk scratch = Walk(NULL, 0, NULL, 0)

cdef enum:
    MAX_SCRATCH = 1 << 20  # nodes; beyond, a walk returns its memory when done


cdef Py_ssize_t walk(PyObject *root, Walk *w) except -1:
    """Write the nodes that root depends on, in the order in which they are finished.

    Leaves a mark in `place` of every node written, which `play` or `unmark` clears.

    Raises:  MemoryError, with all marks cleared
    """
    cdef PyObject *node = root
    cdef PyObject *child
    cdef PyObject **children
    cdef Py_ssize_t i = 0, n, n_nodes = 0, depth = 0
    (<Value>node).place = 1
    children = children_of(node, &n)
    while True:
        if i < n:
            child = children[i]
            i += 1
            if (<Value>child).place:
                continue
            (<Value>child).place = 1
            if (<Value>child).n == 0:
                if n_nodes == w.capacity and not grow_nodes(w):
                    (<Value>child).place = 0
                    break
                w.nodes[n_nodes] = child
                n_nodes += 1
                continue
            if depth == w.depth_capacity and not grow_frames(w):
                (<Value>child).place = 0
                break
            w.frames[depth].node = node
            w.frames[depth].next = i
            depth += 1
            node = child
            i = 0
            children = children_of(node, &n)
        else:
            if n_nodes == w.capacity and not grow_nodes(w):
                break
            w.nodes[n_nodes] = node
            n_nodes += 1
            if depth == 0:
                return n_nodes
            depth -= 1
            node = w.frames[depth].node
            i = w.frames[depth].next
            children = children_of(node, &n)
    unmark(w.nodes, n_nodes)
    (<Value>node).place = 0
    while depth > 0:
        depth -= 1
        (<Value>w.frames[depth].node).place = 0
    trim(w)
    raise MemoryError(f"no memory for a tape of more than {n_nodes} nodes")


cdef bint grow(void **array, Py_ssize_t *capacity, size_t size) noexcept:
    """Double an array; False if there is no memory for it."""
    cdef Py_ssize_t larger = 2 * capacity[0] if capacity[0] else 256
    cdef void *moved = PyMem_Realloc(array[0], larger * size)
    if moved is NULL:
        return False
    array[0] = moved
    capacity[0] = larger
    return True


cdef inline bint grow_nodes(Walk *w) noexcept:
    return grow(<void **>&w.nodes, &w.capacity, sizeof(PyObject *))


cdef inline bint grow_frames(Walk *w) noexcept:
    return grow(<void **>&w.frames, &w.depth_capacity, sizeof(Frame))


cdef void trim(Walk *w) noexcept:
    if w.capacity > MAX_SCRATCH:
        PyMem_Free(w.nodes)
        w.nodes = NULL
        w.capacity = 0
    if w.depth_capacity > MAX_SCRATCH:
        PyMem_Free(w.frames)
        w.frames = NULL
        w.depth_capacity = 0


cdef void unmark(PyObject **nodes, Py_ssize_t n) noexcept:
    cdef Py_ssize_t i
    for i in range(n):
        (<Value>nodes[i]).place = 0


cdef void play(PyObject **nodes, Py_ssize_t n) noexcept:
    """Apply the chain rule along a walk, last node first, and clear its marks.

    Order:   nodes n-1 to 0; within a node, children left to right
    Writes:  grad of the last node, as 1.0. Adds to: grad of all other nodes
    """
    cdef Py_ssize_t i, j, n_children, n_grads
    cdef PyObject *node
    cdef PyObject **children
    cdef double *local_grads
    cdef double grad
    (<Value>nodes[n - 1]).grad = 1.0
    for i in range(n - 1, -1, -1):
        node = nodes[i]
        (<Value>node).place = 0
        if (<Value>node).n == 0:
            continue
        grad = (<Value>node).grad
        children = children_of(node, &n_children)
        local_grads = local_grads_of(node, &n_grads)
        for j in range(min(n_children, n_grads)):
            (<Value>children[j]).grad += local_grads[j] * grad


cdef class Tape:
    """Tape(loss)\n--\n\nThe nodes that a value depends on, in the order in which they are finished.

    Shapes:  len(tape) is the number of distinct nodes, the value itself included
    Order:   depth-first post-order, children left to right; an explicit stack,
             so that depth is no limit
    Raises:  TypeError if loss is not a `Value`
    """

    cdef PyObject **nodes
    cdef Py_ssize_t n

    def __cinit__(self, loss):
        if not isinstance(loss, Value):
            raise TypeError(f"Tape takes a Value, not {type(loss).__name__}")
        cdef Walk w = Walk(NULL, 0, NULL, 0)
        cdef Py_ssize_t i
        self.n = walk(<PyObject *>loss, &w)
        PyMem_Free(w.frames)
        self.nodes = w.nodes
        unmark(self.nodes, self.n)
        for i in range(self.n):
            Py_INCREF(self.nodes[i])

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n):
            Py_DECREF(self.nodes[i])
        PyMem_Free(self.nodes)

    def __len__(self):
        return self.n

    def backward(self):
        """Play the tape in reverse: set the value's grad to 1.0, add into the others.

        Writes:  grad of the last node, as 1.0. Adds to: grad of all other nodes
        """
        play(self.nodes, self.n)
