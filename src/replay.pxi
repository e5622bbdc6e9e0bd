# ------------------------------------------------------------------ replay
#
# A Tape with inputs computes its graph again from the leaves: the same nodes,
# with the numbers and local gradients that a new graph would hold. The order
# of computing is that of a walk in which a LARGEST leaf comes after the values
# whose largest it is; it need not be the order of backward.


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
        cdef Value node
        for value in values:
            if type(value) is not Value:
                return super().__call__(*values)
            reclaim(<PyObject *>value)
        if not values:
            return super().__call__()
        numbers = [(<Value>value).c_data for value in values]
        node = new_leaf(to_double(self.forward(*numbers)))
        local_grads = tuple([to_double(number) for number in self.local_grads(numbers)])
        adopt(node, values, local_grads, True)
        node.op = OPERATION
        (<Block *>node.child[0]).operation = <PyObject *>self
        Py_INCREF(<PyObject *>self)
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
    (<Value>node).c_grad = 0.0
    return 0


cdef int compute_operation(Value node) except -1:
    cdef Block *block = <Block *>node.child[0]
    cdef Py_ssize_t i
    operation = <object>block.operation
    numbers = [(<Value>block.children[i]).c_data for i in range(block.n_children)]
    node.c_data = to_double(operation.forward(*numbers))
    for i, number in enumerate(operation.local_grads(numbers)):
        block.local_grads[i] = to_double(number)
    return 0
