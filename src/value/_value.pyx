"""The compiled scalar engine: the oracle's `Value` and `Tape` as typed objects.

This file holds what Python sees: the classes, the operators and the functions of lists. It
is longer than 500 lines because one extension module has one .pyx; the machinery is
in the .pxd modules beside it (node.pxd has their order).

Operators take the fast path when the operands' classes have Value's own operators. For
a class that overrides some they evaluate the oracle's expression through Python's operators,
so that whatever the class overrides is called.

Nothing here recurses: the walk has an explicit stack, and nodes are freed from
a list of pending ones. No Python code runs between the start of a walk and the
end of its backward, so marks on nodes are never seen half done.
"""

from cpython.array cimport array
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_AsDouble
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.math cimport fabs, pow, signbit
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from classes cimport (
    ADDITION, MULTIPLICATION, NEGATIONS, PRODUCTS, SUBTRACTION, SUMS, PyVectorcall_NARGS, call_type,
    class_info, info_of, known_info, ours, quick_info, remember_members,
)
from make cimport (
    children_tuple, compute_node, data_object, dealloc, exponent_object, free_quickly, make_add,
    make_constant, make_leaf, make_mul, make_neg, make_two, make_unary, raise_of, release_children,
    slopes_tuple,
)
from node cimport (
    ATTRIBUTES_OFFSET, CONSTANT, EDITED, GRAD_INT, HAS_MORE, IN_BLOCK, OWNED, STALE, Block,
    ClassInfo, Node, NodeFields, PyType_Modified, TypeSlots, attributes_of_node, decref, has_nodes,
    incref, n_allocated, n_free, new_block, new_node, number_object, quick_node, set_grad,
    set_value_type, type_of, value_type, vectorcallfunc,
)
from operators cimport (
    add_or_multiply, divide, is_number, is_quick_number, items_of, node_of, nodes_in, normalized,
    quick_multiply_number, quick_relu, quick_result, quotients, subtract, with_number,
)
from program cimport (
    EITHER, FLOATS, INTS, NodeInfo, Program, compile_program, free_program, is_kept, operands_of,
)
from rows cimport LANES, compute_rows, play_rows
from rules cimport (
    ADD, CUSTOM, DATA_INT, EXP, FIRST_INT, LEAF, LOG, MAXIMUM, MUL, NEG_MAX, OPERATION, POSITIVE,
    POW, RECTIFY, RELU, SECOND_INT, SIGMOID, SUM, TANH, WHERE, Op, unary_name, unlikely,
)
from scalar cimport c_pow
from sums cimport raise_stale, sum_of_products, sum_of_values, sync_children, sync_node
from walk cimport (
    DONE, FOR_BACKWARD, FOR_REPLAY, FOR_TAPE, Entry, Purpose, Walk, Walked, play, raise_unwalked,
    trim, unmark, walk,
)

import sys
from importlib import import_module

oracle = import_module("microgpt.oracle")


cdef extern from "Python.h":
    bint PyLong_CheckExact(object)
    unsigned long Py_TPFLAGS_IMMUTABLETYPE


cdef extern from *:
    """
    /* The slots that Cython made for the class, which handle all cases. */
    static struct Written {
        binaryfunc add, subtract, multiply; unaryfunc negative; vectorcallfunc call;
        destructor dealloc;
    } written;

    /* An operator where there are too few free nodes. */
    static __attribute__((noinline)) PyObject *with_more_nodes(
        binaryfunc quick, binaryfunc general, PyObject *left, PyObject *right
    ) {
        return allocate_nodes() ? quick(left, right) : general(left, right);
    }

    /* Let a function be an operator of a class, with the descriptor that a class of Python's has,
       here of int: subclasses inherit the function then, not a search for the method. */
    static int set_operator(
        PyTypeObject *type, PyObject *name, PyObject *descriptor, void *function
    ) {
        PyObject *new = PyDescr_NewWrapper(
            type, ((PyWrapperDescrObject *)descriptor)->d_base, function
        );
        int status = new == NULL ? -1 : PyDict_SetItem(type->tp_dict, name, new);
        Py_XDECREF(new);
        return status;
    }
    """
    ctypedef PyObject *(*binaryfunc)(PyObject *, PyObject *) noexcept
    ctypedef PyObject *(*unaryfunc)(PyObject *) noexcept
    ctypedef PyObject *(*callfunc "vectorcallfunc")(
        PyObject *, PyObject *const *, size_t, PyObject *
    ) noexcept
    cdef struct Written:
        binaryfunc add, subtract, multiply
        unaryfunc negative
        callfunc call
        void (*dealloc)(PyObject *) noexcept
    Written written
    PyObject *with_more_nodes(binaryfunc, binaryfunc, PyObject *, PyObject *) noexcept
    int set_operator(PyTypeObject *, object, object, void *) except -1
    ctypedef struct Numbers "PyNumberMethods":
        binaryfunc nb_add
        binaryfunc nb_subtract
        binaryfunc nb_multiply
        binaryfunc nb_true_divide
        unaryfunc nb_negative
    ctypedef struct Operators "PyTypeObject":
        Numbers *tp_as_number


cdef Walk scratch = Walk(NULL, 0, 0, NULL, 0, False)
cdef double MAX_INT = 2.0**53
cdef uint64_t n_changes = 1  # how often nodes inside some tape have been written to
ATTRIBUTES = ()  # the `__slots__` of a class made with attributes=True


# --------------------------------------------------------------------------- numbers

cdef inline double to_number(object x, bint *is_int) except? -1.0:
    """Return x as the oracle's `_number` does, and write whether it stays an int."""
    cdef double number
    if is_number(<PyObject *>x, &number, is_int):
        return number
    is_int[0] = False
    return PyFloat_AsDouble(x)


cdef list converted(object numbers):
    """Return numbers as ints or floats, each converted before the next is asked for."""
    cdef list out = []
    cdef bint is_int
    cdef double x
    for number in numbers:
        x = to_number(number, &is_int)
        out.append(number_object(x, is_int))
    return out


# ----------------------------------------------------------------------------- Value

cdef class Value:
    """Value(data, children=(), local_grads=())\n--\n\nOne scalar node of a computation graph.

    A subclass chooses by keywords, as in `class V(Value, results="own")`:

    results     class of operators' results: "own", the left operand's; "fixed", V
                itself for subclasses of V too, as `Value` has it
    relu        "positive": x if x > 0 else 0; "not negative": 0 if x < 0 else x
    init        "leaf": its `__init__` given a number alone does as Value's, and may be left out
    attributes  True: nodes take attributes; `__slots__` must be `engine.ATTRIBUTES`

    Raises:  TypeError if data is not a number
    Source:  microgpt `Value`
    """

    cdef NodeFields fields

    def __cinit__(self):
        global n_allocated
        n_allocated += 1

    def __init__(self, data, children=(), local_grads=()):
        construct(self, data, children, local_grads)

    @property
    def data(self):
        """The number; setting it does not change local gradients that are already computed."""
        if node_of(self).flags & STALE:
            raise_stale()
        return data_object(node_of(self))

    @data.setter
    def data(self, number):
        cdef bint is_int
        cdef double data = to_number(number, &is_int)  # which may run Python code
        cdef Node *node = node_of(self)
        sync_node(node)
        node.data = data
        node.flags = (node.flags & ~<uint16_t>DATA_INT) | EDITED | (DATA_INT if is_int else 0)

    @property
    def grad(self):
        """The derivative of the root of `backward` by this value; each backward adds to it."""
        sync_node(node_of(self))
        return number_object(node_of(self).grad, node_of(self).flags & GRAD_INT)

    @grad.setter
    def grad(self, number):
        cdef bint is_int
        cdef double grad = to_number(number, &is_int)
        cdef Node *node = node_of(self)
        sync_node(node)
        set_grad(node, grad, is_int)
        if node.op == SUM and grad == 0.0 and signbit(grad):
            sync_children(node)  # no other way leads to -0.0, which a sum's terms would lose

    @property
    def _children(self):
        """The nodes that this one was computed from."""
        return children_tuple(self)

    @property
    def _local_grads(self):
        """The derivative by each child, taken when the node was made."""
        sync_node(node_of(self))
        return slopes_tuple(self)

    @property
    def _operation(self):
        """The operation that made the node: "+", "*", "**2", "log", ...; "" for a leaf."""
        cdef uint8_t op = node_of(self).op
        if op == ADD or op == SUM:
            return "+"
        if op == MUL:
            return "*"
        if op == POW:
            return power_name(exponent_object(node_of(self)))
        if op == MAXIMUM:
            return "max"
        return "where" if op == WHERE else unary_name(op)

    def _result(self, operation, data, children, slopes):
        """Return the node of an operation on this value, of the class of its results."""
        cdef ClassInfo *info = info_of(node_of(self))
        cdef Node *node = new_node(info, info.fresh, LEAF, 0)
        value = OWNED(node)
        construct(value, data, children, slopes)
        return value

    def __repr__(self):
        if node_of(self).flags & STALE:
            return f"{type(self).__name__}(data and grad are in a Tape: call its refresh())"
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def _repr_html_(self):
        return import_module("microgpt.pages").value_html(self)

    def __reduce__(self):
        attributes = getattr(self, "__dict__", None)
        numbers = (self.data, self.grad, self._children, self._local_grads)
        state = (*numbers, self._operation, attributes)
        return (*import_module("microgpt.copying").recipe(type(self)), state)

    def __setstate__(self, state):
        data, grad, children, local_grads, operation, attributes = state
        Value.__init__(self, data, children, local_grads)
        self.grad = grad
        set_operation(node_of(self), operation)
        if attributes:
            self.__dict__.update(attributes)

    def __add__(left, right):
        cdef Node *node = add_or_multiply(ADDITION, <PyObject *>left, <PyObject *>right)
        if node is not NULL:
            return OWNED(node)
        if isinstance(left, Value) and not is_reflected(left, right, "__radd__"):
            return combined(ADD, left, right)
        if ours(<PyObject *>right, SUMS) is not NULL:
            return combined(ADD, right, left)
        return right + left

    def __mul__(left, right):
        cdef Node *node = add_or_multiply(MULTIPLICATION, <PyObject *>left, <PyObject *>right)
        if node is not NULL:
            return OWNED(node)
        if isinstance(left, Value) and not is_reflected(left, right, "__rmul__"):
            return combined(MUL, left, right)
        if ours(<PyObject *>right, PRODUCTS) is not NULL:
            return combined(MUL, right, left)
        return right * left

    def __sub__(left, right):
        cdef Node *node = subtract(<PyObject *>left, <PyObject *>right)
        if node is not NULL:
            return OWNED(node)
        return left + (-right)

    def __truediv__(left, right):
        cdef Node *node = divide(<PyObject *>left, <PyObject *>right)
        if node is not NULL:
            return OWNED(node)
        return left * right**-1

    def __pow__(left, right, modulo):
        cdef double k
        cdef bint is_int
        cdef ClassInfo *info = info_of(<PyObject *>left)
        if modulo is not None:
            return NotImplemented
        if info.result is NULL:
            return right._power(left, right)
        if not is_number(<PyObject *>right, &k, &is_int):
            if isinstance(right, Value):
                out = left._power(left, right)
                return right._power(left, right) if out is NotImplemented else out
            k = to_number(right, &is_int)
        return OWNED(make_unary(POW, info, node_of(left), k, is_int))

    def _power(self, base, exponent):
        """Return base ** exponent, where a class has a rule for exponents that are Values."""
        return NotImplemented

    def __neg__(self):
        cdef ClassInfo *info = ours(<PyObject *>self, NEGATIONS)
        if info is not NULL:
            return OWNED(make_neg(info, node_of(self)))
        return self * -1

    def log(self):
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        return unary(LOG, self)

    def exp(self):
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        return unary(EXP, self)

    def relu(self):
        """Return the value itself where positive, else zero (for NaN too)."""
        cdef Node *node = quick_relu(node_of(self))
        if node is not NULL:
            return OWNED(node)
        return unary(RECTIFY if info_of(node_of(self)).relu != POSITIVE else RELU, self)

    def tanh(self):
        """Return the hyperbolic tangent."""
        return unary(TANH, self)

    def sigmoid(self):
        """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
        return unary(SIGMOID, self)

    def backward(self):
        """Add the derivative of this value by each node into that node's `grad`.

        Order:   depth-first post-order, children left to right, reversed
        Writes:  grad of this value, as 1. Adds to: grad of all it depends on
        """
        cdef Node *root = node_of(self)
        cdef Walked walked
        sync_node(root)
        walked = walk(root, &scratch, FOR_BACKWARD)
        if walked != DONE:
            raise_unwalked(walked, scratch.n)
        try:
            play(scratch.entries, scratch.n)
        finally:
            trim(&scratch)


cdef inline object unary(const Op op, object self):
    return OWNED(make_unary(op, info_of(node_of(self)), node_of(self), 0.0, False))


cdef int construct(object self, data, children, local_grads) except -1:
    """Make a node a leaf or a CUSTOM node, by the constructor's three arguments."""
    cdef bint is_int
    cdef double number = to_number(data, &is_int)
    cdef tuple nodes = tuple(children)
    cdef tuple grads = tuple(converted(local_grads))
    cdef Node *node = node_of(self)
    cdef ClassInfo *info
    global n_changes
    for child in nodes:
        if not isinstance(child, Value):
            raise TypeError(f"children must be Values, not {type(child).__name__}")
        sync_node(node_of(child))
    if node.flags & STALE:  # no tape can use it from now on
        node.flags &= ~<uint16_t>STALE
        n_changes += 1
    sync_node(node)
    release_children(node)
    info = info_of(node)
    node.data = number
    node.grad = 0.0
    node.flags = info.fresh | (DATA_INT if is_int else 0)
    adopt(node, nodes, grads)
    return 0


cdef int adopt(Node *node, tuple children, tuple local_grads, bint in_block=False) except -1:
    """Set the children and local gradients of a node that has none."""
    cdef Py_ssize_t i, n = len(children), m = len(local_grads)
    cdef Block *block = NULL
    cdef Node **nodes = node.child
    cdef double *slopes = node.slope
    cdef bint is_int
    cdef uint8_t kept = <uint8_t>n
    if n != m or n > 2 or in_block:
        kept = IN_BLOCK
        block = new_block(n, m)
        nodes = block.children
        slopes = block.slopes
        node.block = block
    for i in range(n):
        nodes[i] = node_of(children[i])
        incref(nodes[i])
    for i in range(m):
        slopes[i] = to_number(local_grads[i], &is_int)
        if kept == IN_BLOCK:
            block.ints[i] = is_int
        elif is_int:
            node.flags |= SECOND_INT if i else FIRST_INT
    node.op = CUSTOM if n or m else LEAF
    node.n = kept
    return 0


cdef int set_operation(Node *node, str operation) except -1:
    """Give a node made by the constructor an operation that a Tape can replay."""
    cdef bint is_int
    if node.op != CUSTOM:
        return 0
    if node.n == 2 and operation in ("+", "*"):
        node.op = ADD if operation == "+" else MUL
    elif node.n == 1 and operation.startswith("**"):
        number = operation[2:]
        try:
            node.slope[1] = to_number(int(number), &is_int)
            node.flags |= SECOND_INT
        except ValueError:
            node.slope[1] = float(number)
        node.op = POW
    elif node.n == 1 and operation == "relu":
        node.op = RECTIFY if info_of(node).relu != POSITIVE else RELU
    elif node.n == 1 and operation:
        for op in range(LOG, TANH + 1):
            if operation == unary_name(op):
                node.op = op
    return 0


cdef str power_name(k):
    return oracle._power_name(k)


cdef object operand(ClassInfo *info, object x):
    """Return x itself if it is a `Value`, else a leaf of that number."""
    cdef bint is_int
    cdef double number
    if isinstance(x, Value):
        return x
    number = to_number(x, &is_int)
    return OWNED(make_constant(info, number, is_int))


cdef object combined(const Op op, object left, object right):
    """Return left + right or left * right, where left is a Value."""
    cdef ClassInfo *info
    right = operand(info_of(<PyObject *>left), right)
    info = info_of(<PyObject *>left)
    if op == ADD:
        return OWNED(make_add(info, node_of(left), node_of(right)))
    return OWNED(make_mul(info, node_of(left), node_of(right)))


cdef inline bint is_reflected(object left, object right, str name):
    """Return whether a subclass's own reflected operator has called this through `super()`.

    One slot serves both directions; for the other one Python would call right's
    operator before left's.
    """
    return (
        type(right) is not type(left)
        and isinstance(right, type(left))
        and getattr(type(right), name) is not getattr(Value, name)
    )


# ---------------------------------------------------------------- classes of Values

def init_subclass(cls, *, results=None, relu=None, init=None, attributes=None, **others):
    """Choose a subclass's options: `__init_subclass__` of Value, as the oracle's.

    Its objects are plain nodes if they can be.
    """
    cdef TypeSlots *slots = <TypeSlots *><PyObject *>cls
    cdef bint has_room
    super(Value, cls).__init_subclass__(**others)
    chosen = {"results": results, "relu": relu, "init": init, "attributes": attributes}
    cls._options = oracle.options_of(cls, chosen, ATTRIBUTES)
    # A graph has no cycles, and a class with empty __slots__ can add none. The garbage collector's
    # lists, onto which Python puts the objects of every subclass, cost time.
    has_room = (
        slots.tp_basicsize == sizeof(Node)
        and slots.tp_weaklistoffset == 0
        and slots.tp_finalize is NULL
        and (slots.tp_dictoffset == 0 or slots.tp_dictoffset == ATTRIBUTES_OFFSET)
    )
    if not has_room:
        return
    if cls._options.attributes and slots.tp_dictoffset == 0:
        slots.tp_dictoffset = ATTRIBUTES_OFFSET
        (<dict><object>slots.tp_dict)["__dict__"] = property(attributes_of)
    slots.tp_flags &= ~HAS_MORE
    slots.tp_traverse = slots.tp_clear = NULL
    slots.tp_free = (<TypeSlots *>value_type).tp_free
    slots.tp_dealloc = dealloc_value
    slots.tp_vectorcall = <vectorcallfunc>call_quickly
    PyType_Modified(<PyTypeObject *>slots)


def attributes_of(self):
    """Return a node's attributes."""
    return attributes_of_node(node_of(self))


cdef PyObject *call_value(
    PyObject *kind, PyObject *const *args, size_t nargsf, PyObject *names
) except NULL:
    """Make a node; unusual arguments and other classes are left to `type.__call__`."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef ClassInfo *info
    cdef double number
    cdef bint is_int
    if 1 <= n <= 3 and names is NULL:
        number = 0.0
        is_int = False
        if n == 1:
            number = to_number(<object>args[0], &is_int)
        info = class_info(<PyTypeObject *>kind)
        if n == 1 and info.makes_leaves:
            return <PyObject *>make_leaf(info, number, is_int)
        if info.makes_ours:
            node = OWNED(make_leaf(info, number, is_int))
            construct(node, <object>args[0], <object>args[1], <object>args[2] if n == 3 else ())
            incref(<PyObject *>node)
            return <PyObject *>node
    return call_type(kind, args, nargsf, names)


# The operators + * - of Value and its subclasses, and `Value(number)`, for frequent cases. Others
# are tail calls of the general function, for which no registers are saved.

cdef PyObject *call_quickly(
    PyObject *kind, PyObject *const *args, size_t nargsf, PyObject *names
) noexcept:
    cdef ClassInfo *info = known_info(<PyTypeObject *>kind)
    cdef Node *node
    cdef double x
    cdef bint is_int
    if (
        info is NULL or not info.makes_leaves or names is not NULL
        or PyVectorcall_NARGS(nargsf) != 1 or not has_nodes(info, 1)
        or not is_quick_number(args[0], &x, &is_int)
    ):
        return written.call(kind, args, nargsf, names)
    node = quick_node(info, info.fresh | (DATA_INT if is_int else 0), LEAF, 0)
    node.data = x
    return <PyObject *>node


cdef PyObject *add_quickly(PyObject *left, PyObject *right) noexcept:
    cdef Node *node
    if unlikely(n_free < 2):
        return with_more_nodes(add_quickly, written.add, left, right)
    node = quick_result(ADDITION, left, right)
    return <PyObject *>node if node is not NULL else written.add(left, right)


cdef PyObject *multiply_quickly(PyObject *left, PyObject *right) noexcept:
    cdef Node *node
    if unlikely(n_free < 2):
        return with_more_nodes(multiply_quickly, written.multiply, left, right)
    node = quick_result(MULTIPLICATION, left, right)
    return <PyObject *>node if node is not NULL else written.multiply(left, right)


cdef PyObject *subtract_quickly(PyObject *left, PyObject *right) noexcept:
    cdef Node *node
    if unlikely(n_free < 3):
        return with_more_nodes(subtract_quickly, written.subtract, left, right)
    node = quick_result(SUBTRACTION, left, right)
    return <PyObject *>node if node is not NULL else written.subtract(left, right)


cdef PyObject *negate_quickly(PyObject *x) noexcept:
    cdef ClassInfo *info = quick_info(type_of(x))
    cdef Node *node = NULL
    if info is not NULL:
        node = quick_multiply_number(info, <Node *>x, -1.0, True)
    return <PyObject *>node if node is not NULL else written.negative(x)


cdef void dealloc_value(PyObject *self) noexcept:
    if not free_quickly(<Node *>self):
        written.dealloc(self)


cdef void dealloc_slowly(PyObject *self) noexcept:
    dealloc(self)


def _live():
    """Return how many nodes there are; for tests, since the garbage collector knows none."""
    return n_allocated - n_free


def _free():
    """Return how many free nodes are kept for reuse; for tests too."""
    return n_free


# --------------------------------------------------------------------------- replay

cdef double compute_nodes(Entry *computed, Py_ssize_t n) except? -1.0:
    """Compute nodes one by one, each from its children, as new graphs would hold them."""
    cdef Py_ssize_t i
    for i in range(n):
        compute_anew(computed[i].node)
    return computed[n - 1].node.data


cdef int compute_anew(Node *node) except -1:
    """Compute a node, or a constant, as a new graph over its children would."""
    cdef Node *largest
    cdef int raises
    if node.op == NEG_MAX:
        largest = largest_of(node.block.children, node.block.n_children)
        node.data = -largest.data
        node.flags &= ~<uint16_t>DATA_INT
        if largest.flags & DATA_INT:
            node.data += 0.0  # no int is -0.0
            node.flags |= DATA_INT
    elif node.op == OPERATION:
        compute_operation(node)
    elif node.op != LEAF:
        raises = compute_node(node.op, info_of(node), node)
        if raises:
            raise_of(node.op, node.child[0], exponent_object(node), raises)
    elif not node.flags & CONSTANT:
        return 0  # a constant that has become a tape's input
    set_grad(node, 0.0, True)
    return 0


cdef int compute_operation(Node *node) except -1:
    """Compute a node anew by its Operation's own rules, which may do anything to it.

    Raises:  what the rules raise; RuntimeError if they made the node anew
    """
    cdef Block *block = node.block
    cdef Py_ssize_t i
    cdef double data
    cdef bint is_int, slope_is_int
    numbers = []
    operation = <object>block.operation
    for i in range(block.n_children):
        numbers.append(data_object(block.children[i]))
    data = to_number(operation.forward(*numbers), &is_int)
    grads = converted(operation.local_grads(numbers))
    block = node.block
    if node.op != OPERATION or block.operation != <PyObject *>operation or (
        block.n_children != len(grads)
    ):
        raise RuntimeError("an Operation's rule made the node anew that it computes")
    node.data = data
    node.flags = (node.flags & ~<uint16_t>DATA_INT) | (DATA_INT if is_int else 0)
    for i in range(block.n_children):
        block.slopes[i] = to_number(grads[i], &slope_is_int)
        block.ints[i] = slope_is_int
    return 0


cdef int refuse_unknown(Node *node) except -1:
    """Raise ValueError for a node that only the constructor knows how to make."""
    if node.op == CUSTOM:
        raise ValueError(
            f"{<object><PyObject *>node!r} was made through the constructor, so its "
            "rule is unknown and it cannot be computed again: make it an Operation"
        )
    return 0


cdef int refuse_new(Node *node, uint8_t op) except -1:
    """Raise ValueError for a node that is no longer what a tape has recorded."""
    if node.op != op:
        raise ValueError(
            f"{<object><PyObject *>node!r} is no longer what the tape has recorded"
        )
    return 0


cdef enum State:
    IN_NODES       # the nodes have their numbers
    FORWARD_DONE   # forward has computed newer ones
    BACKWARD_DONE  # and backward has gone through them
    FAILED         # a node raised: there are no numbers


cdef class Tape:
    """Tape(loss, inputs=None)\n--\n\n\
The nodes a value depends on, in the order in which they are finished.

    With inputs, which are leaves whose numbers will change, the compiled engine's tape
    computes the graph again. The oracle keeps no operations, and has no such tape.

    Shapes:  len(tape) is the number of distinct nodes, the value itself included
    Order:   depth-first post-order, children left to right; an explicit stack,
             so that depth is no limit
    Raises:  TypeError if loss or an input is not a `Value`; ValueError if an input
             is no leaf, or a node cannot be computed again: one made through the
             constructor, whose rule is unknown; NotImplementedError for inputs on the oracle
    """

    cdef Entry *entries
    cdef Py_ssize_t n
    cdef Entry *computed
    cdef Py_ssize_t n_computed
    cdef uint8_t *ops          # of the computed nodes, as recorded
    cdef tuple inputs
    cdef Program *program      # NULL where nodes are computed one by one
    cdef State state
    cdef bint by_nodes         # whether the last forward computed nodes, not the program
    cdef tuple leaves          # that keep their gradients; None until they are needed
    cdef list numbers          # of the leaves, at the last forward by nodes
    cdef uint64_t seen         # n_changes when this tape last wrote to nodes
    cdef Py_ssize_t n_compiled

    def __cinit__(self, loss, inputs=None):
        if not isinstance(loss, Value):
            raise TypeError(f"Tape takes a Value, not {type(loss).__name__}")
        cdef Py_ssize_t i
        if inputs is not None:
            self.inputs = tuple(inputs)
            for value in self.inputs:
                if not isinstance(value, Value):
                    raise TypeError(f"inputs must be Values, not {type(value).__name__}")
                if node_of(value).n or node_of(value).op == NEG_MAX:
                    raise ValueError(f"an input must be a leaf: {value!r} has been computed")
            for value in self.inputs:
                sync_node(node_of(value))
                node_of(value).flags &= ~<uint16_t>CONSTANT
        sync_node(node_of(loss))
        self.entries = own_walk(node_of(loss), FOR_TAPE, &self.n)
        if inputs is None:
            return
        for i in range(self.n):
            refuse_unknown(self.entries[i].node)
        self.computed = own_walk(node_of(loss), FOR_REPLAY, &self.n_computed)
        self.ops = <uint8_t *>PyMem_Malloc(self.n_computed + 1)
        if self.ops is NULL:
            raise MemoryError(f"no memory for a tape of {self.n} nodes")
        for i in range(self.n_computed):
            self.ops[i] = self.computed[i].node.op
        compile_tape(self)

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n):
            decref(self.entries[i].node)
        for i in range(self.n_computed):
            decref(self.computed[i].node)
        free_program(self.program)
        PyMem_Free(self.entries)
        PyMem_Free(self.computed)
        PyMem_Free(self.ops)

    def __len__(self):
        return self.n

    def __reduce__(self):
        raise TypeError(
            "a Tape cannot be copied or pickled: copy the value and its inputs together, and make "
            "a Tape of the copies"
        )

    def forward(self, values=None):
        """Compute every node again from the leaves' numbers, and return the value's number.

        The nodes inside are stale until `refresh`: reading one raises RuntimeError.

        Shapes:  values, one number an input, written to the inputs first; None
                 leaves them as they are
        Raises:  what the operations raise, as in a new graph; ValueError if there
                 are not as many values as inputs, or a node was made anew; TypeError
                 without inputs
        """
        cdef bint is_int
        cdef double number
        if self.inputs is None:
            raise TypeError("this tape has no inputs: make it as Tape(loss, inputs=[...])")
        if values is not None:
            numbers = converted(values)
            if len(numbers) != len(self.inputs):
                raise ValueError(f"{len(numbers)} values for {len(self.inputs)} inputs")
            for value, x in zip(self.inputs, numbers):
                sync_node(node_of(value))
                number = to_number(x, &is_int)
                write_leaf(node_of(value), number, is_int)
        return forward(self)

    def backward(self):
        """Play the tape in reverse: set the value's grad to 1, add into the others.

        Writes:  grad of the last node, as 1. Adds to: grad of all other nodes
        """
        play_back(self)

    def refresh(self):
        """Write the numbers of the last `forward`, and `backward`, to the nodes inside.

        Raises:  RuntimeError if the last `forward` raised
        """
        refresh(self)

    def run(self, batch):
        """Do `forward` and `backward` for every row of a batch, and return the losses.

        Gradients are added one row after the other. Numbers are floats.

        Shapes:  batch (rows, inputs), a buffer of doubles or rows of numbers; returns
                 (rows,), an array of doubles
        Adds to: grad of the leaves
        Raises:  as `forward`, at the first row that does; the rows before it are done
        """
        if self.inputs is None:
            raise TypeError("this tape has no inputs: make it as Tape(loss, inputs=[...])")
        if not self.inputs:
            batch = list(batch)
        rows = rows_of(batch, len(self.inputs))
        n_rows = len(rows) // len(self.inputs) if self.inputs else len(batch)
        return run_rows(self, rows, n_rows)


cdef int compile_tape(Tape tape) except -1:
    tape.n_compiled += 1
    compile_program(
        &tape.program, tape.entries, tape.n, tape.computed, tape.n_computed,
        items_of(tape.inputs), len(tape.inputs),
    )
    return 0


cdef Entry *own_walk(Node *root, Purpose purpose, Py_ssize_t *n) except NULL:
    """Return the entries of a walk, and their number; the caller owns them and their nodes."""
    cdef Walk w = Walk(NULL, 0, 0, NULL, 0, False)
    cdef Walked walked = walk(root, &w, purpose)
    cdef Py_ssize_t i
    PyMem_Free(w.frames)
    if walked != DONE:
        PyMem_Free(w.entries)
        raise_unwalked(walked, w.n)
    unmark(&w, 0)
    for i in range(w.n):
        incref(w.entries[i].node)
    n[0] = w.n
    return w.entries


cdef inline int write_leaf(Node *node, double number, bint is_int) except -1:
    node.data = number
    node.flags = (node.flags & ~<uint16_t>DATA_INT) | (DATA_INT if is_int else 0)
    return 0


cdef object forward(Tape tape):
    """Run the program; or compute node by node if it cannot run, or raises, for the exception."""
    cdef Program *program
    cdef Py_ssize_t i
    if tape.state == IN_NODES or tape.seen != n_changes:
        read_nodes(tape)
        hide(tape)
        tape.seen = n_changes
    program = tape.program
    if program is not NULL:
        for i in range(program.n_kept):
            refuse_new(program.infos[i].node, LEAF)
        if read_leaves(program) and compute_rows(program, program.data, 1):
            tape.state = FORWARD_DONE
            tape.by_nodes = False
            return number_object(program.data[program.root], root_is_int(program))
    tape.numbers = [data_object(node_of(leaf)) for leaf in kept_leaves(tape)]
    tape.state = FAILED
    compute_nodes(tape.computed, tape.n_computed)
    tape.state = FORWARD_DONE
    tape.by_nodes = True
    changed(tape)
    return data_object(tape.entries[tape.n - 1].node)


cdef inline bint root_is_int(Program *program) noexcept:
    if program.root_kind == EITHER:
        return program.data[program.root] == 0.0  # of a relu: see ints_are_known
    return program.root_kind == INTS


cdef inline void changed(Tape tape) noexcept:
    """Record for all tapes that this one has written to nodes."""
    global n_changes
    n_changes += 1
    tape.seen = n_changes


cdef tuple kept_leaves(Tape tape):
    """Return the leaves that keep their gradients: the inputs and those below the root."""
    cdef Node **operands
    cdef Py_ssize_t i, j, n
    if tape.leaves is None:
        leaves = dict.fromkeys(tape.inputs)
        for i in range(tape.n_computed):
            operands = operands_of(tape.computed[i].node, &n)
            for j in range(n):
                if is_kept(operands[j]):
                    leaves[<object><PyObject *>operands[j]] = None
        if is_kept(tape.entries[tape.n - 1].node):
            leaves[<object><PyObject *>tape.entries[tape.n - 1].node] = None
        tape.leaves = tuple(leaves)
    return tape.leaves


cdef int read_nodes(Tape tape) except -1:
    """Check that the nodes are those recorded, and read the constants inside.

    If one has become an input of another tape, compile the tape again.
    """
    cdef Program *program = tape.program
    cdef Node *node
    cdef Py_ssize_t i
    for i in range(tape.n_computed):
        refuse_new(tape.computed[i].node, tape.ops[i])
    if program is NULL:
        return 0
    for i in range(program.n_kept, program.n_infos):
        node = program.infos[i].node
        refuse_new(node, program.ops[i])
        if program.ops[i] == LEAF:
            if not node.flags & CONSTANT:
                tape.program = NULL
                free_program(program)
                compile_tape(tape)
                return read_nodes(tape)
            program.data[program.infos[i].slot] = node.data
    return 0


cdef bint read_leaves(Program *program) noexcept:
    """Read the leaves' numbers; False if one is an int, for which the program is not made."""
    cdef Py_ssize_t i
    cdef uint16_t flags = 0
    for i in range(program.n_kept):
        program.data[i] = program.infos[i].node.data
        flags |= program.infos[i].node.flags
    return not flags & DATA_INT


cdef void hide(Tape tape) noexcept:
    """Make stale all nodes whose numbers a forward writes."""
    cdef Py_ssize_t i
    cdef Node *node
    for i in range(tape.n_computed):
        node = tape.computed[i].node
        if node.n or node.op == NEG_MAX or node.flags & CONSTANT:
            node.flags |= STALE


cdef int refresh(Tape tape) except -1:
    cdef Py_ssize_t i
    if tape.state == IN_NODES:
        return 0
    if tape.state == FAILED:
        raise RuntimeError("the last forward of this Tape raised: there are no numbers to write")
    if not (tape.by_nodes and tape.seen == n_changes):
        write_numbers(tape)
    tape.state = IN_NODES
    changed(tape)
    for i in range(tape.n_computed):
        tape.computed[i].node.flags &= ~<uint16_t>STALE
    return 0


cdef int write_numbers(Tape tape) except -1:
    """Compute the nodes from the leaves' numbers at the last forward, and play the last backward.

    The leaves keep the numbers and gradients that they have now.
    """
    cdef Program *program = tape.program
    cdef Py_ssize_t i
    leaves = kept_leaves(tape)
    numbers = tape.numbers
    if not tape.by_nodes:
        leaves = tuple([<object><PyObject *>program.infos[i].node for i in range(program.n_kept)])
        numbers = [program.data[i] for i in range(program.n_kept)]
    for i in range(tape.n_computed):
        refuse_new(tape.computed[i].node, tape.ops[i])
    for leaf in leaves:
        refuse_new(node_of(leaf), LEAF)
    now = [(data_object(node_of(leaf)), grad_object(node_of(leaf))) for leaf in leaves]
    try:
        write_leaves(leaves, numbers)
        compute_nodes(tape.computed, tape.n_computed)
        if tape.state == BACKWARD_DONE:
            play(tape.entries, tape.n)
    finally:
        write_leaves(leaves, [data for data, _ in now])
        for leaf, (_, grad) in zip(leaves, now):
            set_grad(node_of(leaf), grad, type(grad) is int)
    return 0


cdef inline object grad_object(Node *node):
    return number_object(node.grad, node.flags & GRAD_INT)


cdef int write_leaves(tuple leaves, list numbers) except -1:
    for leaf, number in zip(leaves, numbers):
        write_leaf(node_of(leaf), number, type(number) is int)
    return 0


cdef int play_back(Tape tape) except -1:
    """Play the tape: in the program after its forward, else on the nodes."""
    cdef Program *program = tape.program
    cdef Py_ssize_t i
    if tape.state == FAILED:
        raise RuntimeError("the last forward of this Tape raised: there is nothing to play back")
    if tape.state == FORWARD_DONE and not tape.by_nodes and not has_negative_zero(program):
        read_grads(program)
        memset(
            program.grads + program.n_kept, 0,
            (program.n_grads - program.n_kept) * sizeof(double),
        )
        program.grads[program.root_grad] = 1.0
        play_rows(program, program.edges, program.data, program.grads, NULL, 1)
        see_ints(program, program.data, 1)
        write_grads(program)
        tape.state = BACKWARD_DONE
        return 0
    if tape.state == FORWARD_DONE and tape.by_nodes:
        if tape.seen != n_changes:
            write_numbers(tape)
        play(tape.entries, tape.n)
        tape.state = BACKWARD_DONE
        changed(tape)
        return 0
    refresh(tape)  # a second time gradients inside count, as in any graph
    for i in range(tape.n):
        sync_node(tape.entries[i].node)
    play(tape.entries, tape.n)
    changed(tape)
    return 0


cdef void read_grads(Program *program) noexcept:
    """Read the leaves' gradients, to which the program adds."""
    cdef Py_ssize_t i
    for i in range(program.n_kept):
        program.grads[i] = program.infos[i].node.grad
        program.infos[i].stays_int = True


cdef void see_ints(Program *program, const double *data, const Py_ssize_t lanes) noexcept:
    """Record where a slope, a relu's number in data (n_data, lanes), was no int."""
    cdef Py_ssize_t i, lane
    cdef NodeInfo *info
    for i in range(program.n_kept):
        info = program.infos + i
        if info.grad_kind == EITHER:
            for lane in range(lanes):
                if data[lanes * info.factor + lane] != 0.0:
                    info.stays_int = False


cdef void write_grads(Program *program) noexcept:
    """Write the leaves' gradients."""
    cdef Py_ssize_t i
    cdef NodeInfo *info
    for i in range(program.n_kept):
        info = program.infos + i
        if info.is_reached:
            set_grad(
                info.node, program.grads[i],
                info.grad_kind != FLOATS and fabs(program.grads[i]) <= MAX_INT
                and (info.grad_kind == INTS or info.stays_int)
                and (info.node.flags & GRAD_INT or program.root_grad == <uint32_t>i),
            )


cdef inline bint is_negative_zero(double x) noexcept:
    return x == 0.0 and signbit(x)


cdef bint has_negative_zero(Program *program) noexcept:
    """Return whether a leaf has the gradient -0.0."""
    cdef Py_ssize_t i
    for i in range(program.n_kept):
        if is_negative_zero(program.infos[i].node.grad):
            return True
    return False


# ---------------------------------------------------------------------- many rows at once

cdef class RowWorkspace:
    """The memory in which LANES rows are computed side by side, a number of each in a slot."""

    cdef double *data       # (n_data, LANES)
    cdef double *grads      # (n_grads, LANES)
    cdef double *terms      # (n_places, LANES)
    cdef Py_ssize_t n_compiled

    def __cinit__(self, Tape tape):
        cdef size_t vector = LANES * sizeof(double)
        cdef Program *program = tape.program
        cdef Py_ssize_t i, lane
        self.n_compiled = tape.n_compiled
        self.data = <double *>PyMem_Malloc(program.n_data * vector)
        self.grads = <double *>PyMem_Malloc(program.n_grads * vector)
        self.terms = <double *>PyMem_Malloc((program.n_places + 1) * vector)
        if not (self.data and self.grads and self.terms):
            raise MemoryError(f"no memory for {LANES} rows of {program.n_data} numbers")
        for i in range(program.n_data):
            for lane in range(LANES):
                self.data[LANES * i + lane] = program.data[i]

    def __dealloc__(self):
        PyMem_Free(self.data)
        PyMem_Free(self.grads)
        PyMem_Free(self.terms)

    cdef bint compute(self, Program *program, const double *rows, double *losses) noexcept nogil:
        """Compute LANES rows; False if one raises.

        Writes:  losses, terms
        """
        cdef Py_ssize_t j, lane
        for lane in range(LANES):
            for j in range(program.n_inputs):
                self.data[LANES * program.inputs[j] + lane] = rows[lane * program.n_inputs + j]
        if not compute_rows(program, self.data, LANES):
            return False
        memset(self.grads, 0, program.n_grads * LANES * sizeof(double))
        for lane in range(LANES):
            self.grads[LANES * program.root_grad + lane] = 1.0
            losses[lane] = self.data[LANES * program.root + lane]
        play_rows(program, program.row_edges, self.data, self.grads, self.terms, LANES)
        return True

    cdef void add_terms(self, Program *program) noexcept:
        """Add the terms to the leaves' gradients in the program, row after row."""
        cdef const double *terms = self.terms
        cdef const uint32_t *ends = program.ends
        cdef double *grads = program.grads
        cdef double grad
        cdef Py_ssize_t i, lane, j, start = 0
        for i in range(program.n_kept):
            grad = grads[i]
            if ends[i] - start == 1:  # as nearly always: loops of one are slow
                for lane in range(LANES):
                    grad += terms[LANES * start + lane]
            else:
                for lane in range(LANES):
                    for j in range(start, ends[i]):
                        grad += terms[LANES * j + lane]
            grads[i] = grad
            start = ends[i]
        if program.root_grad < program.n_kept:  # the root is a leaf
            program.grads[program.root_grad] = 1.0
        see_ints(program, self.data, LANES)


cdef array rows_of(object batch, Py_ssize_t n_inputs):
    """Return a batch's numbers in one array, row after row."""
    cdef array rows = array("d")
    try:
        view = memoryview(batch)
    except TypeError:
        view = None
    if view is not None and view.ndim == 2 and view.format == "d" and view.c_contiguous:
        if view.shape[1] != n_inputs:
            raise ValueError(f"rows of {view.shape[1]} values for {n_inputs} inputs")
        rows.frombytes(view.cast("B") if view.nbytes else b"")
        return rows
    for row in batch:
        numbers = converted(row)
        if len(numbers) != n_inputs:
            raise ValueError(f"a row of {len(numbers)} values for {n_inputs} inputs")
        for number in numbers:
            rows.append(float(number))
    return rows


cdef enum:
    ROWS_AT_ONCE = 256  # between checks for signals


cdef array run_rows(Tape tape, array rows, Py_ssize_t n_rows):
    """Do `forward` and `backward` for every row, and return the losses."""
    cdef array losses = array("d", [0.0]) * n_rows
    cdef double *c_losses = losses.data.as_doubles
    cdef const double *c_rows = rows.data.as_doubles
    cdef Py_ssize_t done = 0, start, n = len(tape.inputs)
    cdef RowWorkspace workspace = None
    cdef Program *program = NULL
    while done < n_rows:
        PyErr_CheckSignals()
        # The last row is always computed alone: `refresh` writes its numbers.
        if n_rows - done > LANES and done and tape.state == BACKWARD_DONE and not tape.by_nodes:
            program = tape.program
            if workspace is None or workspace.n_compiled != tape.n_compiled:
                workspace = RowWorkspace(tape)
            if not has_negative_zero(program):
                read_grads(program)
                start = done
                while n_rows - done > LANES and done - start < ROWS_AT_ONCE and (
                    workspace.compute(program, c_rows + done * n, c_losses + done)
                ):
                    workspace.add_terms(program)
                    done += LANES
                write_grads(program)
                if done > start:
                    continue
        c_losses[done] = tape.forward(rows[done * n:(done + 1) * n])
        tape.backward()
        done += 1
    return losses


# --------------------------------------------------------------------- functions of lists
#
# The functions of microgpt/functions.py over lists or tuples of Values of one class, as
# `in_lists` of ClassInfo says: a dot product is made as one SUM node at once. The pure function
# takes all other arguments, so that the result is that of the expression.

cdef object pure(str name):
    """Return the pure-Python function of a name."""
    module = "microgpt.adam" if name == "update" else "microgpt.functions"
    # Before CPython 3.12, an import that lacks memory for its lock raises RuntimeError.
    return getattr(sys.modules.get(module) or import_module(module), name)


cdef tuple own_values(object items, ClassInfo **info, bint *ints):
    """Return a copy of items that nothing else can change, as `nodes_in` takes them; else None."""
    cdef Py_ssize_t n
    if type(items) is not list and type(items) is not tuple:
        return None
    items = tuple(items)
    return None if nodes_in(items, &n, info, ints) is NULL else items


def dot(a, b):
    """Return the sum of the products of a and b.

    Shapes:  a (n,), b (n,); of unequal lengths the shorter counts
    Order:   products summed left to right, from 0
    """
    cdef Py_ssize_t n_a, n_b
    cdef ClassInfo *info = NULL
    cdef bint ints = False
    cdef Node **a_items = nodes_in(a, &n_a, &info, &ints)
    cdef Node **b_items = nodes_in(b, &n_b, &info, &ints) if a_items is not NULL else NULL
    if b_items is NULL:
        return pure("dot")(a, b)
    return sum_of_products(info, a_items, b_items, min(n_a, n_b), ints)


def linear(x, w):
    """Return the matrix-vector product of w and x.

    Shapes:  x (n_in,), w (n_out, n_in), returns (n_out,)
    Order:   products summed over n_in left to right, from 0
    Source:  microgpt `linear`
    """
    cdef Py_ssize_t n_x = 0, n_w = 0
    cdef ClassInfo *info = NULL
    cdef Node **w_items
    cdef bint x_ints = False, ints, is_checked = True
    cdef tuple own = own_values(x, &info, &x_ints)
    cdef list out
    if own is None or type(w) is not list and type(w) is not tuple:
        return pure("linear")(x, w)
    n_x = len(own)
    out = []
    for wo in w:
        ints = False
        w_items = nodes_in(wo, &n_w, &info, &ints)
        if w_items is not NULL and not is_checked:
            is_checked = nodes_in(own, &n_x, &info, &x_ints) is not NULL
        if w_items is NULL or not is_checked:
            is_checked = False  # operators called by the expression may change the values
            out.append(pure("dot")(wo, own))
        else:
            out.append(
                sum_of_products(info, w_items, items_of(own), min(n_w, n_x), ints or x_ints)
            )
    return out


cdef Node *largest_of(Node **values, Py_ssize_t n) noexcept:
    """Return the value with the largest data as Python's `max` finds it."""
    cdef Node *largest = values[0]
    cdef Py_ssize_t i
    for i in range(1, n):
        if values[i].data > largest.data:
            largest = values[i]
    return largest


cdef object new_neg_max(
    ClassInfo *info, Node **values, Py_ssize_t n, Node *largest, object sibling
):
    """Return a leaf of minus the largest that replay computes again; siblings share the values."""
    cdef bint is_int = largest.flags & DATA_INT
    cdef double data = 0.0 if is_int and largest.data == 0.0 else -largest.data
    cdef Node *node = make_constant(info, data, is_int)
    value = OWNED(node)
    if sibling is None:
        node.block = block_of(values, n)
    else:
        node.block = node_of(sibling).block
        node.block.shared += 1
    node.op = NEG_MAX
    return value


cdef Block *block_of(Node **values, Py_ssize_t n, Py_ssize_t n_slopes=0) except NULL:
    """Return a block of n values, whose local gradients, if it has room for them, are floats."""
    cdef Block *block = new_block(n, n_slopes)
    cdef Py_ssize_t i
    memset(block.ints, 0, n_slopes)
    for i in range(n):
        block.children[i] = values[i]
        incref(values[i])
    return block


cdef list exponentials(ClassInfo *info, Node **logits, Py_ssize_t n):
    """Return exp(logit - largest); the largest is a number, not a Value, found as by `max`."""
    cdef Node *largest = largest_of(logits, n)
    cdef Py_ssize_t i
    cdef list exps = []
    leaf = None
    for i in range(n):
        leaf = new_neg_max(info, logits, n, largest, leaf)
        moved = OWNED(make_add(info, logits[i], node_of(leaf)))
        exps.append(OWNED(make_unary(EXP, info, node_of(moved), 0.0, False)))
    return exps


cdef object quotient(ClassInfo *info, object a, object b):
    inverse = OWNED(make_unary(POW, info, node_of(b), -1.0, True))
    return OWNED(make_mul(info, node_of(a), node_of(inverse)))


cdef object pure_softmax(object logits):
    """Return the pure function's result, in which a replay finds the largest logit too."""
    cdef Node *a
    cdef Node *constant
    if type(logits) is not list and type(logits) is not tuple:
        return pure("softmax")(logits)
    own = tuple(logits)
    out = pure("softmax")(own)
    for value in own:
        if not isinstance(value, Value):
            return out
    for probability in out:
        # e / total, where e = (logit + constant).exp()
        a = node_of(probability)
        constant = NULL
        for op in (MUL, EXP, ADD):
            if not isinstance(<object><PyObject *>a, Value) or a.op != op:
                return out
            constant = a.child[1]
            a = a.child[0]
        if constant.op == LEAF and constant.flags & CONSTANT:
            constant.block = block_of(items_of(own), len(own))
            constant.op = NEG_MAX
    return out


def softmax(logits):
    """Return the probabilities proportional to exp(logits).

    Shapes:  logits (n,), returns (n,)
    Order:   the largest logit is subtracted as a plain number; exponentials
             summed left to right from 0; each divided by the total on its own
    Source:  microgpt `softmax`
    """
    cdef ClassInfo *info = NULL
    cdef tuple own = own_values(logits, &info, NULL)
    if own is None:
        return pure_softmax(logits)
    return quotients(info, exponentials(info, items_of(own), len(own)))


def cross_entropy(logits, target):
    """Return minus the logarithm of the target's probability.

    Shapes:  logits (n,); target in 0..n-1
    Units:   nats
    Source:  microgpt's training loop
    """
    cdef ClassInfo *info = NULL
    cdef tuple own = own_values(logits, &info, NULL)
    cdef list exps
    if own is None or not PyLong_CheckExact(target) or not 0 <= target < len(own):
        return -softmax(logits)[target].log()
    exps = exponentials(info, items_of(own), len(own))
    total = sum_of_values(info, items_of(exps), len(exps))
    # The other probabilities are not needed.
    probability = quotient(info, exps[target], total)
    logarithm = OWNED(make_unary(LOG, info, node_of(probability), 0.0, False))
    return OWNED(make_neg(info, node_of(logarithm)))


def rmsnorm(x):
    """Return x divided by the root of its mean square.

    Shapes:  x (n,), returns (n,)
    Order:   squares summed left to right from 0
    Source:  arXiv:1910.07467; microgpt `rmsnorm`
    """
    cdef ClassInfo *info = NULL
    cdef bint ints = False
    cdef tuple own = own_values(x, &info, &ints)
    if own is None:
        return pure("rmsnorm")(x)
    return normalized(info, items_of(own), len(own), 1e-5, ints)


def attention(q, keys, values, n_head):
    """Return the multi-head attention of one position's query over the positions so far.

    Shapes:  q (n_embd,), keys and values (positions, n_embd), returns (n_embd,)
    Order:   per head: scores over positions, softmax, then per output the
             weighted values summed over positions left to right, from 0
    Raises:  ValueError if n_embd is not a multiple of n_head
    Source:  arXiv:1706.03762; microgpt `gpt`
    """
    cdef ClassInfo *info = NULL
    cdef bint ints = False
    cdef tuple own_q = own_values(q, &info, &ints)
    cdef list own_keys, own_values_, scores, out = []
    cdef Py_ssize_t t, j, start, n, head_dim, n_positions
    cdef Node **weights
    cdef Node **column
    cdef double root
    if own_q is None or type(n_head) is not int or not 1 <= n_head or len(own_q) % n_head:
        return pure("attend")(q, keys, values, n_head, softmax)
    n = len(own_q)
    own_keys = own_rows(keys, n, info, &ints)
    own_values_ = own_rows(values, n, info, &ints)
    if own_keys is None or own_values_ is None or len(own_keys) > len(own_values_):
        return pure("attend")(q, keys, values, n_head, softmax)
    n_positions = len(own_keys)
    head_dim = n // n_head
    root = c_pow(c_pow(<double>head_dim, 0.5), -1.0)
    column = <Node **>PyMem_Malloc(n_positions * sizeof(Node *))
    if column is NULL:
        raise MemoryError(f"no memory for attention over {n_positions} positions")
    try:
        for start in range(0, n, head_dim):
            scores = []
            for t in range(n_positions):
                score = sum_of_products(
                    info, items_of(own_q) + start, items_of(own_keys[t]) + start, head_dim, ints
                )
                scores.append(OWNED(with_number(MULTIPLICATION, info, node_of(score), root, False)))
            scores = quotients(info, exponentials(info, items_of(scores), n_positions))
            weights = items_of(scores)
            for j in range(start, start + head_dim):
                for t in range(n_positions):
                    column[t] = items_of(own_values_[t])[j]
                out.append(sum_of_products(info, weights, column, n_positions, ints))
        return out
    finally:
        PyMem_Free(column)


cdef list own_rows(object rows, Py_ssize_t n, ClassInfo *info, bint *ints):
    """Return copies of rows of n Values of a class each, at least one; else None."""
    cdef list out = []
    if type(rows) is not list and type(rows) is not tuple:
        return None
    for row in tuple(rows):
        row = own_values(row, &info, ints)
        if row is None or len(row) != n:
            return None
        out.append(row)
    return out or None


def maximum(a, b):
    """Return the larger of two values as a node of both, a where they are equal.

    Unlike Python's `max` of their data it is part of the graph: a replay of a Tape
    compares again. If either is NaN it is b.
    """
    if is_recording(a, b, b):
        return pure("maximum")(a, b)
    a, b = as_values((a, b))
    return OWNED(make_two(MAXIMUM, info_of(node_of(a)), node_of(a), node_of(b)))


def where(condition, a, b):
    """Return a if the condition's data is positive, else b, as a node of all three.

    Unlike Python's `if` it is part of the graph: a replay of a Tape decides again.
    """
    if is_recording(condition, a, b):
        return pure("where")(condition, a, b)
    cdef tuple values = tuple(as_values((condition, a, b)))
    cdef ClassInfo *info = info_of(node_of(values[1]))
    cdef Node *node = make_leaf(info, 0.0, False)
    out = OWNED(node)
    for value in values:
        sync_node(node_of(value))
    node.block = block_of(items_of(values), 3, 3)
    node.op = WHERE
    node.n = IN_BLOCK
    compute_node(WHERE, info, node)
    return out


cdef bint is_recording(a, b, c) except -1:
    """Return whether `microgpt.compile` is recording, with nodes of its own."""
    if isinstance(a, Value) and isinstance(b, Value) and isinstance(c, Value):
        return False
    return pure("recorder").get() is not None


cdef object as_values(tuple items):
    """Return items as Values, numbers as the leaves that an operator makes of them."""
    for item in items:
        if not isinstance(item, Value):
            return pure("_values")(items)
    return items


class Operation(import_module("microgpt.functions").Operation):
    __doc__ = import_module("microgpt.functions").Operation.__doc__

    def __call__(self, *values):
        value = super().__call__(*values)
        cdef Node *node
        cdef tuple children, slopes
        if isinstance(value, Value) and node_of(value).op == CUSTOM:
            node = node_of(value)
            if node.n != IN_BLOCK:
                children, slopes = value._children, value._local_grads
                release_children(node)
                adopt(node, children, slopes, True)
            node.block.operation = <PyObject *>self
            incref(<PyObject *>self)
            node.op = OPERATION
        return value


def update(
    params, m, v, learning_rate, beta1, beta2, eps_adam, correction1, correction2
):
    """Update every parameter once: the formulas of `Adam`, with this step's numbers.

    Shapes:  params, m, v (n,)
    Order:   params first to last; an exception leaves everything as it was before
    Writes:  data of params, grad of params as 0, m, v
    Raises:  OverflowError if the square of a gradient exceeds the largest float;
             ValueError if a second moment was made negative
    """
    cdef double rate = learning_rate, c_beta1 = beta1, c_beta2 = beta2, eps = eps_adam
    cdef double c1 = correction1, c2 = correction2, rest1 = 1 - beta1, rest2 = 1 - beta2
    cdef double *c_m
    cdef double *c_v
    cdef Py_ssize_t i, n = 0
    cdef Node *p
    cdef ClassInfo *info = NULL
    cdef Node **items = nodes_in(params, &n, &info)
    cdef bint cannot_raise = (
        items is not NULL and are_doubles(m, n) and are_doubles(v, n)
        and eps > 0.0 and c1 > 0.0 and c2 > 0.0
    )
    if cannot_raise:
        c_m = (<array>m).data.as_doubles
        c_v = (<array>v).data.as_doubles
        for i in range(n):
            cannot_raise &= fabs(items[i].grad) < 1e150 and c_v[i] >= 0.0
    if not cannot_raise:  # the pure function takes a failed update back
        return pure("update")(
            params, m, v, learning_rate, beta1, beta2, eps_adam, correction1, correction2
        )
    for i in range(n):
        p = items[i]
        c_m[i] = c_beta1 * c_m[i] + rest1 * p.grad
        c_v[i] = c_beta2 * c_v[i] + rest2 * pow(fabs(p.grad), 2.0)
        p.data -= rate * (c_m[i] / c1) / (pow(c_v[i] / c2, 0.5) + eps)
        p.grad = 0.0
        p.flags = (p.flags & ~<uint16_t>DATA_INT) | EDITED | GRAD_INT


cdef bint are_doubles(object x, Py_ssize_t n) except -1:
    return type(x) is array and (<array>x).typecode == "d" and len(x) == n


# ------------------------------------------------------------------ of a recorded loss

def are_values(weights, list values):
    """Return whether lists, tuples and dictionaries hold these Values still, in order."""
    return match(weights, values, 0) == len(values)


cdef Py_ssize_t match(object weights, list values, Py_ssize_t i) except -2:
    """Return the index after the last match, -1 at a difference."""
    if type(weights) is dict:
        weights = list((<dict>weights).values())
    if not isinstance(weights, (list, tuple)):
        return i + 1 if i < len(values) and weights is values[i] else -1
    for item in weights:
        if i < len(values) and item is values[i]:
            i += 1
            continue
        if isinstance(item, Value):
            return -1
        i = match(item, values, i)
        if i < 0:
            return -1
    return i


def read_values(list values, array data, array grads, bytearray int_grads):
    """Write the numbers and gradients of Values to the beginning of two arrays of doubles.

    int_grads has 1 where a gradient is an int. Returns whether a number is an int.
    """
    cdef Py_ssize_t i, n = len(values)
    cdef Value value
    cdef unsigned char *is_int = int_grads
    cdef bint some_int = False
    if len(data) < n or len(grads) < n or len(int_grads) < n:
        raise ValueError(f"no room for the numbers of {n} values")
    for i in range(n):
        value = values[i]
        sync_node(node_of(value))
        if node_of(value).n:
            raise ValueError(f"a weight must be a leaf: {value!r} has been computed")
        data.data.as_doubles[i] = node_of(value).data
        grads.data.as_doubles[i] = node_of(value).grad
        is_int[i] = node_of(value).flags & GRAD_INT != 0
        some_int |= node_of(value).flags & DATA_INT != 0
    return some_int


def write_values(list values, array grads, bytearray int_grads, array data=None):
    """Set the gradients of Values, and their numbers, floats, if given, from arrays.

    A gradient of more than 53 bits is a float whatever int_grads says.
    """
    cdef Py_ssize_t i, n = len(values)
    cdef Value value
    cdef unsigned char *is_int = int_grads
    cdef double grad
    if len(grads) < n or len(int_grads) < n or data is not None and len(data) < n:
        raise ValueError(f"no numbers for {n} values")
    for i in range(n):
        value = values[i]
        sync_node(node_of(value))
        grad = grads.data.as_doubles[i]
        set_grad(node_of(value), grad, is_int[i] and fabs(grad) <= MAX_INT)
        if data is not None:
            write_leaf(node_of(value), data.data.as_doubles[i], False)
            node_of(value).flags |= EDITED


# ------------------------------------------------------------------------ set up the class

cdef int set_up() except -1:
    """Set Value's slots: its nodes are made and freed by the functions above."""
    cdef TypeSlots *slots = <TypeSlots *>Value
    set_value_type(<PyTypeObject *>Value)
    (<dict><object>slots.tp_dict)["_options"] = oracle.ClassOptions(results=Value)
    (<dict><object>slots.tp_dict)["__init_subclass__"] = classmethod(init_subclass)
    slots.tp_dealloc = dealloc_value
    slots.tp_vectorcall = <vectorcallfunc>call_quickly
    cdef Numbers *numbers = (<Operators *>Value).tp_as_number
    written.add = numbers.nb_add
    written.subtract = numbers.nb_subtract
    written.multiply = numbers.nb_multiply
    written.negative = numbers.nb_negative
    written.call = <callfunc>call_value
    written.dealloc = dealloc_slowly
    numbers.nb_add = add_quickly
    numbers.nb_multiply = multiply_quickly
    numbers.nb_subtract = subtract_quickly
    numbers.nb_negative = negate_quickly
    for name, function in (
        ("add", <size_t>numbers.nb_add), ("radd", <size_t>numbers.nb_add),
        ("sub", <size_t>numbers.nb_subtract), ("rsub", <size_t>numbers.nb_subtract),
        ("mul", <size_t>numbers.nb_multiply), ("rmul", <size_t>numbers.nb_multiply),
        ("truediv", <size_t>numbers.nb_true_divide), ("neg", <size_t>numbers.nb_negative),
        ("rtruediv", <size_t>numbers.nb_true_divide),
    ):
        name = f"__{name}__"
        set_operator(value_type, name, int.__dict__[name], <void *><size_t>function)
    # As in a class of Python's, members can be added to it: Value.sigmoid = f.
    slots.tp_flags &= ~Py_TPFLAGS_IMMUTABLETYPE
    PyType_Modified(value_type)
    return remember_members(value_type)


set_up()
