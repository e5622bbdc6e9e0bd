"""Running a program: one row of inputs, or LANES rows side by side.

Each function computes equal steps, up to stop, for `lanes` rows, and returns whether
nothing raises; data is (n_data, lanes). lanes is 1 or LANES, and a constant where the
functions are inlined. Rows are vectors, never the terms of a sum.
"""

from libc.stdint cimport uint32_t

from node cimport NONE
from program cimport ONE, PLACE, TWO, Edge, Group, Product, Program, Step
from rules cimport (
    ADD, EXP, LOG, MAXIMUM, MUL, NEG_MAX, POW, RECTIFY, RELU, WHERE, apply_unary, maximum_rule,
    where_rule,
)


cdef enum:
    LANES = 8  # rows of a batch that a tape computes side by side


cdef inline void read_operand(
    double *x, const Step *step, const int operand, const Product *terms, const double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write the operand of a step that has one.

    Order:   terms left to right
    """
    cdef Py_ssize_t lane
    cdef const Product *term
    cdef const Product *last
    cdef const double *a = data + lanes * step.a
    cdef const double *b
    if operand == ONE:
        for lane in range(lanes):
            x[lane] = a[lane]
        return
    if operand == TWO:
        b = data + lanes * step.b
        for lane in range(lanes):
            x[lane] = a[lane] + b[lane]
        return
    term = terms + step.a
    last = terms + step.b
    a = data + lanes * term.a
    if term.b == NONE:
        for lane in range(lanes):
            x[lane] = a[lane]
    else:
        b = data + lanes * term.b
        for lane in range(lanes):
            x[lane] = a[lane] * b[lane]
    term += 1
    while term < last:
        a = data + lanes * term.a
        if term.b == NONE:
            for lane in range(lanes):
                x[lane] += a[lane]
        else:
            b = data + lanes * term.b
            for lane in range(lanes):
                x[lane] += a[lane] * b[lane]
        term += 1


cdef inline bint add_rows(
    const Step *step, const Step *stop, const int operand, const Product *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write sums."""
    cdef Py_ssize_t lane
    cdef double[LANES] x
    while step < stop:
        read_operand(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            data[lanes * step.out + lane] = x[lane]
        step += 1
    return True


cdef inline bint unary_rows(
    const uint32_t op, const Step *step, const Step *stop, const int operand,
    const Product *terms, double k, double *data, const Py_ssize_t lanes,
) noexcept nogil:
    """Write the numbers of an operation of one number, and but for EXP its slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    cdef double y, slope
    cdef int raises = 0
    cdef uint32_t ints
    while step < stop:
        out = data + lanes * step.out
        read_operand(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            y = slope = 0.0
            ints = 0
            raises |= apply_unary(op, &y, &slope, x[lane], k, &ints, False)
            out[lane] = y
            if op != EXP:
                out[lanes + lane] = slope
        step += 1
    return raises == 0


cdef inline bint binary_rows(
    const uint32_t op, const Step *step, const Step *stop, double *data, const Py_ssize_t lanes
) noexcept nogil:
    """Write products; or maxima or choices, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef const double *a
    cdef const double *b
    cdef const double *c
    while step < stop:
        out = data + lanes * step.out
        a = data + lanes * step.a
        b = data + lanes * step.b
        c = data + lanes * step.c
        for lane in range(lanes):
            if op == MUL:
                out[lane] = a[lane] * b[lane]  # its slopes are the operands
            elif op == MAXIMUM:
                maximum_rule(
                    out + lane, out + lanes + lane, out + 2 * lanes + lane, a[lane], b[lane]
                )
            else:
                where_rule(out + lane, out + lanes + lane, lanes, a[lane], b[lane], c[lane])
        step += 1
    return True


cdef inline bint neg_max_rows(
    const Step *step, const Step *stop, const uint32_t *sources, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write minus the largest of the sources, as Python's `max` finds it."""
    cdef Py_ssize_t lane
    cdef const uint32_t *source
    cdef const uint32_t *last
    cdef const double *a
    cdef double[LANES] largest
    while step < stop:
        source = sources + step.a
        last = sources + step.b
        a = data + lanes * source[0]
        for lane in range(lanes):
            largest[lane] = a[lane]
        source += 1
        while source < last:
            a = data + lanes * source[0]
            for lane in range(lanes):
                largest[lane] = a[lane] if a[lane] > largest[lane] else largest[lane]
            source += 1
        for lane in range(lanes):
            data[lanes * step.out + lane] = -largest[lane]
        step += 1
    return True


cdef inline bint compute_rows(
    Program *program, double *data, const Py_ssize_t lanes
) noexcept nogil:
    """Compute all steps; False, with some undone, where one of them raises in a row.

    Frequent operations are compiled one by one: tapes replay 6 % faster than without.

    Writes:  data of all slots but leaves'
    """
    cdef const Group *group = program.groups
    cdef const Group *last = group + program.n_groups
    cdef const Step *step = program.steps
    cdef const Step *stop
    cdef const Product *terms = program.terms
    cdef bint fine
    while group < last:
        stop = step + group.n
        if group.op == ADD:
            fine = add_rows(step, stop, group.operand, terms, data, lanes)
        elif group.op == MUL:
            fine = binary_rows(MUL, step, stop, data, lanes)
        elif group.op == EXP:
            fine = unary_rows(EXP, step, stop, group.operand, terms, 0.0, data, lanes)
        elif group.op == LOG:
            fine = unary_rows(LOG, step, stop, group.operand, terms, 0.0, data, lanes)
        elif group.op == POW:
            fine = unary_rows(POW, step, stop, group.operand, terms, group.k, data, lanes)
        elif group.op == RELU:
            fine = unary_rows(RELU, step, stop, group.operand, terms, 0.0, data, lanes)
        elif group.op == RECTIFY:
            fine = unary_rows(RECTIFY, step, stop, group.operand, terms, 0.0, data, lanes)
        elif group.op == MAXIMUM:
            fine = binary_rows(MAXIMUM, step, stop, data, lanes)
        elif group.op == WHERE:
            fine = binary_rows(WHERE, step, stop, data, lanes)
        elif group.op == NEG_MAX:
            fine = neg_max_rows(step, stop, program.sources, data, lanes)
        else:
            fine = unary_rows(group.op, step, stop, group.operand, terms, 0.0, data, lanes)
        if not fine:
            return False
        step = stop
        group += 1
    return True


cdef inline void play_rows(
    Program *program, const Edge *edge, const double *data, double *grads, double *terms,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Apply the chain rule from the root's gradient to all others.

    Shapes:  data (n_data, lanes), grads (n_grads, lanes), terms (n_places, lanes)
    Order:   the tape reversed; within a node, children left to right
    Writes:  terms, where an edge has a place. Adds to: grads
    """
    cdef const Edge *last = edge + program.n_edges
    cdef const double *source
    cdef const double *factor
    cdef double *to
    cdef Py_ssize_t lane
    while edge < last:
        source = grads + lanes * edge.source
        factor = data + lanes * edge.factor
        if lanes > 1 and edge.to & PLACE:
            to = terms + lanes * (edge.to & ~<uint32_t>PLACE)
            for lane in range(lanes):
                to[lane] = factor[lane] * source[lane]
        else:
            to = grads + lanes * edge.to
            for lane in range(lanes):
                to[lane] += factor[lane] * source[lane]
        edge += 1
