# ------------------------------------------------------------------- sums
#
# `sum(w * x for ...)` makes two nodes a term that nobody but the sum ever sees.
# A SUM node stands for all of them: the terms in a row, from 0, left to right.
# It grows when something is added to a sum, and takes a product in, whose only
# reference is the caller's: then nobody can look at them any more, or almost
# nobody. C code (an array of objects, say) may hold that only reference and come
# back with it. So what was absorbed knows its sum until it dies, and `reclaim`
# turns the sum into the plain nodes that it stands for before anyone looks.
#
# What the plain nodes would show is never different: `expand` restores them with
# their numbers, and with their gradients if a backward has gone through.

cdef enum:
    MAX_FREE_TERMS = 2048  # of each size: 1.1 and 4.1 MiB
    MAX_TERMS = 1 << 30

# Sums start with room for 16 terms and grow fourfold; these two sizes are kept for reuse.
cdef Py_ssize_t[2] CAPACITY = [16, 64]
cdef Terms *free_terms[2]
cdef Py_ssize_t n_free_terms[2]


cdef inline bint is_temporary(PyObject *node) noexcept:
    """Return whether the caller's reference to an untouched node is the only one."""
    return Py_REFCNT(node) == 1 and not (<Value>node).flags and (
        (<Value>node).c_grad == 0.0 and not signbit((<Value>node).c_grad)
    )


cdef inline bint has_no_witness(PyObject *node) noexcept:
    """Return whether all that a sum has absorbed before is dead."""
    cdef Terms *terms = <Terms *>(<Value>node).child[0]
    return terms.product is NULL and terms.partial is NULL


cdef Terms *new_terms(Py_ssize_t n) except NULL:
    """Return terms, none yet, with room for n."""
    cdef int kind = size_class(n)
    cdef Py_ssize_t capacity = CAPACITY[kind] if kind < 2 else n
    cdef Terms *terms = NULL
    if kind < 2 and free_terms[kind] is not NULL:
        terms = free_terms[kind]
        free_terms[kind] = <Terms *>terms.owner
        n_free_terms[kind] -= 1
    else:
        if n <= MAX_TERMS:
            terms = <Terms *>PyMem_Malloc(sizeof(Terms) + capacity * sizeof(Term))
        if terms is NULL:
            raise MemoryError(f"no memory for a sum of {n} terms")
        terms.capacity = capacity
    terms.n = 0
    terms.product = terms.partial = NULL
    return terms


cdef inline int size_class(Py_ssize_t n) noexcept:
    return 0 if n <= CAPACITY[0] else 1 if n <= CAPACITY[1] else 2


cdef void free_terms_of(Terms *terms) noexcept:
    cdef int kind = size_class(terms.capacity)
    if kind < 2 and terms.capacity == CAPACITY[kind] and n_free_terms[kind] < MAX_FREE_TERMS:
        terms.owner = <PyObject *>free_terms[kind]
        free_terms[kind] = terms
        n_free_terms[kind] += 1
    else:
        PyMem_Free(terms)


cdef inline Term *term_of(Terms *terms) noexcept:
    return <Term *>(terms + 1)


cdef inline void take_term(Terms *terms, Value b) noexcept:
    """Write b as the next term: its factors if it is a temporary product, else itself."""
    cdef Term *term = term_of(terms) + terms.n
    if b.op == MUL and type(b) is Value and is_temporary(<PyObject *>b):
        term.a = b.child[0]
        term.b = b.child[1]
        term.grad_a = b.local_grad[0]
        term.grad_b = b.local_grad[1]
        b.flags = ABSORBED
        keep_pointer(&b.c_grad, terms)
        terms.product = <PyObject *>b
    else:
        Py_INCREF(<PyObject *>b)
        term.a = <PyObject *>b
        term.b = NULL
        term.grad_a = b.c_data
    terms.n += 1


cdef Value start_sum(Value first):
    """Return 0 + first: a sum of one term."""
    reclaim(<PyObject *>first)
    cdef Value node = new_node()
    cdef Terms *terms = new_terms(1)
    node.c_data = first.c_data + 0.0
    take_term(terms, first)
    terms.owner = <PyObject *>node
    node.child[0] = <PyObject *>terms
    node.op = SUM
    node.n = IN_BLOCK
    return node


cdef Value add_to_sum(Value partial, Value last):
    """Return partial + last, where partial is a sum. A temporary one moves into the result."""
    if (
        partial is last
        or not is_temporary(<PyObject *>partial) or not has_no_witness(<PyObject *>partial)
    ):
        reclaim_both(partial, last)
        return new_binary(ADD, partial.c_data + last.c_data, partial, last, 1.0, 1.0)
    reclaim(<PyObject *>last)
    cdef Value node = new_node()
    cdef Terms *terms = <Terms *>partial.child[0]
    if terms.n == terms.capacity:
        if terms.n >= MAX_TERMS:
            raise MemoryError("a sum has no room for more terms")
        terms = <Terms *>PyMem_Realloc(terms, sizeof(Terms) + 4 * terms.capacity * sizeof(Term))
        if terms is NULL:
            raise MemoryError("no memory for the terms of a sum")
        terms.capacity *= 4
        partial.child[0] = <PyObject *>terms
    node.c_data = partial.c_data + last.c_data
    take_term(terms, last)
    partial.flags = ABSORBED
    terms.partial = <PyObject *>partial
    terms.owner = <PyObject *>node
    node.child[0] = <PyObject *>terms
    node.op = SUM
    node.n = IN_BLOCK
    return node


cdef inline Terms *sum_of(PyObject *absorbed) noexcept:
    """Return the terms that an absorbed product or partial sum has moved into."""
    if (<Value>absorbed).op == SUM:
        return <Terms *>(<Value>absorbed).child[0]
    return <Terms *>pointer_in(&(<Value>absorbed).c_grad)


cdef inline void leave_sum(PyObject *absorbed) noexcept:
    """Tell the sum that what it absorbed is dead."""
    if (<Value>absorbed).op == SUM:
        sum_of(absorbed).partial = NULL
    else:
        sum_of(absorbed).product = NULL


cdef inline int reclaim(PyObject *node) except -1:
    """Give a node that a sum has absorbed, or a tape holds, its own numbers again."""
    if (<Value>node).flags & (ABSORBED | HELD):
        give_back(node)
    return 0


cdef int give_back(PyObject *node) except -1:
    if (<Value>node).flags & HELD:
        show(holder_of(node))
    elif not expand(sum_of(node).owner):
        raise MemoryError("no memory for the nodes of a sum")
    return 0


cdef inline double number_of(PyObject *node) noexcept:
    """Return a node's number, wherever it is."""
    return held_data(node) if (<Value>node).flags & HELD else (<Value>node).c_data


cdef int unfold(PyObject *node) except -1:
    """Make a node one whose children can be shown."""
    reclaim(node)
    if (<Value>node).op == SUM and not expand(node):
        raise MemoryError("no memory for the nodes of a sum")
    return 0


cdef inline void play_terms(PyObject *node, Py_ssize_t start, Py_ssize_t stop) noexcept:
    """Apply the chain rule to the terms of a sum from stop-1 down to start.

    Order:   per term a, then b. Every node inside has the gradient 0.0 + grad.
    """
    cdef Terms *terms = <Terms *>(<Value>node).child[0]
    cdef Term *term = term_of(terms)
    cdef double grad = 0.0 + (<Value>node).c_grad
    cdef Py_ssize_t k
    terms.inner_grad = grad
    (<Value>node).flags |= PLAYED
    for k in range(stop - 1, start - 1, -1):
        if term[k].b is NULL:
            add_to_grad(term[k].a, grad)
        else:
            add_to_grad(term[k].a, term[k].grad_a * grad)
            add_to_grad(term[k].b, term[k].grad_b * grad)


cdef void release_terms(Terms *terms, uint8_t played) noexcept:
    """Drop the terms of a dying sum; what it absorbed and is still alive gets its own back.

    played is the sum's flag of that name: a backward has given what is inside a gradient.
    """
    cdef Term *term = term_of(terms)
    cdef PyObject *product = terms.product
    cdef PyObject *partial = terms.partial
    cdef double inner_grad = terms.inner_grad if played else 0.0
    terms.product = terms.partial = NULL
    cdef Py_ssize_t k
    if product is not NULL:
        terms.n -= 1
        (<Value>product).c_grad = inner_grad
        (<Value>product).flags &= ~ABSORBED
    if partial is not NULL:
        (<Value>partial).c_grad = inner_grad
        (<Value>partial).flags = played
        terms.owner = partial
        if product is NULL:
            terms.n -= 1
            drop(term[terms.n])
        return
    for k in range(terms.n):
        drop(term[k])
    free_terms_of(terms)


cdef inline void drop(Term term) noexcept:
    cdef PyObject *b = term.b
    Py_DECREF(term.a)
    if b is not NULL:
        Py_DECREF(b)


cdef bint expand(PyObject *node) noexcept:
    """Turn a sum into the additions and products that it stands for.

    Return False, with the sum as it was, if there is no memory. Runs no Python code.
    """
    cdef Terms *terms = <Terms *>(<Value>node).child[0]
    cdef Term *term = term_of(terms)
    cdef Py_ssize_t k, taken = 0, n = terms.n
    cdef double number
    cdef double inner_grad = terms.inner_grad if (<Value>node).flags & PLAYED else 0.0
    # additions[0..n], the first the leaf 0.0, the last the sum itself; then products
    cdef PyObject **additions = <PyObject **>PyMem_Malloc((2 * n + 1) * sizeof(PyObject *))
    cdef PyObject **products = additions + n + 1
    cdef PyObject *partial = terms.partial
    cdef PyObject *product = terms.product
    if additions is NULL:
        return False
    for k in range(2 * n + 1):
        additions[k] = NULL
    additions[n] = node
    if partial is not NULL:
        additions[n - 1] = partial
    if product is not NULL:
        products[n - 1] = product
    for k in range(2 * n + 1):
        if additions[k] is NULL and (k <= n or term[k - n - 1].b is not NULL):
            additions[k] = take_node(LEAF, 0)
            if additions[k] is NULL:
                for taken in range(k):
                    if additions[taken] not in (NULL, node, partial, product):
                        free_node(additions[taken])
                PyMem_Free(additions)
                return False
    if partial is not NULL:
        (<Value>partial).flags &= ~ABSORBED
        Py_INCREF(partial)
    if product is not NULL:
        (<Value>product).flags &= ~ABSORBED
        Py_INCREF(product)
    (<Value>additions[0]).c_data = 0.0
    (<Value>additions[0]).flags = CONSTANT
    (<Value>additions[0]).c_grad = inner_grad
    for k in range(n):
        number = term[k].grad_a
        if term[k].b is NULL:
            products[k] = term[k].a
        else:
            number = term[k].grad_b * term[k].grad_a
            if products[k] != product:
                (<Value>products[k]).c_data = number
            fill(products[k], MUL, term[k].a, term[k].b, term[k].grad_a, term[k].grad_b)
            (<Value>products[k]).c_grad = inner_grad
        if additions[k + 1] != node:
            (<Value>additions[k + 1]).c_grad = inner_grad
            if additions[k + 1] != partial:
                (<Value>additions[k + 1]).c_data = (<Value>additions[k]).c_data + number
        if k == 0:
            fill(additions[1], ADD, products[0], additions[0], 1.0, 1.0)
        else:
            fill(additions[k + 1], ADD, additions[k], products[k], 1.0, 1.0)
    (<Value>node).flags &= ~PLAYED
    free_terms_of(terms)
    PyMem_Free(additions)
    return True


cdef inline void fill(
    PyObject *node, Op op, PyObject *a, PyObject *b, double grad_a, double grad_b
) noexcept:
    (<Value>node).op = op
    (<Value>node).n = 2
    (<Value>node).child[0] = a
    (<Value>node).child[1] = b
    (<Value>node).local_grad[0] = grad_a
    (<Value>node).local_grad[1] = grad_b
