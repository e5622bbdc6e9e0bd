"""The compiled class that takes the place of a script's own autograd class in `microgpt run`.

A script defines a class, say `Value`, in Python. microgpt/run recognises it and makes a subclass
of `Base` that has the script's methods as its members; `adopt` then sets this class's slots
to the functions below. Nodes, rules, sums, walk and operators are those of src/value, compiled
here with FOR_RUN. This file adds what a script's class may have besides: attributes of any name,
fields that hold other objects than floats, its own constructor and `_backward` functions; and the
loops over parameters.

An operator runs here only if microgpt/run/probes.py found that it gives the same bits. Where an
operand is unusual (another type of number, a subclass, an overridden operator), or the operation
would raise, the script's own Python method is called. So this file raises no errors of its own.

It is longer than 500 lines because one extension module has one .pyx.
"""

cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.math cimport fabs, sqrt
from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.string cimport memcmp, memcpy

from classes cimport (
    ADDITION, DIVISION, MULTIPLICATION, NEGATION, POWER, REFLECTED, SUBTRACTION, WITH_NUMBER,
    PyType_IsSubtype, PyVectorcall_NARGS, _PyType_Lookup, call_type, class_info, find_info,
    guards_hold, info_of, know_classes, ours,
)
from make cimport (
    children_tuple, dealloc, make_leaf, make_neg, make_unary, release_children, slopes_tuple,
)
from node cimport (
    ATTRIBUTES_OFFSET, BOXED, CALLS, CHILDREN_BOXED, DATA_BOXED, GRAD_BOXED, GRAD_INT, IN_BLOCK,
    LATE, NO_VERSION, OWNED, PLAYED, SLOPES_BOXED, TRACKED, WEAK_REFERENCES_OFFSET, ClassInfo, Node,
    NodeFields, PyType_Modified, Term, Terms, TypeSlots, attributes_of_node, children_of, decref,
    free_memory, incref, is_simple, n_allocated, new_block, new_node, number_object, refcount,
    set_grad, set_value_type, slopes_of, type_of,
)
from operators cimport (
    add_or_multiply, divide, is_number, items_of, node_of, nodes_in, normalized, quotients,
    subtract, with_number,
)
from rules cimport (
    ADD, CUSTOM, DATA_INT, EXP, FIRST_INT, KEEPS_NAN, LEAF, LOG, LOGISTIC, MUL, POW, RELU,
    SECOND_INT, SLOPE_IS_INT, SUM, TANH, TANH_EXP, ZERO_INT, Op,
)
from scalar cimport NO_ERROR, PowError, pow_or_error
from sums cimport sum_of_products, sync_children, term_ints, term_of
from walk cimport (
    DONE, FOR_BACKWARD, FOUND_STALE, Entry, Walk, Walked, play_entry, raise_unwalked, unmark, walk,
)

import copyreg

cdef extern from "Python.h":
    void PyObject_GC_Track(void *)
    bint PyObject_IS_GC(object)
    bint PyObject_GC_IsTracked(PyObject *)
    unsigned long Py_TPFLAGS_HAVE_GC
    unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    bint PyTuple_CheckExact(PyObject *)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    bint PyObject_TypeCheck(PyObject *, PyTypeObject *)
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
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
    ctypedef struct Kind "PyTypeObject":
        Numbers *tp_as_number
        int (*tp_traverse)(PyObject *, visitproc, void *) noexcept
        int (*tp_clear)(PyObject *) noexcept

cdef enum:
    MAX_GUARDS = 8

cdef double MAX_INT = 2.0**53
cdef dict by_class = {}  # families by the id of their class
cdef list families = []  # which are never freed


@cython.auto_pickle(False)
cdef class Family:
    """The names, types and code of one replaced class."""

    cdef public object cls
    cdef public object init        # its own __init__
    cdef public str data, grad     # what the script calls them
    cdef public str stored_data, stored_grad  # the attributes behind these, if they are properties
    cdef public object children    # name of the attribute that holds children
    cdef public object container   # tuple, set or list
    cdef public object leaf_container  # the same, of a node without children
    cdef public object slopes      # name of the attribute that holds local gradients, or None
    cdef public object slopes_container  # tuple or list
    cdef public object leaf_slopes_container
    cdef public object pair        # type of a pair of a child and its local gradient, or None
    cdef public int child_at       # index of the child in the pair
    cdef public object backward    # name of the attribute that holds closures, or None
    cdef public dict closures      # one of them, by operation
    cdef public dict defaults      # other attributes: {name: {op: value, or function of the node}}
    cdef public list initial       # those that follow from a node's first number
    cdef public tuple order        # all attributes in the order in which __init__ sets them
    cdef public tuple positional   # roles of the constructor's parameters, by place
    cdef public dict keywords      # roles by name
    cdef public list guards        # (dict, key, value) that have to hold
    cdef public set switches       # the other attributes that methods read
    cdef public dict own           # if functions in them read one: the operators, by operation
    cdef public bint has_slots, is_weak  # without a __dict__; with weak references
    cdef dict operators            # as they were when the class was made
    cdef ClassInfo settings
    cdef object held  # what the guards' pointers point at
    cdef PyObject *guard_pointers[3 * MAX_GUARDS]


# ---------------------------------------------------------------- nodes

@cython.auto_pickle(False)
cdef class NodeBase:
    """The storage of a node; every replaced class is a subclass."""

    cdef NodeFields fields

    def __cinit__(self, *args, **kwargs):
        global n_allocated
        if not is_simple(type_of(node_of(self))):  # of a subclass, which Python has allocated
            n_allocated += 1
            node_of(self).flags = info_of(node_of(self)).fresh

    # Under names that no script uses: its class has these descriptors under its own names.

    @property
    def _microgpt_data(self):
        if node_of(self).flags & DATA_BOXED:
            return boxed(self, 0)
        return number_object(node_of(self).data, node_of(self).flags & DATA_INT)

    @_microgpt_data.setter
    def _microgpt_data(self, value):
        cdef Node *node = node_of(self)
        cdef double x
        cdef bint is_int
        keep_initial(self)
        if not is_number(<PyObject *>value, &x, &is_int) or (
            node.flags & DATA_BOXED and SWITCHED in attributes_of(self)
        ):
            box(self, 0, value)
            node.flags |= DATA_BOXED
            return
        node.data = x
        node.flags = (node.flags & ~<uint16_t>(DATA_INT | DATA_BOXED)) | (DATA_INT if is_int else 0)

    @_microgpt_data.deleter
    def _microgpt_data(self):
        attributes_of(self).pop(0, None)
        node_of(self).flags |= DATA_BOXED

    @property
    def _microgpt_grad(self):
        if node_of(self).flags & GRAD_BOXED:
            return boxed(self, 1)
        return number_object(node_of(self).grad, node_of(self).flags & GRAD_INT)

    @_microgpt_grad.setter
    def _microgpt_grad(self, value):
        cdef double x
        cdef bint is_int
        if not is_number(<PyObject *>value, &x, &is_int):
            box(self, 1, value)
            node_of(self).flags |= GRAD_BOXED
            return
        set_grad(node_of(self), x, is_int)
        node_of(self).flags &= ~<uint16_t>GRAD_BOXED

    @_microgpt_grad.deleter
    def _microgpt_grad(self):
        attributes_of(self).pop(1, None)
        node_of(self).flags |= GRAD_BOXED


class Base(NodeBase):
    """The base of all replaced classes: their subclasses' operators come here first too."""

    __slots__ = ()

    def __reduce_ex__(self, protocol):
        state = state_of(self)
        if (<Family>info_of(node_of(self)).family).has_slots:
            names = copyreg._slotnames(type(self))
            slots = {name: state.pop(name) for name in names if name in state}
            state = state or None, slots
        return copyreg.__newobj__, (type(self),), state

    def __setstate__(self, state):
        for part in state if type(state) is tuple else (state,):
            for name, value in (part or {}).items():
                setattr(self, name, value)

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        family = family_of(cls)
        if family is not None:
            take_slots(cls)
            own = family.cls.__dict__.get("__dict__", MISSING)
            found = next((vars(c)["__dict__"] for c in cls.__mro__ if "__dict__" in vars(c)), own)
            if own is not found and own is not MISSING:
                # A base's own is found before it; setattr would set the class's.
                (<dict>(<TypeSlots *><PyObject *>cls).tp_dict)["__dict__"] = own
                PyType_Modified(<PyTypeObject *><PyObject *>cls)


del Base.__slots__


cdef object family_of(object cls):
    """Return the family of the replaced class that a class is, or is a subclass of; else None."""
    for base in cls.__mro__:
        if id(base) in by_class:
            return by_class[id(base)]
    return None


cdef inline dict attributes_of(object self):
    return attributes_of_node(node_of(self))


cdef int keep_initial(object self) except -1:
    """Keep the attributes that follow from a node's number, before that changes."""
    cdef Family family = <Family>info_of(node_of(self)).family
    if family.initial:
        for name in family.initial:
            get_field(self, family, name)
    return 0


cdef int box(object self, object key, object value) except -1:
    attributes_of(self)[key] = value
    if PyObject_IS_GC(value):
        track(self)
    return 0


cdef void track(object self) noexcept:
    """Let the garbage collector know a node that may be in a cycle, and all later ones of its
    class: it finds only cycles whose every node it knows."""
    cdef Node *node = node_of(self)
    cdef ClassInfo *info = info_of(node)
    cdef ClassInfo *settings
    if not PyObject_GC_IsTracked(<PyObject *>self):
        PyObject_GC_Track(<void *>self)
        node.flags |= TRACKED
    if not info.fresh & TRACKED:
        settings = &(<Family>info.family).settings
        settings.fresh |= TRACKED
        settings.fresh_sum |= TRACKED
        info.fresh |= TRACKED
        find_info(<PyTypeObject *>(<Family>info.family).cls).version = NO_VERSION  # to read them


cdef object boxed(object self, int key):
    cdef Family family = <Family>info_of(node_of(self)).family
    attributes = attributes_of(self)
    if key not in attributes:
        name = family.stored_grad if key else family.stored_data
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
    return attributes[key]


cdef PyObject *alloc(PyTypeObject *kind, Py_ssize_t n_items) except NULL:
    """The tp_alloc of a replaced class."""
    cdef ClassInfo *info = class_info(kind)
    cdef Node *node = new_node(info, info.fresh, LEAF, 0)
    node.data = 0.0
    if (<Family>info.family).initial:
        attributes_of(<object><PyObject *>node)[INITIAL] = True
    return <PyObject *>node


cdef void dealloc_node(PyObject *self) noexcept:
    dealloc(self)


cdef int traverse(PyObject *self, visitproc visit, void *argument) noexcept:
    cdef Node *node = <Node *>self
    cdef Node **children
    cdef Term *term
    cdef Py_ssize_t i, n
    cdef int stop = 0
    if node.op == SUM:
        term = term_of(node.terms)
        for i in range(node.terms.n):
            stop = stop or visit(<PyObject *>term[i].a, argument)
            if term[i].b is not NULL:
                stop = stop or visit(<PyObject *>term[i].b, argument)
    else:
        children = children_of(node, &n)
        for i in range(n):
            stop = stop or visit(<PyObject *>children[i], argument)
    if node.attributes is not NULL:
        stop = stop or visit(node.attributes, argument)
    return stop or visit(<PyObject *>type_of(node), argument)


cdef int clear(PyObject *self) noexcept:
    cdef Node *node = <Node *>self
    cdef PyObject *attributes = node.attributes
    if attributes is not NULL:
        node.attributes = NULL
        node.flags &= ~<uint16_t>(BOXED | CALLS)
        decref(attributes)
    return 0


# ------------------------------------------------------- operators

cdef inline ClassInfo *native(void *node, const uint32_t members) noexcept:
    """Return the facts about a node's class if it is a replaced one itself and runs these
    operators here, and the node's number is a float or a small int; else NULL."""
    cdef ClassInfo *info = ours(node, members)
    if info is NULL or not info.makes_ours or (<Node *>node).flags & DATA_BOXED or (
        not guards_hold(info)
    ):
        return NULL
    return info


cdef inline bint is_node(PyObject *x) noexcept:
    return PyObject_TypeCheck(x, <PyTypeObject *>NodeBase)


cdef object unary(object self, Op op):
    """Return the result of a method without arguments, or None if the script's code has to run."""
    cdef ClassInfo *info = native(node_of(self), 0) if is_node(<PyObject *>self) else NULL
    cdef Node *node
    if info is not NULL:
        node = make_unary(
            op, info, node_of(self), info.relu if op == RELU else info.tanh_square, False
        )
        if node is not NULL:
            return OWNED(node)
    return None


def exp(self):
    return unary(self, EXP)


def log(self):
    return unary(self, LOG)


def relu(self):
    return unary(self, RELU)


def tanh(self):
    return unary(self, TANH)


def tanh_exp(self):
    return unary(self, TANH_EXP)


def sigmoid(self):
    return unary(self, LOGISTIC)


cdef PyObject *generic(PyObject *left, PyObject *right, str name, str reflected) except NULL:
    """Apply an operator as Python does for a class written in Python."""
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
    incref(<PyObject *>result)
    return <PyObject *>result


cdef PyObject *nb_add(PyObject *a, PyObject *b) except NULL:
    cdef Node *node = add_or_multiply(ADDITION, a, b)
    return <PyObject *>node if node is not NULL else generic(a, b, "__add__", "__radd__")


cdef PyObject *nb_multiply(PyObject *a, PyObject *b) except NULL:
    cdef Node *node = add_or_multiply(MULTIPLICATION, a, b)
    return <PyObject *>node if node is not NULL else generic(a, b, "__mul__", "__rmul__")


cdef PyObject *nb_subtract(PyObject *a, PyObject *b) except NULL:
    cdef Node *node = subtract(a, b)
    return <PyObject *>node if node is not NULL else generic(a, b, "__sub__", "__rsub__")


cdef PyObject *nb_true_divide(PyObject *a, PyObject *b) except NULL:
    cdef Node *node = divide(a, b)
    return <PyObject *>node if node is not NULL else generic(a, b, "__truediv__", "__rtruediv__")


cdef PyObject *nb_power(PyObject *a, PyObject *b, PyObject *modulo) except NULL:
    cdef double k = 0.0
    cdef bint is_int = False
    cdef ClassInfo *info
    cdef Node *node
    if modulo == <PyObject *>None:
        info = native(a, POWER)
        if info is not NULL and is_number(b, &k, &is_int) and fabs(k) <= 1e15:
            node = make_unary(POW, info, <Node *>a, k, is_int)
            if node is not NULL:
                return <PyObject *>node
        return generic(a, b, "__pow__", "__rpow__")
    result = NotImplemented
    if is_node(a) and hasattr(type(<object>a), "__pow__"):
        result = type(<object>a).__pow__(<object>a, <object>b, <object>modulo)
    incref(<PyObject *>result)
    return <PyObject *>result


cdef PyObject *nb_negative(PyObject *a) except NULL:
    cdef ClassInfo *info = native(a, NEGATION)
    cdef Node *node = make_neg(info, <Node *>a) if info is not NULL else NULL
    if node is not NULL:
        return <PyObject *>node
    result = type(<object>a).__neg__(<object>a)
    incref(<PyObject *>result)
    return <PyObject *>result


# ------------------------------------------------------- the constructor

cdef PyObject *call(
    PyObject *cls, PyObject *const *args, size_t nargsf, PyObject *names
) except NULL:
    """The tp_vectorcall of a replaced class: the usual arguments here, all others by __init__."""
    cdef Py_ssize_t i, n = PyVectorcall_NARGS(nargsf), n_named
    cdef double x = 0.0
    cdef bint is_int = False
    cdef ClassInfo *info = class_info(<PyTypeObject *>cls)
    cdef Family family
    if info.makes_ours and n and is_number(args[0], &x, &is_int) and guards_hold(info):
        family = <Family>info.family
        if family.positional is not None:
            if n == 1 and names is NULL:
                return <PyObject *>make_leaf(info, x, is_int)
            made = OWNED(make_leaf(info, x, is_int))
            n_named = len(<tuple>names) if names is not NULL else 0
            if n > len(family.positional):
                made = None
            for i in range(1, n):
                if made is not None and not fill(made, family, family.positional[i], args[i]):
                    made = None
            for i in range(n_named):
                role = family.keywords.get(<object>(<tuple>names)[i])
                if made is not None and (
                    role is None or not fill(made, family, role, args[n + i])
                ):
                    made = None
            if made is not None and not node_of(made).flags & SLOPES_BOXED:
                incref(<PyObject *>made)
                return <PyObject *>made
    return call_type(cls, args, nargsf, names)


cdef bint fill(object self, Family family, object role, PyObject *argument) except -1:
    """Give a new node one argument of its constructor; return whether it was a usual one."""
    value = <object>argument
    if role == "children":
        return PyTuple_CheckExact(argument) and set_children(self, family, value)
    if role == "pairs":
        return PyTuple_CheckExact(argument) and set_pairs(self, family, value)
    if role == "slopes":
        return PyTuple_CheckExact(argument) and set_slopes(self, value)
    if role == "data":
        return False  # a second time
    box(self, role, value)
    notice_switch(self, family, role, value)
    return True


cdef bint set_children(object self, Family family, tuple children) except -1:
    """Give a node these children, if all are nodes of its family; its slopes are then missing."""
    cdef Node *node = node_of(self)
    cdef Node before = node[0]
    cdef Node **nodes = node.child
    cdef Py_ssize_t i, n = len(children)
    if node.op == SUM:
        return False
    for child in children:
        if not is_node(<PyObject *>child) or (
            info_of(node_of(child)).family != <PyObject *>family
        ):
            return False
    if n > 2:
        node.block = new_block(n, n)
        nodes = node.block.children
        for i in range(n):
            node.block.slopes[i] = 0.0
            node.block.ints[i] = False
    for i in range(n):
        nodes[i] = node_of(children[i])
        incref(nodes[i])
    node.n = <uint8_t>n if n <= 2 else <uint8_t>IN_BLOCK
    node.op = CUSTOM if n else LEAF
    node.flags &= ~<uint16_t>(CHILDREN_BOXED | SLOPES_BOXED | FIRST_INT | SECOND_INT)
    if n and family.slopes is not None:
        node.flags |= SLOPES_BOXED  # until they are given
    release_children(&before)
    return True


cdef bint set_pairs(object self, Family family, tuple pairs) except -1:
    """Give a node pairs of children and slopes; return whether they are usual ones."""
    for pair in pairs:
        if type(pair) is not family.pair or len(pair) != 2:
            return False
    return set_children(self, family, tuple([pair[family.child_at] for pair in pairs])) and (
        set_slopes(self, tuple([pair[1 - family.child_at] for pair in pairs]))
    )


cdef bint set_slopes(object self, tuple slopes) except -1:
    """Give a node these local gradients, if they are as many usual numbers as it has children."""
    cdef Node *node = node_of(self)
    cdef Py_ssize_t i, n
    cdef double x = 0.0
    cdef bint is_int = False
    cdef double *numbers
    if node.flags & CHILDREN_BOXED or node.op == SUM:
        return False
    numbers = slopes_of(node, &n)
    if n != len(slopes):
        return False
    for slope in slopes:
        if not is_number(<PyObject *>slope, &x, &is_int):
            return False
    node.flags &= ~<uint16_t>(FIRST_INT | SECOND_INT | SLOPES_BOXED)
    for i in range(n):
        is_number(<PyObject *>slopes[i], &numbers[i], &is_int)
        if node.n == IN_BLOCK:
            node.block.ints[i] = is_int
        elif is_int:
            node.flags |= SECOND_INT if i else FIRST_INT
    if n:
        node.op = CUSTOM
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
        value = get_field(instance, self.family, self.name)
        if value is not MISSING:
            expose(instance, self.family, self.name, value)
            return value
        if self.fallback is not MISSING:
            return self.fallback
        raise AttributeError(f"'{type(instance).__name__}' object has no attribute '{self.name}'")

    def __set__(self, instance, value):
        set_field(instance, self.family, self.name, value)

    def __delete__(self, instance):
        if get_field(instance, self.family, self.name) is MISSING:
            kind = type(instance).__name__
            raise AttributeError(f"'{kind}' object has no attribute '{self.name}'")
        set_field(instance, self.family, self.name, MISSING)


MISSING = object()


def peek(self, name):
    """Return an attribute of a node for reading only: it is not kept by `expose`."""
    value = get_field(self, <Family>info_of(node_of(self)).family, name)
    if value is MISSING:
        raise AttributeError(name)
    return value


cdef list exposed = []  # nodes whose children or slopes the script got as a list or set


cdef int expose(object self, Family family, str name, object value) except -1:
    """Keep a list or set that the script gets, since the script may change it."""
    if type(value) is not list and type(value) is not set:
        return 0
    if name == family.children:
        box(self, 2, value)
        node_of(self).flags |= CHILDREN_BOXED
    elif name == family.slopes:
        box(self, 3, value)
        node_of(self).flags |= SLOPES_BOXED
    else:
        return 0
    exposed.append(self)
    if len(exposed) > 100_000:
        drop_unchanged()
    return 0


cdef int drop_unchanged() except -1:
    """Forget the lists and sets of `expose` that the script has dropped, unchanged."""
    cdef Node *node
    cdef Family family
    cdef dict kept
    global exposed
    nodes, exposed = exposed, []
    for self in nodes:
        node = node_of(self)
        kept = attributes_of(self)
        if node.flags & CHILDREN_BOXED:
            value = kept[2]
            family = <Family>info_of(node).family
            if family.pair is not None:
                at = family.child_at
                usual = [type(pair) is family.pair and len(pair) == 2 for pair in value]
                ids = [(id(p[at]), repr(p[1 - at])) for p in value] if all(usual) else None
                own = list(zip(map(id, children_tuple(self)), map(repr, slopes_tuple(self))))
            else:
                ids = sorted(map(id, value)) if type(value) is set else list(map(id, value))
                own = list(map(id, children_tuple(self)))
            if refcount(<Node *><PyObject *>value) == 2 and (
                ids == (sorted(own) if type(value) is set else own)
            ):
                del kept[2]
                node.flags &= ~<uint16_t>CHILDREN_BOXED
        if node.flags & SLOPES_BOXED and 3 in kept:
            value = kept[3]
            if refcount(<Node *><PyObject *>value) == 2 and (
                list(map(repr, value)) == list(map(repr, slopes_tuple(self)))
            ):
                del kept[3]
                node.flags &= ~<uint16_t>SLOPES_BOXED
    return 0


cdef object get_field(object self, Family family, str name):
    cdef Node *node = node_of(self)
    cdef dict kept = <dict>node.attributes if node.attributes is not NULL else None
    if name == family.stored_data:
        return kept.get(0, MISSING) if node.flags & DATA_BOXED else self._microgpt_data
    if name == family.stored_grad:
        return kept.get(1, MISSING) if node.flags & GRAD_BOXED else self._microgpt_grad
    if name == family.children:
        if node.flags & CHILDREN_BOXED:
            return kept[2]
        children = children_tuple(self)
        if family.pair is not None:
            make = getattr(family.pair, "_make", family.pair)  # of a named tuple
            pairs = [children, slopes_tuple(self)]
            children = tuple(map(make, zip(pairs[family.child_at], pairs[1 - family.child_at])))
        container = family.container if children else family.leaf_container
        return children if container is tuple else container(children)
    if name == family.slopes:
        if node.flags & SLOPES_BOXED:
            return kept[3] if kept is not None and 3 in kept else family.leaf_slopes_container()
        slopes = slopes_tuple(self)
        container = family.slopes_container if slopes else family.leaf_slopes_container
        return slopes if container is tuple else container(slopes)
    if name == family.backward:
        if node.flags & CALLS:
            return kept[4]
        like = family.closures.get(operation(node), MISSING)
        return like if like is None or is_empty(like) else Backward(self, like)
    if kept is not None and name in kept:
        return kept[name]
    by_op = family.defaults.get(name)
    if by_op is None:
        return MISSING
    if name in family.initial and kept is not None and INITIAL in kept:
        return MISSING
    value = usual(node, by_op)
    if type(value) in (list, dict, set):  # each node has one of its own
        value = type(value)(value)
        box(self, name, value)
    elif name in family.initial:
        box(self, name, value)
    return value


cdef inline int operation(Node *node) noexcept:
    """Return the operation of the script's that made a node."""
    return LEAF if node.op == CUSTOM else ADD if node.op == SUM else node.op


cdef object usual(Node *node, dict by_op):
    """Return the value of an attribute that all nodes of that operation have."""
    value = by_op.get(operation(node), MISSING)
    return value(<object><PyObject *>node) if callable(value) else value


def exponent(self):
    """Return the exponent of a power."""
    return number_object(node_of(self).slope[1], node_of(self).flags & SECOND_INT)


cdef int set_field(object self, Family family, str name, value) except -1:
    cdef Node *node = node_of(self)
    if name == family.children:
        sync_children(node)
        container = family.container if value else family.leaf_container
        if family.pair is not None and type(value) is container is tuple:
            if set_pairs(self, family, value):
                return 0
        elif (
            type(value) is container and container is not list
            and (node.op == LEAF or node.op == CUSTOM and family.slopes is None)
            and set_children(self, family, tuple(value))
        ):
            return 0
        box(self, 2, value)
        node.flags |= CHILDREN_BOXED
    elif name == family.slopes:
        sync_children(node)
        container = family.slopes_container if value else family.leaf_slopes_container
        if type(value) is container is tuple and set_slopes(self, value):
            return 0
        box(self, 3, value)
        node.flags |= SLOPES_BOXED
    elif name == family.backward:
        if type(value) is Backward and (<Backward>value).node is self and not node.flags & CALLS:
            return 0
        # A node without a function behaves as one with a lambda that does nothing.
        if node.op == LEAF and not node.flags & CALLS and (value is None or is_empty(value)):
            return 0
        box(self, 4, value)
        node.flags |= CALLS
    else:
        box(self, name, value)
        notice_switch(self, family, name, value)
    return 0


# Keys in a node's attributes: the script's code computes it; its constructor runs.
SWITCHED, INITIAL = 5, 6


cdef int notice_switch(object self, Family family, object name, object value) except -1:
    """Leave a node to the script's code if an attribute that this reads gets another value."""
    if name in family.switches and usual(node_of(self), family.defaults[name]) is not value:
        attributes_of(self)[SWITCHED] = True
        if not node_of(self).flags & DATA_BOXED:
            box(self, 0, self._microgpt_data)
            node_of(self).flags |= DATA_BOXED
    return 0


cdef object empty_code = (lambda: None).__code__.co_code


cdef bint is_empty(function):
    """Return whether a function has the code of `lambda: None`."""
    code = getattr(function, "__code__", None)
    return (
        code is not None and code.co_code == empty_code and code.co_consts in ((None,), ())
        and not code.co_freevars
    )


cdef class Backward:
    """The `_backward` of a node that has none of its own: adds into its children's gradients."""

    cdef object node, like  # one that the script's own operation made

    def __init__(self, node, like):
        self.node, self.like = node, like

    def __getattr__(self, name):
        return getattr(self.like, name)

    def __deepcopy__(self, memo):
        return self  # as a function

    def __eq__(self, other):
        return type(other) is Backward and (<Backward>other).node is self.node

    def __hash__(self):
        return object.__hash__(self.node)

    def __reduce_ex__(self, protocol):
        import pickle

        return pickle.loads, (pickle.dumps(self.like, protocol),)  # or raise the reason

    def __call__(self):
        sync_children(node_of(self.node))
        if node_of(self.node).op != LEAF:
            play_any(node_of(self.node), 0, 0)


def state_of(NodeBase self):
    """Return all attributes of a node by name, in the order in which its class sets them."""
    cdef Node *node = node_of(self)
    cdef Family family = <Family>info_of(node).family
    state = {}
    for name in family.order:
        value = get_field(self, family, name)
        if value is not MISSING:
            expose(self, family, name, value)
            state[name] = value
    if node.attributes is not NULL:
        for name, value in (<dict>node.attributes).items():
            if type(name) is str and name not in state and value is not MISSING:
                state[name] = value
    return state


# ------------------------------------------------------- backward

cdef Walk scratch = Walk(NULL, 0, 0, NULL, 0, False)


def backward(self):
    """Run a backward; return None, with nothing changed, if the script's code has to."""
    global scratch
    cdef Node *root = node_of(self)
    cdef ClassInfo *info
    cdef Py_ssize_t i
    cdef Entry *entry
    cdef bint calls, careful
    cdef Walked walked
    cdef Walk w
    if not is_node(<PyObject *>self) or not guards_hold(info_of(root)):
        return None
    info = info_of(root)
    walked = walk(root, &scratch, FOR_BACKWARD)
    if walked == FOUND_STALE and exposed:
        drop_unchanged()
        walked = walk(root, &scratch, FOR_BACKWARD)
    if walked == FOUND_STALE:
        return None
    if walked != DONE:
        raise_unwalked(walked, scratch.n)
    unmark(&scratch, 0)
    # Functions of the script may build, walk and drop graphs meanwhile.
    w = scratch
    scratch = Walk(NULL, 0, 0, NULL, 0, False)
    calls = careful = w.calls
    if calls:
        for i in range(w.n):
            incref(w.entries[i].node)
    try:
        set_grad(root, 1.0, not info.float_root)
        for i in range(w.n - 1, -1, -1):
            entry = w.entries + i
            if not careful:
                if not play_entry(entry.node, entry.start, entry.stop):
                    careful = True  # from here on numbers may be of any type
                    play_objects(entry.node, entry.start, entry.stop)
            elif entry.node.flags & CALLS:
                (<dict>entry.node.attributes)[4]()
            else:
                play_any(entry.node, entry.start, entry.stop)
        return True
    finally:
        if calls:
            for i in range(w.n):
                decref(w.entries[i].node)
        PyMem_Free(scratch.entries)
        PyMem_Free(scratch.frames)
        scratch = w


cdef inline bint is_usual(Node *node) noexcept:
    return not node.flags & BOXED


cdef int play_any(Node *node, uint32_t start, uint32_t stop) except -1:
    """Apply the chain rule where functions of the script may have set numbers of other types."""
    cdef Py_ssize_t i, n
    cdef Term *term
    cdef Node **children
    cdef bint usual = is_usual(node)
    if node.op == SUM:
        term = term_of(node.terms)
        for i in range(start, stop):
            usual = usual and is_usual(term[i].a) and (term[i].b is NULL or is_usual(term[i].b))
    else:
        children = children_of(node, &n)
        for i in range(n):
            usual = usual and is_usual(children[i])
    if not (usual and play_entry(node, start, stop)):
        play_objects(node, start, stop)
    return 0


cdef int add_grad(object node, Family family, object term) except -1:
    grad = getattr(node, family.grad)
    grad += term
    setattr(node, family.grad, grad)
    return 0


cdef bint is_switched(object node):
    for part in (node, *children_tuple(node)):
        if SWITCHED in attributes_of(part):
            return True
    return False


cdef bint play_own(object node, Family family, uint8_t op) except -1:
    """Call the `_backward` that the script's operator makes, which reads the current attributes."""
    children = children_tuple(node)
    function = family.own.get(op)
    if function is None:
        return False
    operands = children
    if op == POW:
        k = number_object(node_of(node).slope[1], node_of(node).flags & SECOND_INT)
        operands = (children[0], k)
    # When the operator ran, the switches had their usual values.
    switched = [
        (attributes_of(child), name, attributes_of(child).pop(name))
        for child in children for name in family.switches if name in attributes_of(child)
    ]
    try:
        other = function(*operands)
    finally:
        for attributes, name, value in switched:
            attributes[name] = value
    if type(other) is not family.cls or not node_of(other).flags & CALLS:
        return False
    is_same = repr(other._microgpt_data) == repr(node._microgpt_data)
    for name in (family.stored_data, family.stored_grad, *family.defaults):
        setattr(other, name, get_field(node, family, name))
    before = getattr(children[0], family.grad)
    attributes_of(other)[4]()
    if is_same or op in (ADD, MUL, POW) or repr(getattr(children[0], family.grad)) == repr(before):
        return True
    setattr(children[0], family.grad, before)  # its derivative is that of the old number
    return False


cdef int play_objects(Node *node, uint32_t start, uint32_t stop) except -1:
    """Apply the chain rule to Python's numbers."""
    cdef ClassInfo *info = info_of(node)
    cdef bint late = node.flags & LATE
    cdef uint8_t op = node.op
    cdef Terms *terms
    cdef Term *term
    cdef Py_ssize_t i
    cdef object me = <object><PyObject *>node
    cdef Family family = <Family>info.family
    cdef object grad = getattr(me, family.grad)
    cdef object a, b, k
    cdef object one = number_object(1.0, not info.float_slope)
    if family.own and is_switched(me) and play_own(me, family, op):
        return 0
    if op == SUM:
        node.flags |= PLAYED
        terms = node.terms
        term = term_of(terms)
        terms.inner_grad = 0.0 + node.grad
        terms.inner_int = not info.float_slope and node.flags & GRAD_INT
        for i in range(<Py_ssize_t>stop - 1, <Py_ssize_t>start - 1, -1):
            a = <object><PyObject *>term[i].a
            if term[i].b is NULL:
                add_grad(a, family, one * grad)
            else:
                b = <object><PyObject *>term[i].b
                k = number_object(term[i].slope_a, term_ints(terms, i) & FIRST_INT)
                k = getattr(b, family.data) if late else k
                add_grad(a, family, k * grad)
                k = number_object(term[i].slope_b, term_ints(terms, i) & SECOND_INT)
                k = getattr(a, family.data) if late else k
                add_grad(b, family, k * grad)
    elif not late:
        for a, k in zip(children_tuple(me), slopes_tuple(me)):
            add_grad(a, family, k * grad)
    elif op == ADD or op == MUL:
        a, b = children_tuple(me)
        k = one if op == ADD else getattr(b, family.data)
        add_grad(a, family, k * grad)
        k = one if op == ADD else getattr(a, family.data)
        add_grad(b, family, k * grad)
    elif op != CUSTOM and op != LEAF:
        a = children_tuple(me)[0]
        if op == POW:
            k = number_object(node.slope[1], node.flags & SECOND_INT)
            k = k * getattr(a, family.data) ** (k - 1)
        elif op == EXP:
            k = getattr(me, family.data)
        elif op == LOG:
            k = 1 / getattr(a, family.data)
        elif op == RELU:
            is_positive = getattr(me, family.data) > 0
            k = number_object(1.0 if is_positive else 0.0, info.relu & SLOPE_IS_INT)
        else:
            k = node.slope[0]
        add_grad(a, family, k * grad)
    return 0


# ------------------------------------------------------- functions of lists

cdef inline bint has(ClassInfo *info, uint32_t operators) noexcept:
    return info.ours & operators == operators and guards_hold(info)


cdef enum:
    SUM_OF_PRODUCTS = ADDITION | ADDITION * REFLECTED | MULTIPLICATION


def linear(x, w, bint x_first):
    """Return sum(wi * xi for wi, xi in zip(row, x)) for each row of w, or None: see `dot`."""
    cdef list out = []
    cdef ClassInfo *info = NULL
    cdef Py_ssize_t n = 0, m = 0
    cdef bint x_ints = False, w_ints = False
    cdef Node **x_items = nodes_in(x, &n, &info, &x_ints)
    cdef Node **w_items
    if x_items is NULL or type(w) is not list or not has(info, SUM_OF_PRODUCTS):
        return None
    for row in <list>w:
        w_items = nodes_in(row, &m, &info, &w_ints)
        if w_items is NULL or m != n or x_ints and w_ints:
            return None
        if x_first:
            out.append(sum_of_products(info, x_items, w_items, n, x_ints or w_ints))
        else:
            out.append(sum_of_products(info, w_items, x_items, n, x_ints or w_ints))
    return out


def dot(a, b):
    """Return sum(ai * bi for ai, bi in zip(a, b)), or None if the script's code has to run."""
    cdef ClassInfo *info = NULL
    cdef Py_ssize_t n = 0, m = 0
    cdef Node **a_items = nodes_in(a, &n, &info)
    cdef Node **b_items
    if a_items is NULL or not has(info, SUM_OF_PRODUCTS):
        return None
    b_items = nodes_in(b, &m, &info)
    if b_items is NULL or m != n:
        return None
    return sum_of_products(info, a_items, b_items, n, False)


def softmax(logits):
    """Return exp(x - largest) / total for each x, or None: see `dot`."""
    cdef list exps = []
    cdef ClassInfo *info = NULL
    cdef Py_ssize_t n = 0, i
    cdef double largest
    cdef Node **items = nodes_in(logits, &n, &info)
    cdef Node *node
    if items is NULL or not has(
        info, SUM_OF_PRODUCTS | SUBTRACTION * WITH_NUMBER | DIVISION | POWER
    ):
        return None
    largest = items[0].data
    for i in range(1, n):
        if items[i].data > largest:
            largest = items[i].data
    for i in range(n):
        shifted = OWNED(with_number(ADDITION, info, items[i], -largest, False))
        node = make_unary(EXP, info, node_of(shifted), 0.0, False)
        if node is NULL:
            return None
        exps.append(OWNED(node))
    return quotients(info, exps)


def rmsnorm(x, double eps):
    """Return x * (mean square + eps) ** -0.5 for each x, or None: see `dot`."""
    cdef ClassInfo *info = NULL
    cdef Py_ssize_t n = 0
    cdef Node **items = nodes_in(x, &n, &info)
    if items is NULL or not has(
        info,
        SUM_OF_PRODUCTS | (ADDITION | DIVISION) * WITH_NUMBER | POWER,
    ):
        return None
    return normalized(info, items, n, eps, False)


# ------------------------------------------------------- adopting a class

def new_family():
    """Return a Family."""
    family = Family()
    family.initial = []
    families.append(family)
    return family


def adopt(Family family, cls, **choices):
    """Make a new class, type(name, (Base,), members), the replaced class of a family."""
    cdef TypeSlots *slots = <TypeSlots *><PyObject *>cls
    cdef Kind *kind = <Kind *><PyObject *>cls
    family.cls = cls
    by_class[id(cls)] = family
    family.operators = {name: getattr(cls, name) for name in NATIVE if hasattr(cls, name)}
    slots.tp_alloc = alloc
    slots.tp_dealloc = dealloc_node
    kind.tp_traverse = traverse
    kind.tp_clear = clear
    slots.tp_flags |= Py_TPFLAGS_HAVE_GC
    slots.tp_free = free_memory
    if not family.has_slots:
        slots.tp_dictoffset = ATTRIBUTES_OFFSET
    if family.is_weak:
        slots.tp_weaklistoffset = WEAK_REFERENCES_OFFSET
    slots.tp_vectorcall = call
    # A metaclass inherits it only from CPython 3.12 on.
    (<TypeSlots *>type_of(<Node *><PyObject *>cls)).tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL
    PyType_Modified(<PyTypeObject *>slots)
    configure(family, **choices)


def configure(
    Family family, unsigned int native=0, to_float=False, grad_int=False, root_int=False,
    late=False, ones_int=False, minus_int=False, relu_keeps=False, relu_int=False,
    relu_slope_int=False, tanh_square=False,
):
    """Set which operators run here, as bits of NATIVE and NUMBER, and how."""
    cdef ClassInfo *settings = &family.settings
    cdef int i
    settings.ours = native
    settings.keeps_ints = not to_float
    settings.fresh &= TRACKED
    settings.fresh |= (GRAD_INT if grad_int else 0) | (LATE if late else 0)
    settings.fresh_sum = settings.fresh | (FIRST_INT | SECOND_INT if ones_int else 0)
    settings.float_root = not root_int
    settings.float_slope = not ones_int
    settings.float_minus = not minus_int
    settings.relu = (
        (KEEPS_NAN if relu_keeps else 0) | (ZERO_INT if relu_int else 0)
        | (SLOPE_IS_INT if relu_slope_int else 0)
    )
    settings.tanh_square = tanh_square
    settings.family = <PyObject *>family
    settings.guards = family.guard_pointers
    settings.n_guards = <uint8_t>len(family.guards)
    family.held = family.guards
    for i, (dictionary, key, value) in enumerate(family.guards):
        if isinstance(dictionary, type):
            family.guard_pointers[3 * i] = (<TypeSlots *><PyObject *>dictionary).tp_dict
        else:
            family.guard_pointers[3 * i] = <PyObject *>dictionary
        family.guard_pointers[3 * i + 1] = <PyObject *>key
        family.guard_pointers[3 * i + 2] = <PyObject *>value
    find_info(<PyTypeObject *>family.cls).version = NO_VERSION
    take_slots(family.cls)


cdef void fill_info(ClassInfo *info) noexcept:
    """Look a class up: a replaced one by its settings, its subclasses by those of their nodes."""
    cdef ClassInfo known = info[0]
    cdef Family family
    cdef PyObject *found = _PyType_Lookup(info.type, <PyObject *>INIT)  # gives it a version
    cdef unsigned int version = (<TypeSlots *>info.type).tp_version_tag or <unsigned int>NO_VERSION
    info.ours = 0
    info.result = NULL
    if PyType_IsSubtype(info.type, <PyTypeObject *>NodeBase):
        made = family_of(<object><PyObject *>info.type)
        if made is not None:
            family = <Family>made
            info[0] = family.settings
            info.is_simple = <PyObject *>family.cls == <PyObject *>known.type
            info.makes_ours = info.is_simple and found == <PyObject *>family.init
            if info.is_simple:
                info.result = known.type
            if not info.makes_ours:
                info.ours = 0  # a subclass, or another constructor has been set
            for name, member in family.operators.items():
                if _PyType_Lookup(known.type, <PyObject *>name) != <PyObject *>member:
                    info.ours = 0  # set since
    info.next = known.next
    info.type = known.type
    info.version = version


INIT = "__init__"


cdef void take_slots(object cls) noexcept:
    """Let the operators of a class, a replaced one or its subclass, come here first."""
    cdef Numbers *numbers = (<Kind *><PyObject *>cls).tp_as_number
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


OPS = {"leaf": LEAF, "add": ADD, "mul": MUL, "pow": POW, "exp": EXP, "log": LOG, "relu": RELU,
       "tanh": TANH, "tanh_exp": TANH_EXP, "sigmoid": LOGISTIC, "made": CUSTOM, "sum": SUM}
NATIVE = {"__add__": ADDITION, "__radd__": ADDITION * REFLECTED, "__mul__": MULTIPLICATION,
          "__rmul__": MULTIPLICATION * REFLECTED, "__sub__": SUBTRACTION,
          "__rsub__": SUBTRACTION * REFLECTED, "__truediv__": DIVISION,
          "__rtruediv__": DIVISION * REFLECTED, "__pow__": POWER, "__neg__": NEGATION}
NUMBER = {"__add__": ADDITION * WITH_NUMBER, "__mul__": MULTIPLICATION * WITH_NUMBER,
          "__sub__": SUBTRACTION * WITH_NUMBER, "__truediv__": DIVISION * WITH_NUMBER}


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
cdef Node **distinct_nodes = NULL
cdef Py_ssize_t n_distinct = 0


def run_loop(list sequences, kind, Py_ssize_t n, list loads, bytes program, list constants,
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


cdef bint are_loop_sequences(list sequences, object kind, Py_ssize_t n) except -1:
    """Return whether a run can change the sequences as the loop would: nodes, distinct nodes
    of one class in lists or tuples, and lists of floats; each (nodes or not, the sequence).
    """
    global distinct_nodes, n_distinct
    cdef Py_ssize_t i, total = 0
    cdef Node **items
    cdef Node **nodes
    cdef bint known = True
    cdef bint keeps_initial = bool((<Family>family_of(kind)).initial)
    for is_nodes, sequence in sequences:
        if type(sequence) is not list and (not is_nodes or type(sequence) is not tuple):
            return False
        if PySequence_Fast_GET_SIZE(sequence) < n:
            return False
        items = items_of(sequence)
        for i in range(n):
            if is_nodes:
                if (
                    type_of(items[i]) != <PyTypeObject *>kind
                    or items[i].flags & (DATA_BOXED | GRAD_BOXED)
                ):
                    return False
                if keeps_initial:
                    keep_initial(<object><PyObject *>items[i])
            elif not PyFloat_CheckExact(<object><PyObject *>items[i]):
                return False
        if is_nodes:
            known = known and total + n <= n_distinct and not memcmp(
                distinct_nodes + total, items, n * sizeof(Node *)
            )
            total += n
    if known:
        return True
    # The pointers are compared, never followed.
    nodes = <Node **>PyMem_Realloc(distinct_nodes, total * sizeof(Node *))
    if nodes is NULL:
        return False
    distinct_nodes = nodes
    n_distinct = 0
    found = set()
    for is_nodes, sequence in sequences:
        if is_nodes:
            items = items_of(sequence)
            for i in range(n):
                found.add(<size_t>items[i])
                nodes[n_distinct + i] = items[i]
            n_distinct += n
    if len(found) != total:
        n_distinct = 0
        return False
    return True


cdef bint load_column(double *x, tuple pair, LoopField field, Py_ssize_t n, bint ints) except -1:
    cdef Node **items = items_of(pair[1])
    cdef Py_ssize_t i
    if field == LOOP_DATA:
        for i in range(n):
            x[i] = items[i].data
            if items[i].flags & DATA_INT and (not ints or x[i] != 0.0):
                return False
    elif field == LOOP_GRAD:
        for i in range(n):
            x[i] = items[i].grad
            if items[i].flags & GRAD_INT and (not ints or x[i] != 0.0):
                return False
    else:
        for i in range(n):
            x[i] = PyFloat_AS_DOUBLE(<object><PyObject *>items[i])
    return True


cdef int store_column(
    const double *x, tuple pair, LoopField field, Py_ssize_t n, bint as_int
) except -1:
    cdef Node **items = items_of(pair[1])
    cdef Py_ssize_t i
    cdef list sequence
    if field == LOOP_DATA:
        for i in range(n):
            items[i].data = x[i]
            items[i].flags &= ~<uint16_t>DATA_INT
    elif field == LOOP_GRAD:
        for i in range(n):
            items[i].grad = x[i]
            items[i].flags &= ~<uint16_t>GRAD_INT
            if as_int:
                items[i].flags |= GRAD_INT
    else:
        sequence = pair[1]
        for i in range(n):
            if refcount(items[i]) == 1:
                set_float(items[i], x[i])  # which only the list can see
            else:
                sequence[i] = x[i]
                items = items_of(sequence)
    return 0


cdef extern from *:
    """
    #define set_float(x, number) (((PyFloatObject *)(x))->ob_fval = (number))
    """
    void set_float(Node *x, double number)


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


cdef int set_up() except -1:
    (<TypeSlots *><PyObject *>NodeBase).tp_dealloc = dealloc_node
    set_value_type(<PyTypeObject *>NodeBase)
    return know_classes(<PyTypeObject *>NodeBase, fill_info)


set_up()
