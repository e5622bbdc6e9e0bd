"""The fused engine's time by size, beside the oracle, JAX, PyTorch and the machine's roofs.

    python benchmarks/roofline.py                                print the table
    python benchmarks/roofline.py --page docs/roofline.md --plot docs/roofline.svg
                                                                 put it there, and plot it

The products of a step: 3 multiply-then-adds for each weight of a matrix and position (forward,
backward to the inputs, backward to the weights), and 6 for each pair of positions in attention,
layer and n_embd: forward twice, backward four times. Softmax takes an exponential for each such
pair, layer and head and for each logit. Then Adam takes three quotients and a root a weight. All
are measured at their best in the same run, products and Adam by vectors that never
leave their registers, and so is the time of a step's memory traffic:
each weight read twice, then weight and moments read and written. The roof of a step is
the time of products, exponentials and Adam together, or memory's where that is longer.

Figures are the fastest of all rounds, on one thread of processor time, so that other programs
of the machine hardly count. The oracle runs with Python's own garbage-collector
settings; JAX (compiled) and PyTorch (eager) compute in their usual 32-bit floats, and are
skipped with a message where they are not installed.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import peers

from microgpt import data, engine, fused
from microgpt.gpt import Config
from microgpt.tokenizer import CharTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import testing

SIZES = (16, 32, 64, 128, 256, 512)
Row = dict[str, Any]


def products(config: Config, lengths: list[int]) -> float:
    """Return the multiply-then-adds of a step over documents of so many positions."""
    looked_up = (config.vocab_size + config.block_size) * config.n_embd
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    of_weights = 3.0 * sum(lengths) * (config.num_params - looked_up)
    return of_weights + 6.0 * pairs * config.n_layer * config.n_embd


def exponentials(config: Config, lengths: list[int]) -> float:
    """Return the exponentials of a step over documents of so many positions."""
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return float(config.n_layer * config.n_head * pairs + config.vocab_size * sum(lengths))


def fastest(function: Any, seconds: float, threads: int = 1) -> float:
    """Return the least time that function took, trying for some seconds, twice at least."""
    now = time.process_time if threads == 1 else time.perf_counter
    best, rounds, until = float("inf"), 0, now() + seconds
    while rounds < 2 or now() < until:
        start = now()
        function()
        best = min(best, now() - start)
        rounds += 1
    return best


def measure(
    name: str, config: Row, documents: list[list[int]], batch: int, seconds: float, threads: int = 1
) -> float:
    """Return an engine's seconds a step over all documents, Adam included."""
    chosen = engine.load(name)
    model = chosen.GPT(27, **config)
    steps = len(documents) // batch
    adam = chosen.Adam(model.params, 1e-4, num_steps=10**9)

    def train() -> None:
        model.fit(documents, steps, batch, adam=adam, threads=threads)

    return fastest(train, seconds, threads) / steps


def measure_peers(config: Row, documents: list[list[int]], seconds: float) -> Row:
    """Return seconds a step of the peers that are installed, by name."""
    model = fused.GPT(27, **config)
    return {
        name: fastest(lambda step=step: [step(d) for d in documents], seconds) / len(documents)
        for name, step in peers.peers(model)
    }


def rows(documents: list[list[int]], arguments: argparse.Namespace) -> tuple[list[Row], str]:
    """Measure all sizes, alone and in batches of 16, and two long contexts; return roofs too."""
    machine, seconds, threads = testing.load(fused.SIMD), arguments.seconds, arguments.threads
    peak, updates, exps = machine.peak(1.0), machine.updates(1.0), machine.exponentials(1.0)
    found = []
    for n_embd, batch, length in [
        *((n, 1, 0) for n in SIZES),
        *((n, 16, 0) for n in SIZES),
        (16, 1, 256),
        (64, 1, 256),
    ]:
        if n_embd not in arguments.n_embd:
            continue
        config: Row = {"n_embd": n_embd, "block_size": length or 16}
        count = max(batch, 64 // (n_embd // 128 or 1))
        chosen = documents[:count]
        if length:
            rng = random.Random(1)
            letters = [[rng.randrange(26) for _ in range(length - 1)] for _ in range(16)]
            chosen = [[26, *own, 26] for own in letters]
        sizes = Config(27, **config)
        weights = sizes.num_params
        lengths = [min(config["block_size"], len(d) - 1) for d in chosen]
        steps = len(chosen) / batch
        row: Row = {"n_embd": n_embd, "batch": batch, "weights": weights}
        row["tokens"] = sum(lengths) / steps
        row["seconds"] = measure("fused", config, chosen, batch, seconds, threads)
        row["peak"] = products(sizes, lengths) / steps / peak
        row["memory"] = machine.stream(weights, 0.3)
        softmax = exponentials(sizes, lengths) / steps / exps
        row["roof"] = max(row["peak"] + softmax + weights / updates, row["memory"])
        if batch == 1 and not length:
            if n_embd <= arguments.largest_oracle:
                row["oracle"] = measure("python", config, chosen[:4], 1, 0)
                row["same"] = measure("fused", config, chosen[:4], 1, seconds)
            row["peers"] = measure_peers(config, chosen, seconds)
        found.append(row)
    place = (
        f"{fused.SIMD}, threads: {threads}; at best {peak / 1e9:.1f} G multiply-then-adds a "
        f"second, {1e9 / exps:.2f} ns an exponential and {1e9 / updates:.2f} ns for Adam's "
        "quotients and root of a weight (one thread); "
        f"{platform.machine()}, {' '.join(platform.libc_ver()).strip()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {time.strftime('%F')}."
    )
    return found, place


def put(page: Path, name: str, markdown: str) -> None:
    """Put a table between the marks of that name and of the instruction set."""
    begin = f"<!-- {name} {fused.SIMD}: made by benchmarks/{name}.py -->"
    end = f"<!-- end of {name} {fused.SIMD} -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{markdown}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def table(found: list[Row], place: str) -> str:
    """Return the rows as Markdown."""
    names = list(dict.fromkeys(name for row in found for name in row.get("peers", {})))
    heads = [
        *("n_embd", "weights", "documents a step", "tokens a step", "µs a step", "µs a document"),
        *("ns a token and 1,000 weights", "of the peak", "of memory's speed", "of the roof"),
        *("times the oracle", *(f"times {name}" for name in names)),
    ]
    lines = ["| " + " | ".join(heads) + " |", "| ---: " * len(heads) + "|"]
    for row in found:
        took = row["seconds"]
        cells = [
            f"{row['n_embd']}",
            f"{row['weights']:,}",
            f"{row['batch']}",
            f"{row['tokens']:.1f}",
            f"{1e6 * took:,.1f}",
            f"{1e6 * took / row['batch']:,.1f}",
            f"{1e12 * took / row['tokens'] / row['weights']:,.0f}",
            *(f"{row[name] / took:.0%}" for name in ("peak", "memory", "roof")),
            f"{row['oracle'] / row['same']:,.0f}" if "oracle" in row else "",
            *(f"{row['peers'][n] / took:,.1f}" if n in row.get("peers", {}) else "" for n in names),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Fastest rounds, {place}"])


def plot(found: list[Row], path: str) -> None:
    """Draw time a step by weights: engines, peers and roofs, alone and in batches of 16."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for panel, batch in zip(panels, (1, 16)):
        line = [row for row in found if row["batch"] == batch and row["tokens"] < 200]
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in line:
            times = {"oracle": row.get("oracle"), **row.get("peers", {}), "fused": row["seconds"]}
            for name, took in times.items():
                if took is not None:
                    lines.setdefault(name, []).append((row["weights"], took))
        for name, points in lines.items():
            panel.loglog(*zip(*points), "o-", label=name)
        for name, style, label in (
            ("roof", "k-", "roof"),
            ("peak", "k--", "products at the peak"),
            ("memory", "k:", "memory at its speed"),
        ):
            panel.loglog(*zip(*((r["weights"], r[name]) for r in line)), style, lw=1, label=label)
        panel.set_title(f"{batch} document{'s' * (batch > 1)} a step")
        panel.set_xlabel("weights")
        panel.set_ylabel("seconds a step")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    plt.rcParams["svg.hashsalt"] = "microgpt"
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between marks")
    parser.add_argument("--plot", metavar="FILE", help="draw an SVG (needs matplotlib)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-embd", type=int, nargs="+", default=SIZES, help="(default: all)")
    parser.add_argument("--largest-oracle", type=int, default=64, help="its widest model")
    arguments = parser.parse_args()
    names = data.documents()
    random.Random(42).shuffle(names)
    tokenizer = CharTokenizer.from_documents(names)
    documents = [tokenizer.encode_document(name) for name in names[:1024]]
    found, place = rows(documents, arguments)
    markdown = table(found, place)
    if arguments.page:
        put(arguments.page, "roofline", markdown)
    else:
        print(markdown)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
