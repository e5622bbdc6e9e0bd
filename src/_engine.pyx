"""The compiled scalar engine: the oracle's `Value` and `Tape` as typed objects.

A node is 80 bytes: two doubles, up to two child pointers with their local
gradients, its place on the tape during a walk, and room for a name. Nodes with
another number of children, which only the three-argument constructor makes,
keep them in a block of their own.

Operators take the fast path when every `Value` is exactly a `Value`. For a
subclass they evaluate the oracle's expression through Python's operators, so
that whatever the subclass overrides is called.

Nothing here recurses: the walk has an explicit stack, and nodes are freed from
a list of pending ones. No Python code runs between the start of a walk and the
end of its backward, so marks on nodes are never seen half done.
"""

cimport cython
from cpython.array cimport array
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_AsDouble, PyFloat_CheckExact, PyFloat_AS_DOUBLE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset
from libc.math cimport exp, fabs, isinf, log, pow, signbit, tanh

from scalar cimport (
    BOTH, FIRST, NO_ERROR, SECOND, PowError, c_exp, c_log, c_pow, c_sigmoid, invert, pow_or_error,
)

import sys
from importlib import import_module

cdef extern from "Python.h":
    void Py_INCREF(PyObject *)
    void Py_DECREF(PyObject *)
    void Py_XDECREF(PyObject *)
    Py_ssize_t Py_REFCNT(PyObject *)
    PyTypeObject *Py_TYPE(PyObject *)
    void *PyObject_Malloc(size_t)
    void Py_SET_TYPE(PyObject *, PyTypeObject *)
    void PyType_Modified(PyTypeObject *)
    unsigned long Py_TPFLAGS_HAVE_GC
    unsigned long Py_TPFLAGS_HEAPTYPE
    Py_ssize_t PyVectorcall_NARGS(size_t)
    bint PyLong_CheckExact(object)
    PyObject **PySequence_Fast_ITEMS(object)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) noexcept
    ctypedef PyObject *(*vectorcallfunc)(
        PyObject *, PyObject *const *, size_t, PyObject *
    ) except NULL
    ctypedef struct TypeSlots "PyTypeObject":
        Py_ssize_t tp_basicsize
        PyObject *tp_dict
        PyObject *(*tp_repr)(PyObject *) except NULL
        unsigned long tp_flags
        void *tp_traverse
        void *tp_clear
        void (*tp_dealloc)(PyObject *) noexcept
        void (*tp_free)(void *) noexcept
        PyObject *(*tp_alloc)(PyTypeObject *, Py_ssize_t) except NULL
        PyObject *(*tp_call)(PyObject *, PyObject *, PyObject *) except NULL
        vectorcallfunc tp_vectorcall


cdef extern from "simd.h" nogil:
    bint pow_keeps_bound()


cdef class Value

cdef extern from *:
    """
    #define OWNED(reference) ((void *)(reference))

    /* Outside debug and free-threaded builds, skip PyObject_Init and the final decref. */
    #if defined(Py_REF_DEBUG) || defined(Py_TRACE_REFS) || defined(Py_GIL_DISABLED) \
        || PY_VERSION_HEX >= 0x030E0000 && SIZEOF_VOID_P <= 4
    #define IS_COUNTED 1
    #define begin_life(node, kind) PyObject_Init(node, kind)
    #else
    #define IS_COUNTED 0
    #if PY_VERSION_HEX >= 0x030E0000  /* the count is 32 of the 64 bits that Python sets */
    #define ONE_REFERENCE(node) ((node)->ob_refcnt_full = 1)
    #else
    #define ONE_REFERENCE(node) ((node)->ob_refcnt = 1)
    #endif
    #define begin_life(node, kind) (ONE_REFERENCE(node), (node)->ob_type = (kind), (node))
    #endif
    """
    object OWNED(PyObject *)  # takes over a reference that is the caller's
    Value OWNED_NODE "OWNED"(PyObject *)  # the same, of a node
    bint unlikely(bint)
    const bint IS_COUNTED
    PyObject *begin_life(PyObject *, PyTypeObject *)


cdef enum Op:
    LEAF, ADD, MUL, POW, LOG, EXP, RELU, TANH, SIGMOID, CUSTOM, SUM, MAXIMUM, WHERE, OPERATION
    LARGEST  # a leaf that replay computes: minus the largest of some values


cdef enum:
    LANES = 8  # rows of a batch that a tape computes side by side
    IN_BLOCK = 255  # n of a node whose children are in a Block (CUSTOM) or Terms (SUM)


cdef enum Flag:
    ABSORBED = 1  # its children have moved into a sum
    PLAYED = 2    # a backward has gone through it
    EDITED = 4    # its data was written by hand
    CONSTANT = 8  # an operator made it of a number
    HELD = 16     # a replayed tape has its numbers


cdef struct Block:
    # The children and local gradients of a node that has no room for them.
    Py_ssize_t n_children
    Py_ssize_t n_grads
    PyObject **children
    double *local_grads
    PyObject *operation  # of an OPERATION node, or NULL
    Py_ssize_t shared  # how many more nodes have this block
    uint32_t slot  # of a LARGEST in the program being compiled, or NONE


cdef struct Term:
    # a * b with the two local gradients; or where b is NULL a alone, and grad_a
    # is the number that it had.
    PyObject *a
    PyObject *b
    double grad_a
    double grad_b


cdef struct Terms:
    Py_ssize_t n
    Py_ssize_t capacity
    PyObject *owner
    PyObject *product  # absorbed last and still alive, or NULL
    PyObject *partial
    double inner_grad  # of every node inside, after a backward


# ---------------------------------------------------------------- nodes

cdef class Value:
    """Value(data, children=(), local_grads=())\n--\n\nOne scalar node of a computation graph.

    Raises:  TypeError if data is not a number
    Source:  microgpt `Value`
    """

    cdef double c_data
    cdef double c_grad
    cdef PyObject *child[2]
    cdef double local_grad[2]
    cdef uint32_t place
    cdef uint8_t op
    cdef uint8_t n
    cdef uint16_t flags
    cdef PyObject *names  # of a Closed: a tuple of label and operation, or NULL

    def __cinit__(self):
        global n_held
        n_held += 1

    def __init__(self, data, children=(), local_grads=()):
        construct(self, data, children, local_grads)

    @property
    def data(self):
        """The number; to change it leaves local gradients already taken as they are."""
        return number_of(<PyObject *>self)

    @data.setter
    def data(self, number):
        cdef double data = to_double(number)  # which may run Python code
        reclaim(<PyObject *>self)
        self.c_data = data
        self.flags |= EDITED

    @property
    def grad(self):
        """What backward has added: the derivative of its root by this value."""
        reclaim(<PyObject *>self)
        return self.c_grad

    @grad.setter
    def grad(self, number):
        cdef double grad = to_double(number)
        reclaim(<PyObject *>self)
        self.c_grad = grad
        if self.op == SUM and self.c_grad == 0.0 and signbit(self.c_grad):
            unfold(<PyObject *>self)  # no other way leads to -0.0, which a sum's terms would lose

    @property
    def _children(self):
        """The nodes that this one was computed from."""
        cdef PyObject **children
        cdef Py_ssize_t n, i
        unfold(<PyObject *>self)
        children_of(<PyObject *>self, &n)
        nodes = [None] * n  # which may collect, and what is collected may change this node
        children = children_of(<PyObject *>self, &i)
        if i != n:
            return self._children
        for i in range(n):
            nodes[i] = <object>children[i]
        return tuple(nodes)

    @property
    def _local_grads(self):
        """The derivative by each child, taken when the node was made."""
        cdef double *grads
        cdef Py_ssize_t n, i
        unfold(<PyObject *>self)
        local_grads_of(<PyObject *>self, &n)
        numbers = [None] * n  # see above
        grads = local_grads_of(<PyObject *>self, &i)
        if i != n:
            return self._local_grads
        for i in range(n):
            numbers[i] = grads[i]
        return tuple(numbers)

    def __repr__(self):
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def _repr_html_(self):
        return import_module("microgpt.pages").value_html(self)

    def __reduce__(self):
        attributes = getattr(self, "__dict__", None)
        state = (self.data, self.grad, self._children, self._local_grads, attributes)
        return (*import_module("microgpt.copying").recipe(type(self)), state)

    def __setstate__(self, state):
        data, grad, children, local_grads, attributes = state
        Value.__init__(self, data, children, local_grads)
        self.grad = grad
        if attributes:
            self.__dict__.update(attributes)

    def __add__(left, right):
        cdef double number
        if type(left) is Value:
            if type(right) is Value:
                return add(<Value>left, <Value>right)
            if is_plain(right, &number):
                return add(<Value>left, new_constant(number))
        elif type(right) is Value and is_plain(left, &number):
            return number_plus(number, <Value>right)
        if isinstance(left, Value) and not is_reflected(left, right, "__radd__"):
            return add(<Value>left, operand(right))
        if type(right) is Value:
            return add(<Value>right, operand(left))
        return right + left

    def __mul__(left, right):
        cdef double number
        if type(left) is Value:
            if type(right) is Value:
                return mul(<Value>left, <Value>right)
            if is_plain(right, &number):
                return mul(<Value>left, new_constant(number))
        elif type(right) is Value and is_plain(left, &number):
            return mul(<Value>right, new_constant(number))
        if isinstance(left, Value) and not is_reflected(left, right, "__rmul__"):
            return mul(<Value>left, operand(right))
        if type(right) is Value:
            return mul(<Value>right, operand(left))
        return right * left

    def __sub__(left, right):
        cdef double number
        if type(left) is Value:
            if type(right) is Value:
                return add(<Value>left, neg(<Value>right))
            if is_plain(right, &number):
                # The int 0 has no sign to turn.
                if number == 0.0 and not PyFloat_CheckExact(right):
                    number = -0.0
                return add(<Value>left, new_constant(-number))
        elif type(right) is Value and is_plain(left, &number):
            return number_plus(number, neg(<Value>right))
        return left + (-right)

    def __truediv__(left, right):
        cdef double number
        if type(left) is Value:
            if type(right) is Value:
                return mul(<Value>left, power(<Value>right, -1.0, -2.0))
            if is_plain(right, &number):
                return mul(<Value>left, new_constant(c_pow(number, -1.0)))
        elif type(right) is Value and is_plain(left, &number):
            return mul(power(<Value>right, -1.0, -2.0), new_constant(number))
        return left * right**-1

    def __pow__(left, right, modulo):
        cdef double k
        if not isinstance(left, Value) or modulo is not None:
            return NotImplemented
        if is_plain(right, &k) and (PyFloat_CheckExact(right) or fabs(k) < MAX_EXACT_INT):
            return power(<Value>left, k, k - 1.0)
        return power_of_object(<Value>left, right)

    def __neg__(self):
        if type(self) is Value:
            return neg(self)
        return self * -1

    def log(self):
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        return logarithm(self)

    def exp(self):
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        return exponential(self)

    def relu(self):
        """Return the value itself where positive, else zero (for NaN too)."""
        return rectified(self)

    def tanh(self):
        """Return the hyperbolic tangent."""
        return hyperbolic_tangent(self)

    def sigmoid(self):
        """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
        return logistic(self)

    def backward(self):
        """Add the derivative of this value by each node into that node's `grad`.

        Order:   depth-first post-order, children left to right, reversed
        Writes:  grad of this value, as 1.0. Adds to: grad of all it depends on
        """
        reclaim(<PyObject *>self)
        if not walk(<PyObject *>self, &scratch, FOR_BACKWARD):
            raise MemoryError(f"no memory for a tape of more than {scratch.n} nodes")
        play(scratch.entries, scratch.n, True)
        trim(&scratch)


cdef int construct(Value self, data, children, local_grads) except -1:
    """Make a node what the three-argument constructor says."""
    cdef double number = to_double(data)
    cdef tuple nodes = tuple(children)
    cdef tuple grads = tuple(converted(local_grads))
    for node in nodes:
        if not isinstance(node, Value):
            raise TypeError(f"children must be Values, not {type(node).__name__}")
        reclaim(<PyObject *>node)
    reclaim(<PyObject *>self)
    release_children(<PyObject *>self)
    self.c_data = number
    self.c_grad = 0.0
    self.flags = 0
    adopt(self, nodes, grads)
    return 0


cdef double MAX_EXACT_INT = 2.0**53


cdef inline bint is_plain(object x, double *number) noexcept:
    """Return whether x is exactly a float, or an int of 64 bits, and write its number."""
    cdef int overflow = 0
    if PyFloat_CheckExact(x):
        number[0] = PyFloat_AS_DOUBLE(x)
        return True
    if PyLong_CheckExact(x):
        number[0] = <double>PyLong_AsLongLongAndOverflow(x, &overflow)
        return not overflow
    return False


cdef inline double to_double(object x) except? -1.0:
    """Return x as a float, as `math` functions read a number."""
    if PyFloat_CheckExact(x):
        return PyFloat_AS_DOUBLE(x)
    return PyFloat_AsDouble(x)


cdef list converted(object numbers):
    """Return numbers as floats, each converted before the next is asked for."""
    cdef list out = []
    for number in numbers:
        out.append(to_double(number))
    return out


cdef inline Value operand(object x):
    """Return x itself if it is a `Value`, else a leaf of that number."""
    if isinstance(x, Value):
        return <Value>x
    return new_constant(to_double(x))


cdef inline bint is_reflected(object left, object right, str name):
    """Tell whether a subclass's own reflected operator has come here through `super()`.

    The slot is one for both directions; in the other one Python would not have
    asked left before right.
    """
    return (
        type(right) is not type(left)
        and isinstance(right, type(left))
        and getattr(type(right), name) not in (getattr(Value, name), getattr(Closed, name))
    )


cdef inline Value new_leaf(double data):
    cdef Value node = new_node()
    node.c_data = data
    return node


cdef inline Value new_constant(double data):
    cdef Value node = new_leaf(data)
    node.flags = CONSTANT
    return node


cdef inline Value new_unary(Op op, double data, Value a, double grad_a):
    cdef PyObject *node = take_node(op, 1)
    if unlikely(node is NULL):
        raise_no_node()
    (<Value>node).c_data = data
    (<Value>node).local_grad[0] = grad_a
    Py_INCREF(<PyObject *>a)
    (<Value>node).child[0] = <PyObject *>a
    return OWNED_NODE(node)


cdef inline Value new_binary(Op op, double data, Value a, Value b, double grad_a, double grad_b):
    cdef PyObject *node = take_node(op, 2)
    if unlikely(node is NULL):
        raise_no_node()
    (<Value>node).c_data = data
    (<Value>node).local_grad[0] = grad_a
    (<Value>node).local_grad[1] = grad_b
    Py_INCREF(<PyObject *>a)
    (<Value>node).child[0] = <PyObject *>a
    Py_INCREF(<PyObject *>b)
    (<Value>node).child[1] = <PyObject *>b
    return OWNED_NODE(node)


cdef inline Value add(Value a, Value b):
    if unlikely(a.op == SUM):
        return add_to_sum(a, b)
    reclaim_both(a, b)
    return new_binary(ADD, a.c_data + b.c_data, a, b, 1.0, 1.0)


cdef inline Value number_plus(double number, Value a):
    if number == 0.0 and not signbit(number):
        return start_sum(a)
    return add(a, new_constant(number))


cdef inline Value mul(Value a, Value b):
    reclaim_both(a, b)
    return new_binary(MUL, a.c_data * b.c_data, a, b, b.c_data, a.c_data)


cdef inline Value neg(Value a):
    return mul(a, new_constant(-1.0))


cdef inline int reclaim_both(Value a, Value b) except -1:
    if unlikely((a.flags | b.flags) & (ABSORBED | HELD)):
        reclaim(<PyObject *>a)
        reclaim(<PyObject *>b)
    return 0


cdef inline Value rectified(Value a):
    reclaim(<PyObject *>a)
    cdef bint positive = a.c_data > 0.0
    return new_unary(RELU, a.c_data if positive else 0.0, a, 1.0 if positive else 0.0)


cdef inline Value hyperbolic_tangent(Value a):
    reclaim(<PyObject *>a)
    cdef double data = tanh(a.c_data)
    return new_unary(TANH, data, a, 1.0 - c_pow(data, 2.0))


cdef inline Value logistic(Value a):
    reclaim(<PyObject *>a)
    cdef double data = c_sigmoid(a.c_data)
    return new_unary(SIGMOID, data, a, data * (1.0 - data))


cdef inline Value power(Value a, double k, double k_minus_1):
    reclaim(<PyObject *>a)
    cdef double data = c_pow(a.c_data, k)
    cdef double grad_a = k * c_pow(a.c_data, k_minus_1)
    cdef Value node = new_unary(POW, data, a, grad_a)
    node.local_grad[1] = k
    return node


cdef Value power_of_object(Value a, object k):
    """Return a ** k for what is neither a float nor a moderate int: the oracle's own words."""
    cdef double number
    if not PyLong_CheckExact(k):
        number = to_double(k)
        return power(a, number, number - 1.0)
    reclaim(<PyObject *>a)
    x = a.c_data
    data = x**k
    if isinstance(data, complex):
        raise ValueError(f"{x} ** {k} is not a real number")
    number = to_double(data)
    return new_unary(CUSTOM, number, a, to_double(k * x**(k - 1)))


# ---------------------------------------------------------- members from outside

def give(str name, member):
    """Give every `Value` one more member, or its own `__repr__`, in this process.

    `microgpt run` gives it what a script's class adds to the oracle's. Of the names
    that are operators only `__repr__` has an effect.
    """
    (<dict><object>(<TypeSlots *>Value).tp_dict)[name] = member
    if name == "__repr__":
        (<TypeSlots *>Value).tp_repr = given_repr
    PyType_Modified(<PyTypeObject *>Value)


cdef PyObject *given_repr(PyObject *self) except NULL:
    cdef object text = type(<object>self).__repr__(<object>self)
    Py_INCREF(<PyObject *>text)
    return <PyObject *>text


include "nodes.pxi"
include "sums.pxi"
include "tape.pxi"
include "program.pxi"
include "steps.pxi"
include "replay.pxi"
include "batch.pxi"
include "vectors.pxi"
include "closed.pxi"
