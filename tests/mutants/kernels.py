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
        ("vec x = vec_set(1.0)", "vec x = vec_set(0.0)", RAISES),
        ("job.add or job.continues, thread", "job.add, thread", "test_fused.py -k wide and avx512"),
        (
            "job.continues and (acts.failed or job.out_of_memory)",
            "False",
            "test_fused.py -k after_other_groups and avx512",
        ),
        (
            "job.document_losses[job.left + d]",
            "job.document_losses[d]",
            "test_fused.py -k wide and avx512",
        ),
        ("or adam.eps_adam == 0.0\n", "\n", RAISES),
        Equivalent(
            "job.add = job.done == 0 and not are_zero(job.grad, n_params)",
            "job.add = job.done == 0",
            "to add to zeros takes longer, and gives the same",
        ),
        ("job.add = job.done == 0 and not are_zero(job.grad, n_params)", "job.add = False"),
        ("        any_bit |= bits[i]", "        any_bit |= bits[i] << 1", RAISES),
        (
            "if decay != 1.0:\n            multiply(job.data",
            "if False:\n            multiply(job.data",
            "test_knobs.py -k knob_is",
        ),
        ("job.nats += total", "job.nats += 0.0", "test_knobs.py -k evaluation"),
        ("job.raises[thread] = start + i if", "job.raises[thread] = i if", RAISES),
        ("job.rates[job.done]", "job.rates[0]"),
        (
            "            row = (number - before) * rows\n            last",
            "            row = 0\n            last",
        ),
        ("(job.done > 0 and now() > job.until)", "False", "test_fused.py -k signal_does_not_wait"),
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
            "mask_bits(doubt | vec_is_outside(second, old, 1e-80, 1e9))",
            "mask_bits(doubt)",
            "test_fused.py -k squares_too_small or adam_among",
        ),
        (
            "| vec_exceeds(vec_set(1e-100), square) & vec_differ(grad, vec_set(0.0))",
            "",
            "test_fused.py -k squares_too_small or adam_among",
        ),
        Equivalent(
            "| vec_is_outside(u.corrected, old, 0.0, 1e19)",
            "",
            "for larger squares the margin is below what glibc states of pow's error, which is not "
            "what was ever seen of it: 0.008 of 0.022 units among 20 million of 1e120 to 1e308",
        ),
        ("u.corrected = vec_quotient(second, s.correction2)\n    vec_store", "pass\n    vec_store"),
        ("pow(fabs(g[i]), 2.0)\n        if not", "g[i] * g[i]\n        if not"),
        (
            "doubt | vec_exceeds(vec_set(1e-140), vec_size(updated))",
            "doubt",
            "test_fused.py -k moments_too_small",
        ),
        ("vec_set(-1.0 + 3.0 * DBL_EPSILON)", "vec_set(-1.0)"),
        ("cdef Py_ssize_t k = -3 * LANES", "cdef Py_ssize_t k = -2 * LANES"),
        ("grad = g[i] * factor", "grad = g[i]", "test_knobs.py -k after_clipping"),
        ("pow_keeps_bound() and is_usual(a)", "pow_keeps_bound()"),
        ("a.eps_adam > 0.0 and a.correction1", "a.correction1", RAISES),
        ("if not (fabs(g[i]) <= 1e150 and v[i] >= 0.0):", "if not fabs(g[i]) <= 1e150:", RAISES),
        ("        if pow(corrected, 0.5) + a.eps_adam == 0.0:\n            return i\n", "", RAISES),
        (
            "        if isinf(square) and not isinf(grad):\n            return i\n        corrected",
            "        if isinf(square):\n            return i\n        corrected",
            "test_fused.py -k adam_among and avx512",
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
        ("        x += BLOCK", "        x += 0"),
        ("vec_exceeds(farthest, vec_set(511.0))", "vec_exceeds(farthest, vec_set(709.0))"),
        ("farthest = vec_max(farthest, vec_size(difference))", "farthest = vec_size(difference)"),
        (
            "libm_agrees = agrees_with_libm()\n    return 0",
            "return 0",
            "test_certificates.py -k two_million and baseline",
        ),
        ("            if y[k] != exp(x[k]):", "            if y[k] == exp(x[k]):"),
    ),
    *of(
        "src/shared/exponential.h",
        TESTING,
        "test_certificates.py -k two_million and avx512",
        ("0x1.cf79abc9e3b3ap-47", "0x1.cf79abc9e3b39p-40"),
        ("0x1.1111167a4d017p-7", "0x1.1111111111111p-7"),
        ("tail + rest", "rest"),
    ),
    *of(
        "src/shared/powers.pxd",
        SET,
        "test_certificates.py -k two_million and avx512",
        ("vec_set(-1.0 / (1.0 - 2.0 * 0.022))", "vec_set(-1.0)"),
        ("vec_units(root, 1.0 - 2.0 * 0.015)", "vec_units(root, 1.0)"),
        ("part = vec_residual(x, root, root) / (root + root)", "part = vec_set(0.0)"),
        ("- quotient * part)", ")"),
        Equivalent(
            "lacking = (quotient - result) + lacking",
            "lacking = lacking",
            "where result is not quotient, lacking was half a unit or more, so pow is asked",
        ),
        Equivalent(
            "vec_units(vec_before(result), ",
            "vec_units(result, ",
            "they differ where result is a power of two: then x is one, and lacking 0, or the "
            "double before one, and the exact result lies above: units there are the larger ones",
        ),
        ("(1.0 - 2.0 * 0.0135) * 0.5", "0.5"),
        ("vec_exceeds(vec_set(1e-19), result)\n        | ", ""),
        (
            "doubt = mask_bits(doubtful) if pow_keeps_bound()",
            "doubt = 0 if pow_keeps_bound()",
            "test_fused.py -k graphs and avx512",
        ),
        (
            "doubt &= ~(<unsigned int>0) >> (32 - size)",
            "pass",
            "test_certificates.py -k no_further and avx512",
        ),
    ),
    *of(
        "src/gpt/matmul.pxd",
        SET,
        "test_fused.py -k graphs and avx512",
        ("LANES if p.whole else min(", "LANES if True else min("),
        ("LANES if p.whole else (p.n", "LANES if True else (p.n"),
        (
            "tile_column(&t, p, n, p.m, 0)\n        n += PANEL",
            "tile_column(&t, p, n, p.m, 0)\n        n += PANEL - LANES",
        ),
    ),
    *of(
        "src/gpt/matmul.pxd",
        TESTING,
        "test_certificates.py -k any_sizes and avx2",
        ("t.add = p.add or k > 0", "t.add = p.add"),
        ("        step = -step\n", "        step = step\n"),
        Equivalent(
            "rows[j] = from_ + min(at + j, m - 1) * from_row",
            "rows[j] = from_ + min(at + j, m) * from_row",
            "what is read behind the last row is not used; .ci/sanitize sees the read",
        ),
        ("run % p.runs * (p.k", "0 * (p.k"),
    ),
    *of(
        "src/gpt/sparse.pxd",
        TESTING,
        "test_certificates.py -k any_sizes and avx2",
        ("whole = not are_finite(b_packed, steps * width)", "whole = False"),
        ("t.add = p.add or k + i > 0", "t.add = p.add or k > 0"),
        ("if turned and (p.add or k > 0):", "if turned and p.add:"),
        ("t.last = LANES if whole else", "t.last = LANES if True else"),
    ),
    *of(
        "src/gpt/sparse.h",
        TESTING,
        "test_certificates.py -k any_sizes and avx2",
        ("reversed(bits) >> (SPARSE_STEPS - n) : bits", "reversed(bits) : bits"),
    ),
    *of(
        "src/gpt/tile.h",
        TESTING,
        "test_certificates.py -k products and avx512",
        ("t.c += FEW_ROWS * t.c_row", "t.c += t.c_row"),
        ("case 3: tiles_of(t, 3, n)", "case 3: tiles_of(t, 2, n)"),
    ),
    *of(
        "src/gpt/layers.pxd",
        SET,
        "test_fused.py -k terms_of_zeros and avx512",
        ("if add and zeros != IN_NONE and has", "if False and zeros != IN_NONE and has"),
    ),
    *of(
        "src/shared/simd.h",
        SET,
        "test_certificates.py -k two_million and avx512",
        (
            "((ints)side >> 63 | 1)",
            "(1)",
            ADAM,
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
            "        if remainder != 0.0:\n            error[0] = NOT_REAL",
            "        if False:\n            error[0] = NOT_REAL",
        ),
        ("    return x if odd else 0.0", "    return 0.0"),
        ("if not 1e-9 < x < 1e9:", "if not x < 1e9:", "test_replay.py -k powers_of_any_size"),
    ),
    *of(
        "src/shared/scalar.pxd",
        SET,
        "test_certificates.py -k two_million and avx512",
        ("+ 2.0 * rest * head", ""),
        ("power_of_two(head) * (0.0135 * DBL_EPSILON)", "0.0"),
    ),
    *of(
        "src/gpt/attention.pxd",
        SET,
        "test_fused.py -k (graphs or wide) and avx512",
        ("weight = vec_load(p.exps + i) * inverse", "weight = vec_load(p.exps + i)"),
        ("x = vec_join(top, x, s - p.first - v)", "x = vec_join(x, x, s - p.first - v)"),
        ("vec_join(vec_set(0.0), vec_load(row), s)", "vec_load(row)"),
        ("h.v + first * h.row, h.row, i + 1, n, True", "h.v + first * h.row, h.row, i, n, True"),
        ("-h.row, i + 1, n, False", "-h.row, i, n, False"),
        ("for s in range(p.end - 1, -1, -1):", "for s in range(p.end):"),
        ("cdef bint add = p.end < h.m", "cdef bint add = False"),
        (
            "h.inverse_root * (vec_load(p.exps + i) * x)",
            "h.inverse_root * vec_load(p.exps + i) * x",
        ),
    ),
    *of(
        "src/gpt/narrow.h",
        SET,
        "test_fused.py -k (graphs or narrow) and avx512",
        ("x[v] = SEEN(top[v], x[v]);", ""),
        ("top[v] = s == 0 ? x[v] : vec_max(top[v], x[v])", "top[v] = vec_max(top[v], x[v])"),
        ("x + s * row + NARROW - 1 - j, dy[j][v]", "x + s * row + j, dy[NARROW - 1 - j][v]"),
        (
            "SEEN(vec_set(0.0), vec_times(x + s * row + j, weight[v]))",
            "vec_times(x + s * row + j, weight[v])",
            "test_fused.py -k infinite_ones and avx512",
        ),
        ("k >= s + r - p.first", "k > s + r - p.first"),
        ("sum[r][v] = vec_load(sums + r", "sum[r][v] = 0.0 * vec_load(sums + r"),
        (
            "if (p.mask) weight *= vec_load(p.mask + i);\n            vec_store(pair",
            "vec_store(pair",
        ),
    ),
    *of(
        "src/gpt/sums.h",
        SET,
        "test_fused.py -k (graphs or wide) and avx512",
        ("at = r * row", "at = r % 2 * row"),
        ("x += rows * row", "x += row"),
        ("step > 0 ? 0 : n - 1", "0"),
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
            "p.b, p.a, p.add = scratch, x + k, k > 0",
            "p.b, p.a, p.add = scratch, x + k, False",
            "test_fused.py -k (graphs or wide) and avx512",
        ),
        ("        p.b += PANEL * n_in\n", "", "test_fused.py -k graphs and avx512"),
        ("rows, n, row, -1)", "rows, n, row, 1)"),
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
        (
            "    largest = largest_of(logits + i, n - i, largest)\n",
            "",
            "test_fused.py -k wide_models and avx512",
        ),
        Equivalent(
            "        if x[i] > largest:",
            "        if not x[i] <= largest:",
            "they differ for NaN among the logits, which makes the total and so all of them NaN",
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
            "return 1.0 / (acts.starts[d + 1] - acts.starts[d]) * loss",
            "return loss / (acts.starts[d + 1] - acts.starts[d])",
        ),
        ("layer.dx + at, layer.dmid + at, dnorm,", "layer.dx + at, dnorm, dnorm,"),
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
        (
            "            if x < cumulated[middle]:",
            "            if x <= cumulated[middle]:",
            "test_gpt.py -k border",
        ),
        ("pythons and 0.0 < cumulated[n - 1] < INFINITY", "pythons"),
        Equivalent(
            "            read = n\n",
            "            read = 0\n",
            "every position is computed again, to the same numbers",
        ),
        (
            "if logits[i] > logits[high]:",
            "if logits[i] >= logits[high]:",
            "test_gpt.py -k border",
        ),
    ),
]
