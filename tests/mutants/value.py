"""Mutants of the compiled `Value`: src/value, whose module is `_engine`."""

from mutants import Equivalent, of

MODULE = "_engine"

MUTANTS = [
    *of(
        "src/_engine.pyx",
        MODULE,
        "test_value.py test_parity.py",
        (
            "return new_binary(ADD, a.c_data + b.c_data, a, b, 1.0, 1.0)\n\n\ncdef inline Value number_plus",
            "return new_binary(ADD, a.c_data + b.c_data, b, a, 1.0, 1.0)\n\n\ncdef inline Value number_plus",
        ),
        ("if number == 0.0 and not signbit(number):", "if number == 0.0:"),
        (
            "new_binary(MUL, a.c_data * b.c_data, a, b, b.c_data, a.c_data)",
            "new_binary(MUL, a.c_data * b.c_data, a, b, a.c_data, b.c_data)",
        ),
        ("    return mul(a, new_constant(-1.0))", "    return mul(new_constant(-1.0), a)"),
        ("bint positive = a.c_data > 0.0", "bint positive = a.c_data >= 0.0"),
        (
            "    if unlikely((a.flags | b.flags) & (ABSORBED | HELD)):",
            "    if unlikely(a.flags & (ABSORBED | HELD)):",
        ),
        (
            "fabs(k) < MAX_EXACT_INT):\n            return power(<Value>left, k, k - 1.0)",
            "True):\n            return power(<Value>left, k, k - 1.0)",
        ),
        ("        self.flags |= EDITED\n", "        pass\n"),
        (
            "        if self.op == SUM and self.c_grad == 0.0 and signbit(self.c_grad):",
            "        if False:",
        ),
        (
            "mul(<Value>left, new_constant(c_pow(number, -1.0)))",
            "mul(<Value>left, new_constant(1.0 / number))",
        ),
        (
            "return mul(power(<Value>right, -1.0, -2.0), new_constant(number))",
            "return mul(new_constant(number), power(<Value>right, -1.0, -2.0))",
        ),
        ("number = -0.0\n", "pass\n"),
        ("a, 1.0 - c_pow(data, 2.0))", "a, 1.0 - data * data)"),
        (
            "        if i != n:\n            return self._children\n",
            "",
            "test_replay.py -k made_anew or makes_anew",
        ),
        (
            "    release_children(<PyObject *>self)\n    self.c_data",
            "    self.c_data",
            "test_memory.py",
        ),
        (
            "        play(scratch.entries, scratch.n, True)",
            "        play(scratch.entries, scratch.n, False)",
        ),
    ),
    *of(
        "src/nodes.pxi",
        MODULE,
        "test_memory.py test_value.py test_parity.py",
        ("    if n != m or n > 2 or in_block:", "    if n != m or n > 2:", "test_replay.py"),
        (
            "    if block.shared:\n        block.shared -= 1\n        return\n",
            "",
            "test_functions.py test_replay.py test_memory.py",
        ),
        ("        leave_sum(self)\n", ""),
        (
            "    if draining:\n        dying = put_before(dying, self)\n        return\n",
            "",
            "test_memory.py",
        ),
        ("    (<Value>node).place = 0\n    (<Value>node).op = op", "    (<Value>node).op = op"),
        ("    if Py_REFCNT(child) > 1:\n        Py_DECREF(child)\n        return next\n", ""),
        ("        Py_DECREF(<PyObject *>kind)\n", "        pass\n"),
        ("    if n_free < MAX_FREE and (", "    if (", "test_memory.py"),
    ),
    *of(
        "src/sums.pxi",
        MODULE,
        "test_value.py test_parity.py test_functions.py",
        (
            "(<Value>node).c_grad == 0.0 and not signbit((<Value>node).c_grad)",
            "(<Value>node).c_grad == 0.0",
        ),
        ("Py_REFCNT(node) == 1 and not (<Value>node).flags", "Py_REFCNT(node) == 1"),
        ("Py_REFCNT(node) == 1 and not (<Value>node).flags", "not (<Value>node).flags"),
        ("return terms.product is NULL and terms.partial is NULL", "return terms.product is NULL"),
        ("return terms.product is NULL and terms.partial is NULL", "return terms.partial is NULL"),
        ("        partial is last\n        or not is_temporary", "        not is_temporary"),
        ("if b.op == MUL and type(b) is Value and is_temporary", "if b.op == MUL and is_temporary"),
        ("    node.c_data = first.c_data + 0.0\n", "    node.c_data = first.c_data\n"),
        (
            "    cdef double grad = 0.0 + (<Value>node).c_grad\n",
            "    cdef double grad = (<Value>node).c_grad\n",
        ),
        (
            "            add_to_grad(term[k].a, term[k].grad_a * grad)\n            add_to_grad(term[k].b, term[k].grad_b * grad)",
            "            add_to_grad(term[k].b, term[k].grad_b * grad)\n            add_to_grad(term[k].a, term[k].grad_a * grad)",
        ),
        ("    for k in range(stop - 1, start - 1, -1):", "    for k in range(start, stop):"),
        ("    terms.inner_grad = grad\n", "    terms.inner_grad = 0.0\n"),
        (
            "        (<Value>product).c_grad = inner_grad\n",
            "        (<Value>product).c_grad = 0.0\n",
        ),
        ("        (<Value>partial).flags = played\n", "        (<Value>partial).flags = 0\n"),
        (
            "    (<Value>additions[0]).c_grad = inner_grad\n",
            "    (<Value>additions[0]).c_grad = 0.0\n",
        ),
        (
            "            number = term[k].grad_b * term[k].grad_a\n",
            "            number = term[k].grad_b\n",
        ),
        (
            "            fill(additions[1], ADD, products[0], additions[0], 1.0, 1.0)",
            "            fill(additions[1], ADD, additions[0], products[0], 1.0, 1.0)",
        ),
        (
            "        terms.capacity *= 4\n",
            "        terms.capacity *= 8\n",
            "test_memory.py test_value.py test_parity.py",
        ),
        ("    if (<Value>node).op == SUM and not expand(node):", "    if False:"),
    ),
    *of(
        "src/tape.pxi",
        MODULE,
        "test_value.py test_parity.py test_functions.py",
        (
            "                child = if_new((<Value>frame.node).child[0], purpose)",
            "                child = if_new((<Value>frame.node).child[(<Value>frame.node).n - 1], purpose)",
        ),
        ("(<Value>frame.node).flags & PLAYED:\n", "False:\n"),
        (
            "            if child is not NULL:\n                stop = (frame.next - 1) >> 1\n",
            "            if False:\n                stop = (frame.next - 1) >> 1\n",
        ),
        (
            "                stop = (frame.next - 1) >> 1\n                if stop > frame.start:",
            "                stop = frame.next >> 1\n                if stop > frame.start:",
        ),
        (
            "    if (<Value>child).flags & HELD:\n        show(holder_of(child))\n",
            "",
            "test_replay.py",
        ),
        (
            "        or purpose == FOR_REPLAY and (<Value>child).flags & CONSTANT\n",
            "",
            "test_replay.py",
        ),
        ("    unmark(w, depth)\n", "", "test_allocation.py test_memory.py"),
    ),
    *of(
        "src/replay.pxi",
        MODULE,
        "test_replay.py",
        (
            "(<Value>node).local_grad[0] = 1.0 - c_pow(x, 2.0)",
            "(<Value>node).local_grad[0] = 1.0 - x * x",
        ),
        ("            if is_negative_zero(grad):", "            if False:"),
        ("    if tape.state != IN_NODES:\n        return 0\n    for", "    for"),
        (
            "        (<Value>node).local_grad[0] = k * c_pow(x, k - 1.0)",
            "        (<Value>node).local_grad[0] = k * (<Value>node).c_data / x",
        ),
        (
            "        k = 1.0 if (<Value>a).c_data >= (<Value>b).c_data else 0.0",
            "        k = 1.0 if (<Value>a).c_data > (<Value>b).c_data else 0.0",
        ),
        (
            "    (<Value>node).c_grad = 0.0\n    return 0\n\n\ncdef int compute_operation",
            "    return 0\n\n\ncdef int compute_operation",
        ),
        (
            "        if (<Value>values[i]).c_data > largest:",
            "        if (<Value>values[i]).c_data >= largest:",
        ),
        (
            "    if node.op != OPERATION or block.operation != <PyObject *>operation or (\n        block.n_children != len(grads)\n    ):",
            "    if block.n_children != len(grads):",
        ),
        (
            "        if child is not value:\n            return node\n",
            "        if child is not value:\n            pass\n",
            "test_replay.py test_functions.py",
        ),
        (
            "    for i in range(tape.n):\n        reclaim(tape.entries[i].node)\n    play(",
            "    play(",
        ),
    ),
    *of(
        "src/program.pxi",
        MODULE,
        "test_replay.py",
        ("    if site.n_uses != 1:\n        return False\n", ""),
        ("        else (<Value>user).child[0] == node\n", "        else True\n"),
        (
            "    if child.n_uses == 1 and (<Value>child.node).n and (\n",
            "    if (<Value>child.node).n and (\n",
        ),
        ("        factor == NONE or (<Value>child.node).op == ADD\n", "        True\n"),
        (
            "        return site_of(program, (<Value>node).child[1 - j]).slot\n    if (<Value>node).op == EXP",
            "        return site_of(program, (<Value>node).child[j]).slot\n    if (<Value>node).op == EXP",
        ),
        (
            "    for i in range(tape.n - 1, -1, -1):\n        node = tape.entries[i].node\n        site",
            "    for i in range(tape.n):\n        node = tape.entries[i].node\n        site",
        ),
        ("                last.k == last[1].k\n", "                True\n"),
        ("    if a.start != b.start:\n        return -1 if a.start < b.start else 1\n", ""),
        ("            start = max(start, ready[program.terms[i].a])\n", ""),
        (
            "        for i in range(step.a, step.b):\n            start = max(start, ready[program.sources[i]])",
            "        pass",
        ),
        (
            "            program.row_edges[i].to = PLACE | program.ends[to]\n            program.ends[to] += 1",
            "            program.row_edges[i].to = PLACE | program.ends[to]",
        ),
        ("    return 3 if op == WHERE else 2 if op == MAXIMUM else 1", "    return 1"),
        Equivalent(
            "        cycles = 20 if run.k == -1.0 else 90",
            "        cycles = 20",
            "the order of steps that do not depend on each other shows in the time alone",
        ),
    ),
    *of(
        "src/steps.pxi",
        MODULE,
        "test_replay.py",
        (
            "out[lanes + lane] = 1.0 - pow_or_error(out[lane], 2.0, &error)",
            "out[lanes + lane] = 1.0 - out[lane] * out[lane]",
        ),
        (
            "            if isinf(out[lane]) and not isinf(x[lane]):\n                fine = False\n",
            "",
        ),
        (
            "            if x[lane] <= 0.0:\n                fine = False\n",
            "            if x[lane] < 0.0:\n                fine = False\n",
        ),
        ("    return error == NO_ERROR\n", "    return True\n"),
        (
            "            out[lane] = x[lane] if x[lane] > 0.0 else 0.0\n",
            "            out[lane] = x[lane] if x[lane] >= 0.0 else 0.0\n",
        ),
        ("a[lane] if a[lane] >= b[lane] else b[lane]", "a[lane] if a[lane] > b[lane] else b[lane]"),
        ("b[lane] if a[lane] > 0.0 else c[lane]", "b[lane] if a[lane] >= 0.0 else c[lane]"),
        (
            "largest[lane] = a[lane] if a[lane] > largest[lane] else largest[lane]",
            "largest[lane] = largest[lane] if a[lane] <= largest[lane] else a[lane]",
        ),
        ("            if doubt & SECOND:", "            if doubt & FIRST:"),
        ("        if lanes > 1 and edge.to & PLACE:", "        if edge.to & PLACE:"),
    ),
    *of(
        "src/batch.pxi",
        MODULE,
        "test_replay.py",
        ("            PyErr_CheckSignals()\n", "", "test_replay.py -k signal"),
        (
            "            while done < n_rows and has_negative_zero(tape.program):",
            "            while False:",
        ),
        (
            "            for lane in range(LANES):\n                for j in range(start, program.ends[i]):",
            "            for j in range(start, program.ends[i]):\n                for lane in range(LANES):",
        ),
        ("                memset(self.grads, 0, program.n_grads * LANES * sizeof(double))\n", ""),
        ("        if tape.program is not None and i > 0:", "        if False:"),
        ('view.format == "d" and', "True and", "test_replay.py -k run"),
        ("view.c_contiguous:", "True:", "test_replay.py -k run"),
        ("        if len(numbers) != n_inputs:", "        if False:"),
    ),
    *of(
        "src/vectors.pxi",
        MODULE,
        "test_functions.py test_parity.py",
        (
            "        term[k] = Term(a[k], b[k], b_data, a_data)",
            "        term[k] = Term(a[k], b[k], a_data, b_data)",
        ),
        (
            "return sum_of_products(a_items, b_items, min(n_a, n_b))",
            "return sum_of_products(a_items, b_items, n_a)",
        ),
        (
            "power(add(mean_square, new_constant(1e-5)), -0.5, -1.5)",
            "power(add(mean_square, new_constant(1e-5)), -0.5, -1.4999999)",
        ),
        (
            "new_constant(c_pow(<double>n, -1.0))",
            "new_constant(c_pow(<double>n, -1.0) * 1.0000000000000002)",
        ),
        (
            "    root = c_pow(c_pow(<double>head_dim, 0.5), -1.0)",
            "    root = c_pow(<double>head_dim, -0.5)",
        ),
        ("        if Py_TYPE(array[i]) != <PyTypeObject *>Value:\n            return NULL\n", ""),
        ("        reclaim(array[i])\n", "", "test_replay.py test_parity.py test_functions.py"),
        (
            "not PyLong_CheckExact(target) or not 0 <= target < len(own)",
            "not PyLong_CheckExact(target) or not target < len(own)",
        ),
        (
            "bint first = (<Value>a).c_data >= (<Value>b).c_data",
            "bint first = (<Value>a).c_data > (<Value>b).c_data",
            "test_replay.py -k decide",
        ),
        (
            "        if row is None or len(row) != n:\n            return None\n",
            "        if row is None:\n            return None\n",
        ),
        (
            "c_v[i] = c_beta2 * c_v[i] + rest2 * pow(fabs(p.c_grad), 2.0)",
            "c_v[i] = c_beta2 * c_v[i] + rest2 * (p.c_grad * p.c_grad)",
            "test_adam.py",
        ),
        ("    if not (eps > 0.0 and c1", "    if not (c1", "test_adam.py"),
        ("fabs((<Value>items[i]).c_grad) < 1e150 and", "", "test_adam.py"),
        (
            "c_grad) < 1e150 and (<array>v).data.as_doubles[i] >= 0.0)",
            "c_grad) < 1e150)",
            "test_adam.py",
        ),
        ("        p.flags |= EDITED\n", "        pass\n"),
        ("rest2 = 1 - beta2", "rest2 = 1 - c_beta1", "test_adam.py"),
    ),
    *of(
        "src/closed.pxi",
        MODULE,
        "test_micrograd.py test_value.py",
        ("    moved.op = node.op\n", "    moved.op = CUSTOM\n", "test_micrograd.py test_replay.py"),
        (
            "    node.op = LEAF\n    node.n = 0\n    return moved",
            "    return moved",
            "test_micrograd.py test_memory.py",
        ),
        ("        or cls.__dictoffset__\n", ""),
        (
            "    if old is not NULL:\n        Py_DECREF(old)\n",
            "",
            "test_micrograd.py test_memory.py",
        ),
    ),
]
