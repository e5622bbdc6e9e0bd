"""Mutants of the compiled `Value` and of recordings: src/value, src/recording."""

from mutants import Equivalent, of

MODULE = "_value"

MUTANTS = [
    *of(
        "src/value/rules.pxd",
        MODULE,
        "test_value.py test_replay.py",
        ("return fabs(y) < TWO_53 or fabs(y) == TWO_53 and y - a == b", "return fabs(y) <= TWO_53"),
        (
            "return DATA_INT if unlikely(ints) and sum_fits(y[0], a, b) else 0",
            "return DATA_INT if unlikely(ints) else 0",
        ),
        ("            y[0] += 0.0  # no int is -0.0\n", ""),
        (
            "    if k == 0.0 or x == 1.0:\n        return True\n",
            "    if k == 0.0:\n        return True\n",
        ),
        (
            "    slope[0] = k * before\n    return raises |",
            "    slope[0] = k * y[0] / x\n    return raises |",
        ),
        (
            "        if k == -1.0 and not late and pow_keeps_bound():\n            doubt = invert(x, y, &before)\n",
            "        if k == -1.0 and not late and pow_keeps_bound():\n            invert(x, y, &before)\n            doubt = 0\n",
        ),
        ("    if doubt & SECOND:\n", "    if doubt & FIRST:\n"),
        ("not late and isinf(y[0]) and not isinf(x)", "False and isinf(x)"),
        (
            "ints[0] & FIRST_INT and keeps or choice & ZERO_INT and not keeps else 0",
            "ints[0] & FIRST_INT and keeps else 0",
        ),
        ("(y[0] * y[0] if square else pow_or_error(y[0], 2.0, &error))", "y[0] * y[0]"),
        (
            "        y[0] = c_sigmoid(x)\n    slope[0] = y[0] * (1.0 - y[0])",
            "        y[0] = c_sigmoid(x)\n    slope[0] = y[0] - y[0] * y[0]",
            "test_value.py -k each_function",
        ),
        ("cdef bint first = a >= b", "cdef bint first = a > b"),
    ),
    *of(
        "src/value/sums.pxd",
        MODULE,
        "test_value.py test_parity.py test_functions.py",
        ("refcount(node) == 1 and (node.flags & ~labels) == fresh", "refcount(node) == 1"),
        (
            "refcount(node) == 1 and (node.flags & ~labels) == fresh",
            "(node.flags & ~labels) == fresh",
        ),
        (
            "        and partial.terms.product is NULL and partial.terms.partial is NULL",
            "        and partial.terms.product is NULL",
        ),
        (
            "if b.op == MUL and type_of(b) == type_of(terms.owner) and is_temporary(",
            "if b.op == MUL and is_temporary(",
        ),
        (
            "        ints = b.flags & (FIRST_INT | SECOND_INT)\n",
            "        ints = b.flags & FIRST_INT\n",
        ),
        (
            "        partial.flags = (partial.flags & DATA_INT) | played | grad_int",
            "        partial.flags = (partial.flags & DATA_INT) | grad_int",
        ),
        ("(DATA_INT if terms.starts_int else 0)", "0"),
        ("    if node.flags & STALE:\n        raise_stale()\n", "", "test_replay.py"),
    ),
    *of(
        "src/value/walk.pxd",
        MODULE,
        "test_value.py test_parity.py test_functions.py",
        Equivalent(
            "        add_to_grad(term.a, slope_a(terms, term) * grad)\n        add_to_grad(term.b, slope_b(terms, term) * grad)",
            "        add_to_grad(term.b, slope_b(terms, term) * grad)\n        add_to_grad(term.a, slope_a(terms, term) * grad)",
            "the two go to different nodes, or are the same number: those of a square",
        ),
        (
            "    terms.inner_grad = grad\n    terms.inner_int = False\n",
            "    terms.inner_grad = 0.0\n    terms.inner_int = False\n",
        ),
        ("    node.flags = node.flags & ~<uint16_t>GRAD_INT\n", "    pass\n"),
        (
            "    if not (is_int and product_fits(term, slope, grad)):",
            "    if not product_fits(term, slope, grad):",
        ),
        ("    term += 0.0  # no int is -0.0\n", ""),
        (
            "    if node.flags & GRAD_INT and sum_fits(node.grad + term, node.grad, term):",
            "    if node.flags & GRAD_INT:",
        ),
        (
            "    set_grad(entries[n - 1].node, 1.0, True)",
            "    set_grad(entries[n - 1].node, 1.0, False)",
        ),
        (
            "    for j in range(min(n_children, n_grads)):\n        add_to_grad(children[j], slopes[j] * node.grad)",
            "    for j in range(min(n_children, n_grads) - 1, -1, -1):\n        add_to_grad(children[j], slopes[j] * node.grad)",
        ),
        (
            "            add_int_part(term[j].b, slope_b(terms, term + j), ints & SECOND_INT, grad)",
            "            add_int_part(term[j].b, slope_b(terms, term + j), ints & FIRST_INT, grad)",
        ),
    ),
    *of(
        "src/value/walk.pxd",
        "_script",
        "test_run_scripts.py -k script_is_replaced",
        ("    cdef double grad = 0.0 + node.grad\n", "    cdef double grad = node.grad\n"),
    ),
    *of(
        "src/value/rows.pxd",
        MODULE,
        "test_replay.py",
        (
            "largest[lane] = a[lane] if a[lane] > largest[lane] else largest[lane]",
            "largest[lane] = largest[lane] if a[lane] <= largest[lane] else a[lane]",
        ),
        ("    return raises == 0\n", "    return True\n"),
        ("            if op != EXP:\n", "            if op != LOG:\n"),
        Equivalent(
            "        if lanes > 1 and edge.to & PLACE:",
            "        if edge.to & PLACE:",
            "a single row goes along edges without places; so the compiler can leave the test out",
        ),
        (
            "            data[lanes * step.out + lane] = -largest[lane]",
            "            data[lanes * step.out + lane] = largest[lane]",
        ),
    ),
    *of(
        "src/value/program.pxd",
        MODULE,
        "test_replay.py",
        ("    if info.n_uses != 1:\n        return False\n", ""),
        ("user.op != ADD else user.child[0] == node\n", "user.op != ADD else True\n"),
        ("                last.k == last[1].k\n", "                True\n"),
        ("    if a.start != b.start:\n        return -1 if a.start < b.start else 1\n", ""),
        ("    return 3 if op == WHERE else 2 if op == MAXIMUM else 1", "    return 1"),
        (
            "    return node.n == 0 and node.op != NEG_MAX and not node.flags & CONSTANT",
            "    return node.n == 0 and node.op != NEG_MAX",
        ),
        ("    return INTS if a == INTS and b == INTS else EITHER", "    return INTS"),
        ("    info.grad_kind = INTS\n", "    info.grad_kind = FLOATS\n", "test_value.py -k replay"),
    ),
    *of(
        "src/value/make.pxd",
        MODULE,
        "test_value.py test_parity.py test_memory.py",
        ("    sync_node(a)\n    return sync_node(b)\n", "    return sync_node(a)\n"),
        (
            "        ints |= info.fresh_sum & (FIRST_INT | SECOND_INT)\n",
            "        ints |= FIRST_INT\n",
        ),
        ("        ints = (a if node.slope[0] == 1.0", "        ints = (a if node.slope[0] == 0.0"),
        (
            "unlikely(a.op == SUM) and a is not b and",
            "unlikely(a.op == SUM) and",
            "test_value.py test_parity.py",
        ),
        (
            "number == 0.0 and not signbit(number) and (",
            "number == 0.0 and (",
        ),
        ("    if not raises & RAISES_NUMBER:\n        k = k - 1\n", ""),
        ("        leave_sum(self)\n", ""),
        ("    if is_freeing:\n        to_free = put_before(to_free, self)\n        return\n", ""),
        ("    if refcount(child) > 1:\n        decref(child)\n        return next\n", ""),
    ),
    *of(
        "src/recording/_record.pyx",
        "_record",
        "test_recording.py",
        (
            "            if n and not 0 <= self.chosen[i] < n:",
            "            if n and not 0 <= self.chosen[i] <= n:",
        ),
        ("        int_grads[i] &= keeps[i]\n", "        pass\n"),
        (
            "                y4 += w0[4 * n_in + j] * b[j]\n",
            "                y4 += w0[3 * n_in + j] * b[j]\n",
        ),
        (
            "            w0 += r.n\n            r += 1\n        y[i] = y0\n",
            "            r += 1\n        y[i] = y0\n",
        ),
        ("b[i * step.b_step] + 0.0\n", "b[i * step.b_step]\n"),
        ("                p.home[step.out + i] = p.home[source + i]\n", "                pass\n"),
        (
            "                if x[p.pool[i]] > largest:",
            "                if x[p.pool[i]] < largest:",
        ),
        (
            "    if ga == gb or ga + n <= gb or gb + n <= ga:\n",
            "    if True:\n",
            "test_recording.py -k neighbours",
        ),
        (
            "            for i in range(step.c - 1, step.b - 1, -1):\n                add_products",
            "            for i in range(step.b, step.c):\n                add_products",
        ),
    ),
]
