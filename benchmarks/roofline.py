"""The fused engine's time by size, beside the oracle's and the machine's peak.

    python benchmarks/roofline.py                        print the table
    python benchmarks/roofline.py --plot FILE.svg        and plot it (needs matplotlib)

A step of P positions takes 3 P multiply-then-adds for each weight of a matrix:
forward, backward to the inputs, backward to the weights. The peak is measured in
the same run, by vectors that never leave their registers. Figures are the fastest
of all rounds; the oracle runs with Python's own garbage-collector settings.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from microgpt import data, engine, fused
from microgpt.gpt import Config
from microgpt.tokenizer import CharTokenizer

Row = dict[str, Any]


def fastest(function: Any, seconds: float) -> float:
    """Return the least time that function took, trying for some seconds, twice at least."""
    best, rounds, until = float("inf"), 0, time.perf_counter() + seconds
    while rounds < 2 or time.perf_counter() < until:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
        rounds += 1
    return best


def measure(
    name: str, config: Row, documents: list[list[int]], batch: int, seconds: float, threads: int = 1
) -> float:
    """Return an engine's seconds a step over all documents, Adam included."""
    chosen = engine.load(name)
    model = chosen.GPT(27, **config)
    model.threads = threads
    steps = len(documents) // batch
    adam = chosen.Adam(model.params, 1e-4, num_steps=10**9)
    return fastest(lambda: model.fit(documents, steps, batch, adam=adam), seconds) / steps


def rows(
    documents: list[list[int]], seconds: float, threads: int, largest_oracle: int
) -> list[Row]:
    """Measure all sizes, alone and in batches of 16, and one long context."""
    peak = fused._kernels.peak(1.0)
    found = []
    for n_embd, batch, length in [
        *((n, 1, 0) for n in (16, 32, 64, 128, 256, 512)),
        *((n, 16, 0) for n in (16, 32, 64, 128, 256, 512)),
        (16, 1, 256),
        (64, 1, 256),
    ]:
        config = {"n_embd": n_embd, "block_size": length or 16}
        count = batch * max(1, 64 // batch // (n_embd // 16))
        chosen = documents[:count]
        if length:
            rng = random.Random(1)
            chosen = [[26, *(rng.randrange(26) for _ in range(length - 1)), 26]]
        tokens = sum(min(config["block_size"], len(d) - 1) for d in chosen) / len(chosen) * batch
        weights = Config(27, **config).num_params
        took = measure("fused", config, chosen, batch, seconds, threads)
        row = {"n_embd": n_embd, "batch": batch, "tokens": tokens, "weights": weights}
        row["us"] = 1e6 * took
        row["rate"] = 3 * tokens * weights / took / peak
        if n_embd <= largest_oracle and batch == 1 and not length:
            row["ratio"] = measure("python", config, chosen[:4], 1, 0) / measure(
                "fused", config, chosen[:4], 1, seconds
            )
        found.append(row)
    print(
        f"{fused.SIMD}, threads: {threads}, peak of one: "
        f"{peak / 1e9:.1f} G multiply-then-adds a second\n"
    )
    return found


def table(found: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| n_embd | weights | documents a step | tokens a step | us a step | us a document "
        "| ns a token and 1,000 weights | of the peak | times the oracle |",
        "| --: " * 9 + "|",
    ]
    for row in found:
        ratio = f"{row['ratio']:,.0f}" if "ratio" in row else ""
        lines.append(
            f"| {row['n_embd']} | {row['weights']:,} | {row['batch']} | {row['tokens']:.1f} "
            f"| {row['us']:,.1f} | {row['us'] / row['batch']:,.1f} "
            f"| {1e6 * row['us'] / row['tokens'] / row['weights']:,.0f} "
            f"| {row['rate']:.0%} | {ratio} |"
        )
    return "\n".join(lines)


def plot(found: list[Row], path: str) -> None:
    """Draw time per token by weights, with the peak as the floor."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for batch in (1, 16):
        line = [row for row in found if row["batch"] == batch and row["tokens"] < 200]
        axes.loglog(
            [row["weights"] for row in line],
            [row["us"] / row["tokens"] for row in line],
            "o-",
            label=f"{batch} document{'s' * (batch > 1)} a step",
        )
    axes.loglog(
        [row["weights"] for row in line],
        [row["us"] * row["rate"] / row["tokens"] for row in line],
        "k--",
        label="the machine's peak",
    )
    axes.set(xlabel="weights", ylabel="us a token", title="A training step of the fused engine")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--largest-oracle", type=int, default=64, help="its widest model")
    arguments = parser.parse_args()
    names = data.documents()
    random.Random(42).shuffle(names)
    tokenizer = CharTokenizer.from_documents(names)
    documents = [tokenizer.encode_document(name) for name in names[:1024]]
    found = rows(documents, arguments.seconds, arguments.threads, arguments.largest_oracle)
    print(table(found))
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
