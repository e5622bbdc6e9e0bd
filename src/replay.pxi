# ------------------------------------------------------------------ replay
#
# A Tape with inputs computes its graph again from the leaves: the same nodes,
# with the numbers and local gradients that a new graph would hold. The order
# of computing is that of a walk in which a LARGEST leaf comes after the values
# whose largest it is; it need not be the order of backward.
#
# The tape's program does that without the nodes. They are HELD meanwhile: whoever
# asks one for its numbers has all of them computed and played as the program was,
# which needs no more than the leaves' numbers. A HELD node has its tape in place of
# its first local gradient and its slot in the program in place of its gradient.

cdef enum State:
    IN_NODES       # the nodes have their numbers
    FORWARD_DONE   # the program has them, after forward
    BACKWARD_DONE  # and after backward


cdef uint64_t n_holds = 0  # how often a tape has begun to hold nodes


cdef int read_constants(Tape tape) except -1:
    """Read the numbers that only the nodes have, unless they are held already.

    Raises:  ValueError if a node is no longer what it was
    """
    cdef Program program = tape.program
    cdef PyObject *node
    cdef Py_ssize_t i
    if tape.state != IN_NODES:
        return 0
    for i in range(program.n_sites):
        node = program.sites[i].node
        reclaim(node)
        refuse_new(node, program.ops[i])
        if i >= program.n_kept and program.ops[i] == LEAF:
            if not (<Value>node).flags & CONSTANT:  # another tape's input by now
                tape.program = compile_tape(tape)
                return read_constants(tape)
            program.data[program.sites[i].slot] = (<Value>node).c_data
    return 0


cdef inline int refuse_new(PyObject *node, uint8_t op) except -1:
    if (<Value>node).op != op:
        raise ValueError(f"{<object>node!r} is no longer what the tape has recorded")
    return 0


cdef double replay(Tape tape) except? -1.0:
    """Compute the program; if something raises, the nodes, which tell what and when."""
    global n_holds
    cdef Program program
    cdef PyObject *node
    cdef Py_ssize_t i
    read_constants(tape)
    program = tape.program
    for i in range(program.n_kept):
        refuse_new(program.sites[i].node, LEAF)
    memcpy(program.before, program.data, program.n_kept * sizeof(double))
    for i in range(program.n_kept):
        program.data[i] = (<Value>program.sites[i].node).c_data
    if not compute_rows(program, program.data, 1):
        memcpy(program.data, program.before, program.n_kept * sizeof(double))
        show(tape)
        return compute_nodes(tape)
    if tape.state == IN_NODES:
        n_holds += 1
        for i in range(program.n_kept, program.n_sites):
            node = program.sites[i].node
            (<Value>node).flags |= HELD
            keep_pointer(&(<Value>node).local_grad[0], <void *>tape)
            (<Value>node).c_grad = program.sites[i].slot
    tape.state = FORWARD_DONE
    return program.data[program.root]


cdef double compute_nodes(Tape tape) except? -1.0:
    cdef PyObject *node
    cdef Py_ssize_t i
    cdef uint64_t seen = reclaim_computed(tape)
    for i in range(tape.n_computed):
        node = tape.computed[i].node
        refuse_unknown(node)
        compute(node)
        if (<Value>node).op == OPERATION and n_holds != seen:
            seen = reclaim_computed(tape)  # its rule has run a tape over the same nodes
    return (<Value>tape.entries[tape.n - 1].node).c_data


cdef uint64_t reclaim_computed(Tape tape) except? 0:
    cdef Py_ssize_t i
    for i in range(tape.n_computed):
        reclaim(tape.computed[i].node)
    return n_holds


cdef void show(Tape tape) noexcept:
    """Give all nodes the numbers that the program has computed for them."""
    cdef Program program = tape.program
    cdef State state = tape.state
    cdef PyObject *node
    cdef double now
    cdef Py_ssize_t i
    if state == IN_NODES:
        return
    tape.state = IN_NODES
    for i in range(program.n_kept, program.n_sites):
        node = program.sites[i].node
        (<Value>node).flags &= ~HELD
        (<Value>node).c_grad = 0.0
    for i in range(program.n_kept):
        node = program.sites[i].node
        now = (<Value>node).c_data
        (<Value>node).c_data = program.data[i]
        program.data[i] = now
        program.grads[i] = (<Value>node).c_grad
        # The constructor may have given it children since; here it was none but a leaf.
        program.sites[i].n_uses = (<Value>node).n
        program.sites[i].user = (<Value>node).op
        (<Value>node).n = 0
        (<Value>node).op = LEAF
    for i in range(tape.n_computed):
        compute(tape.computed[i].node)
    if state == BACKWARD_DONE:
        play(tape.entries, tape.n, False)
    for i in range(program.n_kept):
        node = program.sites[i].node
        (<Value>node).c_data = program.data[i]
        (<Value>node).c_grad = program.grads[i]
        (<Value>node).n = <uint8_t>program.sites[i].n_uses
        (<Value>node).op = <uint8_t>program.sites[i].user


cdef int play_back(Tape tape) except -1:
    """Play the tape: in the program where nobody has looked since forward, else on the nodes."""
    cdef Program program = tape.program
    cdef double *grads = NULL
    cdef double grad
    cdef Py_ssize_t i
    if tape.state == FORWARD_DONE:
        grads = program.grads
        for i in range(program.n_kept):
            grad = (<Value>program.sites[i].node).c_grad
            if is_negative_zero(grad):
                show(tape)
                break
            grads[i] = grad
    if tape.state == FORWARD_DONE:
        memset(grads + program.n_kept, 0, (program.n_grads - program.n_kept) * sizeof(double))
        grads[program.root_grad] = 1.0
        play_rows(program, program.edges, program.data, grads, NULL, 1)
        for i in range(program.n_kept):
            (<Value>program.sites[i].node).c_grad = grads[i]
        tape.state = BACKWARD_DONE
        return 0
    for i in range(tape.n):
        reclaim(tape.entries[i].node)
    play(tape.entries, tape.n, False)
    return 0


cdef inline bint is_negative_zero(double x) noexcept:
    return x == 0.0 and signbit(x)


cdef inline Tape holder_of(PyObject *node):
    return <Tape><object>pointer_in(&(<Value>node).local_grad[0])


cdef double held_data(PyObject *node) noexcept:
    """Return a held node's number, if it need not be computed for that."""
    cdef Tape tape = holder_of(node)
    cdef uint32_t slot = <uint32_t>(<Value>node).c_grad
    if slot != NONE:
        return tape.program.data[slot]
    show(tape)
    return (<Value>node).c_data


cdef Value new_largest(tuple values, double largest, Value sibling):
    """Return a leaf of -largest that replay computes again; siblings share the values."""
    cdef Value node = new_constant(-largest)
    cdef Block *block
    cdef Py_ssize_t i
    if sibling is None:
        block = new_block(len(values), 0)
        for i in range(len(values)):
            block.children[i] = <PyObject *>values[i]
            Py_INCREF(block.children[i])
    else:
        block = <Block *>sibling.child[0]
        block.shared += 1
    node.child[0] = <PyObject *>block
    node.op = LARGEST
    return node


cdef inline double largest_of(PyObject **values, Py_ssize_t n) noexcept:
    """Return the largest data as Python's `max` finds it."""
    cdef double largest = (<Value>values[0]).c_data
    cdef Py_ssize_t i
    for i in range(1, n):
        if (<Value>values[i]).c_data > largest:
            largest = (<Value>values[i]).c_data
    return largest


class Operation(import_module("microgpt.functions").Operation):
    __doc__ = import_module("microgpt.functions").Operation.__doc__

    def __call__(self, *values):
        node = made_as(super().__call__(*values), values, OPERATION)
        if isinstance(node, Value) and (<Value>node).op == OPERATION:
            (<Block *>(<Value>node).child[0]).operation = <PyObject *>self
            Py_INCREF(<PyObject *>self)
        return node


cdef object made_as(object node, tuple values, Op op):
    """Return a node that the constructor has made of values as one that replay can compute."""
    cdef Value made
    cdef tuple children
    if not isinstance(node, Value) or (<Value>node).op != CUSTOM:
        return node
    made = <Value>node
    children = made._children
    if len(children) != len(values):
        return node
    for child, value in zip(children, values):
        if child is not value:
            return node
    if op == OPERATION and made.n != IN_BLOCK:
        local_grads = made._local_grads
        release_children(<PyObject *>made)
        adopt(made, children, local_grads, True)
    made.op = op
    return node


cdef int compute(PyObject *node) except -1:
    """Make a node, or a constant, what it would be in a new graph over its children."""
    cdef Op op = <Op>(<Value>node).op
    cdef PyObject *a = (<Value>node).child[0]
    cdef PyObject *b = (<Value>node).child[1]
    cdef double x, k
    cdef Block *block
    if op == ADD:
        (<Value>node).c_data = (<Value>a).c_data + (<Value>b).c_data
        (<Value>node).local_grad[0] = 1.0
    elif op == MUL:
        (<Value>node).c_data = (<Value>a).c_data * (<Value>b).c_data
        (<Value>node).local_grad[0] = (<Value>b).c_data
        (<Value>node).local_grad[1] = (<Value>a).c_data
    elif op == RELU:
        x = (<Value>a).c_data
        (<Value>node).c_data = x if x > 0.0 else 0.0
        (<Value>node).local_grad[0] = 1.0 if x > 0.0 else 0.0
    elif op == EXP:
        x = c_exp((<Value>a).c_data)
        (<Value>node).c_data = x
        (<Value>node).local_grad[0] = x
    elif op == LOG:
        x = (<Value>a).c_data
        (<Value>node).c_data = c_log(x)
        (<Value>node).local_grad[0] = 1.0 / x
    elif op == POW:
        x = (<Value>a).c_data
        k = (<Value>node).local_grad[1]
        (<Value>node).c_data = c_pow(x, k)
        (<Value>node).local_grad[0] = k * c_pow(x, k - 1.0)
    elif op == TANH:
        x = tanh((<Value>a).c_data)
        (<Value>node).c_data = x
        (<Value>node).local_grad[0] = 1.0 - c_pow(x, 2.0)
    elif op == SIGMOID:
        x = c_sigmoid((<Value>a).c_data)
        (<Value>node).c_data = x
        (<Value>node).local_grad[0] = x * (1.0 - x)
    elif op == LARGEST:
        block = <Block *>a
        (<Value>node).c_data = -largest_of(block.children, block.n_children)
    elif op == MAXIMUM:
        k = 1.0 if (<Value>a).c_data >= (<Value>b).c_data else 0.0
        (<Value>node).c_data = (<Value>a).c_data if k == 1.0 else (<Value>b).c_data
        (<Value>node).local_grad[0] = k
        (<Value>node).local_grad[1] = 1.0 - k
    elif op == WHERE:
        block = <Block *>a
        k = 1.0 if (<Value>block.children[0]).c_data > 0.0 else 0.0
        (<Value>node).c_data = (<Value>block.children[1 if k == 1.0 else 2]).c_data
        block.local_grads[1] = k
        block.local_grads[2] = 1.0 - k
    elif op == OPERATION:
        compute_operation(<Value>node)
    elif not (<Value>node).flags & CONSTANT:
        return 0  # a constant that a tape has made its input since
    (<Value>node).c_grad = 0.0
    return 0


cdef int compute_operation(Value node) except -1:
    """Compute a node anew by its Operation's own rules, which may do anything to it.

    Raises:  what the rules raise; RuntimeError if they made the node anew
    """
    cdef Block *block
    cdef Py_ssize_t i
    cdef double data
    numbers = []
    grads = []
    block = <Block *>node.child[0]
    operation = <object>block.operation
    for i in range(block.n_children):
        numbers.append((<Value>block.children[i]).c_data)
    data = to_double(operation.forward(*numbers))
    for number in operation.local_grads(numbers):
        grads.append(to_double(number))
    block = <Block *>node.child[0]
    if node.op != OPERATION or block.operation != <PyObject *>operation or (
        block.n_children != len(grads)
    ):
        raise RuntimeError("an Operation's rule made the node anew that it computes")
    node.c_data = data
    for i in range(block.n_children):
        block.local_grads[i] = grads[i]
    return 0
