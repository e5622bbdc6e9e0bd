"""Compile a tape's graph into a program: steps that compute it again without its nodes.

A program works on an array of doubles. Each number it needs has a slot, an index of that array:
the leaves first, then results, and local gradients behind them. rows.pxd runs it.

Forward, a step computes one operation. Additions in a row are one step, together with the products
that nothing else uses. Steps are sorted by when their operands are ready, and steps of one
operation that then stand side by side make a group.

Backward, an edge adds one term to one gradient, in the order of the walk. Gradients of constants
are left out. So are those of nodes with one use that are operands of an addition, or additions
themselves: they equal another gradient, or one product. Every gradient starts at 0.0 and so never
becomes -0.0: adding a term to it as the oracle does, or storing the term, gives the same bits. A
leaf whose gradient is -0.0 before that is an exception, and the tape is then played on the nodes.

Doubles hold no ints, but a `Value` may: the oracle's relu gives the int 0. Compilation finds which
numbers are ints while the leaves are floats. Where that depends on the leaves' numbers, and could
be seen, there is no program, and the tape computes node by node.

The file is longer than 500 lines because the passes of the compilation (nodes, ints, steps,
their order, edges, rows) share one structure and are read in that order.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from node cimport CONSTANT, NONE, Node, children_of, decref, incref
from rules cimport (
    ADD, DATA_INT, EXP, LEAF, LOG, MAXIMUM, MUL, NEG_MAX, OPERATION, POW, RECTIFY, RELU, SECOND_INT,
    SIGMOID, TANH, WHERE, is_unary,
)
from walk cimport Entry, grow


cdef enum:
    PLACE = 0x80000000    # a target that is a place among the terms of a row
    MAX_NODES = 1 << 28


cdef enum Operand:
    ONE    # the number of slot a
    TWO    # the sum of slots a and b
    MANY   # the sum of the terms a up to b


cdef enum Kind:
    # The type of a node's number while all leaves hold floats.
    FLOATS, INTS, EITHER


cdef struct Group:
    # n steps of one operation; k is the exponent of a POW.
    uint32_t n
    uint8_t op
    uint8_t operand
    double k


cdef struct Step:
    # Slots, but for MANY; of a NEG_MAX the sources a up to b. Slopes, local gradients
    # that are no other number, lie behind out.
    uint32_t out
    uint32_t a
    uint32_t b
    uint32_t c


cdef struct Product:
    # A term of a step: the product of two slots, or where b is NONE a alone.
    uint32_t a
    uint32_t b


cdef struct Edge:
    # One term of a gradient: the source's gradient times the number of the factor.
    uint32_t to
    uint32_t source
    uint32_t factor


cdef struct NodeInfo:
    # The facts about a node that its tape's compilation needs.
    Node *node
    uint32_t n_uses
    uint32_t user    # the last node that uses it
    uint32_t slot    # of its data, if that is kept
    uint32_t grad    # where its gradient is, if that is kept
    uint32_t source  # else it is this node's gradient times factor
    uint32_t factor
    bint reaches     # whether a gradient through it reaches a leaf that keeps one
    uint8_t data_kind
    bint is_negative  # whether its int may be below 0
    uint8_t grad_kind
    bint is_reached  # whether grad_kind is known
    bint stays_int   # of a leaf whose grad_kind is EITHER: whether nothing but ints was added


cdef struct Program:
    # The steps of a tape, and one row's numbers. Slots of data and of gradients begin
    # with the leaves that keep a gradient.
    Group *groups
    Step *steps
    Product *terms
    uint32_t *sources
    Edge *edges
    Edge *row_edges     # the same, where a leaf's terms have places of their own
    NodeInfo *infos
    uint32_t *inputs    # slots
    uint32_t *ends      # where each kept leaf's places end
    uint8_t *ops        # of each node, as compiled
    Py_ssize_t n_groups, n_steps, n_terms, n_sources, n_edges, n_infos
    Py_ssize_t max_groups, max_steps, max_terms, max_sources, max_edges, max_infos
    Py_ssize_t n_borrowed, n_kept, n_inputs, n_data, n_grads, n_places
    uint32_t root, root_grad
    uint32_t one        # the slot of 1.0
    Kind root_kind
    double *data        # (n_data,)
    double *grads       # (n_grads,)


cdef inline void free_program(Program *program) noexcept:
    cdef Py_ssize_t i
    if program is NULL:
        return
    for i in range(program.n_borrowed, program.n_infos):
        decref(program.infos[i].node)
    PyMem_Free(program.groups)
    PyMem_Free(program.steps)
    PyMem_Free(program.terms)
    PyMem_Free(program.sources)
    PyMem_Free(program.edges)
    PyMem_Free(program.row_edges)
    PyMem_Free(program.infos)
    PyMem_Free(program.inputs)
    PyMem_Free(program.ends)
    PyMem_Free(program.ops)
    PyMem_Free(program.data)
    PyMem_Free(program.grads)
    PyMem_Free(program)


cdef inline int compile_program(
    Program **out, Entry *entries, Py_ssize_t n, Entry *computed, Py_ssize_t n_computed,
    Node **inputs, Py_ssize_t n_inputs,
) except -1:
    """Write a tape's program to out; NULL if it has to be computed node by node."""
    cdef Program *program
    cdef Py_ssize_t i
    cdef bint fits, has_program
    out[0] = NULL
    if n > MAX_NODES or n_computed > MAX_NODES:
        return 0
    for i in range(n_computed):
        if computed[i].node.op == OPERATION:
            return 0
    program = <Program *>PyMem_Calloc(1, sizeof(Program))
    if program is NULL:
        raise MemoryError(f"no memory for the program of {n} nodes")
    program.n_inputs = n_inputs
    # No Python code runs while nodes are marked.
    has_program = True
    fits = find_nodes(program, entries, n, computed, n_computed, inputs)
    if fits:
        find_kinds(program, computed, n_computed)
        find_grad_kinds(program, entries, n)
        has_program = ints_are_known(program, entries, n)
    if fits and has_program:
        fits = (
            write_steps(program, entries[n - 1].node, computed, n_computed)
            and order_steps(program)
            and write_edges(program, entries, n)
            and write_rows(program)
        )
    unmark_nodes(program)
    if not fits or not has_program:
        free_program(program)
        if not fits:
            raise MemoryError(f"no memory for the program of {n} nodes")
        return 0
    out[0] = program
    return 0


cdef inline void unmark_nodes(Program *program) noexcept:
    cdef Py_ssize_t i
    for i in range(program.n_infos):
        program.infos[i].node.place = 0
        if program.infos[i].node.op == NEG_MAX:
            program.infos[i].node.block.slot = NONE


cdef inline NodeInfo *info_of_node(Program *program, Node *node) noexcept:
    return program.infos + (node.place - 1)


cdef inline Node **operands_of(Node *node, Py_ssize_t *n) noexcept:
    """Return what a node is computed from: its children, or of a NEG_MAX its sources."""
    if node.op == NEG_MAX:
        n[0] = node.block.n_children
        return node.block.children
    return children_of(node, n)


cdef inline bint find_nodes(
    Program *program, Entry *entries, Py_ssize_t n_entries, Entry *computed,
    Py_ssize_t n_computed, Node **inputs,
) noexcept:
    """Number all nodes, the leaves that keep a gradient first, and count their uses."""
    cdef Py_ssize_t i, j, n
    cdef Node **operands
    for i in range(program.n_inputs):
        if not add_node(program, inputs[i]):
            return False
    # The tape has those already, where the garbage collector sees it.
    program.n_borrowed = program.n_infos
    for i in range(program.n_borrowed):
        decref(program.infos[i].node)
    if is_kept(entries[n_entries - 1].node) and not add_node(program, entries[n_entries - 1].node):
        return False
    for i in range(n_computed):
        operands = operands_of(computed[i].node, &n)
        for j in range(n):
            if is_kept(operands[j]) and not add_node(program, operands[j]):
                return False
    program.n_kept = program.n_infos
    for i in range(n_computed):
        if not add_node(program, computed[i].node):
            return False
    for i in range(n_entries):
        if not add_node(program, entries[i].node):
            return False
    program.n_data = program.n_grads = program.n_kept
    for i in range(program.n_infos):
        if i < program.n_kept:
            program.infos[i].slot = program.infos[i].grad = <uint32_t>i
            program.infos[i].reaches = True
        operands = operands_of(program.infos[i].node, &n)
        for j in range(n):
            info_of_node(program, operands[j]).n_uses += 1
            info_of_node(program, operands[j]).user = <uint32_t>i
    program.inputs = <uint32_t *>PyMem_Malloc((program.n_inputs + 1) * sizeof(uint32_t))
    program.ops = <uint8_t *>PyMem_Malloc(program.n_infos + 1)
    if not (program.inputs and program.ops):
        return False
    for i in range(program.n_inputs):
        program.inputs[i] = info_of_node(program, inputs[i]).slot
    for i in range(program.n_infos):
        program.ops[i] = program.infos[i].node.op
    return True


cdef inline bint is_kept(Node *node) noexcept:
    """Return whether a node is a leaf that keeps its gradient from replay to replay."""
    return node.n == 0 and node.op != NEG_MAX and not node.flags & CONSTANT


cdef inline bint add_node(Program *program, Node *node) noexcept:
    """Number a node unless it has a number."""
    if node.place:
        return True
    if program.n_infos == program.max_infos and not grow(
        <void **>&program.infos, &program.max_infos, sizeof(NodeInfo)
    ):
        return False
    program.infos[program.n_infos] = NodeInfo(
        node, 0, 0, NONE, NONE, NONE, NONE, False, FLOATS, False, FLOATS, False, False
    )
    program.n_infos += 1
    incref(node)
    node.place = <uint32_t>program.n_infos
    return True


# ---------------------------------------------------------------- ints and floats

cdef inline Kind kind_of(Program *program, Node *node) noexcept:
    return <Kind>info_of_node(program, node).data_kind


cdef inline Kind both(Kind a, Kind b) noexcept:
    """Return the kind of a sum or product, an int where both are."""
    if a == FLOATS or b == FLOATS:
        return FLOATS
    return INTS if a == INTS and b == INTS else EITHER


cdef inline void find_kinds(Program *program, Entry *computed, Py_ssize_t n_computed) noexcept:
    """Find which nodes hold ints while all leaves hold floats."""
    cdef Py_ssize_t i, j, n
    cdef Node *node
    cdef Node **operands
    cdef Kind kind
    cdef bint is_negative
    for i in range(n_computed):
        node = computed[i].node
        operands = operands_of(node, &n)
        kind = FLOATS
        is_negative = node.op == NEG_MAX or node.op == LEAF and node.data < 0.0
        for j in range(n):
            is_negative |= info_of_node(program, operands[j]).is_negative
        if node.op == LEAF:
            if node.flags & CONSTANT and node.flags & DATA_INT:
                kind = INTS
        elif node.op == ADD or node.op == MUL:
            kind = both(kind_of(program, operands[0]), kind_of(program, operands[1]))
        elif node.op == POW:
            if node.flags & SECOND_INT and node.slope[1] >= 0.0:
                kind = kind_of(program, operands[0])
        elif node.op == RELU or node.op == RECTIFY:
            kind = INTS if kind_of(program, operands[0]) == INTS else EITHER
        elif node.op == MAXIMUM or node.op == WHERE or node.op == NEG_MAX:
            kind = kind_of(program, operands[n - 1])
            for j in range(1 if node.op == WHERE else 0, n):
                if kind_of(program, operands[j]) != kind:
                    kind = EITHER
        info_of_node(program, node).data_kind = kind
        info_of_node(program, node).is_negative = is_negative


cdef inline Kind slope_kind(Program *program, Node *node, Py_ssize_t j) noexcept:
    """Return the kind of a node's local gradient by child j."""
    if node.op == ADD:
        return INTS if node.flags & SECOND_INT else FLOATS
    if node.op == MUL:
        return kind_of(program, node.child[1 - j])
    if node.op == POW:
        if node.flags & SECOND_INT and node.slope[1] >= 1.0:
            return kind_of(program, node.child[0])
        return FLOATS
    return INTS if node.op == RECTIFY else FLOATS


cdef inline void find_grad_kinds(Program *program, Entry *entries, Py_ssize_t n) noexcept:
    """Find which gradients are ints, if all begin as ints."""
    cdef Py_ssize_t i, j, n_children
    cdef Node *node
    cdef Node **children
    cdef NodeInfo *info
    cdef NodeInfo *child
    cdef Kind kind
    info = info_of_node(program, entries[n - 1].node)
    info.grad_kind = INTS
    info.is_reached = True
    for i in range(n - 1, -1, -1):
        node = entries[i].node
        info = info_of_node(program, node)
        children = children_of(node, &n_children)
        for j in range(n_children):
            child = info_of_node(program, children[j])
            kind = both(<Kind>info.grad_kind, slope_kind(program, node, j))
            child.grad_kind = both(<Kind>child.grad_kind, kind) if child.is_reached else kind
            child.is_reached = True


cdef inline bint is_relu_of_floats(Program *program, Node *node) noexcept:
    """Return whether a node's number is an int exactly where it is 0."""
    return node.op == RELU and kind_of(program, node.child[0]) == FLOATS


cdef inline bint ints_are_known(Program *program, Entry *entries, Py_ssize_t n) noexcept:
    """Return whether the visible numbers' types are known, or follow from a relu's number.

    Visible are the root's number and the leaves' gradients. A product of ints is never
    -0.0, so none may be an int or not and negative. What is added to a gradient may be
    -0.0: no gradient that begins at 0 becomes that by it.
    """
    cdef Py_ssize_t i, j, n_children
    cdef NodeInfo *info = info_of_node(program, entries[n - 1].node)
    cdef NodeInfo *child
    cdef Node *node
    cdef Node **children
    program.root_kind = <Kind>info.data_kind
    if info.data_kind == EITHER and not is_relu_of_floats(program, info.node):
        return False
    for i in range(program.n_infos):
        info = program.infos + i
        node = info.node
        if node.op == MUL and info.is_negative and both(
            kind_of(program, node.child[0]), kind_of(program, node.child[1])
        ) != FLOATS:
            return False
        children = children_of(node, &n_children)
        for j in range(n_children):
            child = info_of_node(program, children[j])
            if child.node.place <= program.n_kept and child.grad_kind == EITHER and not (
                child.n_uses == 1 and node.op == MUL and info.grad_kind == INTS
                and is_relu_of_floats(program, node.child[1 - j])
            ):
                return False
    return True


# ----------------------------------------------------------------- forward

cdef inline bint is_inlined(Program *program, Node *node) noexcept:
    """Return whether a node is computed in the step of the only node that uses it."""
    cdef NodeInfo *info = info_of_node(program, node)
    cdef Node *user
    if info.n_uses != 1:
        return False
    user = program.infos[info.user].node
    if node.op == MUL:
        return user.op == ADD
    return node.op == ADD and (
        is_unary(user.op) if user.op != ADD else user.child[0] == node
    )


cdef inline bint write_steps(
    Program *program, Node *root, Entry *computed, Py_ssize_t n_computed
) noexcept:
    cdef Py_ssize_t i
    cdef Node *node
    for i in range(n_computed):
        node = computed[i].node
        if info_of_node(program, node).slot != NONE or is_inlined(program, node):
            continue
        if not write_step(program, node):
            return False
    program.root = info_of_node(program, root).slot
    program.one = <uint32_t>program.n_data
    program.n_data += 1
    program.data = <double *>PyMem_Malloc(program.n_data * sizeof(double))
    if program.data is NULL:
        return False
    program.data[program.one] = 1.0
    return True


cdef inline bint write_step(Program *program, Node *node) noexcept:
    """Write the step that computes a node, after those of its children."""
    cdef NodeInfo *info = info_of_node(program, node)
    cdef uint8_t op = node.op
    cdef Step step = Step(<uint32_t>program.n_data, 0, 0, 0)
    cdef Node **operands
    cdef Py_ssize_t i, n
    cdef Group group = Group(1, op, ONE, node.slope[1] if op == POW else 0.0)
    info.slot = step.out
    program.n_data += 1
    if op == LEAF:
        return True
    operands = operands_of(node, &n)
    if op == NEG_MAX:
        if node.block.slot != NONE:  # a sibling's
            program.n_data -= 1
            info.slot = node.block.slot
            return True
        node.block.slot = step.out
        step.a = <uint32_t>program.n_sources
        for i in range(n):
            if program.n_sources == program.max_sources and not grow(
                <void **>&program.sources, &program.max_sources, sizeof(uint32_t)
            ):
                return False
            program.sources[program.n_sources] = info_of_node(program, operands[i]).slot
            program.n_sources += 1
        step.b = <uint32_t>program.n_sources
    elif op == ADD or is_unary(op) and is_inlined(program, operands[0]):
        node = node if op == ADD else operands[0]
        if is_inlined(program, node.child[0]) or is_inlined(program, node.child[1]):
            group.operand = MANY
            step.a = <uint32_t>program.n_terms
            if not write_terms(program, node):
                return False
            step.b = <uint32_t>program.n_terms
        else:
            group.operand = TWO
            step.a = info_of_node(program, node.child[0]).slot
            step.b = info_of_node(program, node.child[1]).slot
    else:
        step.a = info_of_node(program, operands[0]).slot
        if n > 1:
            step.b = info_of_node(program, operands[1]).slot
        if n > 2:
            step.c = info_of_node(program, operands[2]).slot
    program.n_data += n_slopes(op)
    return append_step(program, group, step)


cdef inline Py_ssize_t n_slopes(uint32_t op) noexcept nogil:
    """Return how many of a node's local gradients are no number of another node."""
    if op in (LEAF, ADD, MUL, EXP, NEG_MAX):
        return 0
    return 3 if op == WHERE else 2 if op == MAXIMUM else 1


cdef inline bint write_terms(Program *program, Node *node) noexcept:
    """Write the terms of a chain of additions, in the order in which they are added."""
    cdef Py_ssize_t n = 2, i
    cdef Node *first = node.child[0]
    cdef Node *term
    while first.op == ADD and is_inlined(program, first):
        n += 1
        first = first.child[0]
    while program.n_terms + n > program.max_terms:
        if not grow(<void **>&program.terms, &program.max_terms, sizeof(Product)):
            return False
    for i in range(n - 1, -1, -1):
        term = node.child[1] if i else first
        if is_inlined(program, term):
            program.terms[program.n_terms + i] = Product(
                info_of_node(program, term.child[0]).slot,
                info_of_node(program, term.child[1]).slot,
            )
        else:
            program.terms[program.n_terms + i] = Product(info_of_node(program, term).slot, NONE)
        node = node.child[0]
    program.n_terms += n
    return True


cdef inline bint append_step(Program *program, Group group, Step step) noexcept:
    """Write a step, as a group of its own."""
    if program.n_steps == program.max_steps and not grow(
        <void **>&program.steps, &program.max_steps, sizeof(Step)
    ):
        return False
    if program.n_groups == program.max_groups and not grow(
        <void **>&program.groups, &program.max_groups, sizeof(Group)
    ):
        return False
    program.steps[program.n_steps] = step
    program.groups[program.n_groups] = group
    program.n_steps += 1
    program.n_groups += 1
    return True


cdef struct ScheduleKey:
    # When a step's operands are ready, and which one it is.
    uint64_t start
    uint8_t op
    uint32_t step


cdef inline int compare_keys(const void *left, const void *right) noexcept nogil:
    cdef const ScheduleKey *a = <const ScheduleKey *>left
    cdef const ScheduleKey *b = <const ScheduleKey *>right
    if a.start != b.start:
        return -1 if a.start < b.start else 1
    if a.op != b.op:
        return -1 if a.op < b.op else 1
    return -1 if a.step < b.step else 1


cdef inline bint order_steps(Program *program) noexcept:
    """Sort the steps by when their operands are ready, and make groups of them.

    Steps that do not depend on each other then stand together: the processor overlaps
    them, and groups are larger.
    """
    cdef Py_ssize_t i, n = program.n_steps
    if n == 0:
        return True
    cdef ScheduleKey *keys = <ScheduleKey *>PyMem_Malloc((n + 1) * sizeof(ScheduleKey))
    cdef uint64_t *ready = <uint64_t *>PyMem_Malloc((program.n_data + 1) * sizeof(uint64_t))
    cdef Group *groups = <Group *>PyMem_Malloc((n + 1) * sizeof(Group))
    cdef Step *steps = <Step *>PyMem_Malloc((n + 1) * sizeof(Step))
    cdef bint fits = keys and ready and groups and steps
    cdef Group *last = groups - 1
    if fits:
        memset(ready, 0, program.n_data * sizeof(uint64_t))
        for i in range(n):
            keys[i].start = start_of(program, program.groups + i, program.steps + i, ready)
            keys[i].op = program.groups[i].op
            keys[i].step = <uint32_t>i
            ready[program.steps[i].out] = keys[i].start + cycles_of(
                program.groups + i, program.steps + i
            )
        qsort(keys, n, sizeof(ScheduleKey), compare_keys)
        for i in range(n):
            steps[i] = program.steps[keys[i].step]
            last[1] = program.groups[keys[i].step]
            if i and last.op == last[1].op and last.operand == last[1].operand and (
                last.k == last[1].k
            ):
                last.n += 1
            else:
                last += 1
        program.n_groups = last + 1 - groups
        memcpy(program.groups, groups, program.n_groups * sizeof(Group))
        memcpy(program.steps, steps, n * sizeof(Step))
    PyMem_Free(keys)
    PyMem_Free(ready)
    PyMem_Free(groups)
    PyMem_Free(steps)
    return fits


cdef inline uint64_t start_of(
    Program *program, const Group *group, const Step *step, const uint64_t *ready
) noexcept nogil:
    """Return when the last operand of a step is ready."""
    cdef uint64_t start = 0
    cdef uint32_t i
    if group.operand == MANY:
        for i in range(step.a, step.b):
            start = max(start, ready[program.terms[i].a])
            if program.terms[i].b != NONE:
                start = max(start, ready[program.terms[i].b])
    elif group.op == NEG_MAX:
        for i in range(step.a, step.b):
            start = max(start, ready[program.sources[i]])
    else:
        start = ready[step.a]
        if group.operand == TWO or group.op == MUL or group.op == MAXIMUM or group.op == WHERE:
            start = max(start, ready[step.b])
        if group.op == WHERE:
            start = max(start, ready[step.c])
    return start


cdef inline uint64_t cycles_of(const Group *group, const Step *step) noexcept nogil:
    """Return about how long a step takes."""
    cdef uint64_t cycles = 8
    if group.op == EXP or group.op == LOG:
        cycles = 40
    elif group.op == POW:
        cycles = 20 if group.k == -1.0 else 90
    elif group.op == TANH or group.op == SIGMOID:
        cycles = 90
    if group.operand == MANY or group.op == NEG_MAX:
        cycles += 3 * (step.b - step.a)
    return cycles


# ---------------------------------------------------------------- backward

cdef inline bint write_edges(Program *program, Entry *entries, Py_ssize_t n) noexcept:
    """Write where each node's gradient goes, in the order of the tape reversed."""
    cdef Py_ssize_t i, j, n_children
    cdef Node *node
    cdef Node **children
    cdef NodeInfo *info
    cdef NodeInfo *root = info_of_node(program, entries[n - 1].node)
    for i in range(n):
        info = info_of_node(program, entries[i].node)
        children = children_of(info.node, &n_children)
        for j in range(n_children):
            info.reaches |= info_of_node(program, children[j]).reaches
    keep_grad(program, root)
    program.root_grad = root.grad
    for i in range(n - 1, -1, -1):
        node = entries[i].node
        info = info_of_node(program, node)
        if not info.reaches or node.n == 0:
            continue
        if info.source == NONE:
            info.source = info.grad
        children = children_of(node, &n_children)
        for j in range(n_children):
            if info_of_node(program, children[j]).reaches and not write_edge(
                program, info, info_of_node(program, children[j]), factor_of(program, info, j)
            ):
                return False
    program.grads = <double *>PyMem_Malloc((program.n_grads + 1) * sizeof(double))
    return program.grads is not NULL


cdef inline uint32_t factor_of(Program *program, NodeInfo *info, Py_ssize_t j) noexcept:
    """Return the slot of a node's local gradient by child j; NONE where it is 1."""
    if info.node.op == ADD:
        return info.factor
    if info.node.op == MUL:
        return info_of_node(program, info.node.child[1 - j]).slot
    if info.node.op == EXP:
        return info.slot
    return info.slot + 1 + <uint32_t>j


cdef inline void keep_grad(Program *program, NodeInfo *info) noexcept:
    if info.grad == NONE:
        info.grad = <uint32_t>program.n_grads
        program.n_grads += 1


cdef inline bint write_edge(
    Program *program, NodeInfo *info, NodeInfo *child, uint32_t factor
) noexcept:
    """Add a node's gradient, times the factor, to that of a child."""
    if child.n_uses == 1 and child.node.n and (factor == NONE or child.node.op == ADD):
        # The child's gradient is this product alone, and is not kept.
        child.source = info.source
        child.factor = factor
        return True
    keep_grad(program, child)
    if child.node.n == 0:
        child.factor = factor  # which tells whether its gradient is an int: see ints_are_known
    if program.n_edges == program.max_edges and not grow(
        <void **>&program.edges, &program.max_edges, sizeof(Edge)
    ):
        return False
    program.edges[program.n_edges] = Edge(
        child.grad, info.source, program.one if factor == NONE else factor
    )
    program.n_edges += 1
    return True


cdef inline bint write_rows(Program *program) noexcept:
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
