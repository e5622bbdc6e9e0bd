"""Turn saved benchmarks into the tables of the pages and a plot.

    pytest benchmarks --benchmark-only --benchmark-json=FILE
    python benchmarks/report.py FILE                            print all rows
    python benchmarks/report.py FILE --all docs/speed.md        put all rows there
    python benchmarks/report.py FILE --readme README.md         the rows of README alone
    python benchmarks/report.py FILE --ways docs/which.md       the ways of being fast alone
    python benchmarks/report.py FILE --plot docs/benchmarks.svg (needs matplotlib)

Figures are medians of the rounds; ratios are of the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from pathlib import Path
from typing import Any

import microgpt

BASELINE = "python"
BEGIN, END = "<!-- benchmarks: made by benchmarks/report.py -->", "<!-- end of benchmarks -->"
COLOURS = {"python": "tab:gray", "cython": "tab:blue", "fused": "tab:red"}
Row = tuple[str, str, str]
# README's rows: the rest is in docs/speed.md.
README_ROWS = [
    ("the original loop, only its `Value` changed", "a step of 4,192 weights"),
    ("the original loop, its functions imported", "a step of 4,192 weights"),
    ("training", "a step of 4,192 weights"),
    ("training", "a step of 53,632 weights"),
    ("sampling", "a name of at most 16 letters"),
    ("two moons, a step", "a replayed tape"),
]
# The table of docs/which.md: a way, and the benchmark and engine that measure it.
WAYS = {
    "one import: `Value`": (
        "the original loop, only its `Value` changed", "a step of 4,192 weights", "cython"
    ),
    "one import: the functions too": (
        "the original loop, its functions imported", "a step of 4,192 weights", "cython"
    ),
    "micrograd's classes": ("two moons, a step", "micrograd's MLP", "cython"),
    "a tape that computes again": ("two moons, a step", "a replayed tape", "cython"),
    "the model as it is": ("training", "a step of 4,192 weights", "fused"),
}  # fmt: skip


def read(path: Path) -> tuple[dict[Row, dict[str, float]], str]:
    """Return {(title, size, collector): {engine: seconds}}, and where and when it was measured."""
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows: dict[Row, dict[str, float]] = {}
    for benchmark in saved["benchmarks"]:
        info = benchmark["extra_info"]
        row = rows.setdefault((info["title"], info["size"], info["collector"]), {})
        row[info["engine"]] = benchmark["stats"]["median"] / info["count"]
    machine, cpu = saved["machine_info"], saved["machine_info"]["cpu"]
    timer = saved["benchmarks"][0]["options"]["timer"]
    place = (
        f"{'processor time, ' if timer == 'process_time' else ''}"
        f"{cpu.get('brand_raw') or machine['machine']}, {cpu.get('count', '?')} cores, "
        f"{machine['system']}, {' '.join(platform.libc_ver()).strip()}, "
        f"{machine['python_implementation']} {machine['python_version']}, "
        f"microgpt {microgpt.__version__}, {saved['datetime'][:10]}"
    )
    return rows, place


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it, to three digits."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
    unit = next((unit for unit, scale in units.items() if seconds >= scale), "ns")
    number = seconds / units[unit]
    return f"{number:.{max(0, 3 - len(str(int(number))))}f} {unit}"


def table(
    rows: dict[Row, dict[str, float]], place: str, only: list[tuple[str, str]] | None = None
) -> str:
    """Return the rows as Markdown: times with the collector on, ratios with it on and off."""
    engines = list(dict.fromkeys([BASELINE, *(name for row in rows.values() for name in row)]))
    lines = [
        f"| | | `{BASELINE}` |" + "".join(f" `{name}` | times |" for name in engines[1:]),
        "| --- | --- | ---: |" + " ---: | ---: |" * (len(engines) - 1),
    ]
    for title, size in only or dict.fromkeys((title, size) for title, size, _ in rows):
        on, off = (rows.get((title, size, collector), {}) for collector in ("on", "off"))
        cells = [title, size, *(duration(on[n]) if n in on else "" for n in engines[:1])]
        for name in engines[1:]:
            both = [
                f"{row[BASELINE] / row[name]:,.0f}"
                for row in (on, off)
                if {name, BASELINE} <= {*row}
            ]
            cells += [duration(on[name]) if name in on else "", " / ".join(both)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Medians of all rounds, {place}."])


def plot(rows: dict[Row, dict[str, float]], place: str, path: Path) -> None:
    """Draw time by size, a line an engine, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    titles = ("training", "building a graph", "backward")
    figure, panels = plt.subplots(1, len(titles), figsize=(12, 4), layout="constrained")
    for panel, title in zip(panels, titles):
        lines: dict[str, list[tuple[int, float]]] = {}
        for (name, size, collector), row in rows.items():
            if name == title and collector == "on":
                (number,) = re.findall(r"[\d,]+", size)
                for engine, seconds in row.items():
                    lines.setdefault(engine, []).append((int(number.replace(",", "")), seconds))
        sizes = sorted({size for points in lines.values() for size, _ in points})
        for engine, points in lines.items():
            panel.loglog(*zip(*sorted(points)), "o-", color=COLOURS[engine], label=engine)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.set_title(title)
        panel.set_xlabel("weights" if title == "training" else "nodes")
        panel.set_ylabel("seconds" + (" a step" if title == "training" else ""))
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle(place, fontsize=8)
    plt.rcParams["svg.hashsalt"] = "microgpt"
    figure.savefig(path, metadata={"Date": None})


def ways(rows: dict[Row, dict[str, float]], place: str) -> str:
    """Return the speed-up of each of WAYS over the oracle, as Markdown."""
    lines = [
        "| way | measured on | the oracle | this way | times |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for way, (title, size, engine) in WAYS.items():
        on, off = (rows[title, size, collector] for collector in ("on", "off"))
        ratios = " / ".join(f"{row[BASELINE] / row[engine]:,.0f}" for row in (on, off))
        times = f"{duration(on[BASELINE])} | {duration(on[engine])}"
        lines.append(f"| {way} | {title}, {size} | {times} | {ratios} |")
    return "\n".join([*lines, "", f"Garbage collector on / off. Medians of all rounds, {place}."])


def put(markdown: str, page: Path) -> None:
    """Write Markdown between a page's marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn saved benchmarks into a table and a plot.")
    parser.add_argument("saved", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--all", type=Path, metavar="FILE", help="put all rows between marks")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put README's rows there")
    parser.add_argument("--ways", type=Path, metavar="FILE", help="put the ways there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw an SVG")
    arguments = parser.parse_args()
    rows, place = read(arguments.saved)
    if arguments.all:
        put(table(rows, place), arguments.all)
    else:
        print(table(rows, place))
    if arguments.readme:
        put(table(rows, place, README_ROWS), arguments.readme)
    if arguments.ways:
        put(ways(rows, place), arguments.ways)
    if arguments.plot:
        plot(rows, place, arguments.plot)


if __name__ == "__main__":
    main()
