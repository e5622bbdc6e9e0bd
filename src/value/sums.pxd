"""Sums kept as one node.

`sum(w * x for ...)` makes two nodes a term that nothing else refers to. One SUM node replaces
all of them: it lists the terms, added from 0, left to right. An addition extends a sum that nothing
else refers to. A product that nothing else refers to is absorbed: the sum takes over its
factors, and the product is usually freed next.

C code (an array of objects) may hold the only reference to an absorbed node, and from CPython
3.14 on a local variable may. So an absorbed node points to its sum until it is freed, and
`sync_node` expands the sum into the nodes that it replaces before such a node is read.
`expand_sum` restores their numbers, and their gradients if a backward has gone through.
`sync_node` also raises for a node that is STALE.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport uint16_t, uint32_t, uint8_t
from libc.string cimport memcpy, memset

from node cimport (
    ABSORBED, CONSTANT, GRAD_INT, IN_BLOCK, OWNED, PLAYED, STALE, UNUSUAL, ClassInfo, Node, Term,
    Terms, are_ints, decref, free_node, has_nodes, incref, ints_of_two, new_node, quick_node,
    refcount, take_node, type_of,
)
from rules cimport (
    ADD, BOTH_INT, DATA_INT, FIRST_INT, LEAF, MUL, SECOND_INT, SUM, Op, add_rule, mul_rule,
    unlikely,
)

cdef extern from *:
    """
    /* Sums start with room for 16 terms and grow fourfold; these two sizes are kept for reuse. */
    #define SMALL_SUM 16
    #define LARGE_SUM 64
    #define MAX_FREE_TERMS 2048  /* of each size: 1.1 and 4.2 MiB */
    static Terms *free_terms[2];
    static Py_ssize_t n_free_terms[2];
    """
    enum: SMALL_SUM
    enum: LARGE_SUM
    enum: MAX_FREE_TERMS
    Terms *free_terms[2]
    Py_ssize_t n_free_terms[2]

cdef enum:
    MAX_TERMS = 1 << 30


cdef inline Term *term_of(Terms *terms) noexcept:
    return <Term *>(terms + 1)


cdef inline uint8_t *ints_of(Terms *terms) noexcept:
    """Return which numbers of each term are ints, in units of FIRST_INT; see has_ints."""
    return <uint8_t *>(term_of(terms) + terms.capacity)


cdef inline size_t terms_size(Py_ssize_t capacity) noexcept:
    return sizeof(Terms) + capacity * (sizeof(Term) + 1)


cdef inline int size_index(Py_ssize_t n) noexcept:
    return 0 if n <= SMALL_SUM else 1 if n <= LARGE_SUM else 2


cdef inline Terms *new_terms(Py_ssize_t n, Node *node) except NULL:
    """Return empty terms with room for n; if there is no memory, drop their node and raise."""
    cdef int index = size_index(n)
    cdef Py_ssize_t capacity = SMALL_SUM if index == 0 else LARGE_SUM if index == 1 else n
    cdef Terms *terms = NULL
    if index < 2 and free_terms[index] is not NULL:
        terms = free_terms[index]
        free_terms[index] = <Terms *>terms.owner
        n_free_terms[index] -= 1
    else:
        if n <= MAX_TERMS:
            terms = <Terms *>PyMem_Malloc(terms_size(capacity))
        if terms is NULL:
            decref(node)
            raise MemoryError(f"no memory for a sum of {n} terms")
        terms.capacity = capacity
    terms.n = 0
    terms.product = terms.partial = NULL
    terms.has_ints = False
    return terms


cdef inline void free_terms_of(Terms *terms) noexcept:
    cdef int index = size_index(terms.capacity)
    cdef Py_ssize_t size = SMALL_SUM if index == 0 else LARGE_SUM
    if index < 2 and terms.capacity == size and n_free_terms[index] < MAX_FREE_TERMS:
        terms.owner = <Node *>free_terms[index]
        free_terms[index] = terms
        n_free_terms[index] += 1
    else:
        PyMem_Free(terms)


cdef inline void write_ints(Terms *terms, Py_ssize_t k, uint16_t ints) noexcept:
    """Write which numbers of term k are ints; of the terms before it, none if none is written."""
    if not (ints or terms.has_ints):
        return
    if not terms.has_ints:
        memset(ints_of(terms), 0, terms.capacity)
        terms.has_ints = True
    ints_of(terms)[k] = <uint8_t>(ints >> 8)


cdef inline uint16_t term_ints(Terms *terms, Py_ssize_t k) noexcept:
    return (<uint16_t>ints_of(terms)[k]) << 8 if terms.has_ints else 0


cdef inline bint is_temporary(Node *node, uint16_t fresh, uint16_t labels) noexcept:
    """Return whether the caller's reference to an untouched node is the only one."""
    return (
        refcount(node) == 1 and (node.flags & ~labels) == fresh
        and node.grad == 0.0  # not -0.0, which is no int: `fresh` excludes it
    )


cdef inline uint16_t take_term(Terms *terms, Node *b) noexcept:
    """Write b as the next term: its factors if it is a temporary product, else itself.

    Return which of its numbers are ints, for write_ints.
    """
    cdef Term *term = term_of(terms) + terms.n
    cdef uint16_t ints
    if b.op == MUL and type_of(b) == type_of(terms.owner) and is_temporary(
        b, terms.fresh, FIRST_INT | SECOND_INT | DATA_INT
    ):
        term.a = b.child[0]
        term.b = b.child[1]
        term.slope_a = b.slope[0]
        term.slope_b = b.slope[1]
        ints = b.flags & (FIRST_INT | SECOND_INT)
        b.flags = ABSORBED | (b.flags & (FIRST_INT | SECOND_INT | DATA_INT))
        b.sum_terms = terms
        terms.product = b
    else:
        incref(b)
        term.a = b
        term.b = NULL
        term.slope_a = b.data
        ints = FIRST_INT if b.flags & DATA_INT else 0
    terms.n += 1
    return ints


cdef inline void become_sum(Node *node, Terms *terms, double total, bint is_int) noexcept:
    terms.owner = node
    node.data = total
    node.terms = terms
    node.op = SUM
    node.n = IN_BLOCK
    if is_int:
        node.flags |= DATA_INT


cdef inline Node *start_sum(ClassInfo *info, Node *first, bint starts_int) except NULL:
    """Return 0 + first: a sum of one term."""
    cdef Node *node
    cdef Terms *terms
    cdef double total
    cdef uint16_t ints
    sync_node(first)
    node = new_node(info, info.fresh, LEAF, 0)
    terms = new_terms(1, node)
    terms.owner = node
    terms.fresh = info.fresh
    terms.starts_int = starts_int
    ints = <uint16_t>add_rule(&total, first.data, 0.0, first.flags & DATA_INT and starts_int)
    write_ints(terms, 0, take_term(terms, first))
    become_sum(node, terms, total, ints)
    return node


cdef inline bint can_grow(Node *partial) noexcept:
    """Return whether a sum may move into the sum of itself and something else."""
    return (
        is_temporary(partial, partial.terms.fresh, DATA_INT)
        and partial.terms.product is NULL and partial.terms.partial is NULL
    )


cdef inline Node *grow_sum(ClassInfo *info, Node *partial, Node *last) except NULL:
    """Return partial + last, where partial is a sum that may grow."""
    cdef Node *node
    cdef Terms *terms
    cdef Py_ssize_t capacity
    sync_node(last)
    node = new_node(info, info.fresh, LEAF, 0)
    terms = partial.terms
    if terms.n == terms.capacity:
        capacity = terms.capacity
        terms = NULL
        if capacity < MAX_TERMS:
            terms = <Terms *>PyMem_Realloc(partial.terms, terms_size(4 * capacity))
        if terms is NULL:
            decref(node)
            raise MemoryError("no memory for the terms of a sum")
        if terms.has_ints:
            memcpy(term_of(terms) + 4 * capacity, term_of(terms) + capacity, capacity)
        terms.capacity = 4 * capacity
        partial.terms = terms
    write_ints(terms, terms.n - 1, add_to_sum(node, partial, last))
    return node


cdef inline uint16_t add_to_sum(Node *node, Node *partial, Node *last) noexcept:
    """Let a new node be partial + last; return which of the last term's numbers are ints."""
    cdef Terms *terms = partial.terms
    cdef double total
    cdef uint32_t is_int = add_rule(&total, partial.data, last.data, are_ints(partial, last))
    cdef uint16_t ints = take_term(terms, last)
    partial.flags = ABSORBED | (partial.flags & DATA_INT)
    terms.partial = partial
    become_sum(node, terms, total, is_int != 0)
    return ints


cdef inline Node *quick_grow(ClassInfo *info, Node *partial, Node *last) noexcept:
    """Return partial + last as grow_sum does; NULL where that takes more than a few writes."""
    cdef Terms *terms = partial.terms
    cdef Node *node
    if (
        not can_grow(partial) or type_of(partial) != info.result or terms.n == terms.capacity
        or terms.has_ints or last.flags & (UNUSUAL | DATA_INT | FIRST_INT | SECOND_INT)
        or partial is last or not has_nodes(info, 1)
    ):
        return NULL
    node = quick_node(info, info.fresh, LEAF, 0)
    add_to_sum(node, partial, last)
    return node


cdef inline object sum_of_products(
    ClassInfo *info, Node **a, Node **b, Py_ssize_t n, bint has_ints
):
    """Return the sum from 0 of n products, n at least 1. has_ints: whether a factor is an int."""
    cdef Node *node = new_node(info, info.fresh, LEAF, 0)
    cdef Terms *terms = new_terms(n, node)
    cdef Term *term = term_of(terms)
    cdef double total = 0.0, a_data, b_data
    cdef Py_ssize_t k
    for k in range(n):
        a_data = a[k].data
        b_data = b[k].data
        incref(a[k])
        incref(b[k])
        term[k] = Term(a[k], b[k], b_data, a_data)
        # 0 + x and x + 0 are the same bits, so the first term needs no case of its own.
        total = total + a_data * b_data
    terms.n = n
    terms.fresh = info.fresh
    terms.starts_int = info.keeps_ints
    terms.adds_ints = not info.float_slope
    become_sum(node, terms, total, has_ints and write_product_ints(terms))
    return OWNED(node)


cdef inline bint write_product_ints(Terms *terms) noexcept:
    """Write which slopes of products are ints; return whether the sum of all is one."""
    cdef Term *term = term_of(terms)
    cdef uint8_t *ints = ints_of(terms)
    cdef Py_ssize_t k
    cdef bint is_int = terms.starts_int
    cdef double total = 0.0, number, unused
    terms.has_ints = True
    for k in range(terms.n):
        ints[k] = <uint8_t>(ints_of_two(term[k].b, term[k].a) >> 8)
        is_int &= ints[k] == BOTH_INT >> 8
    for k in range(terms.n if is_int else 0):
        if not (
            mul_rule(&number, &unused, &unused, term[k].slope_b, term[k].slope_a, BOTH_INT)
            & DATA_INT and add_rule(&total, total, number, True)
        ):
            return False
    return is_int


cdef inline object sum_of_values(ClassInfo *info, Node **a, Py_ssize_t n):
    """Return the sum from 0 of n values, n at least 1."""
    cdef Node *node = new_node(info, info.fresh, LEAF, 0)
    cdef Terms *terms = new_terms(n, node)
    cdef Term *term = term_of(terms)
    cdef double total = 0.0
    cdef Py_ssize_t k
    cdef bint is_int = info.keeps_ints
    terms.starts_int = is_int
    for k in range(n):
        incref(a[k])
        term[k] = Term(a[k], NULL, a[k].data, 0.0)
        if a[k].flags & DATA_INT:
            write_ints(terms, k, FIRST_INT)
        is_int = add_rule(&total, total, a[k].data, is_int and a[k].flags & DATA_INT)
    terms.n = n
    terms.fresh = info.fresh
    terms.adds_ints = not info.float_slope
    become_sum(node, terms, total, is_int)
    return OWNED(node)


cdef inline Terms *sum_of(Node *absorbed) noexcept:
    """Return the terms that an absorbed product or partial sum has moved into."""
    return absorbed.terms if absorbed.op == SUM else absorbed.sum_terms


cdef inline void leave_sum(Node *absorbed) noexcept:
    """Clear the sum's pointer to an absorbed node, which is being freed."""
    if absorbed.op == SUM:
        absorbed.terms.partial = NULL
    else:
        absorbed.sum_terms.product = NULL


cdef inline int sync_node(Node *node) except -1:
    """Make a node's numbers readable: expand the sum that has absorbed it.

    Raises:  RuntimeError if the node is stale
    """
    if unlikely(node.flags & UNUSUAL):
        sync_slow(node)
    return 0


cdef inline int sync_slow(Node *node) except -1:
    if node.flags & STALE:
        raise_stale()
    if not expand_sum(sum_of(node).owner):
        raise MemoryError("no memory for the nodes of a sum")
    return 0


cdef inline int raise_stale() except -1:
    raise RuntimeError(
        "this value is inside a Tape that has computed again, and has older numbers: "
        "call the tape's refresh() first"
    )


cdef inline int sync_children(Node *node) except -1:
    """Make a node's children readable."""
    if node.flags & ABSORBED:
        sync_slow(node)
    if node.op == SUM and not expand_sum(node):
        raise MemoryError("no memory for the nodes of a sum")
    return 0


cdef inline void drop(Term term) noexcept:
    cdef Node *b = term.b
    decref(term.a)
    if b is not NULL:
        decref(b)


cdef inline void release_terms(Node *owner, Terms *terms) noexcept:
    """Drop the terms of a sum being freed; absorbed nodes with other references get theirs back."""
    cdef Term *term = term_of(terms)
    cdef Node *product = terms.product
    cdef Node *partial = terms.partial
    cdef uint16_t played = owner.flags & PLAYED
    cdef uint16_t grad_int = terms.fresh & GRAD_INT
    cdef double inner_grad = 0.0
    cdef Py_ssize_t k
    if played:
        inner_grad = terms.inner_grad
        grad_int = GRAD_INT if terms.inner_int else 0
    terms.product = terms.partial = NULL
    if product is not NULL:
        terms.n -= 1
        product.grad = inner_grad
        product.flags = (product.flags & ~<uint16_t>ABSORBED) | grad_int
    if partial is not NULL:
        partial.grad = inner_grad
        partial.flags = (partial.flags & DATA_INT) | played | grad_int
        terms.owner = partial
        if product is NULL:
            terms.n -= 1
            drop(term[terms.n])
        return
    for k in range(terms.n):
        drop(term[k])
    free_terms_of(terms)


cdef inline void fill(
    Node *node, Op op, Node *a, Node *b, double slope_a, double slope_b, uint16_t ints
) noexcept:
    node.op = op
    node.n = 2
    node.child[0] = a
    node.child[1] = b
    node.slope[0] = slope_a
    node.slope[1] = slope_b
    node.flags = (node.flags & ~<uint16_t>(FIRST_INT | SECOND_INT)) | ints


cdef inline bint expand_sum(Node *node) noexcept:
    """Turn a sum into the additions and products that it stands for.

    Return False, with the sum as it was, if there is no memory. Runs no Python code.
    """
    cdef Terms *terms = node.terms
    cdef Term *term = term_of(terms)
    cdef Py_ssize_t k, taken = 0, n = terms.n
    cdef double number, unused
    cdef double inner_grad = 0.0
    cdef uint16_t fresh = terms.fresh
    cdef uint16_t ints, made
    cdef uint16_t slopes = FIRST_INT | SECOND_INT if terms.adds_ints else 0
    # additions[0..n], the first the leaf 0, the last the sum itself; then products
    cdef Node **additions = <Node **>PyMem_Malloc((2 * n + 1) * sizeof(Node *))
    cdef Node **products = additions + n + 1
    cdef Node *partial = terms.partial
    cdef Node *product = terms.product
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
            additions[k] = take_node(type_of(node), fresh, LEAF, 0)
            if additions[k] is NULL:
                for taken in range(k):
                    if additions[taken] not in (NULL, node, partial, product):
                        free_node(additions[taken])
                PyMem_Free(additions)
                return False
    if node.flags & PLAYED:
        inner_grad = terms.inner_grad
        fresh = (fresh & ~<uint16_t>GRAD_INT) | (GRAD_INT if terms.inner_int else 0)
    if partial is not NULL:
        incref(partial)
    if product is not NULL:
        incref(product)
    additions[0].data = 0.0
    additions[0].flags = fresh | CONSTANT | (DATA_INT if terms.starts_int else 0)
    additions[0].grad = inner_grad
    for k in range(n):
        ints = term_ints(terms, k)
        number = term[k].slope_a
        if term[k].b is NULL:
            products[k] = term[k].a
            made = DATA_INT if ints else 0
        else:
            # the slope by a is b's number
            made = <uint16_t>mul_rule(
                &number, &unused, &unused, term[k].slope_b, term[k].slope_a,
                (FIRST_INT if ints & SECOND_INT else 0) | (SECOND_INT if ints & FIRST_INT else 0),
            ) & DATA_INT
            products[k].data = number
            products[k].flags = fresh | made
            fill(
                products[k], MUL, term[k].a, term[k].b, term[k].slope_a, term[k].slope_b, ints
            )
            products[k].grad = inner_grad
        if additions[k + 1] != node:
            made = <uint16_t>add_rule(
                &number, additions[k].data, number, additions[k].flags & made & DATA_INT
            )
            additions[k + 1].grad = inner_grad
            additions[k + 1].data = number
            additions[k + 1].flags = fresh | made
        if k == 0:
            fill(additions[1], ADD, products[0], additions[0], 1.0, 1.0, slopes)
        else:
            fill(additions[k + 1], ADD, additions[k], products[k], 1.0, 1.0, slopes)
    free_terms_of(terms)
    PyMem_Free(additions)
    return True
