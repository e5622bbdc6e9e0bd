"""The operators of nodes: which operands make the result here, and how.

Each returns a new reference; NULL without an exception where Python's operators have to
evaluate the expression: an operand is no node and no number, or its class has operators of its own.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

from classes cimport (
    ADDITION, DIFFERENCES, DIVISION, MULTIPLICATION, PRODUCTS, QUOTIENTS, REFLECTED, SUBTRACTION,
    SUMS, WITH_NUMBER, guards_hold, ours,
)
from make cimport (
    make_add, make_constant, make_mul, make_neg, make_unary, number_plus,
)
from node cimport DATA_BOXED, FOR_RUN, OWNED, POW, ClassInfo, Node, type_of, unlikely
from scalar cimport NO_ERROR, PowError, pow_or_error, raise_pow_error


cdef extern from "Python.h":
    bint is_float "PyFloat_CheckExact"(PyObject *)
    double float_of "PyFloat_AS_DOUBLE"(PyObject *)
    bint PyLong_CheckExact(PyObject *)
    bint PyBool_Check(PyObject *)
    long long PyLong_AsLongLongAndOverflow(PyObject *, int *) noexcept


cdef enum Operands:
    GENERIC, NODES, NODE_NUMBER, NUMBER_NODE


cdef inline Node *node_of(object value) noexcept:
    return <Node *><PyObject *>value


cdef inline bint is_number(PyObject *x, double *number, bint *is_int) noexcept:
    """Return whether x is a float, an int of 64 bits or a bool, and write its number.

    For `run` a float or an int of 53 bits.
    """
    cdef int overflow = 0
    cdef long long whole
    is_int[0] = False
    if is_float(x):
        number[0] = float_of(x)
        return True
    if PyLong_CheckExact(x) or not FOR_RUN and PyBool_Check(x):
        whole = PyLong_AsLongLongAndOverflow(x, &overflow)
        number[0] = <double>whole
        is_int[0] = -(1LL << 53) <= whole <= (1LL << 53)
        return not overflow and (is_int[0] or not FOR_RUN)
    return False


cdef inline Operands operands(
    PyObject *left, PyObject *right, const uint32_t direct, const uint32_t reflected,
    const uint32_t number, ClassInfo **info, double *x, bint *is_int
) noexcept:
    """Return what the operands are; direct, reflected, number: the members that each case calls.

    Writes:  info, of the class of the left node, or of the only one; x, is_int
    """
    cdef bint same = type_of(left) == type_of(right)
    cdef ClassInfo *other
    if FOR_RUN:
        info[0] = ours(left, direct if same else number)
        if info[0] is NULL and not same:
            info[0] = ours(right, reflected)
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
    info[0] = ours(left, direct)
    if same:
        return NODES if info[0] is not NULL else GENERIC
    other = NULL if is_float(right) else ours(right, direct)
    if info[0] is not NULL:
        if other is not NULL:
            return NODES
        return NODE_NUMBER if is_number(right, x, is_int) else GENERIC
    info[0] = other
    return NUMBER_NODE if other is not NULL and is_number(left, x, is_int) else GENERIC


cdef inline Node *add_constant(ClassInfo *info, void *left, double x, bint is_int) except? NULL:
    constant = OWNED(make_constant(info, x, is_int))
    return make_add(info, <Node *>left, node_of(constant))


cdef inline Node *times_constant(ClassInfo *info, void *left, double x, bint is_int) except? NULL:
    constant = OWNED(make_constant(info, x, is_int))
    return make_mul(info, <Node *>left, node_of(constant))


cdef inline Node *add(PyObject *left, PyObject *right) except? NULL:
    cdef ClassInfo *info
    cdef double x = 0.0
    cdef bint is_int = False
    cdef Operands case = operands(
        left, right, ADDITION if FOR_RUN else SUMS, ADDITION * REFLECTED,
        ADDITION * WITH_NUMBER, &info, &x, &is_int,
    )
    if case == NODES:
        return make_add(info, <Node *>left, <Node *>right)
    if case == NODE_NUMBER:
        return add_constant(info, left, x, is_int)
    if case == NUMBER_NODE:
        return number_plus(info, x, is_int, <Node *>right)
    return NULL


cdef inline Node *multiply(PyObject *left, PyObject *right) except? NULL:
    cdef ClassInfo *info
    cdef double x = 0.0
    cdef bint is_int = False
    cdef Operands case = operands(
        left, right, MULTIPLICATION if FOR_RUN else PRODUCTS, MULTIPLICATION * REFLECTED,
        MULTIPLICATION * WITH_NUMBER, &info, &x, &is_int,
    )
    if case == NODES:
        return make_mul(info, <Node *>left, <Node *>right)
    if case == NODE_NUMBER:
        return times_constant(info, left, x, is_int)
    if case == NUMBER_NODE:
        return times_constant(info, right, x, is_int)
    return NULL


cdef inline Node *subtract(PyObject *left, PyObject *right) except? NULL:
    cdef ClassInfo *info
    cdef Node *negative
    cdef double x = 0.0
    cdef bint is_int = False
    cdef Operands case = operands(
        left, right, SUBTRACTION if FOR_RUN else DIFFERENCES, SUBTRACTION * REFLECTED,
        SUBTRACTION * WITH_NUMBER, &info, &x, &is_int,
    )
    if case == NODE_NUMBER:  # the int 0 has no sign to turn
        return add_constant(info, left, 0.0 if is_int and x == 0.0 else -x, is_int)
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
    cdef double x = 0.0, reciprocal
    cdef bint is_int = False
    cdef PowError error = NO_ERROR
    cdef Operands case = operands(
        left, right, DIVISION if FOR_RUN else QUOTIENTS, DIVISION * REFLECTED,
        DIVISION * WITH_NUMBER, &info, &x, &is_int,
    )
    if case == GENERIC:
        return NULL
    if case == NODE_NUMBER:
        reciprocal = pow_or_error(x, -1.0, &error)
        if unlikely(error != NO_ERROR):
            if not FOR_RUN:
                raise_pow_error(x, -1.0)
            return NULL
        return times_constant(info, left, reciprocal, False)
    inverse = make_unary(POW, ours(right, 0), <Node *>right, -1.0, True)
    if inverse is NULL:
        return NULL
    _owner = OWNED(inverse)
    if case == NODES:
        return make_mul(info, <Node *>left, inverse)
    info = ours(inverse, 0 if FOR_RUN else PRODUCTS)
    return times_constant(info, inverse, x, is_int) if info is not NULL else NULL
