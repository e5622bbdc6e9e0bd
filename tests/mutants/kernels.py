"""Mutants of the fused engine and of the mathematics under it: src/gpt and src/shared."""

from mutants import TESTING, Equivalent, of

SET = "_kernels_avx512"  # the widest that is built; of simd.h's fallbacks, the baseline

RAISES = "test_fused.py -k (raises or too_large or later_step or settings_at) and avx512"
ADAM = "test_fused.py -k (adam_takes or adam_of_any_numbers or adam_among_usual) and avx512"

MUTANTS = [
    *of(
        "src/gpt/training.pxd",
        SET,
        "test_fused.py -k avx512",
        (
            "if not updates_cannot_overflow(\n"
            "                job, acts.m * thread // size, acts.m * (thread + 1) // size\n"
            "            ):",
            "if False:",
            RAISES,
        ),
        ("        if not bound[i] < 1e140:\n", "        if not bound[i] < 1e300:\n", RAISES),
        Equivalent(
            "        if not bound[i] < 1e140:\n",
            "        if bound[i] >= 1e140:\n",
            "they differ for NaN, which is 0 * inf: all dy are 0, so gradients are 0 or NaN, "
            "and neither raises",
        ),
        ("vec_store(bound, x * (bound[0] * acts.m))", "vec_store(bound, x)", RAISES),
        ("vec x = vec_set(1.0)", "vec x = vec_set(0.0)", RAISES),
        ("        job.add or job.acts.reuses", "        job.acts.reuses"),
        ("or adam.eps_adam == 0.0\n", "\n", RAISES),
        (
            "or (job.done == 0 and not numbers_are_small(job.grad, job.v, n_params))",
            "",
            RAISES,
        ),
        Equivalent(
            "job.add = job.done == 0 and not are_zero(job.grad, n_params)",
            "job.add = job.done == 0",
            "to add to zeros takes longer, and gives the same",
        ),
        ("job.add = job.done == 0 and not are_zero(job.grad, n_params)", "job.add = False"),
        ("        any_bit |= bits[i]", "        any_bit |= bits[i] << 1", RAISES),
        ("    if not job.failed:\n        if thread", "    if True:\n        if thread", RAISES),
        ("if factor != 1.0:", "if False:", "test_knobs.py -k knob_is"),
        (
            "if decay != 1.0:\n            multiply(job.data",
            "if False:\n            multiply(job.data",
            "test_knobs.py -k knob_is",
        ),
        ("job.nats += total", "job.nats += 0.0", "test_knobs.py -k evaluation"),
        (
            "(job, thread)\n            if job.whole:\n                barrier_wait(&acts.barrier)\n",
            "(job, thread)\n",
            RAISES,
        ),
        ("job.raises[thread] = start + i if", "job.raises[thread] = i if", RAISES),
        ("n_params * (thread + 1) // size - start", "n_params * (thread + 1) // size - start - 1"),
        ("t = job.t + job.done\n", "t = job.t\n"),
        ("job.rates[job.done]", "job.rates[0]"),
        ("pow(adam.beta1, t + 1.0)", "pow(adam.beta1, t)"),
        (
            "            row = (number - before) * rows\n            last",
            "            row = 0\n            last",
        ),
        ("(job.done > 0 and now() > job.until)", "False", "test_fused.py -k signal_does_not_wait"),
        Equivalent(
            "return max(<Py_ssize_t>8, (L2_WEIGHTS if packs else L1_WEIGHTS) // n_in)",
            "return max(<Py_ssize_t>1, L1_WEIGHTS // n_in // 64)",
            "how many rows are updated together shows in the time alone",
        ),
    ),
    *of(
        "src/gpt/optimizer.pxd",
        SET,
        ADAM,
        ("1e-18 <= a.eps_adam <= 1e30", "a.eps_adam <= 1e30"),
        ("and fabs(a.learning_rate) <= 1e30", ""),
        (
            "vec_differ(second, old + s.rest2 * other_square(square, grad))",
            "vec_differ(second, second)",
        ),
        (
            "| vec_exceeds(vec_set(1e-100), square) & vec_differ(grad, vec_set(0.0))",
            "",
            "test_fused.py -k squares_too_small or adam_among",
        ),
        Equivalent(
            "| vec_is_beyond(u.corrected, old, 1e19)",
            "",
            "for larger squares the margin is below what glibc states of pow's error, which is not "
            "what was ever seen of it: 0.008 of 0.022 units among 20 million of 1e120 to 1e308",
        ),
        ("u.corrected = vec_quotient(vec_load(v), s.correction2)\n    else:", "pass\n    else:"),
        (
            "if clear:\n        vec_store(g, vec_set(0.0))",
            "if not clear:\n        vec_store(g, vec_set(0.0))",
        ),
        ("pow(fabs(g[i]), 2.0)\n        if not", "g[i] * g[i]\n        if not"),
        ("if not 0.0 <= seconds[i] / a.correction2.number <= 1e19", "if False"),
        (
            "vec factor = vec_with_sign(3.0 * DBL_EPSILON, residual) - 1.0",
            "vec factor = vec_set(-1.0)",
        ),
        (
            "| vec_exceeds(vec_set(1e-140), vec_size(updated))\n\n\n@cython.cdivision(True)\ncdef inline mask root_matters",
            "\n\n\n@cython.cdivision(True)\ncdef inline mask root_matters",
        ),
        ("return vec_differ(updated, data - step) |", "return"),
        (
            "pow(v[i] / a.correction2.number, 0.5) + a.eps_adam\n        )\n    memcpy",
            "(v[i] / a.correction2.number) ** 0.5 + a.eps_adam\n        )\n    memcpy",
        ),
        ("cdef Py_ssize_t k = -3 * LANES", "cdef Py_ssize_t k = -2 * LANES"),
        ("        if k >= 0:\n            end_update", "        if k > 0:\n            end_update"),
        ("square = pow(fabs(grad), 2.0)", "square = grad * grad"),
        ("grad = g[i] * factor", "grad = g[i]", "test_knobs.py -k clipped"),
        ("pow_keeps_bound() and is_usual(a)", "pow_keeps_bound()"),
        ("a.eps_adam > 0.0 and a.correction1", "a.correction1", RAISES),
        (
            "and a.correction2.number > 0.0\n        and numbers_are_small",
            "and numbers_are_small",
            RAISES,
        ),
        ("vec largest = vec_set(1e150)", "vec largest = vec_set(1e155)", RAISES),
        ("            | vec_exceeds(vec_set(0.0), vec_load(v + i))\n", "", RAISES),
        ("if not (fabs(g[i]) <= 1e150 and v[i] >= 0.0):", "if not fabs(g[i]) <= 1e150:", RAISES),
        ("or corrected < 0.0:\n            return i", "or False:\n            return i", RAISES),
        ("        if pow(corrected, 0.5) + a.eps_adam == 0.0:\n            return i\n", "", RAISES),
        (
            "        if isinf(square) and not isinf(grad):\n            return i\n        corrected",
            "        if isinf(square):\n            return i\n        corrected",
            RAISES,
        ),
        ("size = min(<Py_ssize_t>LANES, n - i)", "size = n - i", "test_fused.py -k adam"),
        Equivalent(
            "    FETCHED = 512",
            "    FETCHED = 64",
            "what is fetched ahead shows in the time alone",
        ),
    ),
    *of(
        "src/shared/barrier.h",
        "_gpt",
        "test_threads.py -k wait_take_no_processor_time",
        ("i < SPINS", "1"),
    ),
    *of(
        "src/shared/exponential.pxd",
        TESTING,
        "test_certificates.py -k two_million and avx512",
        ("((1.0 - 2.0 * 0.02) * 0.5 * DBL_EPSILON)", "((1.0 - 2.0 * 0.002) * 0.5 * DBL_EPSILON)"),
        ("vec_exceeds(vec_set(-708.0), x)", "vec_exceeds(vec_set(-800.0), x)"),
    ),
    *of(
        "src/shared/exponential.h",
        TESTING,
        "test_certificates.py -k two_million and avx512",
        ("- n * 0x1.cf79abc9e3b3ap-47", ""),
        ("vec_gather(power_low, index)", "vec_set(0.0)"),
    ),
    *of(
        "src/shared/powers.pxd",
        SET,
        "test_certificates.py -k two_million and avx512",
        ("vec_set(-1.0 / (1.0 - 2.0 * 0.022))", "vec_set(-1.0)"),
        ("((1.0 - 2.0 * 0.015) * DBL_EPSILON)", "DBL_EPSILON"),
        ("part = -vec_residual(whole, x, x)", "part = vec_residual(whole, x, x)"),
        ("part = vec_residual(x, root, root) / (root + root)", "part = vec_set(0.0)"),
        ("part = x * part - vec_residual(whole, x, root)", "part = x * part"),
        ("- quotient * part)", ")"),
        Equivalent(
            "lacking = (quotient - result) + lacking",
            "lacking = lacking",
            "where result is not quotient, lacking was half a unit or more, so pow is asked",
        ),
        Equivalent(
            "vec_power_of_two(vec_before(result))",
            "vec_power_of_two(result)",
            "they differ where result is a power of two: then x is one, and lacking 0, or the "
            "double before one, and the exact result lies above: units there are the larger ones",
        ),
        ("((1.0 - 2.0 * 0.0135) * 0.5 * DBL_EPSILON)", "(0.5 * DBL_EPSILON)"),
        ("vec_exceeds(vec_set(1e-19), result)\n        | ", ""),
        ("        | vec_exceeds(result, vec_set(1e19))\n", ""),
        (
            "doubt = mask_bits(doubtful) if pow_keeps_bound()",
            "doubt = 0 if pow_keeps_bound()",
            "test_fused.py -k graphs and avx512",
        ),
        (
            "doubt &= ~(<unsigned int>0) >> (32 - size)",
            "pass",
            "test_fused.py -k graphs and avx512",
        ),
    ),
    *of(
        "src/gpt/matmul.pxd",
        SET,
        "test_fused.py -k graphs and avx512",
        ("padded(p.n - n)) // LANES", "padded(p.n - n)) // LANES * 0 + 1"),
        ("t.last = LANES if p.whole else", "t.last = LANES if True else"),
        ("t.add = p.add\n    t.fetch", "t.add = False\n    t.fetch"),
        (
            "TILE_ROWS * p.a_row)\n        n += PANEL",
            "TILE_ROWS * p.a_row)\n        n += PANEL - LANES",
        ),
    ),
    *of(
        "src/gpt/matmul.pxd",
        TESTING,
        "test_certificates.py -k any_sizes and avx2",
        ("t.add = p.add or k > 0", "t.add = p.add"),
        ("t.add = p.add or k > 0", "t.add = k > 0"),
        ("        step = -step\n", "        step = step\n"),
        ("at = min(j * LANES, width - LANES)", "at = j * LANES"),
        ("at = min(i, to_row - LANES)", "at = i"),
        Equivalent(
            "rows[j] = from_ + min(at + j, m - 1) * from_row",
            "rows[j] = from_ + min(at + j, m) * from_row",
            "what is read behind the last row is not used; .ci/sanitize sees the read",
        ),
        (
            "pack_steps(b, p.b + n * p.b_row, columns, k,",
            "pack_steps(b, p.b + n * p.b_row, columns, 0,",
        ),
        ("rows, k, steps, TILE_ROWS, p.a_row,", "rows, k, steps, TILE_ROWS, 1,"),
        ("run % p.runs * (p.k", "0 * (p.k"),
        ("to += size * width", "to += steps * width"),
    ),
    *of(
        "src/shared/simd.h",
        SET,
        "test_certificates.py -k two_million and avx512",
        (
            "((ints)side >> 63 | 1)",
            "(1)",
            "test_certificates.py -k two_million and avx512",
        ),
        (
            "return vec_fma(near, vec_residual(x, near, d.number), d.inverse);",
            "return near;",
        ),
        Equivalent(
            "vec near = vec_fma(x * d.rest, x, d.inverse);",
            "vec near = x * d.inverse;",
            "the proof needs it: without it near may be a whole unit off, and the residual may "
            "need a 54th bit; 240 million of the hardest quotients show no difference",
        ),
        (
            "_mm512_cmp_pd_mask(a, b, _CMP_NLE_UQ)",
            "_mm512_cmp_pd_mask(a, b, _CMP_GT_OQ)",
            "test_fused.py -k avx512",
        ),
        Equivalent(
            "    else if ((bits & 0xffffffffffff8ULL) != 0xffffffffffff8ULL) d.way = MULTIPLY;",
            "    else d.way = MULTIPLY;",
            "Markstein's theorem leaves one divisor out, that of all ones, 2 - 2**-52. There inverse is "
            "1 + 2**-52 (times a power of two), and for x = 1 + k * 2**-52 the quotient lies "
            "(2 * k + 1) * 2**-106 above a midpoint, of which the multiplication by inverse, in "
            "place of a division, takes 2**-106: what is left is positive, so the result is the same",
        ),
    ),
    *of(
        "src/shared/simd.h",
        "_kernels",
        "test_certificates.py -k two_million and baseline",
        (
            "((high_a * high_b - product) + high_a * rest_b + rest_a * high_b) + rest_a * rest_b",
            "((high_a * high_b - product) + high_a * rest_b + rest_a * high_b)",
        ),
        (
            "else for (Py_ssize_t i = 0; i < count; i++) p[i] = x[i];",
            "else vec_store(p, x);",
            "test_fused.py -k graphs and baseline",
        ),
        ("return ~(a <= b);", "return a > b;", "test_fused.py -k baseline"),
        (
            "bits |= (m[i] != 0) << i;",
            "bits |= (m[i] != 0) << 0;",
            "test_fused.py -k graphs and baseline",
        ),
    ),
    *of(
        "src/shared/scalar.pxd",
        "_value",
        "test_value.py test_parity.py",
        (
            "if unlikely(x == 0.0 or not isfinite(x) or not isfinite(y)):",
            "if unlikely(x == 0.0 or not isfinite(x)):",
        ),
        ("result = pow(fabs(x), y)", "result = pow(fabs(x), y) if y != 2.0 else x * x"),
        (
            "        if remainder == 1.0:\n            return -result\n",
            "        if remainder == 1.0:\n            return result\n",
        ),
        (
            "        if remainder != 0.0:\n            error[0] = NOT_REAL",
            "        if False:\n            error[0] = NOT_REAL",
        ),
        ("return 1.0 if x == 1.0 else y\n", "return y\n"),
        ("        if x == 1.0:\n            return 1.0\n", ""),
        ("return x if odd else fabs(x)", "return fabs(x)"),
        ("return copysign(0.0, x) if odd else 0.0", "return 0.0"),
        ("    return x if odd else 0.0", "    return 0.0"),
        Equivalent(
            "    if isinf(result) and not isinf(x):\n",
            "    if isinf(result):\n",
            "the slow way asks Python's math.exp, which raises nothing for infinity",
        ),
        ("    if isinf(result) and not isinf(x):\n", "    if False:\n"),
        ("    if x <= 0.0:\n", "    if x < 0.0:\n"),
        ("if not 1e-9 < x < 1e9:", "if not x < 1e9:", "test_replay.py -k powers_of_any_size"),
    ),
    *of(
        "src/shared/scalar.pxd",
        SET,
        "test_certificates.py -k two_million and avx512",
        ("- q_low * x_high - q_low * x_low", "- q_low * x_high"),
        ("+ 2.0 * rest * head", ""),
        ("power_of_two(head) * (0.0135 * DBL_EPSILON)", "0.0"),
        Equivalent(
            "return (0 if is_clear(q, rest) else FIRST) |",
            "return FIRST |",
            "pow is asked once more than it has to be",
        ),
        ("if not 1e-9 < x < 1e9:", "if not 1e-10 < x < 1e9:"),
        ("if not 1e-9 < x < 1e9:", "if not 1e-9 < x < 1e10:"),
    ),
    *of(
        "src/gpt/attention.pxd",
        SET,
        "test_fused.py -k (graphs or wide) and avx512",
        ("w[s] = e[s] * h.inverses[t]", "w[s] = e[s] / h.totals[t]"),
        ("vec_load(y + i) if add else vec_set(0.0)", "vec_set(0.0)"),
        ("h.head_dim - 1 if down else 0", "0"),
        ("h.v, h.y_row, 0, h.m, True)", "h.v, h.y_row, 0, h.m, False)"),
        ("block.add = order == OWN_TO_FIRST", "block.add = False"),
        ("h.y_row, LAST_TO_OWN", "h.y_row, FIRST_TO_OWN"),
        ("h.row, OWN_TO_FIRST", "h.row, FIRST_TO_OWN"),
        (
            "for s in range(t, -1, -1):\n            dtotal",
            "for s in range(t + 1):\n            dtotal",
        ),
        ("dtotal += dinverse * (e[s] * dscores[s])", "dtotal += dinverse * e[s] * dscores[s]"),
        (
            "h.inverse_root * (e[s] * (inverse * dscores[s] + dtotal))",
            "h.inverse_root * e[s] * (inverse * dscores[s] + dtotal)",
        ),
        ("block.k_n = m - t - rows", "block.k_n = m - t"),
    ),
    *of(
        "src/gpt/layers.pxd",
        SET,
        "test_fused.py -k graphs and avx512",
        (
            "    for i in range(m - 1, -1, -1):\n        if not first <= ids[i] < last:",
            "    for i in range(m):\n        if not first <= ids[i] < last:",
        ),
        (
            "b_row=1, b_step=padded(width), add=k > 0,",
            "b_row=1, b_step=padded(width), add=False,",
            "test_fused.py -k (graphs or wide) and avx512",
        ),
        (
            "        add = True\n",
            "        add = add\n",
            "test_fused.py -k (graphs or wide) and avx512",
        ),
        (
            "        for k in range(n - 1, -1, -1):\n            dscale",
            "        for k in range(n):\n            dscale",
        ),
        (
            "dsquare = inverse_n * (-0.5 * roots[i % LANES] * dscale)",
            "dsquare = inverse_n * -0.5 * roots[i % LANES] * dscale",
        ),
        (
            "+ scale[i] * dy[i * row + k] + term + term",
            "+ scale[i] * dy[i * row + k] + 2.0 * term",
        ),
        ("mean[i] = total * inverse_n + 1e-5", "mean[i] = total / n + 1e-5"),
        ("i < n_head - 1 or j < 2,", "False,"),
        (
            "dx[k] = 0.0 + dx[k] * (1.0 if y[k] > 0.0 else 0.0)",
            "dx[k] = dx[k] if y[k] > 0.0 else 0.0",
            "test_fused.py -k unit_that_is_off and avx512",
        ),
        (
            "x[k] = x[k] if x[k] > 0.0 else 0.0",
            "x[k] = 0.0 if x[k] <= 0.0 else x[k]",
            "test_fused.py -k weight_of_any_size and avx512",
        ),
        Equivalent(
            "        if logits[i] > largest:",
            "        if not logits[i] <= largest:",
            "they differ for NaN among the logits, which makes the total and so all of them NaN",
        ),
        (
            "log(prob) * -1.0 if not prob <= 0.0 else -1.0",
            "log(prob) * -1.0",
            "test_fused.py -k weight_of_any_size and avx512",
        ),
        (
            "dlogits[i] = 0.0 + exps[i] * dtotal",
            "dlogits[i] = exps[i] * dtotal",
            "test_fused.py -k probability_of_zero and avx512",
        ),
        (
            "double dprob = 1.0 / probs[target] * (-1.0 * dloss)",
            "double dprob = -dloss / probs[target]",
        ),
        (
            "double dtotal = -square * (exps[target] * dprob)",
            "double dtotal = -(inverse * inverse) * (exps[target] * dprob)",
        ),
    ),
    *of(
        "src/gpt/model.pxd",
        SET,
        "test_fused.py -k graphs and avx512",
        (
            "acts.loss += 1.0 / (acts.starts[d + 1] - acts.starts[d]) * loss",
            "acts.loss += loss / (acts.starts[d + 1] - acts.starts[d])",
        ),
        (
            "acts.loss = 1.0 / acts.n_documents * acts.loss",
            "acts.loss = acts.loss / acts.n_documents",
        ),
        ("            dlogits[acts.targets[i]] = 0.0\n", ""),
        ("layer.dx + at, layer.dmid + at, dnorm,", "layer.dx + at, dnorm, dnorm,"),
        (
            "if acts.losses[i] == -1.0:",
            "if False:",
            "test_fused.py -k weight_of_any_size and avx512",
        ),
        (
            "        barrier_wait(&acts.barrier)\n        while take_rows(acts, &rows):\n            layer",
            "        while take_rows(acts, &rows):\n            layer",
            "test_fused.py -k threads and avx512",
        ),
        (
            "layer, i // n_head, i % n_head, thread",
            "layer, 0, i % n_head, thread",
            "test_fused.py -k threads and avx512",
        ),
        (
            "matrix.x, matrix.dy = layer.attended, layer.dattn",
            "matrix.x, matrix.dy = layer.norm1, layer.dattn",
        ),
        ("if not add:\n            memset", "if False:\n            memset"),
    ),
    *of(
        "src/gpt/activations.pxd",
        SET,
        "test_fused.py -k graphs and avx512",
        (
            "n = min(acts.sizes.block_size, ends[d + 1] - ends[d] - 1)",
            "n = ends[d + 1] - ends[d] - 1",
        ),
        ("acts.positions[at + t] = t\n", "acts.positions[at + t] = at + t\n"),
        ("if size > acts.ints_size:", "if acts.ints == NULL:"),
        (
            "linear_scratch(m, max(net.mlp_row, net.vocab_row), net.mlp_row)",
            "linear_scratch(m, net.vocab_row, net.vocab_row)",
        ),
    ),
    *of(
        "src/gpt/_gpt.pyx",
        "_gpt",
        "test_fused.py test_gpt.py -k (samples or generate) and avx512",
        ("scaled[i] = logits[i] * factor", "scaled[i] = logits[i] / (1.0 / factor)"),
        ("            if x < cumulated[middle]:", "            if x <= cumulated[middle]:"),
        ("high = n - 1\n", "high = n\n"),
        ("pythons and 0.0 < cumulated[n - 1] < INFINITY", "pythons"),
        ('getattr(choices, "__func__", None) is CHOICES', "True"),
        ("            read = n\n", "            read = 0\n"),
        (
            "if logits[i] > logits[high]:",
            "if logits[i] >= logits[high]:",
            "test_knobs.py -k samples",
        ),
    ),
]
