"""How the time of a step grows: with width, layers, positions, documents a step and threads.

    python benchmarks/growth.py                                  print the table
    python benchmarks/growth.py --page docs/roofline.md --plot docs/growth.svg

One size changes at a time, the others are those of BASE; all documents are as long as the
context. Multiply-then-adds are counted as in roofline.py. A straight
line at the peak would be their time if nothing else took any. Times are the fastest of all
rounds, of the processor, but those of several threads are of the clock.

The second table has the products alone: those of a layer's four matrices, each forward, backward
to the inputs and backward to the weights, packing included; then the four that leave out relu's
zeros, of which one half is zero here. Their terms are counted all the same.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

from roofline import measure, products, put

from microgpt import fused
from microgpt.gpt import Config

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import testing

BASE = {"n_embd": 64, "n_layer": 2, "block_size": 64, "batch": 8, "threads": 1}
SIZES: dict[str, tuple[int, ...]] = {
    "n_embd": (16, 32, 64, 128, 256, 512),
    "n_layer": (1, 2, 4, 8),
    "block_size": (16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "threads": tuple(range(1, (os.cpu_count() or 1) + 1)),
}
Point = tuple[int, float, float]  # size, seconds a step, seconds at the peak


def step(sizes: dict[str, int], seconds: float) -> tuple[float, float]:
    """Return the seconds of a step of these sizes, and its multiply-then-adds."""
    config = {name: sizes[name] for name in ("n_embd", "n_layer", "block_size")}
    rng = random.Random(1)
    length = sizes["block_size"]
    documents = [
        [26, *(rng.randrange(26) for _ in range(length - 1)), 26] for _ in range(sizes["batch"])
    ]
    took = measure("fused", config, documents, sizes["batch"], seconds, sizes["threads"])
    return took, products(Config(27, **config), [length] * sizes["batch"])


def grown(seconds: float) -> tuple[dict[str, list[Point]], str]:
    """Measure every size; return the points by name, and a description of the machine."""
    peak = testing.load(fused.SIMD).peak(1.0)
    found: dict[str, list[Point]] = {}
    for name, sizes in SIZES.items():
        found[name] = []
        for size in sizes:
            chosen = {**BASE, name: size}
            took, work = step(chosen, seconds)
            found[name].append((size, took, work / peak / chosen["threads"]))
    base = ", ".join(f"{name} {size}" for name, size in BASE.items())
    place = f"{fused.SIMD}, {peak / 1e9:.1f} G multiply-then-adds a second, {time.strftime('%F')}"
    return found, f"The others as in {base}. {place}."


def table(found: dict[str, list[Point]], place: str) -> str:
    """Return the points as Markdown, with how the time grew from one to the next."""
    lines = ["| | | ms a step | times the one before | of the peak |", "| --- |" + " ---: |" * 4]
    for name, points in found.items():
        before = None
        for size, took, peak in points:
            times = "" if before is None else f"{took / before:.2f}"
            lines.append(f"| {name} | {size} | {1e3 * took:,.2f} | {times} | {peak / took:.0%} |")
            before = took
    return "\n".join([*lines, "", place])


def linear_layers(seconds: float) -> str:
    """Return as Markdown the share of the peak that the products of a layer reach by size."""
    machine = testing.load(fused.SIMD)
    peak = machine.peak(0.3)
    lines = [
        "| n_embd | tokens | forward | backward to inputs | backward to weights | beside zeros |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for n_embd in (64, 128, 256, 512):
        shapes = [(a * n_embd, b * n_embd) for a, b in ((3, 1), (1, 1), (4, 1), (1, 4))]
        for tokens in (100, 256, 768):
            took = [0.0, 0.0, 0.0]
            for n_out, n_in in shapes:
                speeds = machine.linear(tokens, n_out, n_in, seconds / len(shapes))
                took = [t + n_out * n_in / speed for t, speed in zip(took, speeds)]
            shares = [12 * n_embd**2 / peak / t for t in took]
            _, *of_dy = machine.linear(tokens, 4 * n_embd, n_embd, seconds / len(shapes), "dy")
            forward, _, weights = machine.linear(
                tokens, n_embd, 4 * n_embd, seconds / len(shapes), "x"
            )
            shares.append(4 / peak / sum(1 / speed for speed in (*of_dy, forward, weights)))
            cells = [f"{n_embd}", f"{tokens}", *(f"{share:.0%}" for share in shares)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: dict[str, list[Point]], path: str) -> None:
    """Draw a panel a size: the time of a step, and what its products take at the peak."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "microgpt"
    figure, panels = plt.subplots(1, len(found), figsize=(16, 3.6), layout="constrained")
    for panel, (name, points) in zip(panels, found.items()):
        sizes, took, peak = zip(*points)
        panel.loglog(sizes, [1e3 * t for t in took], "o-", label="fused")
        panel.loglog(sizes, [1e3 * t for t in peak], "k--", lw=1, label="products at the peak")
        panel.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        panel.minorticks_off()
        panel.set_title(name)
        panel.set_ylabel("ms a step")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between marks")
    parser.add_argument("--plot", metavar="FILE", help="draw an SVG (needs matplotlib)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each size")
    arguments = parser.parse_args()
    found, place = grown(arguments.seconds)
    layers = linear_layers(arguments.seconds)
    markdown = f"{table(found, place)}\n\nThe products alone:\n\n{layers}"
    if arguments.page:
        put(arguments.page, "growth", markdown)
    else:
        print(markdown)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
