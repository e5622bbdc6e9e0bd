"""Each operation's rule, once: its number, its local gradients, and what Python raises.

Construction, replays on nodes, rows side by side and recordings all call these functions.
"Add an operation" of HACKING.md says what else a new one needs.

If `late` is true, a rule of one number writes only the local gradient, from the node's number `y`
as it is now. On entry `ints` has FIRST_INT and SECOND_INT for operands that are ints; afterwards
these and DATA_INT for results that are. Rows side by side have no ints, and compilers then remove
that code. LOGISTIC and TANH_EXP, and the choices of RELU and TANH, are formulas of scripts, for
`microgpt run`.
"""

cimport cython
from libc.math cimport exp, fabs, isinf, log, tanh
from libc.stdint cimport uint32_t

from scalar cimport BOTH, FIRST, NO_ERROR, SECOND, PowError, c_sigmoid, invert, pow_or_error


cdef extern from "simd.h" nogil:
    bint pow_keeps_bound()


cdef enum Op:
    LEAF, ADD, MUL
    POW, LOG, EXP, RELU, RECTIFY, SIGMOID, LOGISTIC, TANH_EXP, TANH  # of one number
    MAXIMUM, WHERE
    NEG_MAX    # a leaf that replay computes: minus the largest of some values
    CUSTOM     # made by the constructor
    OPERATION  # made by an Operation
    SUM        # a sum of terms, from 0


cdef enum Ints:
    # Flags of a node: which of its numbers are ints.
    DATA_INT = 64
    FIRST_INT = 256   # the local gradient by the first child
    SECOND_INT = 512  # by the second; of a POW the exponent


cdef enum:
    RAISES_NUMBER = 1  # Python raises when it computes the number
    RAISES_SLOPE = 2   # when it computes the local gradient
    BOTH_INT = FIRST_INT | SECOND_INT


cdef enum ReluChoice:
    KEEPS_NAN = 1   # x unless x < 0; else 0 unless x > 0
    ZERO_INT = 2    # that zero is an int
    SLOPE_IS_INT = 4  # and the local gradient
    POSITIVE = ZERO_INT
    RECTIFIES = KEEPS_NAN | ZERO_INT | SLOPE_IS_INT


cdef extern from *:
    """
    #ifndef FOR_RUN
    #define FOR_RUN 0
    #endif
    #define TWO_53 9007199254740992.0
    """
    enum: FOR_RUN
    double TWO_53
    bint unlikely(bint) nogil


cdef inline bint sum_fits(double y, double a, double b) noexcept nogil:
    """Return whether y, the sum of ints a and b, is exact and at most 2**53."""
    return fabs(y) < TWO_53 or fabs(y) == TWO_53 and y - a == b


cdef inline bint product_fits(double y, double a, double b) noexcept nogil:
    """Return whether y, the product of ints a and b, is exact and at most 2**53."""
    return fabs(y) < TWO_53 or (
        fabs(y) == TWO_53 and <long long>a * <long long>b == <long long>y
    )


cdef inline uint32_t add_rule(double *y, double a, double b, bint ints) noexcept nogil:
    """y = a + b; the local gradients are 1. ints: both are; return whether y is, as DATA_INT."""
    y[0] = a + b
    return DATA_INT if unlikely(ints) and sum_fits(y[0], a, b) else 0


cdef inline uint32_t mul_rule(
    double *y, double *by_a, double *by_b, double a, double b, uint32_t ints
) noexcept nogil:
    """y = a * b; the local gradients are b and a. Return which results are ints."""
    y[0] = a * b
    by_a[0] = b
    by_b[0] = a
    if unlikely(ints != 0):
        if ints == BOTH_INT:
            y[0] += 0.0  # no int is -0.0
            return BOTH_INT | DATA_INT if product_fits(y[0], a, b) else BOTH_INT
        return SECOND_INT if ints & FIRST_INT else FIRST_INT
    return 0


cdef inline bint int_power(double *y, double x, double k) noexcept nogil:
    """Write the int x to the power of the int k, at least 0; False if beyond 53 bits."""
    cdef int _i
    cdef double before
    y[0] = 1.0
    if k == 0.0 or x == 1.0:
        return True
    if x == 0.0:
        y[0] = 0.0
        return True
    if x == -1.0:
        y[0] = pow_or_error(x, k, NULL)
        return True
    if k > 53.0:
        return False
    for _i in range(<int>k):
        before = y[0]
        y[0] *= x
        if not product_fits(y[0], before, x):
            return False
    return True


cdef inline int pow_rule(
    double *y, double *slope, double x, double k, uint32_t *ints, bint late
) noexcept nogil:
    """y = x ** k; the local gradient is k * x ** (k - 1)."""
    cdef double before = 0.0
    cdef PowError error = NO_ERROR
    cdef int raises = 0
    cdef int doubt = BOTH
    cdef uint32_t made = 0
    if unlikely(ints[0] == BOTH_INT and k >= 0.0):
        if not late:
            if int_power(y, x, k):
                made = DATA_INT
            else:
                y[0] = pow_or_error(x, k, &error)
                if error != NO_ERROR:
                    return RAISES_NUMBER
        if k >= 1.0:
            if int_power(&before, x, k - 1.0):
                made |= FIRST_INT
            else:
                before = pow_or_error(x, k - 1.0, &error)
            slope[0] = k * before
            if made & FIRST_INT and not product_fits(slope[0], k, before):
                made &= ~<uint32_t>FIRST_INT
            ints[0] = made
            return RAISES_SLOPE if error != NO_ERROR else 0
        ints[0] = made
    else:
        ints[0] = 0
        if k == -1.0 and not late and pow_keeps_bound():
            doubt = invert(x, y, &before)
        if doubt & FIRST and not late:
            y[0] = pow_or_error(x, k, &error)
            if error != NO_ERROR:
                raises = RAISES_NUMBER
                error = NO_ERROR
    if doubt & SECOND:
        before = pow_or_error(x, k - 1.0, &error)
    slope[0] = k * before
    return raises | (RAISES_SLOPE if error != NO_ERROR else 0)


@cython.cdivision(True)
cdef inline int log_rule(double *y, double *slope, double x, bint late) noexcept nogil:
    """y = log(x); the local gradient is 1 / x."""
    if not late:
        y[0] = log(x)
    slope[0] = 1.0 / x
    if x <= 0.0:
        return RAISES_NUMBER | (RAISES_SLOPE if x == 0.0 else 0)
    return 0


cdef inline int exp_rule(double *y, double *slope, double x, bint late) noexcept nogil:
    """y = exp(x); the local gradient is y."""
    if not late:
        y[0] = exp(x)
    slope[0] = y[0]
    return RAISES_NUMBER if not late and isinf(y[0]) and not isinf(x) else 0


cdef inline int relu_rule(
    double *y, double *slope, double x, uint32_t *ints, bint late, const uint32_t choice
) noexcept nogil:
    """y = x if x > 0, else 0, or as choice says; the local gradient is 1 if y > 0, else 0."""
    cdef bint keeps = not x < 0.0 if choice & KEEPS_NAN else x > 0.0
    if not late:
        y[0] = x if keeps else 0.0
    slope[0] = 1.0 if y[0] > 0.0 else 0.0
    ints[0] = DATA_INT if ints[0] & FIRST_INT and keeps or choice & ZERO_INT and not keeps else 0
    if choice & SLOPE_IS_INT:
        ints[0] |= FIRST_INT
    return 0


cdef inline int tanh_rule(
    double *y, double *slope, double x, bint late, bint square
) noexcept nogil:
    """y = tanh(x); the local gradient is 1 - y ** 2, or with square 1 - y * y."""
    cdef PowError error = NO_ERROR
    if not late:
        y[0] = tanh(x)
    slope[0] = 1.0 - (y[0] * y[0] if square else pow_or_error(y[0], 2.0, &error))
    return RAISES_SLOPE if error != NO_ERROR else 0


@cython.cdivision(True)
cdef inline int tanh_exp_rule(double *y, double *slope, double x, bint square) noexcept nogil:
    """y = (exp(2 * x) - 1) / (exp(2 * x) + 1); the local gradient is that of tanh."""
    cdef double e = exp(2.0 * x)
    y[0] = (e - 1.0) / (e + 1.0)
    slope[0] = 1.0 - (y[0] * y[0] if square else pow_or_error(y[0], 2.0, NULL))
    return RAISES_NUMBER if isinf(e) else 0


@cython.cdivision(True)
cdef inline int logistic_rule(double *y, double *slope, double x) noexcept nogil:
    """y = 1 / (1 + exp(-x)); the local gradient is y * (1 - y)."""
    cdef double e = exp(-x)
    y[0] = 1.0 / (1.0 + e)
    slope[0] = y[0] * (1.0 - y[0])
    return RAISES_NUMBER if isinf(e) and not isinf(x) else 0


cdef inline int sigmoid_rule(double *y, double *slope, double x, bint late) noexcept nogil:
    """y = 1 / (1 + exp(-x)); the local gradient is y * (1 - y)."""
    if not late:
        y[0] = c_sigmoid(x)
    slope[0] = y[0] * (1.0 - y[0])
    return 0


cdef inline bint is_unary(uint32_t op) noexcept nogil:
    return POW <= op <= TANH


cdef inline int apply_unary(
    const uint32_t op, double *y, double *slope, double x, double k, uint32_t *ints,
    const bint late
) noexcept nogil:
    """Apply the rule of an operation of one number; k is the exponent of a POW.

    Of a RELU and a TANH for `run` k is the choice.

    Writes:  y unless late, slope, ints. Return RAISES_NUMBER or RAISES_SLOPE or both or 0
    """
    if op == POW:
        return pow_rule(y, slope, x, k, ints, late)
    if op == RELU:
        return relu_rule(y, slope, x, ints, late, <uint32_t>k if FOR_RUN else POSITIVE)
    if op == RECTIFY:
        return relu_rule(y, slope, x, ints, late, RECTIFIES)
    ints[0] = 0
    if op == EXP:
        return exp_rule(y, slope, x, late)
    if op == LOG:
        return log_rule(y, slope, x, late)
    if op == SIGMOID:
        return sigmoid_rule(y, slope, x, late)
    if FOR_RUN and op == LOGISTIC:
        return logistic_rule(y, slope, x)
    if FOR_RUN and op == TANH_EXP:
        return tanh_exp_rule(y, slope, x, k != 0.0)
    return tanh_rule(y, slope, x, late, FOR_RUN and k != 0.0)


cdef inline void maximum_rule(
    double *y, double *by_a, double *by_b, double a, double b
) noexcept nogil:
    """y = a if a >= b else b; the local gradients are 1.0 and 0.0, or 0.0 and 1.0."""
    cdef bint first = a >= b
    y[0] = a if first else b
    by_a[0] = 1.0 if first else 0.0
    by_b[0] = 1.0 - by_a[0]


cdef inline void where_rule(
    double *y, double *slopes, Py_ssize_t stride, double condition, double a, double b
) noexcept nogil:
    """y = a if condition > 0 else b; the local gradients are 0.0, and as of a maximum."""
    cdef bint first = condition > 0.0
    y[0] = a if first else b
    slopes[0] = 0.0
    slopes[stride] = 1.0 if first else 0.0
    slopes[2 * stride] = 1.0 - slopes[stride]


cdef inline str unary_name(uint32_t op):
    """Return an operation's name, as `_operation` has it."""
    if op == LOG:
        return "log"
    if op == EXP:
        return "exp"
    if op == RELU or op == RECTIFY:
        return "relu"
    if op == SIGMOID:
        return "sigmoid"
    return "tanh" if op == TANH else ""
