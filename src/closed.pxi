# ------------------------------------------- nodes of the class they were made from
#
# A subclass in Python whose nodes the operators make in C: as `Value`'s, and then
# moved into an object of the class. Sums are never kept as one node here, since
# the nodes restored from it would be plain.

cdef class Closed(Value):
    """Closed(data, children=(), local_grads=())\n--\n\nA `Value` whose operators give its class.

    Between classes the left one decides, and a number becomes a leaf of it: what a
    subclass adds, a result has too. `__init__` runs for nodes that are written out,
    not for results. `label` and `_op` are for people: a name, and what made the node.

    Raises:  TypeError if data is not a number
    Source:  micrograd `Value`
    """

    def __init__(self, data, children=(), local_grads=()):
        construct(self, data, children, local_grads)
        name(self, None)

    @property
    def label(self):
        """A name for people to read; empty unless set."""
        return "" if self.names is NULL else (<tuple>self.names)[0]

    @label.setter
    def label(self, text):
        name(self, (text, self._op))

    @property
    def _op(self):
        """What the node was computed by, as micrograd writes it; empty for a leaf."""
        if self.names is not NULL:
            return (<tuple>self.names)[1]
        if self.op == POW:
            return power_name(self.local_grad[1])
        return OP_NAMES[self.op]

    @_op.setter
    def _op(self, text):
        name(self, (self.label, text))

    def __reduce__(self):
        make, arguments, state = Value.__reduce__(self)
        return make, arguments, (state, self.label, self._op)

    def __setstate__(self, state):
        state, self.label, self._op = state
        Value.__setstate__(self, state)

    def __add__(left, right):
        cdef Value other
        if isinstance(left, Closed) and not (
            isinstance(right, Value) and is_reflected(left, right, "__radd__")
        ):
            other = operand_like(left, right)
            reclaim_both(<Value>left, other)
            return own(left, new_binary(
                ADD, (<Value>left).c_data + other.c_data, <Value>left, other, 1.0, 1.0
            ))
        if isinstance(left, Value) and not isinstance(left, Closed):
            return Value.__add__(left, right)
        return right + left

    def __mul__(left, right):
        if isinstance(left, Closed) and not (
            isinstance(right, Value) and is_reflected(left, right, "__rmul__")
        ):
            return own(left, mul(<Value>left, operand_like(left, right)))
        if isinstance(left, Value) and not isinstance(left, Closed):
            return Value.__mul__(left, right)
        return right * left

    def __pow__(left, right, modulo):
        cdef double k
        if not isinstance(left, Closed) or modulo is not None:
            return NotImplemented
        if is_plain(right, &k) and (PyFloat_CheckExact(right) or fabs(k) < MAX_EXACT_INT):
            return own(left, power(<Value>left, k, k - 1.0))
        return name(own(left, power_of_object(<Value>left, right)), ("", power_name(right)))

    def log(self):
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        return own(self, logarithm(self))

    def exp(self):
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        return own(self, exponential(self))

    def relu(self):
        """Return the value itself where positive, else zero (for NaN too)."""
        return own(self, rectified(self))

    def tanh(self):
        """Return the hyperbolic tangent."""
        return own(self, hyperbolic_tangent(self))

    def sigmoid(self):
        """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
        return own(self, logistic(self))


# By Op, up to CUSTOM: the operations that a Closed can be.
cdef tuple OP_NAMES = ("", "+", "*", "**", "log", "exp", "ReLU", "tanh", "sigmoid", "")


cdef str power_name(k):
    k = float(k)
    return f"**{int(k)}" if k.is_integer() else f"**{k}"


cdef inline Value name(Value node, tuple names):
    """Set label and operation of a node, or with None have them forgotten; return the node."""
    cdef PyObject *old = node.names
    node.names = NULL
    if names is not None:
        Py_INCREF(<PyObject *>names)
        node.names = <PyObject *>names
    if old is not NULL:
        Py_DECREF(old)
    return node


cdef inline Value operand_like(object left, object x):
    """Return x itself if it is a `Value`, else a leaf of that number in the class of left."""
    cdef double number
    if isinstance(x, Value):
        return <Value>x
    return own(left, new_constant(number if is_plain(x, &number) else to_double(x)))


cdef inline Value own(object like, Value node):
    """Return a new plain node as one of the class of `like`."""
    global n_held
    cdef PyTypeObject *kind = Py_TYPE(<PyObject *>like)
    cdef Value moved
    if is_plain_sized(kind):
        node.names = NULL
        Py_SET_TYPE(<PyObject *>node, kind)
        if (<TypeSlots *>kind).tp_flags & Py_TPFLAGS_HEAPTYPE:
            Py_INCREF(<PyObject *>kind)
        return node
    moved = <Value>OWNED((<TypeSlots *>kind).tp_alloc(kind, 0))  # all zeros
    n_held += 1
    moved.c_data = node.c_data
    moved.child[0] = node.child[0]
    moved.child[1] = node.child[1]
    moved.local_grad[0] = node.local_grad[0]
    moved.local_grad[1] = node.local_grad[1]
    moved.op = node.op
    moved.n = node.n
    moved.flags = node.flags
    node.op = LEAF
    node.n = 0
    return moved


cdef void dealloc_closed(PyObject *self) noexcept:
    cdef PyObject *names = (<Value>self).names
    (<Value>self).names = NULL
    if names is not NULL:
        Py_DECREF(names)
    dealloc(self)


(<TypeSlots *>Closed).tp_dealloc = dealloc_closed
PyType_Modified(<PyTypeObject *>Closed)


def uncollected(cls):
    """Return a new subclass of `Closed`, whose objects the garbage collector will not see.

    Python gives the objects of every class of its own a place on the collector's
    lists. A graph has no cycles, and a class with empty `__slots__` can add none.

    Raises:  TypeError if the class is no `Closed` or gives its objects attributes
    """
    if not issubclass(cls, Closed):
        raise TypeError(f"{cls.__name__} is not a subclass of Closed")
    cdef TypeSlots *kind = <TypeSlots *>cls
    if (
        kind.tp_basicsize != (<TypeSlots *>Value).tp_basicsize
        or cls.__dictoffset__
        or cls.__weakrefoffset__
    ):
        raise TypeError(f"{cls.__name__} needs __slots__ = (), as all its bases")
    kind.tp_flags &= ~Py_TPFLAGS_HAVE_GC
    kind.tp_traverse = kind.tp_clear = NULL
    kind.tp_free = (<TypeSlots *>Value).tp_free
    PyType_Modified(<PyTypeObject *>cls)
    return cls
