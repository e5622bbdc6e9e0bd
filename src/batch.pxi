# -------------------------------------------------------------- many rows at once
#
# Eight rows of inputs go through a tape's graph side by side, a number of each in
# every slot: vectorised across rows, never along a sum. What a row adds to a
# leaf's gradient is kept as terms and added when the rows before it have been,
# so the bits are those of one row after the other, for any number of threads.
# A row that raises sends its eight back to be done one after the other.

cdef enum:
    BLOCKS = 8  # of eight rows, that one thread computes before terms are added


cdef class Bench:
    """The memory in which one thread computes n_blocks times eight rows, BLOCKS at most."""

    cdef Program program
    cdef double *data       # (n_data, 8)
    cdef double *grads      # (n_grads, 8)
    cdef double *terms      # (n_blocks, n_places, 8)
    cdef double *losses     # (BLOCKS, 8)
    cdef bint[BLOCKS] fine

    def __cinit__(self, Program program, Py_ssize_t n_blocks):
        cdef size_t vector = LANES * sizeof(double)
        self.program = program
        self.data = <double *>PyMem_Malloc(program.n_data * vector)
        self.grads = <double *>PyMem_Malloc(program.n_grads * vector)
        self.terms = <double *>PyMem_Malloc((n_blocks * program.n_places + 1) * vector)
        self.losses = <double *>PyMem_Malloc(BLOCKS * vector)
        if not (self.data and self.grads and self.terms and self.losses):
            raise MemoryError(f"no memory for {LANES} rows of {program.n_data} numbers")

    def __dealloc__(self):
        PyMem_Free(self.data)
        PyMem_Free(self.grads)
        PyMem_Free(self.terms)
        PyMem_Free(self.losses)

    cdef void begin(self) noexcept:
        """Give every row the numbers of the leaves."""
        cdef Py_ssize_t i, lane
        cdef Site *site
        cdef double number
        for lane in range(LANES):
            self.data[LANES * self.program.one + lane] = 1.0
        for i in range(self.program.n_sites):
            site = self.program.sites + i
            if i < self.program.n_kept:
                number = (<Value>site.node).c_data
            elif self.program.ops[i] == LEAF:
                number = self.program.data[site.slot]
            else:
                continue
            for lane in range(LANES):
                self.data[LANES * site.slot + lane] = number

    def compute(self, array rows, Py_ssize_t first, Py_ssize_t n_blocks):
        """Compute n_blocks times eight rows from the first on, without the GIL."""
        cdef Py_ssize_t i, j, lane
        cdef Program program = self.program
        cdef Py_ssize_t n_inputs = program.n_inputs
        cdef double *row = rows.data.as_doubles + first * n_inputs
        with nogil:
            for i in range(n_blocks):
                for lane in range(LANES):
                    for j in range(n_inputs):
                        self.data[LANES * program.inputs[j] + lane] = row[j]
                    row += n_inputs
                self.fine[i] = compute_rows(program, self.data, LANES)
                if not self.fine[i]:
                    continue
                memset(self.grads, 0, program.n_grads * LANES * sizeof(double))
                for lane in range(LANES):
                    self.grads[LANES * program.root_grad + lane] = 1.0
                    self.losses[LANES * i + lane] = self.data[LANES * program.root + lane]
                play_rows(
                    program, program.row_edges, self.data, self.grads,
                    self.terms + i * LANES * program.n_places, LANES,
                )

    cdef void add(self, Py_ssize_t block, double *losses) noexcept:
        """Add a block's terms to the leaves' gradients, row after row."""
        cdef Program program = self.program
        cdef double *terms = self.terms + block * LANES * program.n_places
        cdef double grad
        cdef Py_ssize_t i, lane, j, start = 0
        for i in range(program.n_kept):
            grad = (<Value>program.sites[i].node).c_grad
            for lane in range(LANES):
                for j in range(start, program.ends[i]):
                    grad += terms[LANES * j + lane]
            (<Value>program.sites[i].node).c_grad = grad
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
        numbers = converted(row)
        if len(numbers) != n_inputs:
            raise ValueError(f"a row of {len(numbers)} values for {n_inputs} inputs")
        rows.fromlist(numbers)
    return rows


cdef array run_rows(Tape tape, array rows, Py_ssize_t n_rows, int threads):
    """Do `forward` and `backward` for every row, and return the losses."""
    cdef array losses = array("d", [0.0]) * n_rows
    cdef Py_ssize_t done = 0, last, n_inputs = len(tape.inputs), i, k, n_blocks, start, most = 0
    cdef Bench bench
    benches = []
    executor = None
    try:
        if n_rows > LANES and tape.program is not None:
            read_constants(tape)
            while done < n_rows and has_negative_zero(tape.program):
                run_row(tape, rows, done, losses)  # eight rows would lose the sign
                done += 1
            n_blocks = (n_rows - 1 - done) // LANES
            threads = max(1, min(threads, n_blocks))
            most = min(BLOCKS, (n_blocks + threads - 1) // threads)
            for _ in range(threads):
                benches.append(Bench(tape.program, most))
            for bench in benches:
                bench.begin()
            if threads > 1:
                executor = import_module("concurrent.futures").ThreadPoolExecutor(threads)
        while done < n_rows:
            PyErr_CheckSignals()
            work = []
            start = done
            for bench in benches:
                # The last row is always done alone: it leaves the nodes as they should be.
                n_blocks = min(most, (n_rows - 1 - start) // LANES)
                if n_blocks > 0:
                    work.append((bench, start, n_blocks))
                    start += n_blocks * LANES
            if executor is None:
                for bench, start, n_blocks in work:
                    bench.compute(rows, start, n_blocks)
            else:
                tasks = []
                for bench, start, n_blocks in work:
                    tasks.append(executor.submit(bench.compute, rows, start, n_blocks))
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


cdef bint has_negative_zero(Program program) noexcept:
    """Return whether a leaf to whose gradient something will be added has -0.0."""
    cdef Py_ssize_t i, start = 0
    for i in range(program.n_kept):
        if start < program.ends[i] and is_negative_zero((<Value>program.sites[i].node).c_grad):
            return True
        start = program.ends[i]
    return False


cdef int run_row(Tape tape, array rows, Py_ssize_t i, array losses) except -1:
    cdef Program program = None
    cdef Py_ssize_t k, n
    try:
        losses.data.as_doubles[i] = forward_row(tape, rows, i)
    except Exception:
        # The nodes that this row did not reach show the row before, done here or not.
        if tape.program is not None and i > 0:
            while tape.program is not None and program is not tape.program:
                program = tape.program
                n = program.n_kept
                nodes, grads = [None] * n, [None] * n  # a collection may compile the tape anew
            for k in range(n):
                nodes[k] = <object>program.sites[k].node
                grads[k] = (<Value>nodes[k]).c_grad
            forward_row(tape, rows, i - 1)
            tape.backward()
            for k in range(n):
                (<Value>nodes[k]).c_grad = grads[k]
            forward_row(tape, rows, i)
        raise
    tape.backward()
    return 0


cdef double forward_row(Tape tape, array rows, Py_ssize_t i) except? -1.0:
    cdef Py_ssize_t n = len(tape.inputs)
    return tape.forward(rows[i * n:(i + 1) * n])
