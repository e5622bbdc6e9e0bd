"""Scaling: the held-out loss against weights and tokens, from the trials of a grid.

    loss = E + A / weights**alpha + B / tokens**beta

is fitted as in Hoffmann et al. (arXiv:2203.15556, approach 3): least squares of the loss's
logarithm under Huber's loss, from several starts. Intervals are of 95 %, by fits to points
drawn again with replacement. Of the trials with the same weights and tokens the best one
counts, so that the rate, and what else varies, is tuned for each size and budget.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from microgpt import extras
from microgpt.pictures import COLORS
from microgpt.sweep.results import Results
from microgpt.sweep.space import Space
from microgpt.sweep.trial import Result

LEAST = 3  # sizes, and budgets
DRAWS = 100
HUBER = 1e-2
PARAMETERS = ("E", "A", "alpha", "B", "beta")
SIZES = ("n_embd", "n_hidden", "n_head", "n_layer")
FLOPS = 6  # a weight and token, forward and backward


class Law(NamedTuple):
    """The fitted constants and their intervals.

    share is beta / (alpha + beta): the optimal number of weights grows as compute**share.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def loss(self, weights: float, tokens: float) -> float:
        """Return the loss that is predicted."""
        v = self.values
        return float(v["E"] + v["A"] / weights ** v["alpha"] + v["B"] / tokens ** v["beta"])

    def optimum(self, compute: float) -> tuple[float, float]:
        """Return the weights and tokens that give the lowest loss for so many operations."""
        v = self.values
        total = v["alpha"] + v["beta"]
        scale = (v["alpha"] * v["A"] / (v["beta"] * v["B"])) ** (1 / total)
        weights = scale * (compute / FLOPS) ** (v["beta"] / total)
        return weights, compute / FLOPS / weights


def check(space: Space) -> None:
    """Raise ValueError, of one line, if a law cannot be fitted to the trials of a grid."""
    trials = [space.settings(point) for point in space.grid()]
    sizes = {trial.config(vocab_size=1).num_params for trial in trials}
    budgets = {trial.num_steps * trial.batch_size for trial in trials}
    if len(sizes) < LEAST or len(budgets) < LEAST:
        raise ValueError(
            f"a law needs {LEAST} sizes (--n-embd, --n-layer) and {LEAST} budgets (--num-steps, "
            f"--batch-size), not {len(sizes)} and {len(budgets)}"
        )


def points(results: Results) -> list[Result]:
    """Return the best trial of each number of weights and tokens, in their order."""
    found: dict[tuple[int, int], Result] = {}
    for result in reversed(results.best()):
        found[result.weights, result.tokens] = result
    return [found[key] for key in sorted(found)]


def fit(trials: Sequence[Result], draws: int = DRAWS) -> Law:
    """Return the law of trials.

    Raises:  ImportError without scipy; ValueError if they are too few
    """
    numpy = extras.need("numpy", "a fit", "sweep")
    optimize = extras.need("scipy.optimize", "a fit", "sweep")
    if len({t.weights for t in trials}) < LEAST or len({t.tokens for t in trials}) < LEAST:
        raise ValueError(f"a law needs trials of {LEAST} sizes and {LEAST} budgets that ended")
    weights = numpy.log([float(t.weights) for t in trials])
    tokens = numpy.log([float(t.tokens) for t in trials])
    losses = numpy.log([t.val_loss for t in trials])

    def terms(p: Any, chosen: Any) -> Any:
        """Return the logarithms of the law's three terms, a row each."""
        first = numpy.full(len(chosen), p[0])
        return numpy.stack((first, p[1] - p[2] * weights[chosen], p[3] - p[4] * tokens[chosen]))

    def residual(p: Any, chosen: Any) -> Any:
        return numpy.logaddexp.reduce(terms(p, chosen), axis=0) - losses[chosen]

    def jacobian(p: Any, chosen: Any) -> Any:
        parts = terms(p, chosen)
        e, a, b = numpy.exp(parts - numpy.logaddexp.reduce(parts, axis=0))
        return numpy.stack((e, a, -a * weights[chosen], b, -b * tokens[chosen]), axis=1)

    # Exponents above 0, and E between 1 % of the lowest loss and that loss.
    low = losses.min()
    rules = {
        "bounds": ([low - 4.6, -20, 0.01, -20, 0.01], [low, 40, 4, 40, 4]),
        "loss": "huber",
        "f_scale": HUBER,
        "max_nfev": 300,
    }

    def solve(chosen: Any, start: Any) -> Any:
        return optimize.least_squares(residual, start, jacobian, args=(chosen,), **rules)

    every = numpy.arange(len(trials))
    starts = itertools.product((losses.min() - 0.7, losses.min() - 0.1), (0.3, 1.0), (0.3, 1.0))
    fits = [solve(every, (e, 7 * a, a, 10 * b, b)) for e, a, b in starts]
    best = min(fits, key=lambda found: found.cost).x
    rng = numpy.random.default_rng(42)
    samples = [constants(solve(rng.choice(every, len(every)), best).x) for _ in range(draws)]
    values = constants(best)
    intervals = {
        name: tuple(numpy.percentile([s[name] for s in samples], (2.5, 97.5)).tolist())
        for name in values
    }
    return Law(values, intervals)


def constants(p: Any) -> dict[str, float]:
    """Return the constants that a solution stands for, and the exponent of the optimal size."""
    e, a, alpha, b, beta = map(float, p)
    found = dict(zip(PARAMETERS, (math.exp(e), math.exp(a), alpha, math.exp(b), beta)))
    return {**found, "share": beta / (alpha + beta)}


def picture(trials: Sequence[Result], law: Law) -> Any:
    """Return a matplotlib figure: losses over tokens by size, and the optimal sizes.

    Raises:  ImportError without matplotlib
    """
    figure = extras.need("matplotlib.figure", "a picture", "sweep").Figure(
        figsize=(11, 4.5), layout="constrained"
    )
    curves, sizes = figure.subplots(1, 2)
    computes = [FLOPS * t.weights * t.tokens for t in trials]
    by_size = itertools.groupby(trials, key=lambda t: t.weights)
    for i, (weights, group) in enumerate(by_size):
        color, members = COLORS[i % len(COLORS)], list(group)
        tokens = [t.tokens for t in members]
        curves.plot(tokens, [t.val_loss for t in members], "o", color=color, label=f"{weights:,}")
        curves.plot(tokens, [law.loss(weights, d) for d in tokens], color=color, linewidth=1)
        of_size = [FLOPS * weights * d for d in tokens]
        sizes.plot(of_size, [t.val_loss for t in members], "o-", color=color, linewidth=1)
    curves.set(xscale="log", xlabel="tokens", ylabel="held-out loss (nats per token)")
    curves.legend(title="weights")
    line = [min(computes) * (max(computes) / min(computes)) ** (i / 40) for i in range(41)]
    best = [law.loss(*law.optimum(compute)) for compute in line]
    sizes.plot(line, best, "k--", label="compute-optimal, as fitted")
    sizes.set(xscale="log", xlabel=f"operations ({FLOPS} a weight and token)")
    sizes.legend()
    return figure
