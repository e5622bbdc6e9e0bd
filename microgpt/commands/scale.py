"""`microgpt scale`: fit the loss against the number of weights and of tokens."""

from __future__ import annotations

import argparse

from microgpt import files
from microgpt.commands import flags, sweep
from microgpt.sweep import scaling
from microgpt.sweep.results import Results, short
from microgpt.sweep.space import SETTINGS, Space

SUMMARY = "train sizes times budgets, and fit the loss against weights and tokens"
DEFAULTS = {
    "n_embd": (8, 16, 32, 64),
    "num_steps": (1000, 2000, 4000, 8000, 16000),
    "learning_rate": (0.003, 0.01, 0.03),
}
EXAMPLES = """\
examples:
  microgpt scale --out scale
  microgpt scale --n-embd 16,32,64,128 --num-steps 1000,4000,16000 --out larger
  microgpt scale --data book.txt --split windows --block-size 64 --batch-size 8 --out book
  microgpt scale --resume scale                     go on, or print it again
  microgpt sweep show scale --csv                   every trial

Sizes (--n-embd, --n-layer), budgets (--num-steps, --batch-size) and learning rates are given
as values, and all of them are trained together. Unless they are given, they are
--n-embd 8,16,32,64 --num-steps 1000,2000,4000,8000,16000 --learning-rate 0.003,0.01,0.03.
For each size and budget the best trial counts. The law that is fitted is

  loss = E + A / weights**alpha + B / tokens**beta

with intervals of 95 %. The result is a sweep, and DIR/scale.svg a picture of it.
"""
WIDER = (1, 10, 100)  # times the largest compute that was trained


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of scale: those of a sweep over a grid."""
    sweep.add_running(command.add_argument_group("the trainings"))
    flags.add_settings(command, SETTINGS, convert=sweep.converter)


def run(options: argparse.Namespace) -> int:
    """Train and fit as the command line asks; return the exit status."""
    values, own = sweep.given(options)
    if options.resume is None:
        values = {**DEFAULTS, **values}
        own["sampler"] = "grid"
        try:
            scaling.check(Space.of(values))
        except (TypeError, ValueError) as error:
            options.parser.error(str(error))
    return sweep.carried_out(options, values, own, conclude)


def conclude(results: Results) -> None:
    """Print the points and the law, and draw them."""
    trials = scaling.points(results)
    law = scaling.fit(trials)
    tuned = [name for name in results.space.domains if name not in scaling.SIZES]
    head = ["weights", "tokens", "val_loss", "fitted", *tuned]
    rows = [
        [
            f"{t.weights:,}",
            f"{t.tokens:,}",
            f"{t.val_loss:.4f}",
            f"{law.loss(t.weights, t.tokens):.4f}",
            *(short(t.params[name]) for name in tuned),
        ]
        for t in trials
    ]
    print("\n" + "\n".join(sweep.aligned([head, *rows])))
    print("\nloss = E + A / weights**alpha + B / tokens**beta")
    for name in scaling.PARAMETERS:
        low, high = law.intervals[name]
        print(f"  {name:5} {law.values[name]:.4g}  ({low:.4g} to {high:.4g})")
    low, high = law.intervals["share"]
    share = law.values["share"]
    print(f"optimal weights grow as compute**{share:.2f}  ({low:.2f} to {high:.2f})\n")
    most = max(scaling.FLOPS * t.weights * t.tokens for t in trials)
    optimal = [["operations", "weights", "tokens", "loss"]]
    for times in WIDER:
        weights, tokens = law.optimum(times * most)
        loss = law.loss(weights, tokens)
        optimal.append([f"{times * most:.2g}", f"{weights:,.0f}", f"{tokens:,.0f}", f"{loss:.4f}"])
    print("\n".join(sweep.aligned(optimal)))
    path = results.directory / "scale.svg"
    with files.replacing(path) as file:
        scaling.picture(trials, law).savefig(file, format="svg")
    print(f"\n  {path}")
