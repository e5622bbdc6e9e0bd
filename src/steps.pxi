# ------------------------------------------------------------- running a program
#
# Each function computes equal steps, up to stop, for `lanes` rows side by side, and
# returns whether nothing raises; data is (n_data, lanes). lanes is 1 or LANES, and a
# constant where the functions are inlined.

cdef inline void read_rows(
    double *x, const Step *step, uint8_t operand, const Pair *terms, const double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write the operand of a step that has one.

    Order:   terms left to right
    """
    cdef Py_ssize_t lane
    cdef const Pair *term
    cdef const Pair *last
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
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write sums."""
    cdef Py_ssize_t lane
    cdef double[LANES] x
    while step < stop:
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            data[lanes * step.out + lane] = x[lane]
        step += 1
    return True


cdef inline bint mul_rows(
    const Step *step, const Step *stop, double *data, const Py_ssize_t lanes
) noexcept nogil:
    """Write products."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef const double *a
    cdef const double *b
    while step < stop:
        out = data + lanes * step.out
        a = data + lanes * step.a
        b = data + lanes * step.b
        for lane in range(lanes):
            out[lane] = a[lane] * b[lane]
        step += 1
    return True


cdef inline bint exp_rows(
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write exponentials."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    cdef bint fine = True
    while step < stop:
        out = data + lanes * step.out
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            out[lane] = exp(x[lane])
            if isinf(out[lane]) and not isinf(x[lane]):
                fine = False
        step += 1
    return fine


@cython.cdivision(True)
cdef inline bint log_rows(
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write logarithms, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    cdef bint fine = True
    while step < stop:
        out = data + lanes * step.out
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            if x[lane] <= 0.0:
                fine = False
            out[lane] = log(x[lane])
            out[lanes + lane] = 1.0 / x[lane]
        step += 1
    return fine


cdef inline bint pow_rows(
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double k,
    double *data, const Py_ssize_t lanes,
) noexcept nogil:
    """Write powers to k, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    cdef double power, before
    cdef PowError error = NO_ERROR
    cdef int doubt
    while step < stop:
        out = data + lanes * step.out
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            power = before = 0.0
            doubt = invert(x[lane], &power, &before) if k == -1.0 and pow_keeps_bound() else BOTH
            if doubt & FIRST:
                power = pow_or_error(x[lane], k, &error)
            if doubt & SECOND:
                before = pow_or_error(x[lane], k - 1.0, &error)
            out[lane] = power
            out[lanes + lane] = k * before
        step += 1
    return error == NO_ERROR


cdef inline bint relu_rows(
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write what is positive, else zero, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    while step < stop:
        out = data + lanes * step.out
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            out[lane] = x[lane] if x[lane] > 0.0 else 0.0
            out[lanes + lane] = 1.0 if x[lane] > 0.0 else 0.0
        step += 1
    return True


cdef inline bint tanh_rows(
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write hyperbolic tangents, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    cdef PowError error = NO_ERROR
    while step < stop:
        out = data + lanes * step.out
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            out[lane] = tanh(x[lane])
            out[lanes + lane] = 1.0 - pow_or_error(out[lane], 2.0, &error)
        step += 1
    return True


cdef inline bint sigmoid_rows(
    const Step *step, const Step *stop, uint8_t operand, const Pair *terms, double *data,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Write sigmoids, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef double[LANES] x
    while step < stop:
        out = data + lanes * step.out
        read_rows(x, step, operand, terms, data, lanes)
        for lane in range(lanes):
            out[lane] = c_sigmoid(x[lane])
            out[lanes + lane] = out[lane] * (1.0 - out[lane])
        step += 1
    return True


cdef inline bint maximum_rows(
    const Step *step, const Step *stop, double *data, const Py_ssize_t lanes
) noexcept nogil:
    """Write the larger of two, and slopes."""
    cdef Py_ssize_t lane
    cdef double *out
    cdef const double *a
    cdef const double *b
    while step < stop:
        out = data + lanes * step.out
        a = data + lanes * step.a
        b = data + lanes * step.b
        for lane in range(lanes):
            out[lane] = a[lane] if a[lane] >= b[lane] else b[lane]
            out[lanes + lane] = 1.0 if a[lane] >= b[lane] else 0.0
            out[2 * lanes + lane] = 1.0 - out[lanes + lane]
        step += 1
    return True


cdef inline bint where_rows(
    const Step *step, const Step *stop, double *data, const Py_ssize_t lanes
) noexcept nogil:
    """Write b where a is positive, else c, and slopes."""
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
            out[lane] = b[lane] if a[lane] > 0.0 else c[lane]
            out[lanes + lane] = 0.0
            out[2 * lanes + lane] = 1.0 if a[lane] > 0.0 else 0.0
            out[3 * lanes + lane] = 1.0 - out[2 * lanes + lane]
        step += 1
    return True


cdef inline bint largest_rows(
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


cdef inline bint compute_rows(Program program, double *data, const Py_ssize_t lanes) noexcept nogil:
    """Compute all steps; False, with some undone, where one of them raises in a row.

    Writes:  data of all slots but leaves'
    """
    if program.n_runs == 0:
        return True
    cdef const Run *run = program.runs
    cdef const Run *last = run + program.n_runs
    cdef const Step *step = program.steps
    cdef const Step *stop
    cdef const Pair *terms = program.terms
    cdef const uint32_t *sources = program.sources
    cdef bint fine
    while run < last:
        stop = step + run.n
        if run.op == ADD:
            fine = add_rows(step, stop, run.operand, terms, data, lanes)
        elif run.op == MUL:
            fine = mul_rows(step, stop, data, lanes)
        elif run.op == EXP:
            fine = exp_rows(step, stop, run.operand, terms, data, lanes)
        elif run.op == LOG:
            fine = log_rows(step, stop, run.operand, terms, data, lanes)
        elif run.op == POW:
            fine = pow_rows(step, stop, run.operand, terms, run.k, data, lanes)
        elif run.op == RELU:
            fine = relu_rows(step, stop, run.operand, terms, data, lanes)
        elif run.op == TANH:
            fine = tanh_rows(step, stop, run.operand, terms, data, lanes)
        elif run.op == SIGMOID:
            fine = sigmoid_rows(step, stop, run.operand, terms, data, lanes)
        elif run.op == MAXIMUM:
            fine = maximum_rows(step, stop, data, lanes)
        elif run.op == WHERE:
            fine = where_rows(step, stop, data, lanes)
        else:
            fine = largest_rows(step, stop, sources, data, lanes)
        if not fine:
            return False
        step = stop
        run += 1
    return True


cdef inline void play_rows(
    Program program, const Edge *edge, const double *data, double *grads, double *terms,
    const Py_ssize_t lanes,
) noexcept nogil:
    """Send the gradient of the root on to all others.

    Shapes:  data (n_data, lanes), grads (n_grads, lanes), terms (n_places, lanes)
    Order:   the tape reversed; within a node, children left to right
    Writes:  terms, where an edge has a place. Adds to: grads
    """
    if program.n_edges == 0:
        return
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
