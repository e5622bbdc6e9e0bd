"""The operators of nodes, and functions of lists.

Each returns a new reference; or NULL without an exception if Python's operators have to evaluate
the expression, because an operand is no node and no number, or its class overrides operators.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint16_t, uint32_t

from classes cimport (
    ADDITION, DIVISION, MULTIPLICATION, PRODUCTS, QUOTIENTS, REFLECTED, SUBTRACTION, SUMS,
    WITH_NUMBER, guards_hold, info_of, ours, quick_info,
)
from make cimport (
    make_add, make_constant, make_mul, make_neg, make_unary, number_plus, with_children,
)
from node cimport (
    CONSTANT, DATA_BOXED, OWNED, UNUSUAL, ClassInfo, Node, are_ints, has_nodes, incref, ints_of_two,
    quick_node, type_of,
)
from rules cimport (
    ADD, DATA_INT, FIRST_INT, FOR_RUN, LEAF, MUL, POSITIVE, POW, RECTIFIES, RECTIFY, RELU, SUM,
    add_rule, mul_rule, relu_rule, unlikely,
)
from scalar cimport NO_ERROR, PowError, c_pow, pow_or_error, raise_pow_error
from sums cimport quick_grow, sum_of_products, sum_of_values, sync_node


cdef extern from "Python.h":
    bint PyLong_CheckExact(PyObject *)
    bint PyBool_Check(PyObject *)
    long long PyLong_AsLongLongAndOverflow(PyObject *, int *) noexcept
    PyObject **PySequence_Fast_ITEMS(object)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)


cdef enum Operands:
    GENERIC, NODES, NODE_NUMBER, NUMBER_NODE


cdef inline Node *node_of(object value) noexcept:
    return <Node *><PyObject *>value


cdef extern from *:
    """
    /* Return whether x is a float, or an int of one digit, and write its number. */
    static INLINED int is_quick_number(PyObject *x, double *number, int *is_int) {
        if (PyFloat_CheckExact(x)) {
            *number = PyFloat_AS_DOUBLE(x);
            *is_int = 0;
            return 1;
        }
        if (!PyLong_CheckExact(x)) return 0;
        *is_int = 1;
    #if PY_VERSION_HEX >= 0x030C0000
        if (!PyUnstable_Long_IsCompact((PyLongObject *)x)) return 0;
        *number = (double)PyUnstable_Long_CompactValue((PyLongObject *)x);
    #else
        if (Py_SIZE(x) < -1 || Py_SIZE(x) > 1) return 0;
        *number = Py_SIZE(x) == 0 ? 0.0 : Py_SIZE(x) * (double)((PyLongObject *)x)->ob_digit[0];
    #endif
        return 1;
    }
    """
    bint is_quick_number(PyObject *, double *, bint *) noexcept


cdef inline bint is_number(PyObject *x, double *number, bint *is_int) noexcept:
    """Return whether x is a float, an int of 64 bits or a bool, and write its number.

    For `run` a float or an int of 53 bits.
    """
    cdef int overflow = 0
    cdef long long whole
    if is_quick_number(x, number, is_int):
        return True
    is_int[0] = False
    if PyLong_CheckExact(x) or not FOR_RUN and PyBool_Check(x):
        whole = PyLong_AsLongLongAndOverflow(x, &overflow)
        number[0] = <double>whole
        is_int[0] = -(1LL << 53) <= whole <= (1LL << 53)
        return not overflow and (is_int[0] or not FOR_RUN)
    return False


cdef inline Operands operands(
    const uint32_t operator, PyObject *left, PyObject *right, ClassInfo **info, double *x,
    bint *is_int,
) noexcept:
    """Return which operands are nodes, if their classes have the compiled operators; else GENERIC.

    For `run` the operator, ADDITION to DIVISION, is the compiled one between these operands.
    Writes:  info, of the class of the left node, or of the only one; x, is_int
    """
    cdef bint same = type_of(left) == type_of(right)
    if FOR_RUN:
        info[0] = ours(left, operator if same else operator * WITH_NUMBER)
        if info[0] is NULL and not same:
            info[0] = ours(right, operator * REFLECTED)
            if info[0] is NULL or unlikely(
                (<Node *>right).flags & DATA_BOXED or not guards_hold(info[0])
            ):
                return GENERIC
            return NUMBER_NODE if is_number(left, x, is_int) else GENERIC
        if info[0] is NULL or unlikely(
            (<Node *>left).flags & DATA_BOXED or same and (<Node *>right).flags & DATA_BOXED
            or not guards_hold(info[0])
        ):
            return GENERIC
        return NODES if same else NODE_NUMBER if is_number(right, x, is_int) else GENERIC
    info[0] = quick_info(type_of(left))
    if info[0] is not NULL:
        if same:
            return NODES
        if is_quick_number(right, x, is_int):
            return NODE_NUMBER
        return NODES if quick_info(type_of(right)) is not NULL else GENERIC
    if not is_quick_number(left, x, is_int):
        return GENERIC
    info[0] = quick_info(type_of(right))
    return NUMBER_NODE if info[0] is not NULL else GENERIC


# ------------------------------------------------------------------ the usual operands

cdef inline Node *quick_constant(ClassInfo *info, double x, bint is_int) noexcept:
    cdef uint32_t flags = DATA_INT if is_int and info.keeps_ints else 0
    cdef Node *node = quick_node(info, info.fresh | CONSTANT | flags, LEAF, 0)
    node.data = x
    return node


cdef inline Node *with_owned(Node *node, Node *a, Node *b) noexcept:
    """Give a node its children, b with the caller's reference."""
    incref(a)
    node.child[0] = a
    node.child[1] = b
    return node


cdef inline Node *quick_add(ClassInfo *info, Node *a, Node *b) noexcept:
    """Return a + b as make_add does, or NULL if that takes more than filling a node."""
    cdef Node *node
    if a.op == SUM:
        return quick_grow(info, a, b)
    if (a.flags | b.flags) & UNUSUAL or are_ints(a, b) or not has_nodes(info, 1):
        return NULL
    node = quick_node(info, info.fresh_sum, ADD, 2)
    add_rule(&node.data, a.data, b.data, False)
    node.slope[0] = node.slope[1] = 1.0
    return with_children(node, a, b)


cdef inline Node *quick_add_number(ClassInfo *info, Node *a, double x, bint is_int) noexcept:
    cdef Node *node
    if (
        a.flags & UNUSUAL or is_int and a.flags & DATA_INT or a.op == SUM
        or not has_nodes(info, 2)
    ):
        return NULL
    node = quick_node(info, info.fresh_sum, ADD, 2)
    add_rule(&node.data, a.data, x, False)
    node.slope[0] = node.slope[1] = 1.0
    return with_owned(node, a, quick_constant(info, x, is_int))


cdef inline Node *quick_multiply(ClassInfo *info, Node *a, Node *b) noexcept:
    """Return a * b as make_mul does, or NULL if that takes more than filling a node."""
    cdef Node *node
    if (a.flags | b.flags) & UNUSUAL or are_ints(a, b) or not has_nodes(info, 1):
        return NULL
    node = quick_node(info, info.fresh | ints_of_two(b, a), MUL, 2)
    mul_rule(&node.data, &node.slope[0], &node.slope[1], a.data, b.data, 0)
    return with_children(node, a, b)


cdef inline Node *quick_multiply_number(ClassInfo *info, Node *a, double x, bint is_int) noexcept:
    cdef Node *node
    cdef uint32_t ints = FIRST_INT if is_int and info.keeps_ints else 0
    if a.flags & UNUSUAL or is_int and a.flags & DATA_INT or not has_nodes(info, 2):
        return NULL
    ints |= (a.flags & DATA_INT) << 3  # SECOND_INT
    node = quick_node(info, info.fresh | ints, MUL, 2)
    mul_rule(&node.data, &node.slope[0], &node.slope[1], a.data, x, 0)
    return with_owned(node, a, quick_constant(info, x, is_int))


cdef inline Node *quick_subtract(ClassInfo *info, Node *a, Node *b) noexcept:
    """Return a + b * -1."""
    cdef Node *negative
    cdef Node *node
    if (a.flags | b.flags) & (UNUSUAL | DATA_INT) or a.op == SUM or not has_nodes(info, 3):
        return NULL
    negative = quick_multiply_number(info, b, -1.0, True)
    node = quick_node(info, info.fresh_sum, ADD, 2)
    add_rule(&node.data, a.data, negative.data, False)
    node.slope[0] = node.slope[1] = 1.0
    return with_owned(node, a, negative)


cdef inline Node *quick_relu(Node *a) noexcept:
    cdef ClassInfo *info = quick_info(type_of(a))
    cdef Node *node
    cdef double y, slope
    cdef uint32_t ints = (a.flags & DATA_INT) << 2  # FIRST_INT
    cdef bint rectifies
    if info is NULL or a.flags & UNUSUAL or not has_nodes(info, 1):
        return NULL
    rectifies = info.relu != POSITIVE
    relu_rule(&y, &slope, a.data, &ints, False, RECTIFIES if rectifies else POSITIVE)
    if not info.keeps_ints:
        ints &= ~<uint32_t>DATA_INT
    node = quick_node(info, info.fresh | ints, RECTIFY if rectifies else RELU, 1)
    node.data = y
    node.slope[0] = slope
    incref(a)
    node.child[0] = a
    return node


cdef inline Node *quick_result(const uint32_t operator, PyObject *left, PyObject *right) noexcept:
    """Return the sum, product or difference of usual operands, or NULL."""
    cdef ClassInfo *info
    cdef double x = 0.0
    cdef bint is_int = False
    cdef Operands case = operands(operator, left, right, &info, &x, &is_int)
    if case == NODES:
        if operator == ADDITION:
            return quick_add(info, <Node *>left, <Node *>right)
        if operator == MULTIPLICATION:
            return quick_multiply(info, <Node *>left, <Node *>right)
        if type_of(left) == type_of(right):  # else -right has another class
            return quick_subtract(info, <Node *>left, <Node *>right)
        return NULL
    if case == NUMBER_NODE:
        if operator == SUBTRACTION or operator == ADDITION and x == 0.0:  # 0 begins a sum
            return NULL
        left = right
    elif case == NODE_NUMBER:
        if operator == SUBTRACTION:
            x = 0.0 if is_int and x == 0.0 else -x  # the int 0 has no sign
    else:
        return NULL
    if operator == MULTIPLICATION:
        return quick_multiply_number(info, <Node *>left, x, is_int)
    return quick_add_number(info, <Node *>left, x, is_int)


# ---------------------------------------------------------------------- all operands

cdef inline Node *with_number(
    const uint32_t operator, ClassInfo *info, void *left, double x, bint is_int
) except? NULL:
    """Return left + x or left * x."""
    cdef Node *a = <Node *>left
    cdef Node *node
    if operator == ADDITION:
        node = quick_add_number(info, a, x, is_int)
    else:
        node = quick_multiply_number(info, a, x, is_int)
    if node is not NULL:
        return node
    constant = OWNED(make_constant(info, x, is_int))
    if operator == ADDITION:
        return make_add(info, a, node_of(constant))
    return make_mul(info, a, node_of(constant))


cdef inline Node *add_or_multiply(
    const uint32_t operator, PyObject *left, PyObject *right
) except? NULL:
    cdef ClassInfo *info
    cdef double x = 0.0
    cdef bint is_int = False
    cdef Operands case = operands(operator, left, right, &info, &x, &is_int)
    if case == NODES and operator == ADDITION:
        return make_add(info, <Node *>left, <Node *>right)
    if case == NODES:
        return make_mul(info, <Node *>left, <Node *>right)
    if case == NODE_NUMBER:
        return with_number(operator, info, left, x, is_int)
    if case == GENERIC:
        return NULL
    if operator == ADDITION:
        return number_plus(info, x, is_int, <Node *>right)
    return with_number(operator, info, right, x, is_int)


cdef inline Node *subtract(PyObject *left, PyObject *right) except? NULL:
    cdef ClassInfo *info
    cdef Node *negative
    cdef double x = 0.0
    cdef bint is_int = False
    cdef Operands case = operands(SUBTRACTION, left, right, &info, &x, &is_int)
    if case == NODE_NUMBER:  # the int 0 has no sign
        return with_number(ADDITION, info, left, 0.0 if is_int and x == 0.0 else -x, is_int)
    if case == GENERIC:
        return NULL
    negative = make_neg(ours(right, 0), <Node *>right)
    if negative is NULL:
        return NULL
    _owner = OWNED(negative)
    if case == NODES:
        return make_add(info, <Node *>left, negative)
    info = ours(negative, 0 if FOR_RUN else SUMS)  # of the results' class, which may be another
    return number_plus(info, x, is_int, negative) if info is not NULL else NULL


cdef inline Node *divide(PyObject *left, PyObject *right) except? NULL:
    cdef ClassInfo *info
    cdef Node *inverse
    cdef Node *node
    cdef double x = 0.0, reciprocal
    cdef bint is_int = False
    cdef PowError error = NO_ERROR
    cdef Operands case = operands(DIVISION, left, right, &info, &x, &is_int)
    if case == GENERIC or not FOR_RUN and (
        info.ours & QUOTIENTS != QUOTIENTS or case == NODES and ours(right, QUOTIENTS) is NULL
    ):
        return NULL
    if case == NODE_NUMBER:
        reciprocal = pow_or_error(x, -1.0, &error)
        if unlikely(error != NO_ERROR):
            if not FOR_RUN:
                raise_pow_error(x, -1.0)
            return NULL
        return with_number(MULTIPLICATION, info, left, reciprocal, False)
    inverse = make_unary(POW, ours(right, 0), <Node *>right, -1.0, True)
    if inverse is NULL:
        return NULL
    _owner = OWNED(inverse)
    if case == NODES:
        node = quick_multiply(info, <Node *>left, inverse)
        return node if node is not NULL else make_mul(info, <Node *>left, inverse)
    info = ours(inverse, 0 if FOR_RUN else PRODUCTS)
    return with_number(MULTIPLICATION, info, inverse, x, is_int) if info is not NULL else NULL


# ---------------------------------------------------------------- functions of lists

cdef inline Node **items_of(object items) noexcept:
    return <Node **>PySequence_Fast_ITEMS(items)


cdef inline Node **nodes_in(
    object items, Py_ssize_t *n, ClassInfo **info, bint *ints=NULL
) except? NULL:
    """Return the items of a list or tuple of Values of one class, if there are any; else NULL.

    Where info is not NULL the class has to be that one; else info is written. ints is set if an
    item is an int; for `run` without it no item may be one.
    """
    cdef Py_ssize_t i
    cdef Node **nodes
    cdef uint16_t flags = 0
    if type(items) is not list and type(items) is not tuple:
        return NULL
    nodes = items_of(items)
    n[0] = PySequence_Fast_GET_SIZE(items)
    if n[0] == 0:
        return NULL
    if info[0] is NULL:
        info[0] = info_of(nodes[0])
        if info[0].result is NULL or not (FOR_RUN or info[0].in_lists):
            info[0] = NULL
            return NULL
    for i in range(n[0]):
        if type_of(nodes[i]) != info[0].type:
            return NULL
        flags |= nodes[i].flags
    if FOR_RUN and (flags & DATA_BOXED or flags & DATA_INT and ints is NULL):
        return NULL
    if not FOR_RUN and unlikely(flags & UNUSUAL):
        for i in range(n[0]):
            sync_node(nodes[i])
    if flags & DATA_INT and ints is not NULL:
        ints[0] = True
    return nodes


cdef inline list quotients(ClassInfo *info, list exps):
    """Return each item divided by the sum of all; for `run` None if the script's code has to."""
    cdef Py_ssize_t i
    cdef Node *inverse
    cdef list out = []
    total = sum_of_values(info, items_of(exps), len(exps))
    for i in range(len(exps)):
        inverse = make_unary(POW, info, node_of(total), -1.0, True)
        if inverse is NULL:
            return None
        _owner = OWNED(inverse)
        out.append(OWNED(make_mul(info, items_of(exps)[i], inverse)))
    return out


cdef inline list normalized(ClassInfo *info, Node **x, Py_ssize_t n, double eps, bint ints):
    """Return each x * (mean square + eps) ** -0.5; for `run` None if the script's code has to."""
    cdef Py_ssize_t i
    cdef Node *scale
    total = sum_of_products(info, x, x, n, ints)
    total = OWNED(with_number(MULTIPLICATION, info, node_of(total), c_pow(<double>n, -1.0), False))
    total = OWNED(with_number(ADDITION, info, node_of(total), eps, False))
    scale = make_unary(POW, info, node_of(total), -0.5, False)
    if scale is NULL:
        return None
    _owner = OWNED(scale)
    return [OWNED(make_mul(info, x[i], scale)) for i in range(n)]
