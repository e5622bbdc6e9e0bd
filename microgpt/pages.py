"""HTML of looks, models and tokenizers, for notebooks, files and reports.

Nothing here needs a script, a font or a network. Colours are translucent and text has
the colour of its surroundings, so that a fragment reads on light and dark pages alike.
"""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape
from typing import TYPE_CHECKING, Any

from microgpt.message import label

if TYPE_CHECKING:
    from microgpt.look import Look
    from microgpt.model import Model
    from microgpt.oracle import Value
    from microgpt.tokenizer import CharTokenizer
    from microgpt.training import Training

INK = (46, 110, 210)  # of probabilities and attention: readable on white and on black
HOT = (214, 84, 36)  # of surprise
MAX_CHILDREN = 20  # shown of a node
MAX_LABELS = 64  # on an axis
MAX_BITS = 8.0  # a surprise from here on has the full colour

STYLE = """<style>
.microgpt { font: 14px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
.microgpt table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.microgpt th, .microgpt td { padding: 1px 8px; text-align: right; white-space: nowrap; }
.microgpt th { font-weight: 600; border-bottom: 1px solid #8886; }
.microgpt td.text, .microgpt th.text { text-align: left; }
.microgpt .scroll { overflow-x: auto; max-width: 100%; }
.microgpt code { font: 13px/1.6 ui-monospace, monospace; background: none; color: inherit; }
.microgpt .strip code { padding: 2px 1px; margin-right: 1px; border-radius: 2px; }
.microgpt .bar { display: inline-block; width: 5em; height: .8em; background: #8882; }
.microgpt .bar i { display: block; height: 100%; background: rgb(46 110 210 / .75); }
.microgpt .share { display: inline-block; width: 3.6em; text-align: right; }
.microgpt td code { display: inline-block; min-width: 1.2em; }
.microgpt .heads { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(200px, 100%), 1fr)); }
.microgpt figure { margin: 0; break-inside: avoid; }
.microgpt figcaption { font-size: 12px; }
.microgpt figure svg { width: 100%; height: auto; display: block; }
.microgpt figure svg text { fill: currentColor; font-family: ui-monospace, monospace; }
.microgpt svg image { image-rendering: pixelated; }
@media print { .microgpt * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
</style>"""


def look_html(look: Look) -> str:
    """Return a look as a fragment: the text by surprise, a table, every head's attention."""
    attention = ""
    if look.attention.size:
        attention = f"<details open><summary>Attention</summary>{heads(look)}</details>"
    return (
        f'{STYLE}<div class="microgpt"><p>{escape(summary(look))}</p>{strip(look)}'
        f"<details open><summary>Probabilities</summary>{table(look)}</details>"
        f"{attention}</div>"
    )


def page(title: str, body: str) -> str:
    """Return a whole page around a fragment."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title></head>'
        f'<body style="max-width: 72rem; margin: 1rem auto; padding: 0 1rem">{body}</body></html>\n'
    )


def summary(look: Look) -> str:
    """Return one line: positions, loss, and how much of the text the model did not read."""
    bits = look.surprise.mean()
    line = f"{len(look)} positions, {look.loss:.4f} nats or {bits:.4f} bits per token"
    if look.unseen:
        line += f"; {look.unseen} tokens after block_size={look.config.block_size} not seen"
    return line


def strip(look: Look) -> str:
    """Return the text with each character shaded by its surprise."""
    red, green, blue = HOT
    shown = []
    for t, token in enumerate(look.tokens[1:]):
        bits, p = look.surprise[t], look.probabilities[t, token]
        shade = min(bits / MAX_BITS, 1.0) * 0.8
        shown.append(
            f'<code style="background: rgb({red} {green} {blue} / {shade:.2f})" '
            f'title="probability {p:.4f}, {bits:.2f} bits">{_label(look, token)}</code>'
        )
    return f'<p class="strip" aria-label="the text, shaded by surprise">{"".join(shown)}</p>'


def table(look: Look) -> str:
    """Return a row a position: the next token, its probability and surprise, the best five."""
    rows = []
    for t, token in enumerate(look.tokens[1:]):
        p = float(look.probabilities[t, token])
        best = "".join(
            f'<td class="text"><code>{_label(look, other)}</code> {bar(q)}</td>'
            for other, q in look.top(t)
        )
        rows.append(
            f'<tr><td>{t}</td><td class="text"><code>{_label(look, token)}</code></td>'
            f"<td>{bar(p)}</td><td>{look.surprise[t]:.2f}</td>{best}</tr>"
        )
    head = (
        '<tr><th scope="col">#</th><th scope="col" class="text">came</th>'
        '<th scope="col">probability</th><th scope="col">bits</th>'
        f'<th scope="colgroup" class="text" colspan="{len(look.top(0))}">likeliest</th></tr>'
    )
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def bar(share: float) -> str:
    """Return a horizontal bar, filled to share, and the share as percent."""
    filled = f'<span class="bar"><i style="width: {100 * share:.1f}%"></i></span>'
    return f'{filled}<span class="share">{share:.1%}</span>'


def heads(look: Look) -> str:
    """Return every layer's and head's attention as pictures, characters on both axes."""
    labels = [_label(look, token) for token in look.tokens[:-1]]
    figures = []
    for layer, of_layer in enumerate(look.attention):
        for head, weights in enumerate(of_layer):
            caption = f"layer {layer}, head {head}"
            figures.append(
                f"<figure><figcaption>{caption}</figcaption>"
                f"{heatmap(weights, labels, f'attention of {caption}')}</figure>"
            )
    return (
        "<p>Rows read, columns are read: the stronger the colour, the larger the share.</p>"
        f'<div class="heads">{"".join(figures)}</div>'
    )


def heatmap(weights: Any, labels: list[str], title: str) -> str:
    """Return a square picture of weights in 0..1 with labels, which are HTML, on both axes."""
    n = len(labels)
    every = -(-n // MAX_LABELS)
    cell, edge = 10, 14 * every
    size = edge + cell * n
    font = f"font-size: {8 * every}px"
    columns = "".join(
        f'<text x="{edge + cell * (i + 0.5)}" y="{edge - 4}" text-anchor="middle">{text}</text>'
        for i, text in enumerate(labels)
        if i % every == 0
    )
    rows = "".join(
        f'<text x="{edge - 2}" y="{edge + cell * (i + 0.75)}" text-anchor="end">{text}</text>'
        for i, text in enumerate(labels)
        if i % every == 0
    )
    levels = (weights * 255).round().astype("uint8")
    return (
        f'<svg viewBox="0 0 {size} {size}" role="img" style="{font}" '
        f'aria-label="{escape(title)}">'
        f'<rect x="{edge}" y="{edge}" width="{cell * n}" height="{cell * n}" fill="#8881"/>'
        f'<image x="{edge}" y="{edge}" width="{cell * n}" height="{cell * n}" '
        f'preserveAspectRatio="none" href="{png(levels)}"/>{columns}{rows}</svg>'
    )


def png(levels: Any) -> str:
    """Return a picture of one colour at 256 opacities as a data URL.

    Shapes:  levels (height, width), uint8
    Source:  PNG specification: colour type 3, with a palette and its transparency
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = levels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(INK) * 256)
        + chunk(b"tRNS", bytes(range(256)))
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def model_html(model: Model) -> str:
    """Return a model's shape and size, matrix by matrix."""
    rows = "".join(
        f'<tr><td class="text"><code>{name}</code></td><td>{n_out} by {n_in}</td>'
        f"<td>{n_out * n_in:,}</td></tr>"
        for name, (n_out, n_in) in model.config.shapes().items()
    )
    return (
        f'{STYLE}<div class="microgpt"><p><code>{escape(repr(model))}</code></p>'
        "<details><summary>Matrices</summary>"
        '<table><tr><th class="text">matrix</th><th>shape</th><th>weights</th></tr>'
        f"{rows}</table></details></div>"
    )


def tokenizer_html(tokenizer: CharTokenizer) -> str:
    """Return a tokenizer's characters with their ids."""
    shown = "".join(
        f'<code title="id {i}">{escape(label(char))}</code> '
        for i, char in enumerate([*tokenizer.chars, ""])
    )
    return (
        f'{STYLE}<div class="microgpt"><p>{tokenizer.vocab_size} tokens, in the order of their '
        f"ids; &lt;&gt; is BOS</p><p>{shown}</p></div>"
    )


def run_html(run: Training) -> str:
    """Return a run: how far it is, its losses, and the settings that decide its numbers."""
    recent = f"{sum(run.recent) / len(run.recent):.4f}" if run.recent else "none yet"
    facts = {f"mean loss of the last {len(run.recent)} steps": recent}
    if run.best is not None:
        facts[f"lowest held-out loss, after step {run.best[0]:,}"] = f"{run.best[1]:.4f}"
    facts |= {name: str(value) for name, value in run.settings.of_scope("bits").items()}
    rows = "".join(
        f'<tr><td class="text">{escape(name)}</td><td>{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return (
        f'{STYLE}<div class="microgpt"><p><code>{escape(repr(run))}</code></p>'
        f"<table>{rows}</table></div>"
    )


def value_html(node: Value) -> str:
    """Return a node: its number and gradient, and what it was computed from."""
    pairs = list(zip(node._children, node._local_grads))
    rows = "".join(
        f'<tr><td class="text"><code>{escape(repr(child))}</code></td><td>{grad}</td>'
        f"<td>{grad * node.grad}</td></tr>"
        for child, grad in pairs[:MAX_CHILDREN]
    )
    more = f"<p>and {len(pairs) - MAX_CHILDREN:,} more</p>" if len(pairs) > MAX_CHILDREN else ""
    head = (
        '<tr><th class="text">computed from</th><th>local gradient</th>'
        "<th>times this node's gradient</th></tr>"
    )
    table = f'<div class="scroll"><table>{head}{rows}</table></div>{more}' if pairs else ""
    return f'{STYLE}<div class="microgpt"><p><code>{escape(repr(node))}</code></p>{table}</div>'


def _label(look: Look, token: int) -> str:
    return escape(label(look.character(token)))
