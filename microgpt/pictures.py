"""Pictures as files, by matplotlib: a look, the curves of runs.

Figures are made without pyplot: no window, no global state, no choice of a backend.
A character that the font lacks is taken from another installed font that has all that
are missing, else shown by its code point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from microgpt import curves, extras
from microgpt.message import label

if TYPE_CHECKING:
    from microgpt.curves import LoggedRun
    from microgpt.look import Look

BLUE = "#2e6ed2"
COLORS = (BLUE, "#d65424", "#2f9e60", "#8e5bc0", "#b8860b", "#d0467f", "#1b8fa3", "#7a7a7a")
MAX_BITS = 1075.0  # of the smallest probability above 0
MAX_HEADS = 64  # of one picture


def look_figure(look: Look) -> Any:
    """Return a matplotlib figure: surprise by character, then every head's attention.

    Raises:  ImportError without matplotlib; ValueError if there are too many heads
    """
    figure_of = extras.need("matplotlib.figure", "a picture").Figure
    layers, heads = look.attention.shape[:2]
    if layers * heads > MAX_HEADS:
        raise ValueError(f"a picture has room for {MAX_HEADS} heads, not {layers * heads}")
    names, font = legible([look.character(token) for token in look.tokens])
    n = len(look)
    width = max(7.0, 2.6 * heads, min(0.22 * n + 2, 40))
    figure = figure_of(figsize=(width, 3 + 2.8 * layers), layout="constrained")
    grid = figure.add_gridspec(layers + 1, max(1, heads), height_ratios=[1.0] + [1.1] * layers)
    bars = figure.add_subplot(grid[0, :])
    bars.bar(range(n), [min(cost, MAX_BITS) for cost in look.surprise], color=BLUE)
    _ticks(bars.xaxis, range(n), names[1:], font, n / (width * 7))
    bars.set_ylabel("surprise (bits)")
    bars.set_title(f"{look.loss:.4f} nats, {look.surprise.mean():.4f} bits per token")
    bars.set_xlim(-0.6, n - 0.4)
    for layer in range(layers):
        for head in range(heads):
            axes = figure.add_subplot(grid[layer + 1, head])
            axes.imshow(look.attention[layer, head], cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}", fontsize=9)
            axes.xaxis.tick_top()
            crowded = n / (width / heads * 6)
            _ticks(axes.xaxis, range(n), names[:-1], font, crowded)
            _ticks(axes.yaxis, range(n), names[:-1], font, crowded)
    return figure


def legible(characters: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the labels of characters and the font families that have all of them."""
    fonts = extras.need("matplotlib.font_manager", "a picture")
    labels = [label(character) for character in characters]
    default = "DejaVu Sans"
    missing = set("".join(labels)) - _glyphs(fonts.findfont(default))
    if not missing:
        return labels, [default]
    for entry in fonts.fontManager.ttflist:
        placeholders = "fallback" in entry.name.lower() or "last resort" in entry.name.lower()
        if not placeholders and missing <= _glyphs(entry.fname):
            return labels, [default, entry.name]
    named = [
        "".join(f"U+{ord(c):04X}" if c in missing else c for c in character) for character in labels
    ]
    return named, [default]


def _glyphs(path: str) -> set[str]:
    font = extras.need("matplotlib.ft2font", "a picture").FT2Font(path)
    return set(map(chr, font.get_charmap()))


def _ticks(axis: Any, at: Iterable[int], names: list[str], font: list[str], crowded: float) -> None:
    """Label an axis with characters; where they would overlap, with every second and so on."""
    every = max(1, math.ceil(crowded))
    kept = [i for i in at if i % every == 0]
    axis.set_ticks(kept)
    axis.set_ticklabels([names[i] for i in kept])
    for text in axis.get_ticklabels():
        text.set(parse_math=False, family=font, fontsize=8)
    axis.set_tick_params(length=0)


def runs_figure(found: Sequence[LoggedRun], axis: str) -> Any:
    """Return a matplotlib figure: the losses of runs, below them what else they logged.

    Raises:  ImportError without matplotlib
    """
    figure_of = extras.need("matplotlib.figure", "a picture").Figure
    below = curves.panels(found)
    heights = [2.4, *[1.0] * len(below)]
    figure = figure_of(figsize=(9, 2.2 * sum(heights)), layout="constrained")
    losses, *others = figure.subplots(
        len(heights), sharex=True, height_ratios=heights, squeeze=False
    )[:, 0]
    for i, run in enumerate(found):
        color = COLORS[i % len(COLORS)]
        style = ("-", "--", ":", "-.")[i // len(COLORS) % 4]
        loss, held_out = run.curve("loss", axis), run.curve("val_loss", axis)
        losses.plot(*curves.thinned(loss), color=color, alpha=0.25, linewidth=0.7)
        mean = curves.thinned(curves.running_mean(loss))
        losses.plot(*mean, style, color=color, label=run.label, linewidth=1.5)
        if held_out.y:
            text = "held out" if len(found) == 1 else f"held out, {run.label}"
            losses.plot(*held_out, "o", color=color, label=text, markersize=4, mec="white", mew=0.5)
        for axes, (name, _) in zip(others, below):
            curve = run.curve(name, axis)
            curve = curves.running_mean(curve) if name != "rate" and curve.y else curve
            axes.plot(*curves.thinned(curve), style, color=color, linewidth=1.2)
    losses.set_ylabel("loss (nats per token)")
    for axes, (_, text) in zip(others, below):
        axes.set_ylabel(text)
        axes.set_ylim(bottom=0)
    for axes in (losses, *others):
        axes.grid(alpha=0.3)
    (losses, *others)[-1].set_xlabel(axis)
    for text in losses.legend(fontsize=9).get_texts():
        text.set_parse_math(False)
    return figure
