"""`microgpt look`: show what a saved model computes for a text, in the terminal or as a file.

A line a character: the character, its probability, its surprise, and the likeliest
alternatives as bars; then attention as grids. Everything fits into the width of the
terminal: alternatives wrap, wide grids go on below. Without colour, and where the
output cannot show block characters, signs stand in for shades.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microgpt import checkpoint, files
from microgpt.commands import flags
from microgpt.commands.terminal import console
from microgpt.look import Look, bits, predictions
from microgpt.message import label
from microgpt.sampling import text_tokens

if TYPE_CHECKING:
    from microgpt.model import Model

SUMMARY = "look inside a saved model at one text"
EXAMPLES = """\
examples:
  microgpt look names isabella                    the probability of each letter
  microgpt look names isabella --layer 0 --head 2 one head's attention
  microgpt look names isabella --ablate 0.2       the same with that head's output set to zero
  microgpt look names isabella --html look.html   a page; --png and --json likewise
  echo isabella | microgpt look names - --json

DIR is what train --out made; only a GPT has attention. <> is BOS, the token at both ends
of a document. Beyond block_size characters each is predicted from the last block_size, as
sampling does.
"""
MAX_GRID = 33  # positions to which attention is shown without being asked for
BLOCKS, SIGNS = " ░▒▓█", " .:*#"
EIGHTHS = " ▏▎▍▌▋▊▉█"
SHADES = (0.05, 0.2, 0.45, 0.7)  # attention from which each next shade begins


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    command.add_argument("model", metavar="DIR", help="the directory that train --out made")
    command.add_argument("text", metavar="TEXT", help="the text to look at; - for standard input")
    command.add_argument(
        "--top", type=_count, default=5, metavar="N", help="alternatives a line (default: 5)"
    )
    command.add_argument(
        "--layer", type=_index, metavar="N", help="attention of this layer (default: the last)"
    )
    command.add_argument(
        "--head", type=_index, metavar="N", help="attention of this head alone (default: all)"
    )
    command.add_argument(
        "--ablate",
        type=_head,
        action="append",
        default=[],
        metavar="LAYER.HEAD",
        help="set this head's output to zero; may be given several times",
    )
    for kind, what in (("png", "a picture"), ("html", "a page")):
        command.add_argument(
            f"--{kind}",
            type=Path,
            nargs="?",
            const=Path(f"look.{kind}"),
            metavar="FILE",
            help=f"write {what} (default: look.{kind})",
        )
    command.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write all figures (default: to standard output)",
    )
    flags.add_settings(command, ["engine"])


def run(arguments: argparse.Namespace) -> int:
    """Look at a text as the command line asks; return the exit status.

    Raises:  OSError, ValueError and ImportError with a message for the user
    """
    model, tokenizer = checkpoint.load(arguments.model, flags.given(arguments).get("engine"))
    settings = (checkpoint.read(arguments.model).run or {}).get("settings", {})
    text = arguments.text
    if text == "-":
        text = sys.stdin.read().removesuffix("\n")
    tokens = text_tokens(tokenizer, text, settings.get("split", "lines"))
    look = model.look(tokens, ablate=arguments.ablate)
    layers, heads = look.attention.shape[:2]
    if not layers and (arguments.layer, arguments.head) != (None, None):
        raise ValueError(f"a model of the kind {model.name} has no attention to show")
    _check_choice("layer", arguments.layer, layers)
    _check_choice("head", arguments.head, heads)
    if arguments.ablate and look.unseen:
        raise ValueError(
            f"--ablate takes at most block_size={model.config.block_size} characters, "
            f"not {len(look) + look.unseen - 1}"
        )
    if arguments.png is not None:
        from microgpt import pictures

        with files.replacing(arguments.png) as file:
            pictures.look_figure(look).savefig(file, format="png", dpi=150)
    if arguments.html is not None:
        from microgpt import pages

        page = pages.page(f"microgpt look: {text}", pages.look_html(look))
        with files.replacing(arguments.html) as file:
            file.write(page.encode("utf-8", "backslashreplace"))
    if arguments.json is not None:
        figures = json.dumps(as_json(look), allow_nan=False) + "\n"
        if arguments.json == "-":
            print(figures, end="")
        else:
            with files.replacing(Path(arguments.json)) as file:
                file.write(figures.encode())
    if arguments.png is arguments.html is arguments.json is None:
        _print(model, tokens, look, arguments)
    return 0


def as_json(look: Look) -> dict[str, Any]:
    """Return a look's figures as JSON has them, to the last bit; what is not finite as null."""
    return {
        "tokens": look.tokens,
        "characters": look.characters,
        "loss": _finite(look.loss),
        "probability": [look.probabilities[t, i].item() for t, i in enumerate(look.tokens[1:])],
        "bits": [_finite(cost) for cost in look.surprise.tolist()],
        "alternatives": [
            [{"character": look.character(i), "probability": p} for i, p in look.top(t)]
            for t in range(len(look))
        ],
        "attention": look.attention.tolist(),
        "unseen": look.unseen,
    }


def _print(model: Model, tokens: list[int], look: Look, arguments: argparse.Namespace) -> None:
    screen = Screen()
    seen: Iterable[tuple[int, list[float]]] = zip(look.tokens[1:], look.probabilities.tolist())
    if look.unseen:
        seen = predictions(model, tokens)
    total, n = 0.0, 0
    screen.heading()
    for t, (token, probs) in enumerate(seen):
        total, n = total + bits(probs[token]), n + 1
        best = sorted(enumerate(probs), key=lambda pair: -pair[1])[: arguments.top]
        named = [(look.character(i), p) for i, p in best]
        screen.character(t, look.character(token), probs[token], named)
    print(f"\n{n} tokens, the end counted: {total:.2f} bits, {total / n:.4f} bits per token")
    if not look.attention.size:
        return
    config, asked = model.config, (arguments.layer, arguments.head) != (None, None)
    if len(look) > MAX_GRID and not asked:
        print(f"attention of {len(look)} positions: choose with --layer N and --head N")
        return
    if look.unseen:
        print(f"attention over the first block_size={config.block_size} positions:")
    layer = config.n_layer - 1 if arguments.layer is None else arguments.layer
    heads = range(config.n_head) if arguments.head is None else [arguments.head]
    labels = [look.character(token) for token in look.tokens[:-1]]
    grids = [(f"layer {layer}, head {head}", look.attention[layer, head]) for head in heads]
    screen.grids(grids, labels)


class Screen:
    """The output, a terminal or not: its width, its characters, its colours."""

    def __init__(self) -> None:
        self._console = console(highlight=False, markup=False, emoji=False)
        self.width = self._console.width
        try:
            (BLOCKS + EIGHTHS).encode(self._console.encoding)
            self.plain = False
        except UnicodeEncodeError:
            self.plain = True

    def heading(self) -> None:
        self._line([f"{'#':>4} {'':4} {'p':>6} {'bits':>6}  likeliest", ""])

    def character(
        self, t: int, came: str, p: float, alternatives: Sequence[tuple[str, float]]
    ) -> None:
        """Print a character's line: probability, surprise, alternatives as bars."""
        cost = bits(p)
        start = f"{t:4} {self.fit(self.label(came), 4)} {_percent(p)} {cost:6.2f}"
        room = self.width - _cells(start) - 2
        width = max(2, *[_cells(self.label(other)) for other, _ in alternatives])
        bar = max(1, min(8, room // len(alternatives) - width - 8))
        parts = [
            (self.fit(self.label(other), width), self.bar(q, bar), f"{_percent(q, 0)}")
            for other, q in alternatives
        ]
        cell = width + bar + 7
        if room >= cell:
            first, indent = max(1, room // cell), _cells(start) + 2
        else:  # too narrow to stand beside: on lines of their own
            first, indent = 0, 2
        each = max(1, (self.width - indent) // cell)
        line: list[str] = [start, "surprise" if cost > 5 else ""]
        for i, (other, shade, share) in enumerate(parts):
            if i == first or (i > first and (i - first) % each == 0):
                self._line(line)
                line = [" " * (indent - 2), ""]
            line += [f"  {other} ", "", shade, "cyan", share, ""]
        self._line(line)

    def grids(self, grids: Sequence[tuple[str, Any]], labels: Sequence[str]) -> None:
        """Print square grids of shares in 0..1 with characters on both axes."""
        texts = [self.label(text) for text in labels]
        cell = max(map(_cells, texts))
        row_label = cell + 1
        columns = max(1, min(len(texts), (self.width - row_label) // cell))
        if columns < len(texts):  # one grid at a time, in bands of columns
            for title, weights in grids:
                for start in range(0, len(texts), columns):
                    band = range(start, min(start + columns, len(texts)))
                    note = f", columns {band.start} to {band.stop - 1}"
                    self._grid_row([(title + note, weights)], texts, cell, band)
            self._legend()
            return
        one = max(row_label + cell * len(texts), *[len(title) for title, _ in grids]) + 3
        each = max(1, (self.width + 3) // one)
        for start in range(0, len(grids), each):
            self._grid_row(grids[start : start + each], texts, cell, range(len(texts)))
        self._legend()

    def label(self, character: str) -> str:
        return label(character, ascii_only=self.plain)

    def fit(self, text: str, width: int) -> str:
        """Return text with spaces up to a width in cells."""
        return text + " " * (width - _cells(text))

    def bar(self, share: float, width: int) -> str:
        """Return a horizontal bar of a width in cells, filled to share."""
        if self.plain:
            return self.fit("#" * round(share * width), width)
        eighths = round(share * width * 8)
        return self.fit("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip(), width)

    def shade(self, share: float, width: int) -> str:
        level = sum(share >= least for least in SHADES)
        return (SIGNS if self.plain else BLOCKS)[level] * width

    def _grid_row(
        self, grids: Sequence[tuple[str, Any]], texts: Sequence[str], cell: int, band: range
    ) -> None:
        """Print grids side by side, for a band of columns."""
        wide = max(cell + 1 + cell * len(band), *[len(title) for title, _ in grids])
        gap = "   "
        titles = [self.fit(title, wide) for title, _ in grids]
        print()
        self._line([gap.join(titles).rstrip(), ""])
        head = self.fit(" " * (cell + 1) + "".join(self.fit(texts[s], cell) for s in band), wide)
        self._line([gap.join([head] * len(grids)).rstrip(), ""])
        for t, text in enumerate(texts):
            line: list[str] = []
            for i, (_, weights) in enumerate(grids):
                shades = "".join(self.shade(float(weights[t, s]), cell) for s in band)
                shades += " " * (wide - cell - 1 - cell * len(band))
                line += [gap if i else "", "", self.fit(text, cell) + " ", "", shades, "blue"]
            self._line(line)

    def _legend(self) -> None:
        steps = [f"{self.shade(least, 1)} from {least:.0%}" for least in SHADES]
        print("\nrows read, columns are read: " + ", ".join(steps))

    def _line(self, parts: Sequence[str]) -> None:
        """Print one line of text, style, text, style, and so on."""
        from rich.text import Text

        styles = {"surprise": "bold red"}
        line = Text(no_wrap=True, overflow="ignore")
        for text, style in zip(parts[::2], parts[1::2]):
            line.append(text, styles.get(style, style))
        line.rstrip()
        self._console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _percent(share: float, digits: int = 1) -> str:
    """Return a share as percent in a fixed width; only 0 and 1 are shown as 0 and 100."""
    width = 4 + bool(digits) * (digits + 1)
    least = 10.0**-digits
    percent = 100 * share
    if 0 < percent < least:
        return f"{'<' + format(least, f'.{digits}f') + '%':>{width}}"
    return f"{percent:{width - 1}.{digits}f}%"


def _check_choice(name: str, chosen: int | None, size: int) -> None:
    if chosen is not None and chosen >= size:
        raise ValueError(f"--{name} {chosen}: this model has 0..{size - 1}")


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    number = _index(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1, not 0")
    return number


def _head(text: str) -> tuple[int, int]:
    layer, dot, head = text.partition(".")
    if not dot:
        raise argparse.ArgumentTypeError(f"must be LAYER.HEAD, as 0.2, not {text!r}")
    return _index(layer), _index(head)
