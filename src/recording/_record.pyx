"""A recorded loss as steps over numbered slots: forward, and backward in the oracle's order.

`microgpt.recording` writes the steps, and this module runs them one by one. A slot has a
number in `data` and a gradient in `grads`; the first slots are the weights. A step is eight
integers: op, n, out, a, step of a, b, step of b, c. Slots that copy a row of the weights have
no gradient of their own: `home` says for every slot where its gradient is added.
"""

cimport cython
from cpython.array cimport array
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from rules cimport (
    ADD, LEAF, MAXIMUM, MUL, POW, SUM, TANH, WHERE, add_rule, apply_unary, is_unary, maximum_rule,
    mul_rule, unary_name, where_rule,
)

from array import array


ctypedef long long slot

cdef enum:
    # Beside the operations of rules.pxd.
    DOT = 32
    SELECT    # a target's exponential times the inverse of the total
    GATHER    # only forward: a row of the weights into slots
    LARGEST   # only forward: minus the largest
    LINEAR    # only forward: the rows of a matrix
    UNSIGNED  # only forward: a product whose zero has no sign, as an int's
    GROUPS    # only backward: the groups below a softmax
    SEGMENT   # only backward: a segment of the target's group

OPS = {"": LEAF, "+": ADD, "*": MUL, "**": POW, "max": MAXIMUM, "where": WHERE, "dot": DOT,
       "sum": SUM, "select": SELECT, "gather": GATHER, "largest": LARGEST, "linear": LINEAR,
       "unsigned": UNSIGNED, "groups": GROUPS, "segment": SEGMENT}
OPS.update((unary_name(op), op) for op in range(TANH, POW, -1) if unary_name(op))

cdef enum:
    ROWS = 8  # of a matrix whose products are summed side by side: as many as hide an addition


cdef struct Step:
    slot op, n, out, a, a_step, b, b_step, c


cdef struct Piece:
    # n products of slots that follow each other.
    slot a, b, n


cdef class Numbers:
    """The numbers that programs compute with, one program at a time: the weights come first.

    Shapes:  data, grads (slots,), arrays of doubles, as long as the longest program needs;
             int_grads (weights,), 1 where a gradient is an int
    """

    cdef readonly array data, grads
    cdef readonly bytearray int_grads

    def __cinit__(self, Py_ssize_t n):
        self.data = array("d", bytes(8 * n))
        self.grads = array("d", bytes(8 * n))
        self.int_grads = bytearray(n)

    def clear_types(self):
        """Mark all gradients as ints: Adam has set them to 0."""
        memset(<char *>self.int_grads, 1, len(self.int_grads))

    def reserve(self, Py_ssize_t n):
        """Make room for n slots, and keep the present numbers."""
        lacking = n - len(self.data)
        if lacking > 0:
            self.data = self.data + array("d", bytes(8 * lacking))
            self.grads = self.grads + array("d", bytes(8 * lacking))


cdef class Recording:
    """The steps of one recording.

    Shapes:  forward, backward (steps, 8); pieces (products, 3); pool, of slots; powers, of
             exponents; table (segments, 2) of backward's steps; main, where its outermost
             steps begin; constants (slots,), whose numbers go with them; inputs, slots
    """

    cdef array _forward, _backward, _pieces, _pool, _powers, _table
    cdef array choices     # of each integer input: how many it can choose from, 0 for any
    cdef list constants, inputs
    cdef double *slopes    # (slots,): local gradients of operations of one number
    cdef slot *home        # (slots,)
    cdef uint8_t *keeps    # (slots,): whether backward adds nothing, so that an int stays one
    cdef Step *forward_steps
    cdef Step *backward_steps
    cdef Piece *pieces
    cdef slot *pool
    cdef slot *table
    cdef double *powers
    cdef double *x
    cdef double *g
    cdef slot *chosen      # of each integer input, the one chosen
    cdef readonly Py_ssize_t root
    cdef readonly bint has_backward
    # 1 where the loss or a gradient may be an int, unless the root's gradient is a float;
    # 2 where the numbers decide the sign of a zero.
    cdef readonly int depends
    cdef Py_ssize_t n_slots, n_weights, n_forward, n_backward, main, n_chosen

    def __cinit__(
        self, Py_ssize_t n_slots, Py_ssize_t n_weights, Py_ssize_t root, array forward,
        array backward, array pieces, array pool, array powers, array table, Py_ssize_t main,
        array choices, list constants, list inputs, int depends,
    ):
        cdef Py_ssize_t i
        self.depends = depends
        self.has_backward = len(backward) > 0
        self.n_slots, self.n_weights, self.root, self.main = n_slots, n_weights, root, main
        self.n_forward, self.n_backward = len(forward) // 8, len(backward) // 8
        self.n_chosen, self.choices = len(choices), choices
        self._forward, self._backward, self._pieces = forward, backward, pieces
        self._pool, self._powers, self._table = pool, powers, table
        self.constants, self.inputs = constants, inputs
        self.forward_steps = <Step *>forward.data.as_voidptr
        self.backward_steps = <Step *>backward.data.as_voidptr
        self.pieces = <Piece *>pieces.data.as_voidptr
        self.pool = <slot *>pool.data.as_voidptr
        self.table = <slot *>table.data.as_voidptr
        self.powers = powers.data.as_doubles
        self.slopes = <double *>PyMem_Malloc((n_slots + 1) * sizeof(double))
        self.home = <slot *>PyMem_Malloc((n_slots + 1) * sizeof(slot))
        self.chosen = <slot *>PyMem_Malloc((self.n_chosen + 1) * sizeof(slot))
        self.keeps = <uint8_t *>PyMem_Malloc(n_slots + 1)
        if not (self.slopes and self.home and self.chosen and self.keeps):
            raise MemoryError(f"no memory for a recording of {n_slots} numbers")
        for i in range(n_slots):
            self.home[i] = i
        memset(self.keeps, 1, n_slots)
        for i in range(self.n_backward):
            mark_children(&self.backward_steps[i], self.pieces, self.keeps)

    def __dealloc__(self):
        PyMem_Free(self.slopes)
        PyMem_Free(self.home)
        PyMem_Free(self.chosen)
        PyMem_Free(self.keeps)

    def replay(self, Numbers numbers, list chosen, list inputs, gradient=None):
        """Return the number of the root, or None where a step raises.

        chosen has, for each integer input, the row or target that it chooses. With a
        gradient, that of the root, all gradients follow.

        Raises:  IndexError if an integer is out of range
        Writes:  data but of weights. Adds to: grads of weights; writes those of the others
        """
        cdef Py_ssize_t i
        cdef slot n
        cdef bint fine
        cdef uint8_t *int_grads
        if len(chosen) != self.n_chosen or len(inputs) != len(self.inputs):
            raise ValueError(f"{len(chosen)} integers for {self.n_chosen}")
        numbers.reserve(self.n_slots)
        self.x, self.g = numbers.data.data.as_doubles, numbers.grads.data.as_doubles
        for i in range(self.n_chosen):
            self.chosen[i] = chosen[i]
            n = (<slot *>self.choices.data.as_voidptr)[i]
            if n and not 0 <= self.chosen[i] < n:
                raise IndexError(
                    f"{chosen[i]} is out of range: this input chooses one of 0..{n - 1}"
                )
        for i, number in self.constants:
            self.x[i] = number
        for i in range(len(inputs)):
            self.x[<Py_ssize_t>self.inputs[i]] = inputs[i]
        with nogil:
            fine = compute(self)
        if not fine:
            return None
        if gradient is not None:
            memset(
                self.g + self.n_weights, 0, (self.n_slots - self.n_weights) * sizeof(double)
            )
            self.g[self.root] = gradient
            with nogil:
                play(self, self.main, self.n_backward)
            int_grads = <uint8_t *><char *>numbers.int_grads
            keep_types(self, int_grads)
        return self.x[self.root]


cdef void mark_children(const Step *step, const Piece *pieces, uint8_t *keeps) noexcept:
    """Write 0 for the slots whose gradients a step backward adds to."""
    cdef slot i, k
    if step.op == DOT:
        for i in range(step.b, step.c):
            for k in range(pieces[i].n):
                keeps[pieces[i].a + k] = keeps[pieces[i].b + k] = 0
    elif step.op == SUM:
        for k in range(step.n):
            keeps[step.a + k] = 0
    elif step.op not in (GROUPS, SEGMENT, SELECT):  # a SELECT's are no leaves
        keeps[step.a] = 0
        if step.op in (ADD, MUL, MAXIMUM, WHERE):
            keeps[step.b] = 0
        if step.op == WHERE:
            keeps[step.c] = 0


cdef void keep_types(Recording p, uint8_t *int_grads) noexcept:
    """Write 0 where a float has been added to a weight's gradient."""
    cdef const uint8_t *keeps = p.keeps
    cdef const Step *step = p.forward_steps
    cdef Py_ssize_t i
    for i in range(p.n_weights):
        int_grads[i] &= keeps[i]
    while step < p.forward_steps + p.n_forward:
        if step.op == GATHER:
            for i in range(step.n):
                int_grads[p.home[step.out + i]] &= keeps[step.out + i]
        step += 1


cdef inline double summed(
    const Piece *piece, const Piece *stop, const double *x
) noexcept nogil:
    """Return the sum of products.

    Order:   products left to right, from 0
    """
    cdef double total = 0.0
    cdef Py_ssize_t i
    cdef const double *a
    cdef const double *b
    while piece < stop:
        a = x + piece.a
        b = x + piece.b
        for i in range(piece.n):
            total += a[i] * b[i]
        piece += 1
    return total


cdef inline void matrix(
    double *y, const double *w, Py_ssize_t n_in, Py_ssize_t n_out, const Piece *piece,
    const Piece *stop, const double *x,
) noexcept nogil:
    """Write the product of a matrix and a vector that lies in pieces: b of each, n numbers.

    Shapes:  y (n_out,), w (n_out, n_in)
    Order:   products summed over n_in left to right, from 0; rows side by side
    """
    cdef Py_ssize_t i, j
    cdef const Piece *r
    cdef const double *b
    cdef const double *w0
    cdef double y0, y1, y2, y3, y4, y5, y6, y7
    i = 0
    while i + ROWS <= n_out:
        y0 = y1 = y2 = y3 = y4 = y5 = y6 = y7 = 0.0
        w0 = w + i * n_in
        r = piece
        while r < stop:
            b = x + r.b
            for j in range(r.n):
                y0 += w0[j] * b[j]
                y1 += w0[n_in + j] * b[j]
                y2 += w0[2 * n_in + j] * b[j]
                y3 += w0[3 * n_in + j] * b[j]
                y4 += w0[4 * n_in + j] * b[j]
                y5 += w0[5 * n_in + j] * b[j]
                y6 += w0[6 * n_in + j] * b[j]
                y7 += w0[7 * n_in + j] * b[j]
            w0 += r.n
            r += 1
        y[i], y[i + 1], y[i + 2], y[i + 3] = y0, y1, y2, y3
        y[i + 4], y[i + 5], y[i + 6], y[i + 7] = y4, y5, y6, y7
        i += ROWS
    while i < n_out:
        y0 = 0.0
        w0 = w + i * n_in
        r = piece
        while r < stop:
            b = x + r.b
            for j in range(r.n):
                y0 += w0[j] * b[j]
            w0 += r.n
            r += 1
        y[i] = y0
        i += 1


@cython.cdivision(True)
cdef bint compute(Recording p) noexcept nogil:
    """Do the steps forward; False, with some undone, where one of them raises."""
    cdef double *x = p.x
    cdef const Step *step = p.forward_steps
    cdef const Step *last = step + p.n_forward
    cdef Py_ssize_t i
    cdef double *y
    cdef const double *a
    cdef const double *b
    cdef double k, largest, slope
    cdef double[3] slopes
    cdef uint32_t ints
    cdef int raises = 0
    cdef slot source
    while step < last:
        y = x + step.out
        a = x + step.a
        b = x + step.b
        if is_unary(<uint32_t>step.op):
            k = p.powers[step.c] if step.op == POW else 0.0
            for i in range(step.n):
                ints = 0
                raises |= apply_unary(
                    <uint32_t>step.op, y + i, p.slopes + step.out + i, a[i * step.a_step], k, &ints,
                    False,
                )
            if raises:
                return False
        elif step.op == ADD:
            for i in range(step.n):
                add_rule(y + i, a[i * step.a_step], b[i * step.b_step], False)
        elif step.op == MUL:
            for i in range(step.n):
                mul_rule(y + i, &slope, &slope, a[i * step.a_step], b[i * step.b_step], 0)
        elif step.op == UNSIGNED:
            for i in range(step.n):
                y[i] = a[i * step.a_step] * b[i * step.b_step] + 0.0
        elif step.op == LINEAR:
            matrix(y, a, step.a_step, step.n, p.pieces + step.b, p.pieces + step.c, x)
        elif step.op == DOT:
            y[0] = summed(p.pieces + step.b, p.pieces + step.c, x)
        elif step.op == SUM:
            k = 0.0
            for i in range(step.n):
                k += a[i]
            y[0] = k
        elif step.op == SELECT:
            y[0] = a[p.chosen[step.c]] * b[0]
        elif step.op == GATHER:
            source = step.a + p.chosen[step.c] * step.n
            for i in range(step.n):
                y[i] = x[source + i]
                p.home[step.out + i] = p.home[source + i]
        elif step.op == LARGEST:
            largest = x[p.pool[step.b]]
            for i in range(step.b + 1, step.c):
                if x[p.pool[i]] > largest:
                    largest = x[p.pool[i]]
            y[0] = -largest
        elif step.op == MAXIMUM:
            for i in range(step.n):
                maximum_rule(y + i, &slope, &slope, a[i * step.a_step], b[i * step.b_step])
        elif step.op == WHERE:
            where_rule(y, slopes, 1, a[0], b[0], x[step.c])
        step += 1
    return True


cdef inline void add_products(
    const double *x, double *g, const slot *home, const Piece *piece, double gradient
) noexcept nogil:
    """Add the terms of products into the gradients of both factors.

    Order:   last product first; within it a, then b
    """
    cdef double *ga = g + home[piece.a]
    cdef double *gb = g + home[piece.b]
    cdef const double *a = x + piece.a
    cdef const double *b = x + piece.b
    cdef Py_ssize_t i, n = piece.n
    if ga == gb or ga + n <= gb or gb + n <= ga:
        for i in range(n):
            ga[i] += b[i] * gradient
        for i in range(n):
            gb[i] += a[i] * gradient
        return
    for i in range(n - 1, -1, -1):  # a row of a matrix and a part of another row of it
        ga[i] += b[i] * gradient
        gb[i] += a[i] * gradient


@cython.cdivision(True)
cdef void play(Recording p, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Do steps backward: each adds the gradient of its slot into those of its children."""
    cdef const double *x = p.x
    cdef double *g = p.g
    cdef const slot *home = p.home
    cdef const Step *step = p.backward_steps + start
    cdef const Step *last = p.backward_steps + stop
    cdef const slot *segment
    cdef double gradient, y
    cdef double[3] slopes
    cdef slot i, k, target
    while step < last:
        gradient = g[step.out]
        if step.op == DOT:
            for i in range(step.c - 1, step.b - 1, -1):
                add_products(x, g, home, p.pieces + i, gradient)
        elif step.op == ADD:
            g[home[step.a]] += gradient
            g[home[step.b]] += gradient
        elif step.op == MUL:
            g[home[step.a]] += x[step.b] * gradient
            g[home[step.b]] += x[step.a] * gradient
        elif is_unary(<uint32_t>step.op):
            g[home[step.a]] += p.slopes[step.out] * gradient
        elif step.op == SUM:
            for i in range(step.n - 1, -1, -1):
                g[step.a + i] += gradient
        elif step.op == SELECT:
            target = step.a + p.chosen[step.c]
            g[target] += x[step.b] * gradient
            g[step.b] += x[target] * gradient
        elif step.op == GROUPS:
            target = p.chosen[step.c]
            for i in range(step.a - 1, -1, -1):
                if i != target:
                    for k in range(step.n - 1, -1, -1):
                        segment = p.table + 2 * (step.b + i * step.n + k)
                        play(p, segment[0], segment[1])
        elif step.op == SEGMENT:
            segment = p.table + 2 * (step.b + p.chosen[step.c] * step.n + step.a)
            play(p, segment[0], segment[1])
        elif step.op == MAXIMUM:
            maximum_rule(&y, slopes, slopes + 1, x[step.a], x[step.b])
            g[home[step.a]] += slopes[0] * gradient
            g[home[step.b]] += slopes[1] * gradient
        elif step.op == WHERE:
            where_rule(&y, slopes, 1, x[step.a], x[step.b], x[step.c])
            g[home[step.a]] += slopes[0] * gradient
            g[home[step.b]] += slopes[1] * gradient
            g[home[step.c]] += slopes[2] * gradient
        step += 1
