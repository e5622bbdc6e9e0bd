"""The cost of each knob of training on the fused engine, beside a step without it.

    python benchmarks/knobs.py                       print the table
    python benchmarks/knobs.py --page docs/runs.md   put it there
    python benchmarks/knobs.py --beside DIR          a step without knobs here and in another build

Steps with the knob and plain ones are timed in turn, and the table has the fastest of each, so
that other programs of the machine hardly count. It also has the operations that a knob adds to a
step: numbers drawn, weights multiplied, squares added.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from microgpt import fused
from microgpt.log import Log
from microgpt.settings import Settings
from microgpt.training import Training

BEGIN, END = "<!-- knobs: made by benchmarks/knobs.py -->", "<!-- end of knobs -->"
SIZES = {
    "names, the original's size": {},
    "windows, nanoGPT's shape at n_embd 64": {
        "split": "windows", "n_embd": 64, "n_layer": 4, "block_size": 64, "batch_size": 12,
    },
}  # fmt: skip
KNOBS: dict[str, dict[str, Any]] = {
    "--schedule cosine --warmup 100": {"schedule": "cosine", "warmup": 100},
    "--weight-decay 0.1": {"weight_decay": 0.1},
    "--clip 1": {"clip": 1.0},
    "--dropout 0.1": {"dropout": 0.1},
    "all of them": {
        "schedule": "cosine", "warmup": 100, "weight_decay": 0.1, "clip": 1.0, "dropout": 0.1,
    },
}  # fmt: skip
NOISE = 0.03  # of a step: less cannot be distinguished from 0
LOG = "--out DIR, for its log: a line and the norm"


class Row(NamedTuple):
    """A knob at a size: seconds a step more than without it, and the operations that it adds."""

    knob: str
    extra: float
    operations: float


def stepper(settings: Settings, log: Log | None = None) -> tuple[Training, Any]:
    """Return a run, and a function that takes some of its steps as `train` does."""
    run = Training(settings)
    norms: dict[int, float] = {}
    run.adam.norms = None if log is None else norms

    def on_step(t: int, loss: float, now: float | None = None) -> None:
        if log is not None:
            tokens, seconds = run._tokens_of_step(t), now or time.monotonic()
            log.step(t, loss, run._rate(t), tokens, seconds, norms.pop(t))

    def take(steps: int) -> float:
        start = time.perf_counter()
        stop = run.step + steps
        run._fit_together(stop, on_step)
        run._fit_to(stop, on_step)
        return (time.perf_counter() - start) / steps

    take(10)
    return run, take


def operations(run: Training) -> float:
    """Return how many numbers a knob of a run draws, multiplies or adds a step."""
    settings, config = run.settings, run.model.config
    found = 0.0
    if settings.weight_decay:
        found += config.num_params
    if run.adam.norms is not None:
        found += config.num_params
    if settings.clip is not None:
        found += 2 * config.num_params
    if settings.dropout:
        documents = run.tokens[: 64 * settings.batch_size]
        lengths = [min(settings.block_size, len(tokens) - 1) for tokens in documents]
        width = settings.n_embd * (1 + 2 * settings.n_layer)
        heads = settings.n_layer * settings.n_head
        drawn = sum(n * width + heads * n * (n + 1) // 2 for n in lengths)
        found += drawn / len(documents) * settings.batch_size
    return found


def rows(size: dict[str, Any], rounds: int, seconds: float) -> tuple[float, int, list[Row]]:
    """Return seconds a plain step takes, the number of weights, and a row a knob."""
    base = {"num_steps": 10**9, "learning_rate": 1e-4, **size}
    plain, take = stepper(Settings(**base))
    steps = max(1, math.ceil(seconds / min(take(10) for _ in range(5))))
    found, plains = [], []
    for knob in (*KNOBS, LOG):
        log = Log(Path(tempfile.mkdtemp()) / "log.jsonl", 0, 0.0) if knob == LOG else None
        run, other = stepper(Settings(**base, **KNOBS.get(knob, {})), log)
        pairs = [(take(steps), other(steps)) for _ in range(rounds)]
        plains += [a for a, _ in pairs]
        extra = min(b for _, b in pairs) - min(a for a, _ in pairs)
        found.append(Row(knob, extra, operations(run)))
    return min(plains), plain.model.config.num_params, found


def table(rounds: int, seconds: float) -> str:
    """Return all sizes as Markdown."""
    lines = [
        "| | a step | more a step | operations more | ns each |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, size in SIZES.items():
        plain, weights, found = rows(size, rounds, seconds)
        lines.append(f"| **{name}: {weights:,} weights** | {1e6 * plain:,.1f} µs | | | |")
        for row in found:
            seen = row.operations and row.extra > NOISE * plain
            each = f"{1e9 * row.extra / row.operations:.2f}" if seen else ""
            counted = f"{row.operations:,.0f}" if row.operations else "a rate"
            more = f"{1e6 * row.extra:+,.1f} µs ({row.extra / plain:+.1%})"
            took = f"{1e6 * (plain + row.extra):,.1f} µs"
            lines.append(f"| `{row.knob}` | {took} | {more} | {counted} | {each} |")
    place = (
        f"{fused.SIMD}, one thread, {platform.machine()}, {' '.join(platform.libc_ver()).strip()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {time.strftime('%F')}."
    )
    load = f"a load of {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors"
    return "\n".join([*lines, "", f"Fastest of {rounds} rounds at {load}, {place}"])


PLAIN = """
import time
from microgpt import CharTokenizer, data, fused
names = data.documents()[:1000]
tokenizer = CharTokenizer.from_documents(names)
documents = [tokenizer.encode_document(name) for name in names]
model = fused.GPT(27)
adam = fused.Adam(model.params, num_steps=10**9)
model.fit(documents, 2000, adam=adam)
start = time.perf_counter()
model.fit(documents, 10_000, adam=adam)
print((time.perf_counter() - start) / 10_000)
"""


def beside(directory: Path, rounds: int) -> str:
    """Return how long a plain step takes here, and in a build of another commit."""
    here = Path(fused.__file__).parent.parent
    times: dict[Path, list[float]] = {here: [], directory: []}
    for _ in range(rounds):
        for path, found in times.items():
            environment = {**os.environ, "PYTHONPATH": str(path.resolve())}
            command = [sys.executable, "-c", PLAIN]
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            found.append(float(done.stdout))
    ratio = statistics.median(a / b for a, b in zip(*times.values()))
    ours, theirs = (1e6 * min(found) for found in times.values())
    return f"a plain step: {ours:.2f} µs here, {theirs:.2f} µs there; median ratio {ratio:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between marks")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another build, in place")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.005, help="of each round")
    arguments = parser.parse_args()
    if arguments.beside:
        print(beside(arguments.beside, arguments.rounds))
        return
    markdown = table(arguments.rounds, arguments.seconds)
    if arguments.page:
        text = arguments.page.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        arguments.page.write_text(f"{before}{BEGIN}\n{markdown}\n{END}{after}", encoding="utf-8")
    else:
        print(markdown)


if __name__ == "__main__":
    main()
