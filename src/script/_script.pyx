"""The compiled stand-in for the class Value of somebody's own script, for `microgpt run`.

A `Node` stores what an object of the script's class stores: data and grad (floats, or ints
up to 2**53), children, local gradients, and any other attribute. `adopt` takes a class made
from `Node` with the members of the script's class, and lets the operators that behave alike
(microgpt/run/probes.py found which) run here. Everything else stays the script's own Python
code, which works on these nodes as on its own: what is not as usual (another type of number,
a subclass, an exception, an overridden operator) calls it.

So this file has no error messages and no special cases: it computes the usual case, or
returns to Python. It is apart from the engine's Value, which has no ints, no late
derivatives and no attributes of the script's choosing. It is one file because Cython has
no other way to share the inner fields of a class within one extension module.
"""

cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.math cimport exp, fabs, isinf, log, sqrt, tanh
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from scalar cimport NO_ERROR, PowError, pow_or_error

import copyreg

cdef extern from "Python.h":
    void Py_INCREF(PyObject *)
    void Py_DECREF(PyObject *)
    void Py_XDECREF(PyObject *)
    Py_ssize_t Py_REFCNT(PyObject *)
    PyTypeObject *Py_TYPE(PyObject *)
    void *PyObject_Malloc(size_t)
    void PyObject_Free(void *)
    PyObject *PyObject_Init(PyObject *, PyTypeObject *)
    void PyObject_GC_Track(void *)
    void PyObject_GC_UnTrack(void *)
    bint PyObject_GC_IsTracked(PyObject *)
    void PyType_Modified(PyTypeObject *)
    unsigned long Py_TPFLAGS_HAVE_GC
    Py_ssize_t PyVectorcall_NARGS(size_t)
    bint PyLong_CheckExact(PyObject *)
    bint PyTuple_CheckExact(PyObject *)
    bint is_float "PyFloat_CheckExact"(PyObject *)
    double float_of "PyFloat_AS_DOUBLE"(PyObject *)
    long long PyLong_AsLongLongAndOverflow(object, int *) noexcept
    PyObject *PyDict_GetItem(PyObject *, PyObject *)
    PyObject **PySequence_Fast_ITEMS(object)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    bint PyObject_TypeCheck(PyObject *, PyTypeObject *)
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef PyObject *(*vectorcallfunc)(
        PyObject *, PyObject *const *, size_t, PyObject *
    ) except NULL
    ctypedef PyObject *(*binaryfunc)(PyObject *, PyObject *) except NULL
    ctypedef PyObject *(*ternaryfunc)(PyObject *, PyObject *, PyObject *) except NULL
    ctypedef PyObject *(*unaryfunc)(PyObject *) except NULL
    ctypedef struct Numbers "PyNumberMethods":
        binaryfunc nb_add
        binaryfunc nb_subtract
        binaryfunc nb_multiply
        binaryfunc nb_true_divide
        ternaryfunc nb_power
        unaryfunc nb_negative
    ctypedef struct TypeSlots "PyTypeObject":
        Py_ssize_t tp_basicsize
        Py_ssize_t tp_dictoffset
        unsigned long tp_flags
        PyObject *tp_dict
        Numbers *tp_as_number
        int (*tp_traverse)(PyObject *, visitproc, void *) noexcept
        int (*tp_clear)(PyObject *) noexcept
        void (*tp_dealloc)(PyObject *) noexcept
        void (*tp_free)(void *) noexcept
        PyObject *(*tp_alloc)(PyTypeObject *, Py_ssize_t) except NULL
        PyObject *(*tp_call)(PyObject *, PyObject *, PyObject *) except NULL
        vectorcallfunc tp_vectorcall

cdef extern from *:
    """
    #define OWNED(reference) ((void *)(reference))
    #define DICT_OFFSET(type, member) offsetof(type, member)
    #define GC_HEAD (2 * sizeof(void *))
    """
    object OWNED(PyObject *)
    bint unlikely(bint)
    bint likely(bint)
    const size_t GC_HEAD


cdef class Node


cdef enum Op:
    LEAF, ADD, MUL, POW, EXP, LOG, RELU, TANH, TANH_EXP, SIGMOID, MADE, SUM


cdef enum Flag:
    DATA_INT = 1        # data is an int
    GRAD_INT = 2        # grad is an int
    SLOPE0_INT = 4      # the first local gradient is an int
    SLOPE1_INT = 8
    DATA_BOXED = 16     # data is another object, kept in attributes[0]
    GRAD_BOXED = 32     # grad likewise, in attributes[1]
    CHILDREN_BOXED = 64  # children are not a tuple of nodes, in attributes[2]
    SLOPES_BOXED = 128  # local gradients are not as many numbers, in attributes[3]
    CALLS = 256         # it has a _backward of its own, in attributes[4]
    PLAYED = 512        # a backward has gone through it (of a SUM)
    EXPONENT_INT = 1024  # the exponent of a POW is an int

cdef enum:
    MANY = 255  # n of a node whose children are in a tuple, child[0]; local gradients in child[1]
    MAX_FAMILIES = 4096

cdef enum Native:
    N_ADD = 1
    N_RADD = 2
    N_MUL = 4
    N_RMUL = 8
    N_SUB = 16
    N_RSUB = 32
    N_DIV = 64
    N_RDIV = 128
    N_POW = 256
    N_NEG = 512
    # With a number as the right operand.
    N_ADD_NUMBER = 1024
    N_MUL_NUMBER = 2048
    N_SUB_NUMBER = 4096
    N_DIV_NUMBER = 8192

cdef double MAX_INT = 2.0**53


cdef struct Settings:
    # What the operators of one class do. Python objects are in its Family.
    PyTypeObject *cls
    unsigned int native       # Native operators that run here
    bint to_float             # the constructor makes floats of ints
    bint grad_int             # gradients start as 0, not 0.0
    bint root_int             # backward starts with 1, not 1.0
    bint late                 # derivatives are computed in backward
    bint ones_int             # the local gradients of + are 1, not 1.0
    bint minus_int            # -x is x * -1, not x * -1.0
    bint relu_keeps           # relu is x unless x < 0; else 0 unless x > 0
    bint relu_int             # the zero of relu is 0, not 0.0
    bint relu_slope_int       # and its local gradient 1 or 0, not 1.0 or 0.0
    bint tanh_square          # tanh's derivative by t * t, not t**2
    bint guarded

cdef Settings[MAX_FAMILIES] settings
cdef list families = [None]  # by number; 0 is none


cdef struct Term:
    # a * b, each the other's local gradient; or where b is NULL a alone.
    PyObject *a
    PyObject *b
    double a_data
    double b_data
    uint8_t a_int  # of the two, at most one is an int
    uint8_t b_int


cdef class Family:
    """What belongs to one replaced class."""

    cdef public object cls
    cdef public dict originals     # its own functions, by name
    cdef public object init        # its own __init__
    cdef public object children    # name of the attribute that holds children
    cdef public object container   # tuple, set or list
    cdef public object leaf_container  # the same, of a node without children
    cdef public object slopes      # name of the attribute that holds local gradients, or None
    cdef public object backward    # name of the attribute that holds closures, or None
    cdef public dict defaults      # other attributes: {name: {op: value}}
    cdef public tuple order        # all attributes in the order in which __init__ sets them
    cdef public tuple positional   # roles of the constructor's parameters, by place
    cdef public dict keywords      # roles by name
    cdef public list guards        # (dict, key, value) that have to hold
    cdef public bint has_slots
    cdef public int number
    cdef object held  # what the guards' pointers point at
    cdef PyObject *guard_dicts[8]
    cdef PyObject *guard_keys[8]
    cdef PyObject *guard_values[8]
    cdef int n_guards


# ---------------------------------------------------------------- memory

cdef enum:
    MAX_FREE = 1 << 8

cdef PyObject *free_nodes[MAX_FREE]
cdef Py_ssize_t n_free = 0
cdef Py_ssize_t n_live = 0  # nodes of replaced classes themselves
cdef PyObject *dying = NULL
cdef bint draining = False


@cython.auto_pickle(False)
cdef class Node:
    """The storage of a node; every replaced class is a subclass."""

    cdef double c_data
    cdef double c_grad
    cdef PyObject *child[2]
    cdef double slope[2]  # of a POW in slope[1] the exponent
    cdef PyObject *attributes  # a dict, or NULL
    cdef uint32_t place
    cdef uint16_t flags
    cdef uint8_t op
    cdef uint8_t n
    cdef uint16_t family

    def __cinit__(self, *args, **kwargs):
        if not self.family:  # of a subclass of a replaced class, which Python has allocated
            self.family = family_of(type(self))
            self.flags = GRAD_INT if settings[self.family].grad_int else 0

    @property
    def data(self):
        return data_of(<PyObject *>self)

    @data.setter
    def data(self, value):
        if not set_number(&self.c_data, &self.flags, DATA_INT, DATA_BOXED, value):
            box(self, 0, value)
            self.flags |= DATA_BOXED

    @property
    def grad(self):
        if self.flags & GRAD_BOXED:
            return boxed(<PyObject *>self, 1, "grad")
        return number(self.c_grad, self.flags & GRAD_INT)

    @grad.deleter
    def grad(self):
        attributes_of(self).pop(1, None)
        self.flags |= GRAD_BOXED

    @data.deleter
    def data(self):
        attributes_of(self).pop(0, None)
        self.flags |= DATA_BOXED

    @grad.setter
    def grad(self, value):
        if not set_number(&self.c_grad, &self.flags, GRAD_INT, GRAD_BOXED, value):
            box(self, 1, value)
            self.flags |= GRAD_BOXED

    def _native_backward(self, *args, **kwargs):
        if not args and not kwargs and backward(<PyObject *>self):
            return None
        return original(self, "backward")(self, *args, **kwargs)

    def _native_exp(self, *args, **kwargs):
        if args or kwargs:
            return original(self, "exp")(self, *args, **kwargs)
        return OWNED(method(<PyObject *>self, EXP))

    def _native_log(self, *args, **kwargs):
        if args or kwargs:
            return original(self, "log")(self, *args, **kwargs)
        return OWNED(method(<PyObject *>self, LOG))

    def _native_relu(self, *args, **kwargs):
        if args or kwargs:
            return original(self, "relu")(self, *args, **kwargs)
        return OWNED(method(<PyObject *>self, RELU))

    def _native_tanh(self, *args, **kwargs):
        if args or kwargs:
            return original(self, "tanh")(self, *args, **kwargs)
        return OWNED(method(<PyObject *>self, TANH))

    def _native_tanh_exp(self, *args, **kwargs):
        if args or kwargs:
            return original(self, "tanh_exp")(self, *args, **kwargs)
        return OWNED(method(<PyObject *>self, TANH_EXP))

    def _native_sigmoid(self, *args, **kwargs):
        if args or kwargs:
            return original(self, "sigmoid")(self, *args, **kwargs)
        return OWNED(method(<PyObject *>self, SIGMOID))


class Base(Node):
    """The base of all replaced classes: their subclasses' operators come here first too."""

    __slots__ = ()

    def __reduce_ex__(self, protocol):
        return copyreg.__newobj__, (type(self),), state_of(self)

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        for base in cls.__mro__[1:]:
            for family in families:
                if family is not None and (<Family>family).cls is base:
                    take_slots(cls)


cdef object original(Node node, str name):
    return (<Family>families[node.family]).originals[name]


cdef inline object number(double x, int as_int):
    if as_int:
        return <long long>x
    return x


cdef inline bint read_number(PyObject *value, double *x, int *is_int) noexcept:
    """Read exactly a float, or an int of at most 2**53."""
    cdef int overflow = 0
    if is_float(value):
        x[0] = float_of(value)
        is_int[0] = 0
        return True
    if PyLong_CheckExact(value):
        x[0] = <double>PyLong_AsLongLongAndOverflow(<object>value, &overflow)
        is_int[0] = 1
        return not overflow and fabs(x[0]) <= MAX_INT
    return False


cdef inline bint set_number(double *x, uint16_t *flags, int int_flag, int boxed, object value):
    cdef double y = 0.0
    cdef int is_int = 0
    if not read_number(<PyObject *>value, &y, &is_int):
        return False
    x[0] = y
    flags[0] = (flags[0] & ~(int_flag | boxed)) | (int_flag if is_int else 0)
    return True


cdef dict attributes_of(Node node):
    cdef dict made
    if node.attributes is NULL:
        made = {}
        Py_INCREF(<PyObject *>made)
        node.attributes = <PyObject *>made
    return <dict>node.attributes


cdef int box(Node node, object key, object value) except -1:
    attributes_of(node)[key] = value
    if not PyObject_GC_IsTracked(<PyObject *>node):
        PyObject_GC_Track(<void *>node)
    return 0


cdef object boxed(PyObject *node, object key, str name):
    attributes = attributes_of(<Node>node)
    if key not in attributes:
        raise AttributeError(f"'{type(<object>node).__name__}' object has no attribute '{name}'")
    return attributes[key]


cdef inline object data_of(PyObject *node):
    if (<Node>node).flags & DATA_BOXED:
        return boxed(node, 0, "data")
    return number((<Node>node).c_data, (<Node>node).flags & DATA_INT)


cdef inline PyObject *take(uint16_t family, Op op, uint8_t n) except NULL:
    """Return a new reference to a node of a family's class with data and children not set."""
    global n_free, n_live
    cdef PyObject *node
    cdef char *memory
    n_live += 1
    if n_free > 0:
        n_free -= 1
        node = free_nodes[n_free]
    else:
        memory = <char *>PyObject_Malloc(GC_HEAD + (<TypeSlots *>Node).tp_basicsize)
        if memory is NULL:
            raise MemoryError
        memset(memory, 0, GC_HEAD)
        node = <PyObject *>(memory + GC_HEAD)
    PyObject_Init(node, settings[family].cls)
    (<Node>node).c_grad = 0.0
    (<Node>node).attributes = NULL
    (<Node>node).place = 0
    (<Node>node).flags = GRAD_INT if settings[family].grad_int else 0
    (<Node>node).op = op
    (<Node>node).n = n
    (<Node>node).family = family
    return node


cdef PyObject *alloc(PyTypeObject *cls, Py_ssize_t n_items) except NULL:
    """The tp_alloc of a replaced class."""
    cdef PyObject *node = take(family_of(<object>cls), LEAF, 0)
    (<Node>node).c_data = 0.0
    return node


cdef uint16_t family_of(object cls) except 0:
    for base in cls.__mro__:
        for family in families:
            if family is not None and (<Family>family).cls is base:
                return (<Family>family).number
    raise TypeError(f"{cls.__name__} is not a replaced class")


cdef void free_node(PyObject *node) noexcept:
    global n_free, n_live
    cdef PyTypeObject *kind = Py_TYPE(node)
    n_live -= 1
    if kind != settings[(<Node>node).family].cls:
        n_live += 1
        (<TypeSlots *>kind).tp_free(node)
    elif n_free < MAX_FREE:
        free_nodes[n_free] = node
        n_free += 1
    else:
        PyObject_Free(<char *>node - GC_HEAD)
    Py_DECREF(<PyObject *>kind)


cdef void dealloc(PyObject *self) noexcept:
    """Free a node and all that dies with it, without recursion: a list, through child[0]."""
    global dying, draining
    cdef PyObject *node
    cdef PyObject *first
    cdef PyObject *second
    cdef PyObject *attributes
    cdef uint8_t n, op
    if PyObject_GC_IsTracked(self):
        PyObject_GC_UnTrack(self)
    # The children move into fields that the list does not need.
    memcpy(&(<Node>self).c_data, &dying, sizeof(dying))
    dying = self
    if draining:
        return
    draining = True
    while dying is not NULL:
        node = dying
        memcpy(&dying, &(<Node>node).c_data, sizeof(dying))
        n, op = (<Node>node).n, (<Node>node).op
        first, second = (<Node>node).child[0], (<Node>node).child[1]
        attributes = (<Node>node).attributes
        (<Node>node).n = 0
        (<Node>node).attributes = NULL
        if op == SUM:
            release_terms(<Term *>first, <Py_ssize_t>second)
        elif n:
            Py_DECREF(first)
            if n >= 2:
                Py_DECREF(second)
        Py_XDECREF(attributes)
        free_node(node)
    draining = False


cdef void release_terms(Term *terms, Py_ssize_t n) noexcept:
    cdef Py_ssize_t i
    for i in range(n):
        Py_DECREF(terms[i].a)
        Py_XDECREF(terms[i].b)
    PyMem_Free(terms)


cdef int traverse(PyObject *node, visitproc visit, void *argument) noexcept:
    cdef int stop = 0
    cdef Py_ssize_t i
    cdef Term *terms
    if (<Node>node).op == SUM:
        terms = <Term *>(<Node>node).child[0]
        for i in range(<Py_ssize_t>(<Node>node).child[1]):
            stop = visit(terms[i].a, argument)
            if not stop and terms[i].b is not NULL:
                stop = visit(terms[i].b, argument)
            if stop:
                return stop
    elif (<Node>node).n:
        stop = visit((<Node>node).child[0], argument)
        if not stop and (<Node>node).n >= 2:
            stop = visit((<Node>node).child[1], argument)
    if not stop and (<Node>node).attributes is not NULL:
        stop = visit((<Node>node).attributes, argument)
    return stop or visit(<PyObject *>Py_TYPE(node), argument)


cdef int clear(PyObject *node) noexcept:
    cdef PyObject *attributes = (<Node>node).attributes
    (<Node>node).attributes = NULL
    (<Node>node).flags &= ~(
        DATA_BOXED | GRAD_BOXED | CHILDREN_BOXED | SLOPES_BOXED | CALLS
    )
    Py_XDECREF(attributes)
    return 0


# ------------------------------------------------------- operators

cdef inline bint is_native(PyObject *node, unsigned int operators) noexcept:
    """Return whether a node is of a replaced class itself, with a usual number, and that class
    has these operators here."""
    cdef Settings *s = &settings[(<Node>node).family]
    return (
        Py_TYPE(node) == s.cls and not (<Node>node).flags & DATA_BOXED
        and (s.native & operators) == operators and (not s.guarded or guards_hold(node))
    )


cdef bint guards_hold(PyObject *node) noexcept:
    cdef Family family = <Family>families[(<Node>node).family]
    cdef int i
    for i in range(family.n_guards):
        if PyDict_GetItem(family.guard_dicts[i], family.guard_keys[i]) != family.guard_values[i]:
            return False
    return True


cdef inline PyObject *leaf(uint16_t family, double x, int is_int) except NULL:
    cdef PyObject *node = take(family, LEAF, 0)
    (<Node>node).c_data = x
    if is_int and not settings[family].to_float:
        (<Node>node).flags |= DATA_INT
    return node


cdef inline PyObject *binary_node(
    Op op, double data, int data_int, PyObject *a, PyObject *b
) except NULL:
    cdef PyObject *node = take((<Node>a).family, op, 2)
    if data_int:
        if unlikely(fabs(data) >= MAX_INT):
            x, y = data_of(a), data_of(b)
            box(<Node>node, 0, x + y if op == ADD else x * y)
            (<Node>node).flags |= DATA_BOXED
        data = data + 0.0  # no int is -0.0
    (<Node>node).c_data = data
    if data_int and not settings[(<Node>a).family].to_float:
        (<Node>node).flags |= DATA_INT
    Py_INCREF(a)
    Py_INCREF(b)
    (<Node>node).child[0] = a
    (<Node>node).child[1] = b
    return node


cdef inline PyObject *plus(PyObject *a, PyObject *b) except NULL:
    cdef PyObject *node = binary_node(
        ADD, (<Node>a).c_data + (<Node>b).c_data,
        (<Node>a).flags & (<Node>b).flags & DATA_INT, a, b,
    )
    (<Node>node).slope[0] = (<Node>node).slope[1] = 1.0
    if settings[(<Node>a).family].ones_int:
        (<Node>node).flags |= SLOPE0_INT | SLOPE1_INT
    return node


cdef inline PyObject *times(PyObject *a, PyObject *b) except NULL:
    cdef PyObject *node = binary_node(
        MUL, (<Node>a).c_data * (<Node>b).c_data,
        (<Node>a).flags & (<Node>b).flags & DATA_INT, a, b,
    )
    (<Node>node).slope[0] = (<Node>b).c_data
    (<Node>node).slope[1] = (<Node>a).c_data
    if (<Node>b).flags & DATA_INT:
        (<Node>node).flags |= SLOPE0_INT
    if (<Node>a).flags & DATA_INT:
        (<Node>node).flags |= SLOPE1_INT
    return node


cdef inline PyObject *used(PyObject *node, PyObject *a, PyObject *b) except NULL:
    """Return node, without the caller's references to its operands."""
    Py_XDECREF(a)
    Py_XDECREF(b)
    return node


cdef inline PyObject *negated(PyObject *a) except NULL:
    cdef PyObject *minus = leaf((<Node>a).family, -1.0, settings[(<Node>a).family].minus_int)
    cdef PyObject *node = times(a, minus)
    Py_DECREF(minus)
    return node


cdef PyObject *power_node(PyObject *a, double k, int k_int) except? NULL:
    """Return a ** k; NULL without an exception where Python has to compute it."""
    cdef PowError error = NO_ERROR
    cdef double x = (<Node>a).c_data, data, slope = 0.0
    cdef int is_int = (<Node>a).flags & DATA_INT and k_int and k >= 0.0
    cdef PyObject *node
    data = pow_or_error(x, k, &error)
    if not settings[(<Node>a).family].late:
        slope = k * pow_or_error(x, k - 1.0, &error)
    if error != NO_ERROR or fabs(k) > 1e15:
        return NULL
    if is_int and (k == 0.0 or not fabs(data) < MAX_INT or not fabs(slope) < MAX_INT):
        return NULL
    node = take((<Node>a).family, POW, 1)
    (<Node>node).c_data = data
    (<Node>node).slope[0] = slope
    (<Node>node).slope[1] = k
    if is_int:
        (<Node>node).c_data = data + 0.0
        (<Node>node).slope[0] = slope + 0.0
        (<Node>node).flags |= SLOPE0_INT
        if not settings[(<Node>a).family].to_float:
            (<Node>node).flags |= DATA_INT
    if k_int:
        (<Node>node).flags |= EXPONENT_INT
    Py_INCREF(a)
    (<Node>node).child[0] = a
    return node


cdef PyObject *unary_node(PyObject *a, Op op) except? NULL:
    """Return exp(a), log(a) and so on; NULL without an exception where Python has to."""
    cdef Settings *s = &settings[(<Node>a).family]
    cdef double x = (<Node>a).c_data, data, slope, e
    cdef int data_int = 0, slope_int = 0
    cdef PowError error = NO_ERROR
    cdef PyObject *node
    if op == EXP:
        data = slope = exp(x)
        if isinf(data) and not isinf(x):
            return NULL
    elif op == LOG:
        if not x > 0.0:
            return NULL
        data, slope = log(x), 1.0 / x
    elif op == RELU:
        if x > 0.0 or (s.relu_keeps and not x < 0.0):
            data = x
            data_int = (<Node>a).flags & DATA_INT
        else:
            data = 0.0
            data_int = s.relu_int
        slope = 1.0 if x > 0.0 else 0.0
        slope_int = s.relu_slope_int
    elif op == SIGMOID:
        e = exp(-x)
        if isinf(e) and not isinf(x):
            return NULL
        data = 1.0 / (1.0 + e)
        slope = data * (1.0 - data)
    else:
        if op == TANH:
            data = tanh(x)
        else:
            e = exp(2.0 * x)
            if isinf(e):
                return NULL
            data = (e - 1.0) / (e + 1.0)
        slope = 1.0 - (data * data if s.tanh_square else pow_or_error(data, 2.0, &error))
    node = take((<Node>a).family, op, 1)
    (<Node>node).c_data = data
    (<Node>node).slope[0] = slope
    if data_int and not s.to_float:
        (<Node>node).flags |= DATA_INT
    if slope_int:
        (<Node>node).flags |= SLOPE0_INT
    Py_INCREF(a)
    (<Node>node).child[0] = a
    return node


METHOD_NAMES = {
    EXP: "exp", LOG: "log", RELU: "relu", TANH: "tanh", TANH_EXP: "tanh_exp", SIGMOID: "sigmoid",
}


cdef PyObject *method(PyObject *a, Op op) except NULL:
    cdef PyObject *node = NULL
    cdef object result
    if is_native(a, 0):
        node = unary_node(a, op)
    if node is NULL:
        result = original(<Node>a, METHOD_NAMES[op])(<object>a)
        Py_INCREF(<PyObject *>result)
        return <PyObject *>result
    return node


cdef inline bint is_node(PyObject *x) noexcept:
    return PyObject_TypeCheck(x, <PyTypeObject *>Node)


# Which of two operands makes the result, and the other as a number: the shape of a call.
cdef enum Shape:
    NODES, NODE_NUMBER, NUMBER_NODE, GENERIC


cdef inline Shape shape_of(
    PyObject *a, PyObject *b, unsigned int direct, unsigned int reflected, unsigned int number,
    double *x, int *is_int
) noexcept:
    if Py_TYPE(a) == Py_TYPE(b):
        if is_native(a, direct) and not (<Node>b).flags & DATA_BOXED:
            return NODES
    elif is_node(a):
        if is_native(a, number) and read_number(b, x, is_int):
            return NODE_NUMBER
    elif is_native(b, reflected) and read_number(a, x, is_int):
        return NUMBER_NODE
    return GENERIC


cdef PyObject *generic(PyObject *left, PyObject *right, str name, str reflected) except NULL:
    """Do what Python does for an operator of a class written in Python."""
    a, b = <object>left, <object>right
    cls, other = type(a), type(b)
    cdef bint is_other = cls is not other and is_node(right)
    result = NotImplemented
    function = getattr(cls, name, None) if is_node(left) else None
    if function is not None:
        if is_other and issubclass(other, cls):
            method = getattr(other, reflected, None)
            if method is not None and method is not getattr(cls, reflected, None):
                result = method(b, a)
                is_other = False
        if result is NotImplemented:
            result = function(a, b)
    if result is NotImplemented and is_other:
        method = getattr(other, reflected, None)
        if method is not None:
            result = method(b, a)
    elif result is NotImplemented and function is None and is_node(right):
        method = getattr(other, reflected, None)
        if method is not None:
            result = method(b, a)
    Py_INCREF(<PyObject *>result)
    return <PyObject *>result


cdef PyObject *nb_add(PyObject *a, PyObject *b) except NULL:
    cdef double x = 0.0
    cdef int is_int = 0
    cdef PyObject *constant
    cdef Shape shape = shape_of(a, b, N_ADD, N_RADD, N_ADD_NUMBER, &x, &is_int)
    if shape == NODES:
        return plus(a, b)
    if shape == GENERIC:
        return generic(a, b, "__add__", "__radd__")
    if shape == NUMBER_NODE:
        a = b
    constant = leaf((<Node>a).family, x, is_int)
    return used(plus(a, constant), constant, NULL)


cdef PyObject *nb_multiply(PyObject *a, PyObject *b) except NULL:
    cdef double x = 0.0
    cdef int is_int = 0
    cdef PyObject *constant
    cdef Shape shape = shape_of(a, b, N_MUL, N_RMUL, N_MUL_NUMBER, &x, &is_int)
    if shape == NODES:
        return times(a, b)
    if shape == GENERIC:
        return generic(a, b, "__mul__", "__rmul__")
    if shape == NUMBER_NODE:
        a = b
    constant = leaf((<Node>a).family, x, is_int)
    return used(times(a, constant), constant, NULL)


cdef PyObject *nb_subtract(PyObject *a, PyObject *b) except NULL:
    cdef double x = 0.0
    cdef int is_int = 0
    cdef PyObject *other
    cdef Shape shape = shape_of(a, b, N_SUB, N_RSUB, N_SUB_NUMBER, &x, &is_int)
    if shape == NODES:
        other = negated(b)
        return used(plus(a, other), other, NULL)
    if shape == NODE_NUMBER:
        other = leaf((<Node>a).family, -x + 0.0 if is_int else -x, is_int)
        return used(plus(a, other), other, NULL)
    if shape == GENERIC:
        return generic(a, b, "__sub__", "__rsub__")
    other = leaf((<Node>b).family, x, is_int)
    a = negated(b)
    return used(plus(a, other), a, other)


cdef PyObject *nb_true_divide(PyObject *a, PyObject *b) except NULL:
    cdef double x = 0.0
    cdef int is_int = 0
    cdef PyObject *other = NULL
    cdef PowError error = NO_ERROR
    cdef Shape shape = shape_of(a, b, N_DIV, N_RDIV, N_DIV_NUMBER, &x, &is_int)
    if shape == NODES:
        other = power_node(b, -1.0, 1)
        if other is not NULL:
            return used(times(a, other), other, NULL)
    elif shape == NODE_NUMBER:
        x = pow_or_error(x, -1.0, &error)
        if error == NO_ERROR:
            other = leaf((<Node>a).family, x, 0)
            return used(times(a, other), other, NULL)
    elif shape == NUMBER_NODE:
        other = power_node(b, -1.0, 1)
        if other is not NULL:
            a = leaf((<Node>b).family, x, is_int)
            return used(times(other, a), a, other)
    return generic(a, b, "__truediv__", "__rtruediv__")


cdef PyObject *nb_power(PyObject *a, PyObject *b, PyObject *modulo) except NULL:
    cdef double x = 0.0
    cdef int is_int = 0
    cdef PyObject *node = NULL
    if modulo == <PyObject *>None and is_node(a) and is_native(a, N_POW):
        if read_number(b, &x, &is_int):
            node = power_node(a, x, is_int)
    if node is not NULL:
        return node
    if modulo == <PyObject *>None:
        return generic(a, b, "__pow__", "__rpow__")
    result = NotImplemented
    if is_node(a) and hasattr(type(<object>a), "__pow__"):
        result = type(<object>a).__pow__(<object>a, <object>b, <object>modulo)
    Py_INCREF(<PyObject *>result)
    return <PyObject *>result


cdef PyObject *nb_negative(PyObject *a) except NULL:
    if is_native(a, N_NEG):
        return negated(a)
    result = type(<object>a).__neg__(<object>a)
    Py_INCREF(<PyObject *>result)
    return <PyObject *>result


# ------------------------------------------------------- the constructor

cdef PyObject *call(
    PyObject *cls, PyObject *const *args, size_t nargsf, PyObject *names
) except NULL:
    """The tp_vectorcall of a replaced class: the usual arguments here, all others by __init__."""
    cdef Py_ssize_t i, n = PyVectorcall_NARGS(nargsf), n_named
    cdef double x = 0.0
    cdef int is_int = 0
    cdef uint16_t number = family_of_class(cls)
    cdef PyObject *node
    cdef Family family
    if number and (not settings[number].guarded or class_guards_hold(number)):
        if n == 1 and names is NULL and read_number(args[0], &x, &is_int):
            return leaf(number, x, is_int)
        family = <Family>families[number]
        n_named = len(<tuple>names) if names is not NULL else 0
        if n and n <= len(family.positional) and read_number(args[0], &x, &is_int):
            node = leaf(number, x, is_int)
            made = OWNED(node)
            for i in range(1, n):
                if not fill(<Node>made, family, family.positional[i], args[i]):
                    made = None
                    break
            else:
                for i in range(n_named):
                    role = family.keywords.get(<object>(<tuple>names)[i])
                    if role is None or not fill(<Node>made, family, role, args[n + i]):
                        made = None
                        break
            if made is not None and not (<Node>made).flags & SLOPES_BOXED:
                Py_INCREF(<PyObject *>made)
                return <PyObject *>made
    positional = tuple([<object>args[i] for i in range(n)])
    named = {}
    if names is not NULL:
        for i, name in enumerate(<tuple>names):
            named[name] = <object>args[n + i]
    return (<TypeSlots *>type).tp_call(cls, <PyObject *>positional, <PyObject *>named)


cdef PyTypeObject *last_class = NULL
cdef uint16_t last_family = 0


cdef inline uint16_t family_of_class(PyObject *cls) noexcept:
    """Return the family whose class this is itself and whose constructor is the usual, or 0."""
    global last_class, last_family
    cdef int i
    if cls == <PyObject *>last_class:
        return last_family
    for i in range(1, len(families)):
        if <PyObject *>settings[i].cls == cls:
            if (<Family>families[i]).positional is None:
                return 0
            last_class, last_family = <PyTypeObject *>cls, i
            return i
    return 0


cdef bint class_guards_hold(uint16_t number) noexcept:
    cdef Family family = <Family>families[number]
    cdef int i
    for i in range(family.n_guards):
        if PyDict_GetItem(family.guard_dicts[i], family.guard_keys[i]) != family.guard_values[i]:
            return False
    return True


cdef bint fill(Node node, Family family, object role, PyObject *argument) except -1:
    """Give a new node one argument of its constructor; return whether it was a usual one."""
    cdef object value = <object>argument
    if role == "children":
        if not PyTuple_CheckExact(argument) or not set_children(node, value):
            return False
        return True
    if role == "slopes":
        return PyTuple_CheckExact(argument) and set_slopes(node, value)
    attributes_of(node)[role] = value
    if type(value) is not str and not PyObject_GC_IsTracked(<PyObject *>node):
        PyObject_GC_Track(<void *>node)
    return True


cdef bint set_children(Node node, tuple children) except -1:
    """Give a node these children, if all are nodes of its family; its slopes are then missing."""
    cdef Py_ssize_t i, n = len(children)
    cdef PyObject *child
    cdef PyObject *old[2]
    cdef uint8_t old_n = node.n
    old[0], old[1] = node.child[0], node.child[1]
    if node.op == SUM:
        return False
    for child_object in children:
        child = <PyObject *>child_object
        if not is_node(child) or (<Node>child).family != node.family:
            return False
    if n <= 2:
        for i in range(n):
            node.child[i] = <PyObject *>children[i]
            Py_INCREF(node.child[i])
        node.n = <uint8_t>n
    else:
        node.child[0] = <PyObject *>children
        node.child[1] = <PyObject *>()
        Py_INCREF(node.child[0])
        Py_INCREF(node.child[1])
        node.n = MANY
    node.op = MADE if n else LEAF
    node.flags &= ~(CHILDREN_BOXED | SLOPES_BOXED | SLOPE0_INT | SLOPE1_INT)
    if n and (<Family>families[node.family]).slopes is not None:
        node.flags |= SLOPES_BOXED  # until they are given
    if old_n:
        Py_DECREF(old[0])
        if old_n >= 2:
            Py_DECREF(old[1])
    return True


cdef bint set_slopes(Node node, tuple slopes) except -1:
    """Give a node these local gradients, if they are as many usual numbers as it has children."""
    cdef Py_ssize_t i, n = len(slopes)
    cdef double x = 0.0
    cdef int is_int = 0
    cdef PyObject *old
    if node.flags & CHILDREN_BOXED or node.op == SUM:
        return False
    if n != (node.n if node.n != MANY else len(<tuple>node.child[0])):
        return False
    if node.n == MANY:
        for slope in slopes:
            if not read_number(<PyObject *>slope, &x, &is_int):
                return False
        old = node.child[1]
        Py_INCREF(<PyObject *>slopes)
        node.child[1] = <PyObject *>slopes
        Py_DECREF(old)
    else:
        for i in range(n):
            if not read_number(<PyObject *>slopes[i], &x, &is_int):
                return False
        node.flags &= ~(SLOPE0_INT | SLOPE1_INT)
        for i in range(n):
            read_number(<PyObject *>slopes[i], &x, &is_int)
            node.slope[i] = x
            if is_int:
                node.flags |= SLOPE1_INT if i else SLOPE0_INT
        if n:
            node.op = MADE
    node.flags &= ~SLOPES_BOXED
    return True


# ------------------------------------------------------- attributes

cdef class Field:
    """A descriptor of one attribute of a replaced class but data and grad."""

    cdef Family family
    cdef str name
    cdef object fallback  # of the class itself, or MISSING

    def __init__(self, family, name, fallback):
        self.family, self.name, self.fallback = family, name, fallback

    def __get__(self, instance, owner):
        if instance is None:
            if self.fallback is not MISSING:
                return self.fallback
            if self.family.has_slots:
                return self
            raise AttributeError(f"type object '{owner.__name__}' has no attribute '{self.name}'")
        value = get_field(<Node>instance, self.family, self.name)
        if value is not MISSING:
            return value
        if self.fallback is not MISSING:
            return self.fallback
        raise AttributeError(f"'{type(instance).__name__}' object has no attribute '{self.name}'")

    def __set__(self, instance, value):
        set_field(<Node>instance, self.family, self.name, value)

    def __delete__(self, instance):
        cdef Node node = instance
        if node.attributes is NULL or self.name not in <dict>node.attributes:
            raise AttributeError(self.name)
        del (<dict>node.attributes)[self.name]


MISSING = object()


cdef object get_field(Node node, Family family, str name):
    cdef dict kept = <dict>node.attributes if node.attributes is not NULL else None
    if name == family.children:
        if node.flags & CHILDREN_BOXED:
            return kept[2]
        children = children_of(node)
        container = family.container if children else family.leaf_container
        return children if container is tuple else container(children)
    if name == family.slopes:
        if node.flags & SLOPES_BOXED:
            return kept.get(3, MISSING) if kept is not None else MISSING
        return slopes_of(node)
    if name == family.backward:
        if node.flags & CALLS:
            return kept[4]
        return Backward(node)
    if kept is not None and name in kept:
        return kept[name]
    by_op = family.defaults.get(name)
    if by_op is None:
        return MISSING
    if node.op == POW and callable(by_op.get(POW)):
        k = node.slope[1]
        return by_op[POW](int(k) if node.flags & EXPONENT_INT else k)
    value = by_op.get(LEAF if node.op == MADE else node.op, MISSING)
    if type(value) in (list, dict, set):  # each node has one of its own
        value = attributes_of(node)[name] = type(value)(value)
    return value


cdef int set_field(Node node, Family family, str name, value) except -1:
    if name == family.children:
        if node.op == SUM:
            expand(<PyObject *>node)
        container = family.container if value else family.leaf_container
        if type(value) is container and (
            container is not list and set_children(node, tuple(value))
        ):
            return 0
        box(node, 2, value)
        node.flags |= CHILDREN_BOXED
    elif name == family.slopes:
        if node.op == SUM:
            expand(<PyObject *>node)
        if type(value) is tuple and set_slopes(node, value):
            return 0
        box(node, 3, value)
        node.flags |= SLOPES_BOXED
    elif name == family.backward:
        if type(value) is Backward and (<Backward>value).node is node and not node.flags & CALLS:
            return 0
        # A lambda that does nothing, as every constructor sets, is what a node without one does.
        if node.op == LEAF and not node.flags & CALLS and (
            is_empty(value) or type(value) is Backward and (<Backward>value).node.op == LEAF
        ):
            return 0
        box(node, 4, value)
        node.flags |= CALLS
    else:
        box(node, name, value)
    return 0


cdef object empty_code = (lambda: None).__code__.co_code


cdef bint is_empty(function):
    """Return whether a function has the code of `lambda: None`."""
    code = getattr(function, "__code__", None)
    return (
        code is not None and code.co_code == empty_code and code.co_consts in ((None,), ())
        and not code.co_freevars
    )


cdef tuple children_of(Node node):
    if node.op == SUM:
        expand(<PyObject *>node)
    if node.n == MANY:
        return <tuple>node.child[0]
    if node.n == 2:
        return (<object>node.child[0], <object>node.child[1])
    return (<object>node.child[0],) if node.n else ()


cdef tuple slopes_of(Node node):
    if node.op == SUM:
        expand(<PyObject *>node)
    if node.n == MANY:
        return <tuple>node.child[1]
    if node.n == 2:
        return (
            number(node.slope[0], node.flags & SLOPE0_INT),
            number(node.slope[1], node.flags & SLOPE1_INT),
        )
    return (number(node.slope[0], node.flags & SLOPE0_INT),) if node.n else ()


cdef class Backward:
    """The `_backward` of a node that has none of its own: adds into its children's gradients."""

    cdef Node node

    def __init__(self, node):
        self.node = node

    def __deepcopy__(self, memo):
        return self  # as a function

    def __reduce_ex__(self, protocol):
        name = type(self.node).__qualname__
        raise AttributeError(f"Can't pickle local object '{name}.__init__.<locals>.<lambda>'")

    def __call__(self):
        cdef PyObject *node = <PyObject *>self.node
        if self.node.op == SUM:
            expand(node)
        if self.node.op != LEAF:
            play_any(node, 0, 0)


class Attributes(dict):
    """The `__dict__` of a node, a copy: what is set in it is set on the node."""

    def __init__(self, node):
        super().__init__(state_of(node))
        self.__node = node

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        setattr(self.__node, name, value)

    def __delitem__(self, name):
        super().__delitem__(name)
        delattr(self.__node, name)

    def update(self, *arguments, **keywords):
        for name, value in dict(*arguments, **keywords).items():
            self[name] = value


def state_of(Node node):
    """Return all attributes of a node by name, in the order in which its class sets them."""
    cdef Family family = families[node.family]
    state = {}
    for name in family.order:
        value = (
            node.data if name == "data" else node.grad if name == "grad"
            else get_field(node, family, name)
        )
        if value is not MISSING:
            state[name] = value
    if node.attributes is not NULL:
        for name, value in (<dict>node.attributes).items():
            if type(name) is str and name not in state:
                state[name] = value
    return state


# ------------------------------------------------------- sums as one node

cdef PyObject *new_sum(uint16_t family, PyObject **a, PyObject **b, Py_ssize_t n) except NULL:
    """Return the sum from 0 of n >= 1 products, or where b is NULL of values; all floats."""
    cdef Term *terms = <Term *>PyMem_Malloc(n * sizeof(Term))
    cdef double total = 0.0
    cdef Py_ssize_t i
    cdef PyObject *node
    if terms is NULL:
        raise MemoryError
    for i in range(n):
        terms[i].a = a[i]
        terms[i].a_data = (<Node>a[i]).c_data
        Py_INCREF(a[i])
        terms[i].b = NULL
        terms[i].a_int = (<Node>a[i]).flags & DATA_INT
        terms[i].b_int = 0
        if b is not NULL:
            terms[i].b = b[i]
            terms[i].b_data = (<Node>b[i]).c_data
            terms[i].b_int = (<Node>b[i]).flags & DATA_INT
            Py_INCREF(b[i])
            total = total + terms[i].a_data * terms[i].b_data
        else:
            total = total + terms[i].a_data
    node = take(family, SUM, MANY)
    (<Node>node).c_data = total
    (<Node>node).child[0] = <PyObject *>terms
    (<Node>node).child[1] = <PyObject *>n
    return node


cdef int expand(PyObject *node) except -1:
    """Turn a sum into the additions and products that it stands for."""
    cdef Term *terms = <Term *>(<Node>node).child[0]
    cdef Py_ssize_t i, n = <Py_ssize_t>(<Node>node).child[1]
    cdef bint played = (<Node>node).flags & PLAYED
    cdef double grad = (<Node>node).slope[0]
    cdef uint16_t grad_int = <uint16_t>(<Node>node).slope[1] if played else 0
    cdef PyObject *partial = leaf((<Node>node).family, 0.0, 1)
    cdef PyObject *product
    cdef PyObject *sum
    for i in range(n):
        product = terms[i].a
        if terms[i].b is NULL:
            Py_INCREF(product)
        else:
            product = times(terms[i].a, terms[i].b)
            (<Node>product).c_data = terms[i].a_data * terms[i].b_data
            (<Node>product).slope[0] = terms[i].b_data
            (<Node>product).slope[1] = terms[i].a_data
            (<Node>product).flags &= ~(DATA_INT | SLOPE0_INT | SLOPE1_INT)
            (<Node>product).flags |= SLOPE0_INT if terms[i].b_int else 0
            (<Node>product).flags |= SLOPE1_INT if terms[i].a_int else 0
            if played:
                give_grad(product, grad, grad_int)
        if played:
            give_grad(partial, grad, grad_int)
        sum = plus(product, partial) if i == 0 else plus(partial, product)
        if terms[i].b is NULL:
            (<Node>sum).c_data = (0.0 if i == 0 else (<Node>partial).c_data) + terms[i].a_data
        Py_DECREF(product)
        Py_DECREF(partial)
        partial = sum
    # The last addition is the node itself.
    (<Node>node).op = ADD
    (<Node>node).n = 2
    (<Node>node).flags = ((<Node>node).flags & ~PLAYED) | (
        (<Node>partial).flags & (SLOPE0_INT | SLOPE1_INT)
    )
    for i in range(2):
        (<Node>node).child[i] = (<Node>partial).child[i]
        (<Node>node).slope[i] = (<Node>partial).slope[i]
        Py_INCREF((<Node>node).child[i])
    Py_DECREF(partial)
    release_terms(terms, n)
    return 0


cdef inline void give_grad(PyObject *node, double grad, uint16_t grad_int) noexcept:
    (<Node>node).c_grad = 0.0
    (<Node>node).flags = ((<Node>node).flags & ~GRAD_INT) | (
        GRAD_INT if settings[(<Node>node).family].grad_int else 0
    )
    add_to_grad(node, grad, grad_int)


# ------------------------------------------------------- backward

cdef struct Entry:
    # A node; of a sum, the terms from start to stop.
    PyObject *node
    uint32_t start
    uint32_t stop


cdef struct Frame:
    # A node on the way down, which child comes next, and of a sum the first term not yet written.
    PyObject *node
    uint32_t next
    uint32_t start


cdef struct Walk:
    Entry *entries
    Py_ssize_t n
    Py_ssize_t capacity
    Frame *frames
    Py_ssize_t max_depth
    bint calls  # a node has a function of its own

cdef Walk scratch = Walk(NULL, 0, 0, NULL, 0, False)


cdef inline bint is_usual(PyObject *node) noexcept:
    return not (<Node>node).flags & (DATA_BOXED | GRAD_BOXED | CHILDREN_BOXED | SLOPES_BOXED)


cdef int walk(PyObject *root, Walk *w) except -1:
    """Write the nodes with children that root depends on, in the order in which a depth-first
    walk, children left to right, finishes them. A sum has an entry for the terms before each
    child that only its walk reaches.

    Leaves a mark in `place` of each. Return 0, without marks, for a graph with something unusual.
    """
    cdef PyObject *child
    cdef Term *terms
    cdef Frame frame = Frame(root, 0, 0)
    cdef Py_ssize_t depth = 0, n
    cdef uint32_t stop
    w.n = 0
    w.calls = False
    (<Node>root).place = 1
    while True:
        if not is_usual(frame.node):
            (<Node>frame.node).place = 0
            unmark(w, depth)
            return 0
        n = (<Node>frame.node).n
        stop = 0
        child = NULL
        if (<Node>frame.node).op == SUM and (<Node>frame.node).flags & PLAYED:
            expand(frame.node)
            continue
        if (<Node>frame.node).op == SUM:
            terms = <Term *>(<Node>frame.node).child[0]
            stop = <uint32_t><Py_ssize_t>(<Node>frame.node).child[1]
            while child is NULL and frame.next < 2 * stop:
                child = terms[frame.next >> 1].b if frame.next & 1 else terms[frame.next >> 1].a
                child = unreached(child)
                frame.next += 1
            if child is not NULL:
                stop = (frame.next - 1) >> 1
                if stop > frame.start:
                    emit(w, frame.node, frame.start, stop)
                    frame.start = stop
        elif n == MANY:
            n = len(<tuple>(<Node>frame.node).child[0])
            while child is NULL and frame.next < n:
                child = unreached(<PyObject *>(<tuple>(<Node>frame.node).child[0])[frame.next])
                frame.next += 1
        else:
            while child is NULL and frame.next < n:
                child = unreached((<Node>frame.node).child[frame.next])
                frame.next += 1
        if child is not NULL:
            if depth == w.max_depth:
                grow(<void **>&w.frames, &w.max_depth, sizeof(Frame))
            w.frames[depth] = frame
            depth += 1
            frame = Frame(child, 0, 0)
            (<Node>child).place = 1
        else:
            w.calls |= (<Node>frame.node).flags & CALLS
            emit(w, frame.node, frame.start, stop)
            if depth == 0:
                return 1
            depth -= 1
            frame = w.frames[depth]


cdef inline PyObject *unreached(PyObject *child) noexcept:
    """Return a child that the walk has to go to, else NULL. A leaf has nothing to do."""
    if child is NULL or (<Node>child).place:
        return NULL
    if (<Node>child).n or (<Node>child).flags & (
        CALLS | DATA_BOXED | GRAD_BOXED | CHILDREN_BOXED | SLOPES_BOXED
    ):
        return child
    return NULL


cdef inline int emit(Walk *w, PyObject *node, uint32_t start, uint32_t stop) except -1:
    if w.n == w.capacity:
        grow(<void **>&w.entries, &w.capacity, sizeof(Entry))
    w.entries[w.n] = Entry(node, start, stop)
    w.n += 1
    return 0


cdef int grow(void **array, Py_ssize_t *capacity, size_t size) except -1:
    cdef Py_ssize_t larger = 2 * capacity[0] if capacity[0] else 256
    cdef void *moved = PyMem_Realloc(array[0], larger * size)
    if moved is NULL:
        raise MemoryError
    array[0] = moved
    capacity[0] = larger
    return 0


cdef void unmark(Walk *w, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t i
    for i in range(w.n):
        (<Node>w.entries[i].node).place = 0
    for i in range(depth):
        (<Node>w.frames[i].node).place = 0


cdef int backward(PyObject *root) except -1:
    """Do a backward; return 0, with nothing changed, where the script's own function has to."""
    global scratch
    cdef Walk w
    cdef Py_ssize_t i
    cdef Settings *s = &settings[(<Node>root).family]
    if s.guarded and not guards_hold(root):
        return 0
    if not walk(root, &scratch):
        return 0
    unmark(&scratch, 0)
    if not scratch.calls:
        start_at(root, s)
        for i in range(scratch.n - 1, -1, -1):
            play_node(scratch.entries[i].node, scratch.entries[i].start, scratch.entries[i].stop)
        return 1
    # Functions of the script may build and drop graphs meanwhile.
    w = scratch
    scratch = Walk(NULL, 0, 0, NULL, 0, False)
    for i in range(w.n):
        Py_INCREF(w.entries[i].node)
    try:
        start_at(root, s)
        for i in range(w.n - 1, -1, -1):
            if (<Node>w.entries[i].node).flags & CALLS:
                (<dict>(<Node>w.entries[i].node).attributes)[4]()
            else:
                play_any(w.entries[i].node, w.entries[i].start, w.entries[i].stop)
        return 1
    finally:
        for i in range(w.n):
            Py_DECREF(w.entries[i].node)
        PyMem_Free(w.entries)
        PyMem_Free(w.frames)


cdef inline void start_at(PyObject *root, Settings *s) noexcept:
    (<Node>root).c_grad = 1.0
    (<Node>root).flags &= ~(GRAD_INT | GRAD_BOXED)
    if s.root_int:
        (<Node>root).flags |= GRAD_INT


cdef inline void add_to_grad(PyObject *node, double term, int is_int) noexcept:
    if is_int:
        (<Node>node).c_grad = (<Node>node).c_grad + (term + 0.0)  # no int is -0.0
        if fabs((<Node>node).c_grad) > MAX_INT:
            (<Node>node).flags &= ~GRAD_INT
    else:
        (<Node>node).c_grad = (<Node>node).c_grad + term
        (<Node>node).flags &= ~GRAD_INT


cdef int play_node(PyObject *node, uint32_t start, uint32_t stop) except -1:
    """Add a node's part into the gradients of its children."""
    cdef Settings *s = &settings[(<Node>node).family]
    cdef uint16_t flags = (<Node>node).flags
    cdef int grad_int = flags & GRAD_INT, is_int
    cdef double grad = (<Node>node).c_grad, slope
    cdef Term *terms
    cdef Py_ssize_t i
    cdef PyObject *child = (<Node>node).child[0]
    cdef uint8_t op = (<Node>node).op
    if op == SUM:
        terms = <Term *>child
        (<Node>node).flags |= PLAYED
        (<Node>node).slope[0] = grad
        (<Node>node).slope[1] = grad_int
        if not s.ones_int:
            grad_int = 0
        grad = 0.0 + grad
        for i in range(<Py_ssize_t>stop - 1, <Py_ssize_t>start - 1, -1):
            if terms[i].b is NULL:
                add_to_grad(terms[i].a, grad, grad_int)
            elif s.late:
                play_product(node, terms[i].a, terms[i].b, grad, grad_int)
            else:
                add_to_grad(terms[i].a, terms[i].b_data * grad, terms[i].b_int and grad_int)
                add_to_grad(terms[i].b, terms[i].a_data * grad, terms[i].a_int and grad_int)
    elif not s.late:
        if (<Node>node).n == 2:
            slope = (<Node>node).slope[1]
            add_to_grad(child, (<Node>node).slope[0] * grad, flags & SLOPE0_INT and grad_int)
            add_to_grad((<Node>node).child[1], slope * grad, flags & SLOPE1_INT and grad_int)
        elif (<Node>node).n == 1:
            add_to_grad(child, (<Node>node).slope[0] * grad, flags & SLOPE0_INT and grad_int)
        elif (<Node>node).n == MANY:
            for i in range(len(<tuple>child)):
                is_int = 0
                slope = 0.0
                read_number(<PyObject *>(<tuple>(<Node>node).child[1])[i], &slope, &is_int)
                add_to_grad(<PyObject *>(<tuple>child)[i], slope * grad, is_int and grad_int)
    elif op == ADD:
        if not s.ones_int:
            grad_int = 0
        add_to_grad(child, grad, grad_int)
        add_to_grad((<Node>node).child[1], grad, grad_int)
    elif op == MUL:
        play_product(node, child, (<Node>node).child[1], grad, grad_int)
    elif op == POW:
        late_power(node, child, grad, grad_int)
    elif op == EXP:
        add_to_grad(child, (<Node>node).c_data * grad, (<Node>node).flags & DATA_INT and grad_int)
    elif op == LOG:
        if (<Node>child).c_data == 0.0:
            1 / data_of(child)
        add_to_grad(child, (1.0 / (<Node>child).c_data) * grad, 0)
    elif op == RELU:
        slope = 1.0 if (<Node>node).c_data > 0.0 else 0.0
        add_to_grad(child, slope * grad, s.relu_slope_int and grad_int)
    elif op != MADE and op != LEAF:
        add_to_grad(child, (<Node>node).slope[0] * grad, 0)
    return 0


cdef int play_any(PyObject *node, uint32_t start, uint32_t stop) except -1:
    """Do `play_node` where functions of the script may have set numbers of other types."""
    cdef Py_ssize_t i
    cdef Term *terms
    cdef bint usual = is_usual(node)
    if (<Node>node).op == SUM:
        terms = <Term *>(<Node>node).child[0]
        for i in range(start, stop):
            usual = usual and is_usual(terms[i].a) and (
                terms[i].b is NULL or is_usual(terms[i].b)
            )
    else:
        for child in children_of(<Node>node):
            usual = usual and is_usual(<PyObject *>child)
    return play_node(node, start, stop) if usual else play_objects(node, start, stop)


cdef int play_objects(PyObject *node, uint32_t start, uint32_t stop) except -1:
    """Do `play_node` on Python's numbers."""
    cdef Settings *s = &settings[(<Node>node).family]
    cdef uint8_t op = (<Node>node).op
    cdef Term *terms
    cdef Py_ssize_t i
    cdef object me = <object>node
    cdef object grad = me.grad
    cdef object a, b, k
    cdef object one = 1.0
    if s.ones_int:
        one = 1
    if op == SUM:
        (<Node>node).flags |= PLAYED
        terms = <Term *>(<Node>node).child[0]
        for i in range(<Py_ssize_t>stop - 1, <Py_ssize_t>start - 1, -1):
            a = <object>terms[i].a
            if terms[i].b is NULL:
                a.grad += one * grad
            else:
                b = <object>terms[i].b
                a.grad += (b.data if s.late else number(terms[i].b_data, terms[i].b_int)) * grad
                b.grad += (a.data if s.late else number(terms[i].a_data, terms[i].a_int)) * grad
    elif not s.late:
        for a, k in zip(children_of(<Node>node), slopes_of(<Node>node)):
            a.grad += k * grad
    elif op == ADD or op == MUL:
        a, b = children_of(<Node>node)
        a.grad += (one if op == ADD else b.data) * grad
        b.grad += (one if op == ADD else a.data) * grad
    elif op != MADE and op != LEAF:
        a = children_of(<Node>node)[0]
        if op == POW:
            k = number((<Node>node).slope[1], (<Node>node).flags & EXPONENT_INT)
            k = k * a.data ** (k - 1)
        elif op == EXP:
            k = me.data
        elif op == LOG:
            k = 1 / a.data
        elif op == RELU:
            k = number(1.0 if me.data > 0 else 0.0, s.relu_slope_int)
        else:
            k = (<Node>node).slope[0]
        a.grad += k * grad
    return 0


cdef inline void play_product(
    PyObject *node, PyObject *a, PyObject *b, double grad, int grad_int
) noexcept:
    """self.grad += other.data * out.grad; other.grad += self.data * out.grad"""
    add_to_grad(a, (<Node>b).c_data * grad, (<Node>b).flags & DATA_INT and grad_int)
    add_to_grad(b, (<Node>a).c_data * grad, (<Node>a).flags & DATA_INT and grad_int)


cdef int late_power(PyObject *node, PyObject *a, double grad, int grad_int) except -1:
    """self.grad += (k * self.data ** (k - 1)) * out.grad"""
    cdef double k = (<Node>node).slope[1], slope
    cdef PowError error = NO_ERROR
    cdef int is_int = (<Node>node).flags & EXPONENT_INT and (<Node>a).flags & DATA_INT and k >= 1.0
    slope = k * pow_or_error((<Node>a).c_data, k - 1.0, &error)
    if error != NO_ERROR or (is_int and not fabs(slope) < MAX_INT):
        exponent = number(k, (<Node>node).flags & EXPONENT_INT)
        derivative = exponent * data_of(a) ** (exponent - 1)
        (<Node>a).grad += derivative * (<Node>node).grad
    else:
        add_to_grad(a, slope * grad, is_int and grad_int)
    return 0


# ------------------------------------------------------- functions of lists

cdef PyObject **values_in(
    object items, uint16_t *family, Py_ssize_t *n, bint *ints=NULL
) noexcept:
    """Return the items of a list or tuple of nodes of one replaced class with floats, else NULL.

    Writes:  family, unless it is given; n; ints, whether an item is an int
    """
    cdef PyObject **array
    cdef Py_ssize_t i
    if type(items) is not list and type(items) is not tuple:
        return NULL
    array = PySequence_Fast_ITEMS(items)
    n[0] = PySequence_Fast_GET_SIZE(items)
    if n[0] == 0:
        return NULL
    if not family[0]:
        if not is_node(array[0]):
            return NULL
        family[0] = (<Node>array[0]).family
    for i in range(n[0]):
        if (
            Py_TYPE(array[i]) != settings[family[0]].cls
            or (<Node>array[i]).flags & DATA_BOXED
        ):
            return NULL
        if (<Node>array[i]).flags & DATA_INT:
            if ints is NULL:
                return NULL
            ints[0] = True
    return array


cdef bint has(uint16_t family, unsigned int operators) noexcept:
    cdef Numbers *numbers = (<TypeSlots *>settings[family].cls).tp_as_number
    return (settings[family].native & operators) == operators and (
        numbers.nb_add == nb_add and numbers.nb_multiply == nb_multiply
    ) and (
        not settings[family].guarded or class_guards_hold(family)
    )


def linear(x, w, bint x_first):
    """Return sum(wi * xi for wi, xi in zip(row, x)) for each row of w; None where unusual."""
    cdef list out = []
    cdef uint16_t family = 0
    cdef Py_ssize_t n = 0, m = 0
    cdef bint x_ints = False, w_ints = False
    cdef PyObject **x_items = values_in(x, &family, &n, &x_ints)
    cdef PyObject **w_items
    if x_items is NULL or type(w) is not list or not has(family, N_ADD | N_RADD | N_MUL):
        return None
    for row in <list>w:
        w_items = values_in(row, &family, &m, &w_ints)
        if w_items is NULL or m != n or x_ints and w_ints:
            return None
        if x_first:
            out.append(OWNED(new_sum(family, x_items, w_items, n)))
        else:
            out.append(OWNED(new_sum(family, w_items, x_items, n)))
    return out


def dot(a, b):
    """Return sum(ai * bi for ai, bi in zip(a, b)), or None where that is unusual."""
    cdef uint16_t family = 0
    cdef Py_ssize_t n = 0, m = 0
    cdef PyObject **a_items = values_in(a, &family, &n)
    cdef PyObject **b_items
    if a_items is NULL or not has(family, N_ADD | N_RADD | N_MUL):
        return None
    b_items = values_in(b, &family, &m)
    if b_items is NULL or m != n:
        return None
    return OWNED(new_sum(family, a_items, b_items, n))


def softmax(logits):
    """Return exp(x - largest) / total for each x, or None where that is unusual."""
    cdef list out = []
    cdef list exps = []
    cdef uint16_t family = 0
    cdef Py_ssize_t n = 0, i
    cdef double largest
    cdef PyObject **items = values_in(logits, &family, &n)
    cdef PyObject *constant
    cdef PyObject *shifted
    cdef PyObject *total
    if items is NULL or not has(family, N_ADD | N_RADD | N_MUL | N_SUB_NUMBER | N_DIV | N_POW):
        return None
    largest = (<Node>items[0]).c_data
    for i in range(1, n):
        if (<Node>items[i]).c_data > largest:
            largest = (<Node>items[i]).c_data
    for i in range(n):
        constant = leaf(family, -largest, 0)
        shifted = used(plus(items[i], constant), constant, NULL)
        constant = unary_node(shifted, EXP)
        Py_DECREF(shifted)
        if constant is NULL:
            return None
        exps.append(OWNED(constant))
    total = new_sum(family, PySequence_Fast_ITEMS(exps), NULL, n)
    exps.append(OWNED(total))  # which owns it
    for i in range(n):
        shifted = power_node(total, -1.0, 1)
        if shifted is NULL:
            return None
        constant = times(PySequence_Fast_ITEMS(exps)[i], shifted)
        out.append(OWNED(used(constant, shifted, NULL)))
    return out


def rmsnorm(x, double eps):
    """Return x * (mean square + eps) ** -0.5 for each x, or None where that is unusual."""
    cdef list out = []
    cdef uint16_t family = 0
    cdef Py_ssize_t n = 0, i
    cdef PyObject **items = values_in(x, &family, &n)
    cdef PyObject *a
    cdef PyObject *b
    cdef PyObject *c
    if items is NULL or not has(
        family, N_ADD_NUMBER | N_RADD | N_MUL | N_DIV_NUMBER | N_POW
    ):
        return None
    a = new_sum(family, items, items, n)
    b = leaf(family, 1.0 / <double>n, 0)
    c = used(times(a, b), a, b)
    b = leaf(family, eps, 0)
    a = used(plus(c, b), c, b)
    b = power_node(a, -0.5, 0)
    Py_DECREF(a)
    if b is NULL:
        return None
    owner = [OWNED(b)]
    assert owner
    for i in range(n):
        out.append(OWNED(times(items[i], b)))
    return out


# ------------------------------------------------------- adopting a class

def live():
    """Return how many nodes of replaced classes there are."""
    return n_live


def new_family():
    """Return a Family, with a number of its own."""
    if len(families) == MAX_FAMILIES:
        raise RuntimeError("too many classes")
    cdef Family family = Family()
    family.number = len(families)
    families.append(family)
    return family


def adopt(Family family, cls, **choices):
    """Let a new class, made by type(name, (Node,), members), be the class of a family."""
    cdef TypeSlots *kind = <TypeSlots *>cls
    cdef Settings *s = &settings[family.number]
    family.cls = cls
    s.cls = <PyTypeObject *>cls
    Py_INCREF(<PyObject *>cls)
    kind.tp_alloc = alloc
    kind.tp_dealloc = dealloc
    kind.tp_traverse = traverse
    kind.tp_clear = clear
    kind.tp_flags |= Py_TPFLAGS_HAVE_GC
    kind.tp_free = gc_free
    if not family.has_slots:
        kind.tp_dictoffset = attributes_offset()
    kind.tp_vectorcall = call
    PyType_Modified(<PyTypeObject *>cls)
    configure(family, **choices)


def configure(Family family, unsigned int native=0, **choices):
    """Set what runs here: numbers of Native, and the fields of Settings by name."""
    global last_class
    cdef Settings *s = &settings[family.number]
    cdef int i
    last_class = NULL  # whose constructor may have become another
    s.native = native
    s.to_float = choices.get("to_float", False)
    s.grad_int = choices.get("grad_int", False)
    s.root_int = choices.get("root_int", False)
    s.late = choices.get("late", False)
    s.ones_int = choices.get("ones_int", False)
    s.minus_int = choices.get("minus_int", False)
    s.relu_keeps = choices.get("relu_keeps", False)
    s.relu_int = choices.get("relu_int", False)
    s.relu_slope_int = choices.get("relu_slope_int", False)
    s.tanh_square = choices.get("tanh_square", False)
    family.held = family.guards
    family.n_guards = len(family.guards)
    s.guarded = family.n_guards > 0
    for i, (dictionary, key, value) in enumerate(family.guards):
        if isinstance(dictionary, type):
            family.guard_dicts[i] = (<TypeSlots *>dictionary).tp_dict
        else:
            family.guard_dicts[i] = <PyObject *>dictionary
        family.guard_keys[i] = <PyObject *>key
        family.guard_values[i] = <PyObject *>value
    take_slots(family.cls)


cdef void take_slots(object cls) noexcept:
    """Let the operators of a class, a replaced one or its subclass, come here first."""
    cdef Numbers *numbers = (<TypeSlots *>cls).tp_as_number
    if numbers.nb_add is not NULL:
        numbers.nb_add = nb_add
    if numbers.nb_multiply is not NULL:
        numbers.nb_multiply = nb_multiply
    if numbers.nb_subtract is not NULL:
        numbers.nb_subtract = nb_subtract
    if numbers.nb_true_divide is not NULL:
        numbers.nb_true_divide = nb_true_divide
    if numbers.nb_power is not NULL:
        numbers.nb_power = nb_power
    if numbers.nb_negative is not NULL:
        numbers.nb_negative = nb_negative


cdef extern from *:
    """
    static void gc_free_node(void *node) { PyObject_Free((char *)node - GC_HEAD); }
    """
    void gc_free "gc_free_node"(void *) noexcept


cdef Py_ssize_t attributes_offset():
    cdef Node node = None  # which is not read
    return <char *>&node.attributes - <char *><PyObject *>node


OPS = {"leaf": LEAF, "add": ADD, "mul": MUL, "pow": POW, "exp": EXP, "log": LOG, "relu": RELU,
       "tanh": TANH, "tanh_exp": TANH_EXP, "sigmoid": SIGMOID, "made": MADE, "sum": SUM}
NATIVE = {"__add__": N_ADD, "__radd__": N_RADD, "__mul__": N_MUL, "__rmul__": N_RMUL,
          "__sub__": N_SUB, "__rsub__": N_RSUB, "__truediv__": N_DIV, "__rtruediv__": N_RDIV,
          "__pow__": N_POW, "__neg__": N_NEG}
NUMBER = {"__add__": N_ADD_NUMBER, "__mul__": N_MUL_NUMBER, "__sub__": N_SUB_NUMBER,
          "__truediv__": N_DIV_NUMBER}


# ------------------------------------------------------- loops over parameters
#
# `for p in params: p.data -= lr * p.grad` and its kind, for `microgpt run`: a body of
# arithmetic over the data and grad of the nodes and over lists of floats, as a program of
# vector operations in the order of the body. microgpt/run/loops.py writes the program.
# It runs into memory of its own, and is written back only if no element has raised.

cdef extern from "simd.h" nogil:
    bint pow_keeps_bound()

cdef extern from "script/powers.h" nogil:
    bint has_fma()
    void squares_fma(double *y, double *doubtful, const double *x, long n)
    void roots_fma(double *y, double *doubtful, const double *x, long n)


cdef enum:
    LOOP_BLOCK = 128  # elements that all operations take before the next ones: they fit L1

cdef enum LoopOp:
    LOOP_ADD, LOOP_SUB, LOOP_MUL, LOOP_DIV, LOOP_POW, LOOP_NEG, LOOP_SQRT, LOOP_MAX, LOOP_MIN

cdef enum LoopField:
    LOOP_DATA, LOOP_GRAD, LOOP_ITEM

cdef bint fast_powers = pow_keeps_bound() and has_fma()
# The nodes that were last found to be distinct.
cdef PyObject **distinct_nodes = NULL
cdef Py_ssize_t n_distinct = 0


def run_loop(list sequences, type kind, Py_ssize_t n, list loads, bytes program, list constants,
             list stores, bint ints_allowed):
    """Run a program over elements 0 to n - 1; return whether it ran, else nothing is changed.

    It does not run if a sequence has fewer elements, a node is of another class than kind or
    stands twice, a list holds what is no float, or an operation would raise.

    loads: (register, sequence, field); constants: (register, number); program: four bytes an
    operation, its code, the result's register and two operands'; stores: (register, sequence,
    field, whether as an int). ints_allowed: whether a gradient may be the int 0.
    """
    cdef Py_ssize_t n_ops = len(program) // 4, n_registers = 0, i, j, k, size, start
    cdef Py_ssize_t n_loads = len(loads), n_stores = len(stores)
    cdef const unsigned char *code = <const unsigned char *><char *>program
    cdef double *memory
    cdef double *registers
    cdef double *loaded
    cdef double *stored
    for i in range(n_ops):
        n_registers = max(n_registers, code[4 * i + 1] + 1)
    for register, _ in constants:
        n_registers = max(n_registers, register + 1)
    for register, _, _ in loads:
        n_registers = max(n_registers, register + 1)
    if not are_loop_sequences(sequences, kind, n):
        return False
    memory = <double *>PyMem_Malloc(
        (n * (n_loads + n_stores) + LOOP_BLOCK * (n_registers + 1)) * sizeof(double)
    )
    if memory is NULL:
        return False
    loaded = memory
    stored = memory + n * n_loads
    registers = stored + n * n_stores
    try:
        for i in range(n_loads):
            _, sequence, field = loads[i]
            if not load_column(loaded + i * n, sequences[sequence], field, n, ints_allowed):
                return False
        for register, number in constants:
            for j in range(LOOP_BLOCK):
                registers[<Py_ssize_t>register * LOOP_BLOCK + j] = number
        for start in range(0, n, LOOP_BLOCK):
            size = min(n - start, <Py_ssize_t>LOOP_BLOCK)
            for i in range(n_loads):
                k = loads[i][0]
                memcpy(registers + k * LOOP_BLOCK, loaded + i * n + start, size * sizeof(double))
            if not run_block(registers, registers + n_registers * LOOP_BLOCK, code, n_ops, size):
                return False
            for i in range(n_stores):
                k = stores[i][0]
                memcpy(stored + i * n + start, registers + k * LOOP_BLOCK, size * sizeof(double))
        for i in range(n_stores):
            _, sequence, field, as_int = stores[i]
            store_column(stored + i * n, sequences[sequence], field, n, as_int)
        return True
    finally:
        PyMem_Free(memory)


cdef bint are_loop_sequences(list sequences, type kind, Py_ssize_t n) except -1:
    """Return whether a run can change the sequences as the loop would: nodes, distinct nodes
    of one class in lists or tuples, and lists of floats; each (nodes or not, the sequence).
    """
    global distinct_nodes, n_distinct
    cdef Py_ssize_t i, total = 0
    cdef PyObject **items
    cdef PyObject **nodes
    cdef bint known = True
    for is_nodes, sequence in sequences:
        if type(sequence) is not list and (not is_nodes or type(sequence) is not tuple):
            return False
        if PySequence_Fast_GET_SIZE(sequence) < n:
            return False
        items = PySequence_Fast_ITEMS(sequence)
        for i in range(n):
            if is_nodes:
                if (
                    Py_TYPE(items[i]) != <PyTypeObject *>kind
                    or (<Node>items[i]).flags & (DATA_BOXED | GRAD_BOXED)
                ):
                    return False
            elif not PyFloat_CheckExact(<object>items[i]):
                return False
        if is_nodes:
            known = known and total + n <= n_distinct and not memcmp(
                distinct_nodes + total, items, n * sizeof(PyObject *)
            )
            total += n
    if known:
        return True
    # The pointers are compared, never followed.
    nodes = <PyObject **>PyMem_Realloc(distinct_nodes, total * sizeof(PyObject *))
    if nodes is NULL:
        return False
    distinct_nodes = nodes
    n_distinct = 0
    found = set()
    for is_nodes, sequence in sequences:
        if is_nodes:
            items = PySequence_Fast_ITEMS(sequence)
            for i in range(n):
                found.add(<size_t>items[i])
                nodes[n_distinct + i] = items[i]
            n_distinct += n
    if len(found) != total:
        n_distinct = 0
        return False
    return True


cdef bint load_column(double *x, tuple pair, LoopField field, Py_ssize_t n, bint ints) except -1:
    cdef PyObject **items = PySequence_Fast_ITEMS(pair[1])
    cdef Py_ssize_t i
    if field == LOOP_DATA:
        for i in range(n):
            x[i] = (<Node>items[i]).c_data
            if (<Node>items[i]).flags & DATA_INT and (not ints or x[i] != 0.0):
                return False
    elif field == LOOP_GRAD:
        for i in range(n):
            x[i] = (<Node>items[i]).c_grad
            if (<Node>items[i]).flags & GRAD_INT and (not ints or x[i] != 0.0):
                return False
    else:
        for i in range(n):
            x[i] = PyFloat_AS_DOUBLE(<object>items[i])
    return True


cdef int store_column(
    const double *x, tuple pair, LoopField field, Py_ssize_t n, bint as_int
) except -1:
    cdef PyObject **items = PySequence_Fast_ITEMS(pair[1])
    cdef Py_ssize_t i
    cdef list sequence
    if field == LOOP_DATA:
        for i in range(n):
            (<Node>items[i]).c_data = x[i]
            (<Node>items[i]).flags &= ~DATA_INT
    elif field == LOOP_GRAD:
        for i in range(n):
            (<Node>items[i]).c_grad = x[i]
            (<Node>items[i]).flags &= ~GRAD_INT
            if as_int:
                (<Node>items[i]).flags |= GRAD_INT
    else:
        sequence = pair[1]
        for i in range(n):
            if Py_REFCNT(items[i]) == 1:
                set_float(items[i], x[i])  # which only the list can see
            else:
                sequence[i] = x[i]
                items = PySequence_Fast_ITEMS(sequence)
    return 0


cdef extern from *:
    """
    #define set_float(x, number) (((PyFloatObject *)(x))->ob_fval = (number))
    """
    void set_float(PyObject *x, double number)


@cython.cdivision(True)
cdef bint run_block(
    double *registers, double *doubtful, const unsigned char *code, Py_ssize_t n_ops,
    Py_ssize_t n
) noexcept:
    """Run all operations over one block; return False where one would raise."""
    cdef Py_ssize_t i, j
    cdef double *y
    cdef const double *a
    cdef const double *b
    cdef PowError error = NO_ERROR
    for i in range(n_ops):
        y = registers + code[4 * i + 1] * <Py_ssize_t>LOOP_BLOCK
        a = registers + code[4 * i + 2] * <Py_ssize_t>LOOP_BLOCK
        b = registers + code[4 * i + 3] * <Py_ssize_t>LOOP_BLOCK
        if code[4 * i] == LOOP_ADD:
            for j in range(n):
                y[j] = a[j] + b[j]
        elif code[4 * i] == LOOP_SUB:
            for j in range(n):
                y[j] = a[j] - b[j]
        elif code[4 * i] == LOOP_MUL:
            for j in range(n):
                y[j] = a[j] * b[j]
        elif code[4 * i] == LOOP_DIV:
            for j in range(n):
                if b[j] == 0.0:
                    return False
            for j in range(n):
                y[j] = a[j] / b[j]
        elif code[4 * i] == LOOP_NEG:
            for j in range(n):
                y[j] = -a[j]
        elif code[4 * i] == LOOP_SQRT:
            for j in range(n):
                if a[j] < 0.0:
                    return False
            for j in range(n):
                y[j] = sqrt(a[j])
        elif code[4 * i] == LOOP_MAX:
            for j in range(n):
                y[j] = b[j] if b[j] > a[j] else a[j]
        elif code[4 * i] == LOOP_MIN:
            for j in range(n):
                y[j] = b[j] if b[j] < a[j] else a[j]
        elif fast_powers and (b[0] == 2.0 or b[0] == 0.5) and are_equal(b, n):
            if b[0] == 2.0:
                squares_fma(y, doubtful, a, n)
            else:
                roots_fma(y, doubtful, a, n)
            for j in range(n):
                if doubtful[j] != 0.0:
                    y[j] = pow_or_error(a[j], b[j], &error)
        else:
            for j in range(n):
                y[j] = pow_or_error(a[j], b[j], &error)
        if error != NO_ERROR:
            return False
    return True


cdef inline bint are_equal(const double *x, Py_ssize_t n) noexcept:
    cdef Py_ssize_t i
    for i in range(1, n):
        if x[i] != x[0]:
            return False
    return True
