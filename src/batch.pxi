# -------------------------------------------------------------- many rows at once
#
# Eight rows of inputs go through a tape's graph side by side, a number of each in
# every slot: vectorised across rows, never along a sum. What a row adds to a
# leaf's gradient is kept as terms and added when the rows before it have been,
# so the bits are those of one row after the other, for any number of threads.
# A row that raises sends its eight back to be done one after the other.

cdef enum:
    LANES = 8
    BLOCKS = 8  # of eight rows, that one thread computes before terms are added


cdef struct Step:
    # A node: its slot, its children's, and their places among the terms where
    # they are leaves that keep gradients (else -1). k is the exponent of a POW.
    uint32_t op
    uint32_t out
    uint32_t a
    uint32_t b
    uint32_t c
    int32_t term_a
    int32_t term_b
    int32_t term_c
    double k


cdef class Program:
    """A tape as steps over numbered slots."""

    cdef Step *steps        # in the order of computing
    cdef Step *back         # in the order of backward
    cdef uint32_t *sources  # slots whose largest a LARGEST step takes: out of a..b
    cdef Py_ssize_t n_steps, n_back, n_slots, n_terms, n_keepers, n_inputs, root
    cdef list leaves        # (slot, Value) of all leaves that are not computed
    cdef list keepers       # the leaves that keep gradients
    cdef uint32_t *places   # their terms in order, one keeper after the other
    cdef uint32_t *ends     # where each keeper's terms end
    cdef uint32_t *inputs   # slots

    def __dealloc__(self):
        PyMem_Free(self.steps)
        PyMem_Free(self.back)
        PyMem_Free(self.sources)
        PyMem_Free(self.places)
        PyMem_Free(self.ends)
        PyMem_Free(self.inputs)


cdef Program compile_tape(Tape tape):
    """Return a tape's program; None if a node needs Python to be computed."""
    cdef Program program = Program()
    cdef Py_ssize_t i, j, n_sources = 0, n_inputs = len(tape.inputs)
    cdef PyObject *node
    cdef Block *block
    slots = {}
    program.keepers = []
    program.leaves = []
    places = {}
    for i in range(tape.n):
        slots[<object>tape.entries[i].node] = len(slots)
    for i in range(tape.n_computed):
        node = tape.computed[i].node
        if (<Value>node).op == OPERATION:
            return None
        slots.setdefault(<object>node, len(slots))
        if (<Value>node).op == LARGEST:
            block = <Block *>(<Value>node).child[0]
            n_sources += block.n_children
            for j in range(block.n_children):
                slots.setdefault(<object>block.children[j], len(slots))
    for value in tape.inputs:
        slots.setdefault(value, len(slots))
    for value in slots:
        if (<Value>value).n == 0 and (<Value>value).op != LARGEST:
            program.leaves.append((slots[value], value))
            if not (<Value>value).flags & CONSTANT:
                places[value] = []
                program.keepers.append(value)
    program.n_keepers = len(program.keepers)
    program.n_inputs = n_inputs
    program.n_slots = len(slots)
    program.root = tape.n - 1
    program.steps = <Step *>PyMem_Malloc((tape.n_computed + 1) * sizeof(Step))
    program.back = <Step *>PyMem_Malloc((tape.n + 1) * sizeof(Step))
    program.sources = <uint32_t *>PyMem_Malloc((n_sources + 1) * sizeof(uint32_t))
    program.ends = <uint32_t *>PyMem_Malloc((program.n_keepers + 1) * sizeof(uint32_t))
    program.inputs = <uint32_t *>PyMem_Malloc((n_inputs + 1) * sizeof(uint32_t))
    if not (
        program.steps and program.back and program.sources and program.ends and program.inputs
    ):
        raise MemoryError(f"no memory for the program of {tape.n} nodes")
    for i in range(n_inputs):
        program.inputs[i] = slots[tape.inputs[i]]
    n_sources = 0
    for i in range(tape.n_computed):
        node = tape.computed[i].node
        if (<Value>node).op == LARGEST:
            block = <Block *>(<Value>node).child[0]
            program.steps[program.n_steps] = Step(
                LARGEST, slots[<object>node], n_sources, n_sources + block.n_children,
                0, -1, -1, -1, 0.0,
            )
            for j in range(block.n_children):
                program.sources[n_sources] = slots[<object>block.children[j]]
                n_sources += 1
            program.n_steps += 1
        elif (<Value>node).n:
            program.steps[program.n_steps] = step_of(node, slots, None, program)
            program.n_steps += 1
    for i in range(tape.n - 1, -1, -1):
        node = tape.entries[i].node
        if (<Value>node).n:
            program.back[program.n_back] = step_of(node, slots, places, program)
            program.n_back += 1
    program.places = <uint32_t *>PyMem_Malloc((program.n_terms + 1) * sizeof(uint32_t))
    if program.places is NULL:
        raise MemoryError(f"no memory for the program of {tape.n} nodes")
    j = 0
    for i in range(program.n_keepers):
        for place in places[program.keepers[i]]:
            program.places[j] = place
            j += 1
        program.ends[i] = j
    return program


cdef Step step_of(PyObject *node, dict slots, dict places, Program program) except *:
    cdef Py_ssize_t j, n
    cdef PyObject **children = children_of(node, &n)
    cdef uint32_t[3] slot = [0, 0, 0]
    cdef int32_t[3] term = [-1, -1, -1]
    for j in range(n):
        child = <object>children[j]
        slot[j] = slots[child]
        if places is not None and child in places:
            term[j] = program.n_terms
            places[child].append(program.n_terms)
            program.n_terms += 1
    return Step(
        (<Value>node).op, slots[<object>node], slot[0], slot[1], slot[2],
        term[0], term[1], term[2], (<Value>node).local_grad[1],
    )


cdef bint compute_rows(Program program, double *data, double *slopes) noexcept nogil:
    """Compute eight rows; False where one of them raises.

    Shapes:  data, slopes (n_slots, 8)
    Writes:  data; slopes, the local gradients of POW nodes
    """
    cdef Py_ssize_t i, j, lane
    cdef Step step
    cdef double *out
    cdef double *a
    cdef double *b
    cdef double *c
    cdef PowError error = NO_ERROR
    cdef bint bad = False
    for i in range(program.n_steps):
        step = program.steps[i]
        out = data + LANES * step.out
        if step.op == LARGEST:
            a = data + LANES * program.sources[step.a]
            for lane in range(LANES):
                out[lane] = a[lane]
            for j in range(step.a + 1, step.b):
                a = data + LANES * program.sources[j]
                for lane in range(LANES):
                    out[lane] = a[lane] if a[lane] > out[lane] else out[lane]
            for lane in range(LANES):
                out[lane] = -out[lane]
            continue
        a = data + LANES * step.a
        b = data + LANES * step.b
        if step.op == ADD:
            for lane in range(LANES):
                out[lane] = a[lane] + b[lane]
        elif step.op == MUL:
            for lane in range(LANES):
                out[lane] = a[lane] * b[lane]
        elif step.op == RELU:
            for lane in range(LANES):
                out[lane] = a[lane] if a[lane] > 0.0 else 0.0
        elif step.op == EXP:
            for lane in range(LANES):
                out[lane] = exp(a[lane])
                if isinf(out[lane]) and not isinf(a[lane]):
                    bad = True
        elif step.op == LOG:
            for lane in range(LANES):
                if a[lane] <= 0.0:
                    bad = True
                out[lane] = log(a[lane])
        elif step.op == POW:
            b = slopes + LANES * step.out
            for lane in range(LANES):
                out[lane] = pow_or_error(a[lane], step.k, &error)
                b[lane] = step.k * pow_or_error(a[lane], step.k - 1.0, &error)
            if error != NO_ERROR:
                bad = True
        elif step.op == MAXIMUM:
            for lane in range(LANES):
                out[lane] = a[lane] if a[lane] >= b[lane] else b[lane]
        else:
            c = data + LANES * step.c
            for lane in range(LANES):
                out[lane] = b[lane] if a[lane] > 0.0 else c[lane]
        if bad:
            return False
    return True


cdef void play_rows(
    Program program, double *data, double *slopes, double *grads, double *terms
) noexcept nogil:
    """Apply the chain rule to eight rows.

    Shapes:  data, slopes, grads (n_slots, 8), terms (n_terms, 8)
    Writes:  grads of what is computed; terms
    """
    cdef Py_ssize_t i, lane
    cdef Step step
    cdef double *g
    cdef double *a
    cdef double *b
    cdef double[3 * LANES] room
    cdef double *by_a = room
    cdef double *by_b = room + LANES
    cdef double *by_c = room + 2 * LANES
    memset(room, 0, sizeof(room))
    memset(grads, 0, program.n_slots * LANES * sizeof(double))
    for lane in range(LANES):
        grads[LANES * program.root + lane] = 1.0
    for i in range(program.n_back):
        step = program.back[i]
        g = grads + LANES * step.out
        a = data + LANES * step.a
        b = data + LANES * step.b
        if step.op == ADD:
            add_terms(g, grads, terms, step.a, step.term_a)
            add_terms(g, grads, terms, step.b, step.term_b)
            continue
        if step.op == MUL:
            for lane in range(LANES):
                by_a[lane] = b[lane] * g[lane]
                by_b[lane] = a[lane] * g[lane]
        elif step.op == RELU:
            for lane in range(LANES):
                by_a[lane] = (1.0 if a[lane] > 0.0 else 0.0) * g[lane]
        elif step.op == EXP:
            for lane in range(LANES):
                by_a[lane] = data[LANES * step.out + lane] * g[lane]
        elif step.op == LOG:
            for lane in range(LANES):
                by_a[lane] = 1.0 / a[lane] * g[lane]
        elif step.op == POW:
            for lane in range(LANES):
                by_a[lane] = slopes[LANES * step.out + lane] * g[lane]
        elif step.op == MAXIMUM:
            for lane in range(LANES):
                by_a[lane] = (1.0 if a[lane] >= b[lane] else 0.0) * g[lane]
                by_b[lane] = (0.0 if a[lane] >= b[lane] else 1.0) * g[lane]
        else:
            for lane in range(LANES):
                by_a[lane] = 0.0 * g[lane]
                by_b[lane] = (1.0 if a[lane] > 0.0 else 0.0) * g[lane]
                by_c[lane] = (0.0 if a[lane] > 0.0 else 1.0) * g[lane]
        add_terms(by_a, grads, terms, step.a, step.term_a)
        if step.op == MUL or step.op == MAXIMUM or step.op == WHERE:
            add_terms(by_b, grads, terms, step.b, step.term_b)
        if step.op == WHERE:
            add_terms(by_c, grads, terms, step.c, step.term_c)


cdef inline void add_terms(
    const double *by, double *grads, double *terms, uint32_t slot, int32_t term
) noexcept nogil:
    cdef Py_ssize_t lane
    if term < 0:
        for lane in range(LANES):
            grads[LANES * slot + lane] += by[lane]
    else:
        for lane in range(LANES):
            terms[LANES * term + lane] = by[lane]


cdef class Bench:
    """The memory in which one thread computes up to BLOCKS times eight rows."""

    cdef Program program
    cdef double *data
    cdef double *slopes
    cdef double *grads
    cdef double *terms      # (BLOCKS, n_terms, 8)
    cdef double *losses     # (BLOCKS, 8)
    cdef bint[BLOCKS] fine

    def __cinit__(self, Program program):
        cdef size_t slots = program.n_slots * LANES * sizeof(double)
        self.program = program
        self.data = <double *>PyMem_Malloc(slots)
        self.slopes = <double *>PyMem_Malloc(slots)
        self.grads = <double *>PyMem_Malloc(slots)
        self.terms = <double *>PyMem_Malloc((BLOCKS * program.n_terms + 1) * LANES * sizeof(double))
        self.losses = <double *>PyMem_Malloc(BLOCKS * LANES * sizeof(double))
        if not (self.data and self.slopes and self.grads and self.terms and self.losses):
            raise MemoryError(f"no memory for {LANES} rows of {program.n_slots} nodes")

    def __dealloc__(self):
        PyMem_Free(self.data)
        PyMem_Free(self.slopes)
        PyMem_Free(self.grads)
        PyMem_Free(self.terms)
        PyMem_Free(self.losses)

    def compute(self, array rows, Py_ssize_t first, Py_ssize_t n_blocks):
        """Compute n_blocks times eight rows from the first on, without the GIL."""
        cdef Py_ssize_t i, j, lane, n_inputs
        cdef Program program = self.program
        cdef double *row
        for slot, value in program.leaves:
            for lane in range(LANES):
                self.data[LANES * <Py_ssize_t>slot + lane] = (<Value>value).c_data
        n_inputs = program.n_inputs
        row = rows.data.as_doubles + first * n_inputs
        with nogil:
            for i in range(n_blocks):
                for lane in range(LANES):
                    for j in range(n_inputs):
                        self.data[LANES * program.inputs[j] + lane] = row[j]
                    row += n_inputs
                self.fine[i] = compute_rows(program, self.data, self.slopes)
                if self.fine[i]:
                    play_rows(
                        program, self.data, self.slopes, self.grads,
                        self.terms + i * LANES * program.n_terms,
                    )
                    for lane in range(LANES):
                        self.losses[LANES * i + lane] = self.data[LANES * program.root + lane]

    cdef void add(self, Py_ssize_t block, double *losses):
        """Add a block's terms to the leaves' gradients, row after row."""
        cdef Program program = self.program
        cdef double *terms = self.terms + block * LANES * program.n_terms
        cdef PyObject **keepers = PySequence_Fast_ITEMS(program.keepers)
        cdef double grad
        cdef Py_ssize_t i, lane, j, start = 0
        for i in range(program.n_keepers):
            grad = (<Value>keepers[i]).c_grad
            for lane in range(LANES):
                for j in range(start, program.ends[i]):
                    grad += terms[LANES * program.places[j] + lane]
            (<Value>keepers[i]).c_grad = grad
            start = program.ends[i]
        memcpy(losses, self.losses + LANES * block, LANES * sizeof(double))


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
        numbers = [to_double(number) for number in row]
        if len(numbers) != n_inputs:
            raise ValueError(f"a row of {len(numbers)} values for {n_inputs} inputs")
        rows.fromlist(numbers)
    return rows


cdef array run_rows(Tape tape, array rows, Py_ssize_t n_rows, int threads):
    """Do `forward` and `backward` for every row, and return the losses."""
    cdef array losses = array("d", [0.0]) * n_rows
    cdef Py_ssize_t done = 0, last, n_inputs = len(tape.inputs), i, k, n_blocks, start
    cdef Bench bench
    if tape.program is None and n_rows > LANES:
        tape.program = compile_tape(tape)
    benches = []
    executor = None
    try:
        if tape.program is not None and n_rows > LANES:
            benches = [Bench(tape.program) for _ in range(threads)]
            if threads > 1:
                executor = import_module("concurrent.futures").ThreadPoolExecutor(threads)
        while done < n_rows:
            PyErr_CheckSignals()
            work = []
            start = done
            for bench in benches:
                # The last row is always done alone: it leaves the nodes as they should be.
                n_blocks = min(BLOCKS, (n_rows - 1 - start) // LANES)
                if n_blocks > 0:
                    work.append((bench, start, n_blocks))
                    start += n_blocks * LANES
            if executor is None:
                for bench, start, n_blocks in work:
                    bench.compute(rows, start, n_blocks)
            else:
                tasks = [executor.submit(b.compute, rows, first, n) for b, first, n in work]
                for task in tasks:
                    task.result()
            for bench, start, n_blocks in work:
                for i in range(n_blocks):
                    if bench.fine[i]:
                        bench.add(i, losses.data.as_doubles + done)
                        done += LANES
                        continue
                    last = done + LANES
                    while done < last:
                        run_row(tape, rows, done, losses)
                        done += 1
            if not work:
                run_row(tape, rows, done, losses)
                done += 1
    finally:
        if executor is not None:
            executor.shutdown()
    return losses


cdef int run_row(Tape tape, array rows, Py_ssize_t i, array losses) except -1:
    try:
        losses.data.as_doubles[i] = forward_row(tape, rows, i)
    except Exception:
        # The nodes that this row did not reach show the row before, done here or not.
        if tape.program is not None and i > 0:
            kept = [(<Value>value).c_grad for value in tape.program.keepers]
            forward_row(tape, rows, i - 1)
            tape.backward()
            for value, grad in zip(tape.program.keepers, kept):
                (<Value>value).c_grad = grad
            forward_row(tape, rows, i)
        raise
    tape.backward()
    return 0


cdef double forward_row(Tape tape, array rows, Py_ssize_t i) except? -1.0:
    cdef Py_ssize_t n = tape.program.n_inputs if tape.program is not None else len(tape.inputs)
    return tape.forward(rows[i * n:(i + 1) * n])
