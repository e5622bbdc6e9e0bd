# ------------------------------------------------------------ a tape as a program
#
# What a replayed tape runs: its graph as runs of equal steps over numbered slots.
# Forward, any order that respects the children is right, so a chain of additions is
# one step, with the products that only it sees and what alone sees its result.
# Backward, every node adds its terms at its own place in the order of the tape; what
# is left out shows nowhere: the gradients of constants, and those that are another
# node's unchanged.
#
# All gradients begin at 0.0 and no sum from there is ever -0.0, so 0.0 + g is g.
# Leaves that come in with -0.0 are played on the nodes.

cdef enum:
    NONE = 0xffffffff
    PLACE = 0x80000000    # a target that is a place among the terms of a row
    MAX_SITES = 1 << 28


cdef enum Operand:
    ONE    # the number of slot a
    TWO    # the sum of slots a and b
    TERMS  # the sum of the terms a up to b


cdef struct Run:
    # n steps of one kind; k is the exponent of a POW.
    uint32_t n
    uint8_t op
    uint8_t operand
    double k


cdef struct Step:
    # Slots, but for TERMS; of a LARGEST the sources a up to b. Slopes, local gradients
    # that are no other number, lie behind out.
    uint32_t out
    uint32_t a
    uint32_t b
    uint32_t c


cdef struct Pair:
    # A term: the product of two slots, or where b is NONE a alone.
    uint32_t a
    uint32_t b


cdef struct Edge:
    # One term of a gradient: the source's gradient times the number of the factor.
    uint32_t to
    uint32_t source
    uint32_t factor


cdef struct Site:
    # What is known of a node while its tape is compiled.
    PyObject *node
    uint32_t n_uses
    uint32_t user    # the last node that uses it
    uint32_t slot    # of its data, if that is kept
    uint32_t grad    # where its gradient is, if that is kept
    uint32_t source  # else whose gradient times which factor it is
    uint32_t factor
    bint alive       # whether a gradient through it reaches a leaf that keeps one


cdef class Program:
    """The steps of a tape, and one row's numbers.

    Slots of data and of gradients begin with the leaves that keep a gradient.
    """

    cdef Run *runs
    cdef Step *steps
    cdef Pair *terms
    cdef uint32_t *sources
    cdef Edge *edges
    cdef Edge *row_edges     # the same, where a leaf's terms have places of their own
    cdef Site *sites
    cdef uint32_t *inputs    # slots
    cdef uint32_t *ends      # where each kept leaf's places end
    cdef uint8_t *ops        # of each site, as compiled
    cdef Py_ssize_t n_runs, n_steps, n_terms, n_sources, n_edges, n_sites
    cdef Py_ssize_t max_runs, max_steps, max_terms, max_sources, max_edges, max_sites
    cdef Py_ssize_t n_borrowed, n_kept, n_inputs, n_data, n_grads, n_places
    cdef uint32_t root, root_grad
    cdef uint32_t one        # the slot of 1.0
    cdef double *data        # (n_data,)
    cdef double *grads       # (n_grads,)
    cdef double *before      # (n_kept,) what the nodes were last computed from

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_borrowed, self.n_sites):
            Py_DECREF(self.sites[i].node)
        PyMem_Free(self.runs)
        PyMem_Free(self.steps)
        PyMem_Free(self.terms)
        PyMem_Free(self.sources)
        PyMem_Free(self.edges)
        PyMem_Free(self.row_edges)
        PyMem_Free(self.sites)
        PyMem_Free(self.inputs)
        PyMem_Free(self.ends)
        PyMem_Free(self.ops)
        PyMem_Free(self.data)
        PyMem_Free(self.grads)
        PyMem_Free(self.before)


cdef int refuse_unknown(PyObject *node) except -1:
    """Raise ValueError for a node that only the constructor knows how to make."""
    if (<Value>node).op == CUSTOM:
        raise ValueError(
            f"{<object>node!r} was made through the constructor, so its "
            "rule is unknown and it cannot be computed again: make it an Operation"
        )
    return 0


cdef Program compile_tape(Tape tape):
    """Return a tape's program; None if a node needs Python to be computed."""
    cdef Program program = Program()
    cdef Py_ssize_t i
    cdef bint fits
    program.n_inputs = len(tape.inputs)
    if tape.n > MAX_SITES or tape.n_computed > MAX_SITES:
        return None
    for i in range(tape.n_computed):
        if (<Value>tape.computed[i].node).op == OPERATION:
            return None
    # No Python code runs while nodes are marked.
    fits = (
        find_sites(program, tape)
        and write_steps(program, tape)
        and order_steps(program)
        and write_edges(program, tape)
        and write_rows(program)
    )
    unmark_sites(program)
    if not fits:
        raise MemoryError(f"no memory for the program of {tape.n} nodes")
    return program


cdef void unmark_sites(Program program) noexcept:
    cdef Py_ssize_t i
    cdef PyObject *node
    for i in range(program.n_sites):
        node = program.sites[i].node
        (<Value>node).place = 0
        if (<Value>node).op == LARGEST:
            (<Block *>(<Value>node).child[0]).slot = NONE


cdef inline Site *site_of(Program program, PyObject *node) noexcept:
    return program.sites + ((<Value>node).place - 1)


cdef bint find_sites(Program program, Tape tape) noexcept:
    """Number all nodes, the leaves that keep a gradient first, and count their uses."""
    cdef Py_ssize_t i, j, n
    cdef PyObject *node
    cdef PyObject **children
    cdef PyObject **inputs = PySequence_Fast_ITEMS(tape.inputs)
    for i in range(program.n_inputs):
        if not add_site(program, inputs[i]):
            return False
    # The tape has those already, where the garbage collector sees it.
    program.n_borrowed = program.n_sites
    for i in range(program.n_borrowed):
        Py_DECREF(program.sites[i].node)
    node = tape.entries[tape.n - 1].node
    if is_kept(node) and not add_site(program, node):
        return False
    for i in range(tape.n_computed):
        node = tape.computed[i].node
        if (<Value>node).op == LARGEST:
            children = sources_of(node, &n)
        else:
            children = children_of(node, &n)
        for j in range(n):
            if is_kept(children[j]) and not add_site(program, children[j]):
                return False
    program.n_kept = program.n_sites
    for i in range(tape.n_computed):
        if not add_site(program, tape.computed[i].node):
            return False
    for i in range(tape.n):
        if not add_site(program, tape.entries[i].node):
            return False
    program.n_data = program.n_grads = program.n_kept
    for i in range(program.n_sites):
        if i < program.n_kept:
            program.sites[i].slot = program.sites[i].grad = i
            program.sites[i].alive = True
        node = program.sites[i].node
        if (<Value>node).op == LARGEST:
            children = sources_of(node, &n)
        else:
            children = children_of(node, &n)
        for j in range(n):
            site_of(program, children[j]).n_uses += 1
            site_of(program, children[j]).user = i
    program.inputs = <uint32_t *>PyMem_Malloc((program.n_inputs + 1) * sizeof(uint32_t))
    program.ops = <uint8_t *>PyMem_Malloc(program.n_sites + 1)
    if not (program.inputs and program.ops):
        return False
    for i in range(program.n_inputs):
        program.inputs[i] = site_of(program, inputs[i]).slot
    for i in range(program.n_sites):
        program.ops[i] = (<Value>program.sites[i].node).op
    return True


cdef inline bint is_kept(PyObject *node) noexcept:
    """Return whether a node is a leaf that keeps its gradient from replay to replay."""
    return (
        (<Value>node).n == 0 and (<Value>node).op != LARGEST
        and not (<Value>node).flags & CONSTANT
    )


cdef inline PyObject **sources_of(PyObject *largest, Py_ssize_t *n) noexcept:
    cdef Block *block = <Block *>(<Value>largest).child[0]
    n[0] = block.n_children
    return block.children


cdef bint add_site(Program program, PyObject *node) noexcept:
    """Number a node unless it has a number."""
    if (<Value>node).place:
        return True
    if program.n_sites == program.max_sites and not grow(
        <void **>&program.sites, &program.max_sites, sizeof(Site)
    ):
        return False
    program.sites[program.n_sites] = Site(node, 0, 0, NONE, NONE, NONE, NONE, False)
    program.n_sites += 1
    Py_INCREF(node)
    (<Value>node).place = <uint32_t>program.n_sites
    return True


# ----------------------------------------------------------------- forward

cdef inline bint is_inside(Program program, PyObject *node) noexcept:
    """Return whether a node is computed within the only one that uses it."""
    cdef Site *site = site_of(program, node)
    cdef PyObject *user
    if site.n_uses != 1:
        return False
    user = program.sites[site.user].node
    if (<Value>node).op == MUL:
        return (<Value>user).op == ADD
    return (<Value>node).op == ADD and (
        is_of_sums((<Value>user).op) if (<Value>user).op != ADD
        else (<Value>user).child[0] == node
    )


cdef inline bint is_of_sums(uint32_t op) noexcept:
    """Return whether an operation of one number can be of a sum."""
    return op == EXP or op == LOG or op == POW or op == RELU or op == TANH or (
        op == SIGMOID
    )


cdef bint write_steps(Program program, Tape tape) noexcept:
    cdef Py_ssize_t i, n
    cdef PyObject *node
    for i in range(tape.n_computed):
        node = tape.computed[i].node
        if site_of(program, node).slot != NONE or is_inside(program, node):
            continue
        if not write_step(program, node):
            return False
    node = tape.entries[tape.n - 1].node
    program.root = site_of(program, node).slot
    program.one = <uint32_t>program.n_data
    program.n_data += 1
    program.data = <double *>PyMem_Malloc(program.n_data * sizeof(double))
    program.before = <double *>PyMem_Malloc((program.n_kept + 1) * sizeof(double))
    if program.data is NULL or program.before is NULL:
        return False
    program.data[program.one] = 1.0
    return True


cdef bint write_step(Program program, PyObject *node) noexcept:
    """Write the step that computes a node, after those of its children."""
    cdef Site *site = site_of(program, node)
    cdef uint8_t op = (<Value>node).op
    cdef Step step = Step(<uint32_t>program.n_data, 0, 0, 0)
    cdef PyObject *a = (<Value>node).child[0]
    cdef PyObject **children
    cdef Py_ssize_t i, n
    cdef Run run = Run(1, op, ONE, (<Value>node).local_grad[1] if op == POW else 0.0)
    site.slot = step.out
    program.n_data += 1
    if op == LEAF:
        return True
    if op == LARGEST:
        if (<Block *>a).slot != NONE:  # a sibling's
            program.n_data -= 1
            site.slot = (<Block *>a).slot
            return True
        (<Block *>a).slot = step.out
        children = sources_of(node, &n)
        step.a = <uint32_t>program.n_sources
        for i in range(n):
            if program.n_sources == program.max_sources and not grow(
                <void **>&program.sources, &program.max_sources, sizeof(uint32_t)
            ):
                return False
            program.sources[program.n_sources] = site_of(program, children[i]).slot
            program.n_sources += 1
        step.b = <uint32_t>program.n_sources
    elif op == ADD or is_of_sums(op) and is_inside(program, a):
        node = node if op == ADD else a
        if is_inside(program, (<Value>node).child[0]) or is_inside(program, (<Value>node).child[1]):
            run.operand = TERMS
            step.a = <uint32_t>program.n_terms
            if not write_terms(program, node):
                return False
            step.b = <uint32_t>program.n_terms
        else:
            run.operand = TWO
            step.a = site_of(program, (<Value>node).child[0]).slot
            step.b = site_of(program, (<Value>node).child[1]).slot
    else:
        children = children_of(node, &n)
        step.a = site_of(program, children[0]).slot
        if n > 1:
            step.b = site_of(program, children[1]).slot
        if n > 2:
            step.c = site_of(program, children[2]).slot
    program.n_data += n_slopes(op)
    return append_step(program, run, step)


cdef inline Py_ssize_t n_slopes(uint32_t op) noexcept nogil:
    """Return how many of a node's local gradients are no number of another node."""
    if op in (LEAF, ADD, MUL, EXP, LARGEST):
        return 0
    return 3 if op == WHERE else 2 if op == MAXIMUM else 1


cdef bint write_terms(Program program, PyObject *node) noexcept:
    """Write the terms of a chain of additions, in the order in which they are added."""
    cdef Py_ssize_t n = 2, i
    cdef PyObject *first = (<Value>node).child[0]
    cdef PyObject *term
    while (<Value>first).op == ADD and is_inside(program, first):
        n += 1
        first = (<Value>first).child[0]
    while program.n_terms + n > program.max_terms:
        if not grow(<void **>&program.terms, &program.max_terms, sizeof(Pair)):
            return False
    for i in range(n - 1, -1, -1):
        term = (<Value>node).child[1] if i else first
        if is_inside(program, term):
            program.terms[program.n_terms + i] = Pair(
                site_of(program, (<Value>term).child[0]).slot,
                site_of(program, (<Value>term).child[1]).slot,
            )
        else:
            program.terms[program.n_terms + i] = Pair(site_of(program, term).slot, NONE)
        node = (<Value>node).child[0]
    program.n_terms += n
    return True


cdef bint append_step(Program program, Run run, Step step) noexcept:
    """Write a step, as a run of its own."""
    if program.n_steps == program.max_steps and not grow(
        <void **>&program.steps, &program.max_steps, sizeof(Step)
    ):
        return False
    if program.n_runs == program.max_runs and not grow(
        <void **>&program.runs, &program.max_runs, sizeof(Run)
    ):
        return False
    program.steps[program.n_steps] = step
    program.runs[program.n_runs] = run
    program.n_steps += 1
    program.n_runs += 1
    return True


cdef struct Turn:
    # When a step's operands are ready, and which one it is.
    uint64_t start
    uint8_t op
    uint32_t step


cdef int compare_turns(const void *left, const void *right) noexcept nogil:
    cdef const Turn *a = <const Turn *>left
    cdef const Turn *b = <const Turn *>right
    if a.start != b.start:
        return -1 if a.start < b.start else 1
    if a.op != b.op:
        return -1 if a.op < b.op else 1
    return -1 if a.step < b.step else 1


cdef bint order_steps(Program program) noexcept:
    """Sort the steps by when their operands are ready, and make runs of them.

    What does not depend on each other then stands together: the processor computes it
    side by side, and more of it is in one run.
    """
    cdef Py_ssize_t i, n = program.n_steps
    if n == 0:
        return True
    cdef Turn *turns = <Turn *>PyMem_Malloc((n + 1) * sizeof(Turn))
    cdef uint64_t *ready = <uint64_t *>PyMem_Malloc((program.n_data + 1) * sizeof(uint64_t))
    cdef Run *runs = <Run *>PyMem_Malloc((n + 1) * sizeof(Run))
    cdef Step *steps = <Step *>PyMem_Malloc((n + 1) * sizeof(Step))
    cdef bint fits = turns and ready and runs and steps
    cdef Run *last = runs - 1
    if fits:
        memset(ready, 0, program.n_data * sizeof(uint64_t))
        for i in range(n):
            turns[i].start = start_of(program, program.runs + i, program.steps + i, ready)
            turns[i].op = program.runs[i].op
            turns[i].step = <uint32_t>i
            ready[program.steps[i].out] = turns[i].start + cycles_of(
                program.runs + i, program.steps + i
            )
        qsort(turns, n, sizeof(Turn), compare_turns)
        for i in range(n):
            steps[i] = program.steps[turns[i].step]
            last[1] = program.runs[turns[i].step]
            if i and last.op == last[1].op and last.operand == last[1].operand and (
                last.k == last[1].k
            ):
                last.n += 1
            else:
                last += 1
        program.n_runs = last + 1 - runs
        memcpy(program.runs, runs, program.n_runs * sizeof(Run))
        memcpy(program.steps, steps, n * sizeof(Step))
    PyMem_Free(turns)
    PyMem_Free(ready)
    PyMem_Free(runs)
    PyMem_Free(steps)
    return fits


cdef inline uint64_t start_of(
    Program program, const Run *run, const Step *step, const uint64_t *ready
) noexcept nogil:
    """Return when the last operand of a step is ready."""
    cdef uint64_t start = 0
    cdef uint32_t i
    if run.operand == TERMS:
        for i in range(step.a, step.b):
            start = max(start, ready[program.terms[i].a])
            if program.terms[i].b != NONE:
                start = max(start, ready[program.terms[i].b])
    elif run.op == LARGEST:
        for i in range(step.a, step.b):
            start = max(start, ready[program.sources[i]])
    else:
        start = ready[step.a]
        if run.operand == TWO or run.op == MUL or run.op == MAXIMUM or run.op == WHERE:
            start = max(start, ready[step.b])
        if run.op == WHERE:
            start = max(start, ready[step.c])
    return start


cdef inline uint64_t cycles_of(const Run *run, const Step *step) noexcept nogil:
    """Return about how long a step takes."""
    cdef uint64_t cycles = 8
    if run.op == EXP or run.op == LOG:
        cycles = 40
    elif run.op == POW:
        cycles = 20 if run.k == -1.0 else 90
    elif run.op == TANH or run.op == SIGMOID:
        cycles = 90
    if run.operand == TERMS or run.op == LARGEST:
        cycles += 3 * (step.b - step.a)
    return cycles


# ---------------------------------------------------------------- backward

cdef bint write_edges(Program program, Tape tape) noexcept:
    """Write where each node's gradient goes, in the order of the tape reversed."""
    cdef Py_ssize_t i, j, n
    cdef PyObject *node
    cdef PyObject **children
    cdef Site *site
    cdef Site *root = site_of(program, tape.entries[tape.n - 1].node)
    for i in range(tape.n):
        site = site_of(program, tape.entries[i].node)
        children = children_of(site.node, &n)
        for j in range(n):
            site.alive |= site_of(program, children[j]).alive
    keep_grad(program, root)
    program.root_grad = root.grad
    for i in range(tape.n - 1, -1, -1):
        node = tape.entries[i].node
        site = site_of(program, node)
        if not site.alive or (<Value>node).n == 0:
            continue
        if site.source == NONE:
            site.source = site.grad
        children = children_of(node, &n)
        for j in range(n):
            if site_of(program, children[j]).alive and not write_edge(
                program, site, site_of(program, children[j]), factor_of(program, site, j)
            ):
                return False
    program.grads = <double *>PyMem_Malloc((program.n_grads + 1) * sizeof(double))
    return program.grads is not NULL


cdef inline uint32_t factor_of(Program program, Site *site, Py_ssize_t j) noexcept:
    """Return the slot of a node's local gradient by child j; NONE where it is 1.0."""
    cdef PyObject *node = site.node
    if (<Value>node).op == ADD:
        return site.factor
    if (<Value>node).op == MUL:
        return site_of(program, (<Value>node).child[1 - j]).slot
    if (<Value>node).op == EXP:
        return site.slot
    return site.slot + 1 + <uint32_t>j


cdef inline void keep_grad(Program program, Site *site) noexcept:
    if site.grad == NONE:
        site.grad = <uint32_t>program.n_grads
        program.n_grads += 1


cdef bint write_edge(Program program, Site *site, Site *child, uint32_t factor) noexcept:
    """Send a node's gradient, times the factor, on to a child."""
    if child.n_uses == 1 and (<Value>child.node).n and (
        factor == NONE or (<Value>child.node).op == ADD
    ):
        # Nothing else is added there, so the child can pass it on itself.
        child.source = site.source
        child.factor = factor
        return True
    keep_grad(program, child)
    if program.n_edges == program.max_edges and not grow(
        <void **>&program.edges, &program.max_edges, sizeof(Edge)
    ):
        return False
    program.edges[program.n_edges] = Edge(
        child.grad, site.source, program.one if factor == NONE else factor
    )
    program.n_edges += 1
    return True


cdef bint write_rows(Program program) noexcept:
    """Give every term of a leaf's gradient a place, one leaf's after the other's, in order."""
    cdef Py_ssize_t i
    cdef uint32_t to, count, total = 0
    program.row_edges = <Edge *>PyMem_Malloc((program.n_edges + 1) * sizeof(Edge))
    program.ends = <uint32_t *>PyMem_Malloc((program.n_kept + 1) * sizeof(uint32_t))
    if not (program.row_edges and program.ends):
        return False
    memset(program.ends, 0, program.n_kept * sizeof(uint32_t))
    for i in range(program.n_edges):
        if program.edges[i].to < program.n_kept:
            program.ends[program.edges[i].to] += 1
    for i in range(program.n_kept):
        count = program.ends[i]
        program.ends[i] = total
        total += count
    for i in range(program.n_edges):
        to = program.edges[i].to
        program.row_edges[i] = program.edges[i]
        if to < program.n_kept:
            program.row_edges[i].to = PLACE | program.ends[to]
            program.ends[to] += 1
    program.n_places = total
    return True
