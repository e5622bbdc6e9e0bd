"""`microgpt plot`: draw the curves of runs in the terminal, or as a picture."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from microgpt import curves, extras, files

SUMMARY = "plot the losses of runs, in the terminal or as a picture"
EXAMPLES = """\
examples:
  microgpt plot names                              losses over steps, in the terminal
  microgpt plot names --of rate                    the learning rate
  microgpt plot small wide --png losses.png        two runs, labelled by what differs
  microgpt plot small wide --x seconds --svg losses.svg

DIR is what train --out made. A picture has the losses (each step's, their running mean,
the held-out loss), and below them the rate, the gradient norm and the speed, as logged.
"""
COLUMNS = {
    "loss": "loss",
    "rate": "rate",
    "norm": "norm",
    "speed": "tokens_per_second",
}
HEIGHT = 20
COLORS = (12, 208, 10, 13, 14, 11, 9)  # of 256
MARKERS = ".o*+x#@%"  # of curves that no colour tells apart
BOXES = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of plot."""
    command.add_argument("runs", nargs="+", metavar="DIR", help="a directory that train --out made")
    command.add_argument(
        "--x", choices=curves.AXES, default="steps", help="the axis (default: steps)"
    )
    command.add_argument(
        "--of", choices=sorted(COLUMNS), default="loss", help="in the terminal (default: loss)"
    )
    command.add_argument("--png", type=Path, metavar="FILE", help="write a picture of points")
    command.add_argument("--svg", type=Path, metavar="FILE", help="write a picture of lines")


def run(options: argparse.Namespace) -> int:
    """Plot runs as the command line asks; return the exit status."""
    found = curves.runs(options.runs)
    if options.png is options.svg is None:
        print(terminal(found, options.of, options.x))
    for path, kind in ((options.png, "png"), (options.svg, "svg")):
        if path is not None:
            from microgpt import pictures

            with files.replacing(path) as file:
                pictures.runs_figure(found, options.x).savefig(file, format=kind, dpi=150)
    return 0


def terminal(found: list[curves.LoggedRun], of: str, axis: str) -> str:
    """Return a plot of text as wide as the terminal, with its legend below.

    Raises:  ValueError if no run has logged the column; ImportError without plotext
    """
    from rich.console import Console

    console = Console()
    plot: Any = extras.need("plotext", "a plot in the terminal")
    plain = not _can_show("┌█▞", console.encoding)
    coloured = console.is_terminal and not console.no_color and os.environ.get("TERM") != "dumb"
    plot.clear_figure()
    plot.limit_size(False, False)
    plot.theme("clear")
    plot.plotsize(max(console.width - 1, 20), min(HEIGHT, max(console.height - 4, 10)))
    legend: list[str] = []
    for run in found:
        for name, title, smooth in _curves_of(of):
            curve = run.curve(name, axis)
            if not curve.y:
                continue
            if smooth:
                curve = curves.running_mean(curve)
            color = COLORS[len(legend) % len(COLORS)]
            marker = None if coloured and not plain else MARKERS[len(legend) % len(MARKERS)]
            plot.plot(*curves.thinned(curve), color=color, marker=marker)
            sign = plot.colorize(marker or "▞", color) if coloured else marker
            label = f"{title}, {run.label}" if len(found) > 1 else title
            legend.append(f"{sign} {label}")
    if not legend:
        raise ValueError(f"no run has logged its {of}")
    plot.xlabel(axis)
    drawn: str = plot.build()
    plot.clear_figure()
    if plain:
        drawn = drawn.translate(BOXES)
        legend = [line.encode("ascii", "backslashreplace").decode() for line in legend]
    if not coloured:
        drawn = plot.uncolorize(drawn)
    return "\n".join([line.rstrip() for line in drawn.splitlines()] + legend)


def _curves_of(of: str) -> list[tuple[str, str, bool]]:
    """Return the columns, titles and whether to smooth, of one plot in the terminal."""
    if of == "loss":
        return [("loss", "mean loss", True), ("val_loss", "held-out loss", False)]
    return [(COLUMNS[of], of, of == "speed")]


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
