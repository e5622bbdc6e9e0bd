# ---------------------------------------------------------- vector operations
#
# The functions of microgpt/functions.py over exact Values in lists or tuples: a
# dot product is made as one SUM node at once. Whatever else comes in takes the
# plain function's way, so that it behaves as the original expression would.

cdef object plain(str name):
    """Return the pure-Python function of a name."""
    module = "microgpt.adam" if name == "update" else "microgpt.functions"
    # An import's lock that lacks memory is a RuntimeError before CPython 3.12.
    return getattr(sys.modules.get(module) or import_module(module), name)


cdef inline PyObject **values_in(object items, Py_ssize_t *n) except? NULL:
    """Return the items of a list or tuple of exact Values, and their number; else NULL."""
    cdef Py_ssize_t i
    cdef PyObject **array
    if type(items) is not list and type(items) is not tuple:
        return NULL
    array = PySequence_Fast_ITEMS(items)
    n[0] = PySequence_Fast_GET_SIZE(items)
    for i in range(n[0]):
        if Py_TYPE(array[i]) != <PyTypeObject *>Value:
            return NULL
        reclaim(array[i])
    return array if n[0] else NULL


cdef tuple own_values(object items):
    """Return a copy of a list or tuple of exact Values that nobody else can change; else None."""
    cdef Py_ssize_t n
    if type(items) is not list and type(items) is not tuple:
        return None
    items = tuple(items)
    return None if values_in(items, &n) is NULL else items


cdef Value sum_of_products(PyObject **a, PyObject **b, Py_ssize_t n):
    """Return the sum from 0 of n products, n at least 1."""
    cdef Value node = new_node()
    cdef Terms *terms = new_terms(n)
    cdef Term *term = term_of(terms)
    cdef double total = 0.0, a_data, b_data
    cdef Py_ssize_t k
    for k in range(n):
        a_data = (<Value>a[k]).c_data
        b_data = (<Value>b[k]).c_data
        Py_INCREF(a[k])
        Py_INCREF(b[k])
        term[k] = Term(a[k], b[k], b_data, a_data)
        # 0 + x and x + 0 are the same bits, so the first term needs no case of its own.
        total = total + a_data * b_data
    return become_sum(node, terms, n, total)


cdef Value sum_of_values(PyObject **a, Py_ssize_t n):
    """Return the sum from 0 of n values, n at least 1."""
    cdef Value node = new_node()
    cdef Terms *terms = new_terms(n)
    cdef Term *term = term_of(terms)
    cdef double total = 0.0
    cdef Py_ssize_t k
    for k in range(n):
        Py_INCREF(a[k])
        term[k] = Term(a[k], NULL, (<Value>a[k]).c_data, 0.0)
        total = total + (<Value>a[k]).c_data
    return become_sum(node, terms, n, total)


cdef inline Value become_sum(Value node, Terms *terms, Py_ssize_t n, double total):
    terms.n = n
    terms.owner = <PyObject *>node
    node.c_data = total
    node.child[0] = <PyObject *>terms
    node.op = SUM
    node.n = IN_BLOCK
    return node


def dot(a, b):
    """Return the sum of the products of a and b.

    Shapes:  a (n,), b (n,); of unequal lengths the shorter counts
    Order:   products summed left to right, from 0
    """
    cdef Py_ssize_t n_a, n_b
    cdef PyObject **a_items = values_in(a, &n_a)
    cdef PyObject **b_items = values_in(b, &n_b) if a_items is not NULL else NULL
    if b_items is NULL:
        return plain("dot")(a, b)
    return sum_of_products(a_items, b_items, min(n_a, n_b))


def linear(x, w):
    """Return the matrix-vector product of w and x.

    Shapes:  x (n_in,), w (n_out, n_in), returns (n_out,)
    Order:   products summed over n_in left to right, from 0
    Source:  microgpt `linear`
    """
    cdef Py_ssize_t n_x = 0, n_w = 0
    cdef PyObject **x_items
    cdef tuple own = own_values(x)
    cdef PyObject **w_items
    cdef list out
    if own is None or type(w) is not list and type(w) is not tuple:
        return plain("linear")(x, w)
    out = []
    for wo in w:
        w_items = values_in(wo, &n_w)
        if w_items is NULL:
            out.append(plain("dot")(wo, own))
        else:
            x_items = values_in(own, &n_x)
            out.append(sum_of_products(w_items, x_items, min(n_w, n_x)))
    return out


cdef inline Value exponential(Value a):
    reclaim(<PyObject *>a)
    cdef double data = c_exp(a.c_data)
    return new_unary(EXP, data, a, data)


cdef inline Value logarithm(Value a):
    reclaim(<PyObject *>a)
    cdef double data = c_log(a.c_data)
    return new_unary(LOG, data, a, 1.0 / a.c_data)


cdef list exponentials(tuple logits):
    """Return exp(logit - largest), where the largest is a plain number, found as `max` does."""
    cdef double largest = largest_of(PySequence_Fast_ITEMS(logits), len(logits))
    cdef Value leaf = None
    cdef list exps = []
    for logit in logits:
        leaf = new_largest(logits, largest, leaf)
        exps.append(exponential(add(<Value>logit, leaf)))
    return exps


cdef list probabilities(tuple logits):
    cdef list exps = exponentials(logits)
    cdef Value total = sum_of_values(PySequence_Fast_ITEMS(exps), len(exps))
    cdef Py_ssize_t i
    for i in range(len(exps)):
        exps[i] = mul(<Value>exps[i], power(total, -1.0, -2.0))
    return exps


cdef object plain_softmax(object logits):
    """Return the plain function's result; of a subclass's logits too a replay finds the largest."""
    cdef PyObject *a
    cdef PyObject *constant
    cdef Block *block
    cdef Py_ssize_t i
    if type(logits) is not list and type(logits) is not tuple:
        return plain("softmax")(logits)
    own = tuple(logits)
    out = plain("softmax")(own)
    for value in own:
        if not isinstance(value, Value):
            return out
    for probability in out:
        # e / total, where e = (logit + constant).exp()
        a = <PyObject *>probability
        for op in (MUL, EXP, ADD):
            if not isinstance(<object>a, Value) or (<Value>a).op != op:
                return out
            constant = (<Value>a).child[1]
            a = (<Value>a).child[0]
        if (<Value>constant).op == LEAF and (<Value>constant).flags & CONSTANT:
            block = new_block(len(own), 0)
            for i in range(len(own)):
                block.children[i] = <PyObject *>own[i]
                Py_INCREF(block.children[i])
            (<Value>constant).child[0] = <PyObject *>block
            (<Value>constant).op = LARGEST
    return out


def softmax(logits):
    """Return the probabilities proportional to exp(logits).

    Shapes:  logits (n,), returns (n,)
    Order:   the largest logit is subtracted as a plain number; exponentials
             summed left to right from 0; each divided by the total on its own
    Source:  microgpt `softmax`
    """
    cdef tuple own = own_values(logits)
    if own is None:
        return plain_softmax(logits)
    return probabilities(own)


def cross_entropy(logits, target):
    """Return minus the logarithm of the target's probability.

    Shapes:  logits (n,); target in 0..n-1
    Units:   nats
    Source:  microgpt's training loop
    """
    cdef tuple own = own_values(logits)
    cdef list exps
    cdef Value total
    if own is None or not PyLong_CheckExact(target) or not 0 <= target < len(own):
        return -softmax(logits)[target].log()
    exps = exponentials(own)
    total = sum_of_values(PySequence_Fast_ITEMS(exps), len(exps))
    # The other probabilities would be made and dropped.
    return neg(logarithm(mul(<Value>exps[target], power(total, -1.0, -2.0))))


def rmsnorm(x):
    """Return x divided by the root of its mean square.

    Shapes:  x (n,), returns (n,)
    Order:   squares summed left to right from 0
    Source:  arXiv:1910.07467; microgpt `rmsnorm`
    """
    cdef tuple own = own_values(x)
    cdef PyObject **items
    cdef Py_ssize_t i, n = 0
    cdef Value mean_square, scale
    cdef list out = []
    if own is None:
        return plain("rmsnorm")(x)
    items = values_in(own, &n)
    mean_square = mul(sum_of_products(items, items, n), new_constant(c_pow(<double>n, -1.0)))
    scale = power(add(mean_square, new_constant(1e-5)), -0.5, -1.5)
    for i in range(n):
        out.append(mul(<Value>items[i], scale))
    return out


def attention(q, keys, values, n_head):
    """Return what the query of one position gathers from the positions so far, head by head.

    Shapes:  q (n_embd,), keys and values (positions, n_embd), returns (n_embd,)
    Order:   per head: scores over positions, softmax, then per output the
             weighted values summed over positions left to right, from 0
    Raises:  ValueError if n_embd is not a multiple of n_head
    Source:  arXiv:1706.03762; microgpt `gpt`
    """
    cdef tuple own_q = own_values(q)
    cdef list own_keys, own_values_, scores, out = []
    cdef Py_ssize_t t, j, start, n, head_dim, n_positions
    cdef PyObject **weights
    cdef PyObject **column
    cdef double root
    if own_q is None or type(n_head) is not int or not 1 <= n_head or len(own_q) % n_head:
        return plain("attend")(q, keys, values, n_head, softmax)
    n = len(own_q)
    own_keys = own_rows(keys, n)
    own_values_ = own_rows(values, n)
    if own_keys is None or own_values_ is None or len(own_keys) > len(own_values_):
        return plain("attend")(q, keys, values, n_head, softmax)
    n_positions = len(own_keys)
    head_dim = n // n_head
    root = c_pow(c_pow(<double>head_dim, 0.5), -1.0)
    column = <PyObject **>PyMem_Malloc(n_positions * sizeof(PyObject *))
    if column is NULL:
        raise MemoryError(f"no memory for attention over {n_positions} positions")
    try:
        for start in range(0, n, head_dim):
            scores = []
            for t in range(n_positions):
                scores.append(mul(
                    sum_of_products(
                        PySequence_Fast_ITEMS(own_q) + start,
                        PySequence_Fast_ITEMS(own_keys[t]) + start,
                        head_dim,
                    ),
                    new_constant(root),
                ))
            scores = probabilities(tuple(scores))
            weights = PySequence_Fast_ITEMS(scores)
            for j in range(start, start + head_dim):
                for t in range(n_positions):
                    column[t] = PySequence_Fast_ITEMS(own_values_[t])[j]
                out.append(sum_of_products(weights, column, n_positions))
        return out
    finally:
        PyMem_Free(column)


cdef list own_rows(object rows, Py_ssize_t n):
    """Return copies of rows of n exact Values each, at least one; else None."""
    cdef list out = []
    if type(rows) is not list and type(rows) is not tuple:
        return None
    for row in tuple(rows):
        row = own_values(row)
        if row is None or len(row) != n:
            return None
        out.append(row)
    return out or None


def maximum(a, b):
    """Return the larger of two values as a node of both, a where they are equal.

    Unlike Python's `max` of their data it is part of the graph: a replay of a Tape
    compares again. If either is NaN it is b.
    """
    if type(a) is not Value or type(b) is not Value:
        return made_as(plain("maximum")(a, b), (a, b), MAXIMUM)
    reclaim_both(<Value>a, <Value>b)
    cdef bint first = (<Value>a).c_data >= (<Value>b).c_data
    if first:
        return new_binary(MAXIMUM, (<Value>a).c_data, <Value>a, <Value>b, 1.0, 0.0)
    return new_binary(MAXIMUM, (<Value>b).c_data, <Value>a, <Value>b, 0.0, 1.0)


def where(condition, a, b):
    """Return a if the condition's data is positive, else b, as a node of all three.

    Unlike Python's `if` it is part of the graph: a replay of a Tape decides again.
    """
    return made_as(plain("where")(condition, a, b), (condition, a, b), WHERE)


def update(
    params, m, v, learning_rate, beta1, beta2, eps_adam, correction1, correction2
):
    """Update every parameter once: the formulas of `Adam`, with this step's numbers.

    Shapes:  params, m, v (n,)
    Order:   params first to last; an exception leaves everything as it was before
    Writes:  data of params, grad of params as 0.0, m, v
    Raises:  OverflowError if the square of a gradient exceeds the largest float;
             ValueError if a second moment was made negative
    """
    cdef double rate = learning_rate, c_beta1 = beta1, c_beta2 = beta2, eps = eps_adam
    cdef double c1 = correction1, c2 = correction2, rest1 = 1 - beta1, rest2 = 1 - beta2
    cdef Py_ssize_t i, n = 0
    cdef Value p
    # What may raise is left to the plain function, which takes a failed update back.
    if not (eps > 0.0 and c1 > 0.0 and c2 > 0.0 and cannot_raise(params, m, v)):
        return plain("update")(
            params, m, v, learning_rate, beta1, beta2, eps_adam, correction1, correction2
        )
    cdef PyObject **items = values_in(params, &n)
    cdef double *c_m = (<array>m).data.as_doubles
    cdef double *c_v = (<array>v).data.as_doubles
    for i in range(n):
        p = <Value>items[i]
        c_m[i] = c_beta1 * c_m[i] + rest1 * p.c_grad
        c_v[i] = c_beta2 * c_v[i] + rest2 * pow(fabs(p.c_grad), 2.0)
        p.c_data -= rate * (c_m[i] / c1) / (pow(c_v[i] / c2, 0.5) + eps)
        p.c_grad = 0.0
        p.flags |= EDITED


cdef bint cannot_raise(object params, object m, object v) except -1:
    """Return whether params are exact Values, and their numbers such that no update raises."""
    cdef Py_ssize_t i, n = 0
    cdef PyObject **items
    if not are_moments(params, m, v):
        return False
    items = values_in(params, &n)
    for i in range(n):
        if not (fabs((<Value>items[i]).c_grad) < 1e150 and (<array>v).data.as_doubles[i] >= 0.0):
            return False
    return True


cdef bint are_moments(object params, object m, object v) except -1:
    """Return whether params are exact Values and m and v arrays of as many doubles."""
    cdef Py_ssize_t n
    return (
        values_in(params, &n) is not NULL
        and type(m) is array and (<array>m).typecode == "d" and len(m) == n
        and type(v) is array and (<array>v).typecode == "d" and len(v) == n
    )


# ------------------------------------------------------------- of a recorded loss

def are_values(weights, list values):
    """Return whether lists, tuples and dictionaries hold these Values still, in order."""
    return match(weights, values, 0) == len(values)


cdef Py_ssize_t match(object weights, list values, Py_ssize_t i) except -2:
    """Return the index after the last match, -1 if something else stands there."""
    if type(weights) is dict:
        weights = list((<dict>weights).values())
    if not isinstance(weights, (list, tuple)):
        return i + 1 if i < len(values) and weights is values[i] else -1
    for item in weights:
        if i < len(values) and item is values[i]:
            i += 1
            continue
        if isinstance(item, Value):
            return -1
        i = match(item, values, i)
        if i < 0:
            return -1
    return i


def read_values(list values, array data, array grads):
    """Write the numbers and gradients of Values to the beginning of two arrays of doubles."""
    cdef Py_ssize_t i, n = len(values)
    cdef Value value
    if len(data) < n or len(grads) < n:
        raise ValueError(f"no room for the numbers of {n} values")
    for i in range(n):
        value = values[i]
        reclaim(<PyObject *>value)
        if value.n:
            raise ValueError(f"a weight must be a leaf: {value!r} has been computed")
        data.data.as_doubles[i] = value.c_data
        grads.data.as_doubles[i] = value.c_grad


def write_values(list values, array grads, array data=None):
    """Set the gradients of Values, and their numbers if given, from the beginning of arrays."""
    cdef Py_ssize_t i, n = len(values)
    cdef Value value
    if len(grads) < n or data is not None and len(data) < n:
        raise ValueError(f"no numbers for {n} values")
    for i in range(n):
        value = values[i]
        reclaim(<PyObject *>value)
        value.c_grad = grads.data.as_doubles[i]
        if data is not None:
            value.c_data = data.data.as_doubles[i]
            value.flags |= EDITED
