"""Nodes made by operations, and their deallocation.

Each function takes the facts about the left operand's class and returns a new reference to a
node of the class of its results. For `run` it returns NULL without an exception if the script's
code has to compute the result: an int beyond 2**53, or an operation that raises.
"""

from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.math cimport signbit
from libc.stdint cimport uint16_t, uint32_t, uint8_t

from node cimport (
    ABSORBED, CONSTANT, IN_BLOCK, IS_COUNTED, LATE, MAX_FREE, TRACKED, Block, ClassInfo, Node,
    Py_TPFLAGS_HEAPTYPE, Terms, TypeSlots, are_ints, children_of, decref, free_node, incref,
    ints_of_two, is_int_slope, is_simple, keep_node, n_free, new_node, number_object, refcount,
    release_block, slopes_of, type_of, value_type,
)
from rules cimport (
    ADD, DATA_INT, FIRST_INT, FOR_RUN, LEAF, MAXIMUM, MUL, NEG_MAX, POW, RAISES_NUMBER, SECOND_INT,
    SUM, WHERE, Op, add_rule, apply_unary, maximum_rule, mul_rule, unary_name, unlikely, where_rule,
)
from scalar cimport raise_math_error, raise_pow_error
from sums cimport can_grow, grow_sum, leave_sum, release_terms, start_sum, sync_children, sync_node


cdef inline uint16_t kept_ints(ClassInfo *info, uint32_t ints) noexcept:
    """Return which results are ints in a class; its settings may say that data never is."""
    if FOR_RUN and ints & DATA_INT and not info.keeps_ints:
        ints &= ~<uint32_t>DATA_INT
    return <uint16_t>ints


cdef inline object data_object(Node *node):
    return number_object(node.data, node.flags & DATA_INT)


cdef inline tuple children_tuple(object value):
    """Return the nodes that a Value was computed from."""
    cdef Node *node = <Node *><PyObject *>value
    cdef Node **children
    cdef Py_ssize_t n, i
    sync_children(node)
    children_of(node, &n)
    nodes = [None] * n  # may run the garbage collector, and so code that changes this node
    children = children_of(node, &i)
    if i != n:
        return children_tuple(value)
    for i in range(n):
        nodes[i] = <object><PyObject *>children[i]
    return tuple(nodes)


cdef inline tuple slopes_tuple(object value):
    """Return the local gradients of a Value by its children."""
    cdef Node *node = <Node *><PyObject *>value
    cdef double *slopes
    cdef Py_ssize_t n, i
    sync_children(node)
    slopes_of(node, &n)
    numbers = [None] * n  # see above
    slopes = slopes_of(node, &i)
    if i != n:
        return slopes_tuple(value)
    for i in range(n):
        numbers[i] = number_object(slopes[i], is_int_slope(node, i))
    return tuple(numbers)


cdef inline Node *make_leaf(ClassInfo *info, double data, bint is_int) except NULL:
    cdef uint32_t ints = DATA_INT if is_int and info.keeps_ints else 0
    cdef Node *node = new_node(info, info.fresh | ints, LEAF, 0)
    node.data = data
    return node


cdef inline Node *make_constant(ClassInfo *info, double data, bint is_int) except NULL:
    """Return a leaf that an operator makes of a number."""
    cdef Node *node = make_leaf(info, data, is_int)
    node.flags |= CONSTANT
    return node


cdef inline int sync_both(Node *a, Node *b) except -1:
    sync_node(a)
    return sync_node(b)


cdef inline Node *with_children(Node *node, Node *a, Node *b) noexcept:
    incref(a)
    node.child[0] = a
    incref(b)
    node.child[1] = b
    return node


cdef inline int compute_unary(
    const uint32_t op, Node *a, double k, double *y, double *slope, uint32_t *ints
) noexcept:
    """Write a number, a local gradient and which are ints; on entry ints says whether k is one.

    Return as apply_unary.
    """
    cdef uint32_t k_int = ints[0]
    cdef int raises
    ints[0] |= FIRST_INT if a.flags & DATA_INT else 0
    raises = apply_unary(op, y, slope, a.data, k, ints, False)
    ints[0] |= k_int
    return raises


cdef inline int compute_node(const uint32_t op, ClassInfo *info, Node *node) noexcept:
    """Compute a node of an operation from its children: its number and local gradients.

    Return 0; or where Python raises RAISES_NUMBER, RAISES_SLOPE or both, the number unchanged.
    """
    cdef Node *a = node.child[0]
    cdef Node *b = node.child[1]
    cdef uint32_t ints
    cdef int raises
    cdef double y = 0.0, slope = 0.0
    if op == ADD:
        ints = add_rule(&node.data, a.data, b.data, are_ints(a, b))
        ints |= info.fresh_sum & (FIRST_INT | SECOND_INT)
        node.slope[0] = node.slope[1] = 1.0
    elif op == MUL:
        ints = mul_rule(
            &node.data, &node.slope[0], &node.slope[1], a.data, b.data, ints_of_two(a, b)
        )
    elif op == MAXIMUM:
        maximum_rule(&node.data, &node.slope[0], &node.slope[1], a.data, b.data)
        ints = (a if node.slope[0] == 1.0 else b).flags & DATA_INT
    elif op == WHERE:
        where_rule(
            &node.data, node.block.slopes, 1, node.block.children[0].data,
            node.block.children[1].data, node.block.children[2].data,
        )
        ints = node.block.children[1 if node.block.slopes[1] == 1.0 else 2].flags & DATA_INT
    else:
        ints = node.flags & SECOND_INT if op == POW else 0  # of its exponent
        raises = compute_unary(op, a, node.slope[1], &y, &slope, &ints)
        if raises:
            return raises
        node.data = y
        node.slope[0] = slope
    node.flags = (node.flags & ~<uint16_t>(DATA_INT | FIRST_INT | SECOND_INT)) | kept_ints(
        info, ints
    )
    return 0


cdef inline Node *make_two(const Op op, ClassInfo *info, Node *a, Node *b) except? NULL:
    """Return a node of an operation of two numbers."""
    cdef Node *node
    sync_both(a, b)
    node = with_children(new_node(info, info.fresh, op, 2), a, b)
    compute_node(op, info, node)
    if FOR_RUN and are_ints(a, b) and not node.flags & DATA_INT:  # beyond 2**53
        decref(node)
        return NULL
    return node


cdef inline Node *make_add(ClassInfo *info, Node *a, Node *b) except? NULL:
    if not FOR_RUN and unlikely(a.op == SUM) and a is not b and (
        type_of(a) == info.result and can_grow(a)
    ):
        return grow_sum(info, a, b)
    return make_two(ADD, info, a, b)


cdef inline Node *make_mul(ClassInfo *info, Node *a, Node *b) except? NULL:
    return make_two(MUL, info, a, b)


cdef inline Node *make_unary(
    const Op op, ClassInfo *info, Node *a, double k, bint k_is_int
) except? NULL:
    """Return a node of an operation of one number; k is the exponent of a POW.

    For `run` k is the `ReluChoice` of a RELU, and `square` of tanh_rule for a TANH.
    """
    cdef Node *node
    cdef double y = 0.0, slope = 0.0
    cdef uint32_t ints = SECOND_INT if op == POW and k_is_int else 0
    cdef int raises
    sync_node(a)
    raises = compute_unary(op, a, k, &y, &slope, &ints)
    if FOR_RUN:
        if info.fresh & LATE:
            raises &= RAISES_NUMBER  # its slopes are computed in backward
        if raises or op == POW and k_is_int and a.flags & DATA_INT and k >= 0.0 and not (
            ints & DATA_INT and (k < 1.0 or ints & FIRST_INT)  # beyond 2**53
        ):
            return NULL
    elif unlikely(raises):
        raise_of(op, a, number_object(k, k_is_int), raises)
    node = new_node(info, info.fresh | kept_ints(info, ints), op, 1)
    node.data = y
    node.slope[0] = slope
    node.slope[1] = k
    incref(a)
    node.child[0] = a
    return node


cdef inline object exponent_object(Node *node):
    return number_object(node.slope[1], node.op == POW and node.flags & SECOND_INT)


cdef inline int raise_of(uint32_t op, Node *a, object k, int raises) except -1:
    """Raise what Python raises for an operation of one number."""
    x = data_object(a)
    if op != POW:
        raise_math_error(unary_name(op), x)
    if not raises & RAISES_NUMBER:
        k = k - 1
    # The oracle takes the float of an int that is beyond 2**53 as an int.
    raise_pow_error(float(x) if type(k) is int and k >= 0 else x, k)
    return 0


cdef inline Node *make_neg(ClassInfo *info, Node *a) except? NULL:
    cdef Node *node
    cdef Node *minus_one = make_constant(info, -1.0, not (FOR_RUN and info.float_minus))
    try:
        node = make_mul(info, a, minus_one)
    finally:
        decref(minus_one)
    return node


cdef inline Node *number_plus(ClassInfo *info, double number, bint is_int, Node *a) except? NULL:
    """Return number + a."""
    cdef Node *node
    cdef Node *constant
    if not FOR_RUN and number == 0.0 and not signbit(number) and (
        info.is_simple and info.result == type_of(a)
    ):
        node = start_sum(info, a, is_int and info.keeps_ints)
        node.terms.adds_ints = not info.float_slope
        return node
    constant = make_constant(info, number, is_int)
    try:
        node = make_add(info, a, constant)
    finally:
        decref(constant)
    return node


# -------------------------------------------------------------------- deallocation

cdef extern from *:
    """
    static Node *to_free = NULL;  /* nodes to be freed, while other deallocators may run */
    static int is_freeing = 0;
    """
    Node *to_free
    bint is_freeing
    void PyObject_ClearWeakRefs(PyObject *) noexcept
    void PyObject_GC_UnTrack(void *) noexcept


cdef inline void release_children(Node *node) noexcept:
    """Drop a node's children. May run other deallocators, and so any Python code."""
    cdef Node *first = node.child[0]
    cdef Node *second = node.child[1]
    cdef uint8_t n = node.n, op = node.op
    node.n = 0
    node.op = LEAF
    if op == SUM:
        release_terms(node, <Terms *>first)
    elif op == NEG_MAX or n == IN_BLOCK:
        release_block(<Block *>first)
    elif n > 0:
        decref(first)
        if n > 1:
            decref(second)


cdef inline bint free_quickly(Node *node) noexcept:
    """Keep a Value's memory for reuse unless a child would be freed with it; return whether."""
    cdef Node *a = node.child[0]
    cdef Node *b = node.child[1]
    if type_of(node) != value_type or n_free == MAX_FREE:
        return False
    if node.flags & ABSORBED:
        leave_sum(node)
    elif node.n == 2:
        if refcount(a) <= 1 + (a is b) or refcount(b) <= 1:
            return False
        decref(a)
        decref(b)
    elif node.n == 1:
        if refcount(a) <= 1:
            return False
        decref(a)
    elif node.op != LEAF:
        return False
    keep_node(node)
    return True


cdef inline void dealloc(PyObject *object_) noexcept:
    """Free a node, and the nodes that only it refers to, without recursion.

    Nodes that lose their last reference meanwhile join a list, so a chain may have any length
    and any classes. The list is `next`, and `to_free` while other deallocators may run.
    """
    global to_free, is_freeing
    cdef Node *self = <Node *>object_
    cdef Node *node
    cdef Node *next
    cdef uint8_t n
    if FOR_RUN:
        untrack(self)
        if self.weak_references[0] is not NULL:
            PyObject_ClearWeakRefs(object_)
    if self.flags & ABSORBED:
        leave_sum(self)
        self.n = 0
        self.op = LEAF
    if type_of(self) != value_type and not is_simple(type_of(self)) and (
        python_drops_class(type_of(self))
    ):
        incref(type_of(self))  # since that is before the node is freed
    if is_freeing:
        to_free = put_before(to_free, self)
        return
    is_freeing = True
    next = put_before(NULL, self)
    while next is not NULL:
        node = next
        next = node.next
        n = node.n
        if FOR_RUN:
            untrack(node)
        if n == 2:
            next = let_go(node.child[0], next)
            next = let_go(node.child[1], next)
        elif n == 1:
            next = let_go(node.child[0], next)
        elif n or node.op == NEG_MAX:
            to_free = next
            release_children(node)
            next = to_free
        if type_of(node) == value_type and n_free < MAX_FREE:
            keep_node(node)
        else:
            to_free = next
            free_node(node)
            next = to_free
    is_freeing = False


cdef inline void untrack(Node *node) noexcept:
    """Take a node from the garbage collector's list."""
    if node.flags & TRACKED or not is_simple(type_of(node)):
        PyObject_GC_UnTrack(node)  # if it is there
        node.flags &= ~<uint16_t>TRACKED


cdef inline bint python_drops_class(PyTypeObject *kind) noexcept:
    """Return whether subtype_dealloc drops the reference to the class, not `dealloc`."""
    cdef TypeSlots *base = <TypeSlots *>kind
    while base.tp_dealloc != (<TypeSlots *>value_type).tp_dealloc:
        base = <TypeSlots *>base.tp_base
    return not base.tp_flags & Py_TPFLAGS_HEAPTYPE


cdef inline Node *put_before(Node *next, Node *node) noexcept:
    """Put a node on the list, in place of its number. Return the list's first node."""
    node.next = next
    return node


cdef inline Node *let_go(Node *child, Node *next) noexcept:
    """Drop a child of a node being freed, onto the list if unused. Return the list's first node."""
    global to_free
    if refcount(child) > 1:
        decref(child)
        return next
    # A simple class has no deallocator of Python's before ours.
    if not IS_COUNTED and (
        type_of(child) == value_type or is_simple(type_of(child))
    ) and not (FOR_RUN and child.weak_references[0] is not NULL):
        return put_before(next, child)
    to_free = next
    decref(child)
    return to_free
