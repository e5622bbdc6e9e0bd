"""A report on a run: one page that opens from a disk, without a network or a server.

plotly draws the interactive figures (curves, embeddings, distributions); its script is
part of the page. The rest is HTML, and every figure's content can be read without a
pointer. Colours follow the reader's light or dark setting, text included, by the page's
own style sheet, so a print-out is dark on white.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from microgpt import checkpoint, curves, extras, pages, sampling
from microgpt.corpus import Corpus
from microgpt.look import Look
from microgpt.message import label
from microgpt.pictures import COLORS
from microgpt.settings import FIELDS, Settings

MAX_BYTES = 6_000_000
MAX_DOCUMENTS = 200  # searched for the hardest
GRADIENT_DOCUMENTS = 32
MANY, FEW, SHORT = 40, 10, 24  # samples: many of a block_size up to SHORT
MIN_COUNT = 3  # occurrences from which a character's mean says something
MIN_BARS = 5
MAX_BINS = 60
SIZES = ("n_embd", "n_hidden", "n_head", "n_layer")  # which not every model has
SHOWN = 8  # hardest and easiest documents

STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")


class Report:
    """The report on a run's directory; `page` returns it as HTML.

    text is the one whose probabilities are shown; by default the first held-out document, or else
    the first of training.

    Raises:  OSError and ValueError as `checkpoint.read`; ImportError without numpy or plotly
    """

    def __init__(
        self, directory: str | os.PathLike[str], text: str | None = None, verdict: str = ""
    ) -> None:
        self.numpy = extras.need("numpy", "a report")
        self.plotly = extras.need("plotly.offline", "a report")
        self.directory = Path(directory)
        self.file = checkpoint.file_in(directory)
        self.model, self.tokenizer = checkpoint.load(directory)
        self.run = checkpoint.read(directory, best=False).run
        self.log, self.no_log = _log(self.directory) if self.run else (None, "")
        self.verdict = verdict
        self.figures: dict[str, Any] = {}
        self.corpus, self.no_corpus = _corpus(self.run)
        self.split = "lines" if self.run is None else Settings(**self.run["settings"]).split
        documents = self.documents()
        tokens = documents[0] if documents else [self.tokenizer.BOS, self.tokenizer.BOS]
        if text is not None:
            tokens = sampling.text_tokens(self.tokenizer, text, self.split)
        self.look = self.model.look(tokens)
        self.looks = [self.model.look(document) for document in documents]

    def documents(self) -> list[list[int]]:
        """Return the held-out documents, or without any those of training, up to a number."""
        if self.corpus is None:
            return []
        texts = (self.corpus.held_out or self.corpus.training)[:MAX_DOCUMENTS]
        if self.split == "windows":
            return [self.tokenizer.encode(text) for text in texts]
        most = self.model.config.block_size  # the rest of a document is not used
        return [self.tokenizer.encode_document(text)[: most + 1] for text in texts]

    def page(self) -> str:
        """Return the page.

        Raises:  ValueError if it is larger than MAX_BYTES
        """
        sections = {
            "Settings": self.settings(),
            "Curves": self.curves(),
            "Samples": self.samples(),
            "A text": self.text(),
            "Attention": pages.heads(self.look) if self.look.attention.size else "",
            "Embeddings": self.embeddings(),
            "Weights and gradients": self.distributions(),
            "What is hard": self.hard(),
        }
        name = os.path.basename(os.path.abspath(self.directory))
        html = document(name, self.summary(), sections, self.figures, self.plotly)
        size = len(html.encode("utf-8", "surrogatepass"))
        if size > MAX_BYTES:
            raise ValueError(f"the report would have {size:,} bytes: take a shorter --text")
        return html

    def summary(self) -> str:
        """Return the run in a sentence or two."""
        c = self.model.config
        sizes = {name: size for name, size in vars(c).items() if name != "vocab_size"}
        kind = type(self.model).__name__
        text = f"A {kind} of {c.num_params:,} weights: "
        if self.look.attention.size:
            text += f"{_count(sizes.pop('n_layer'), 'layer')} of "
            text += f"{_count(sizes.pop('n_head'), 'head')}, "
        text += "".join(f"{name} {size}, " for name, size in sizes.items())
        text += f"{c.vocab_size} tokens."
        if self.run is None:
            return f"{text} A model without a run: no settings, curves or text are known."
        text += f" {_count(self.run['step'], 'step')}"
        text += f" in {self.log.lines[-1]['seconds']:,.1f} seconds." if self.log else "."
        if self.run["best"] is not None:
            step, loss = self.run["best"]
            text += f" Lowest held-out loss {loss:.4f} nats per token, after step {step:,}."
        return text

    def settings(self) -> str:
        """Return settings and provenance as lists."""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        facts = {"file": self.file.name, "sha256 of the file": digest}
        listed = ""
        if self.run is not None:
            run = self.run
            facts |= {
                "documents": f"{run['documents']:,} to train on, {run['held_out']:,} held out",
                "sha256 of the documents": run["sha256"],
                "microgpt": run["version"],
                "libm digest": run["libm"]
                + ("" if run["libm"] == checkpoint.libm() else ", not ours"),
                "steps": "; ".join(f"from {a:,} towards {b:,}" for a, b in run["history"]),
            }
            values = Settings(**run["settings"])
            shown = {
                name: getattr(values, name)
                for name, field in FIELDS.items()
                if field.metadata.get("scope", "process") != "process" or name in run["settings"]
            }
            named = {
                name.replace("_", "-"): str(value)
                for name, value in shown.items()
                if value not in (None, "")
                and (name not in SIZES or hasattr(self.model.config, name))
            }
            listed = f"<h3>Settings</h3>{fact_list(named)}"
        if self.verdict:
            facts["microgpt verify"] = self.verdict
        return f"{fact_list(facts, 'facts long')}{listed}"

    def curves(self) -> str:
        """Return the run's losses and its other logged columns, as figures."""
        run = self.log
        if run is None:
            return f"<p>{escape(self.no_log)}</p>" if self.no_log else ""
        loss, held_out = run.curve("loss"), run.curve("val_loss")
        mean = curves.running_mean(loss)
        traces = [
            _line("each step", curves.thinned(loss), COLORS[0], width=1, opacity=0.3),
            _line("running mean", curves.thinned(mean), COLORS[0]),
        ]
        if held_out.y:
            traces.append(_line("held out", held_out, COLORS[1], mode="lines+markers"))
        shown = [self.figure("loss", traces, "step", "nats per token", "the loss over steps")]
        for name, title in curves.panels([run]):
            curve = run.curve(name)
            if name != "rate":
                curve = curves.running_mean(curve)
            trace = _line(title, curves.thinned(curve), COLORS[0])
            shown.append(self.figure(name, [trace], "step", title, f"{title} over steps"))
        rows = [
            (f"{x:,}", f"{y:.4f}", f"{held:.4f}" if held is not None else "")
            for x, y, held in _milestones(mean, held_out)
        ]
        rows_table = as_table(("step", "running mean", "held out"), rows)
        return (
            f'{shown[0]}<div class="pair">{"".join(shown[1:])}</div>'
            f"<details><summary>Losses in figures</summary>{rows_table}</details>"
        )

    def samples(self) -> str:
        """Return samples, each marked as new, or as in the text."""
        known = None
        windows = self.split == "windows"
        if self.corpus is not None and not windows:
            known = {"train": set(self.corpus.training), "held out": set(self.corpus.held_out)}
        count = MANY if self.model.config.block_size <= SHORT else FEW
        settings = Settings(split=self.split, num_samples=count)
        items = []
        for text, _ in sampling.samples(self.model, self.tokenizer, random.Random(42), settings):
            shown = "\n".join(_visible(line) for line in text.split("\n"))
            items.append(f"<li>{shown} {_tag(text, known)}</li>")
        note = "Temperature 0.5, seed 42."
        if known:
            note += " Each is new, or a document of the text."
        elif self.no_corpus:
            note += f" Whether they are new is not known: {self.no_corpus}"
        return f'<p>{escape(note)}</p><ul class="samples">{"".join(items)}</ul>'

    def text(self) -> str:
        """Return one text's probabilities."""
        look = self.look
        return (
            f"<p>{escape(pages.summary(look))}. The stronger the colour, the larger the "
            f"surprise.</p>{pages.strip(look)}{pages.table(look)}"
        )

    def embeddings(self) -> str:
        """Return characters and positions in the plane of their largest variance."""
        weights, shown = self.matrices(self.model.weights()), []
        characters = [label(self.look.character(i)) for i in range(self.model.config.vocab_size)]
        positions = [str(t) for t in range(self.model.config.block_size)]
        for name, names, title in (
            ("wte", [*characters, "none"], "characters"),  # an MLP's last: before the first
            ("wpe", positions, "positions"),
            ("logits", characters, "characters"),
        ):
            if name not in weights:
                continue
            names = names[: len(weights[name])]
            points, shares = _plane(self.numpy, weights[name])
            trace = {
                "type": "scatter",
                "mode": "markers+text",
                "x": _rounded(points[:, 0]),
                "y": _rounded(points[:, 1]),
                "text": names,
                "textposition": "top center",
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"color": COLORS[0], "size": 6},
            }
            x, y = (f"component {i}, {share:.0%} of variance" for i, share in enumerate(shares, 1))
            figure = self.figure(name, [trace], x, y, f"embeddings of {title}", height=440)
            what = "Logits after" if name == "logits" else "Embeddings of"
            shown.append(f"<div><p>{what} {title} ({name})</p>{figure}</div>")
        return f'<div class="pair">{"".join(shown)}</div>'

    def distributions(self) -> str:
        """Return how weights and gradients are distributed, matrix by matrix."""
        weights = self.matrices(self.model.weights())
        found, note = [("weights", "weights", weights)], ""
        documents = [look.tokens for look in self.looks[:GRADIENT_DOCUMENTS]] or [self.look.tokens]
        self.model.batch_loss(documents).backward()
        gradients = self.matrices(self.model.gradients())
        found.append(("gradients", "gradients, log10 of their size", gradients))
        note = f"<p>Gradients of the mean loss of {_count(len(documents), 'document')}.</p>"
        shown = []
        for kind, title, matrices in found:
            traces = []
            together: dict[str, list[Any]] = {}  # a matrix of all layers is one line
            for name, matrix in matrices.items():
                together.setdefault(name.rpartition(".")[2], []).append(matrix.ravel())
            for i, (name, parts) in enumerate(together.items()):
                numbers = self.numpy.concatenate(parts)
                if kind == "gradients":
                    numbers = self.numpy.log10(abs(numbers[numbers != 0]))
                traces.append(self.histogram(name, numbers, COLORS[i % len(COLORS)], i))
            shown.append(self.figure(kind, traces, title, "density", title, height=440))
        rows = [
            (
                name,
                f"{matrix.size:,}",
                f"{matrix.mean():.4f}",
                f"{matrix.std():.4f}",
                f"{abs(matrix).max():.4f}",
                f"{gradients[name].std():.2e}",
                f"{(gradients[name] == 0).mean():.0%}",
            )
            for name, matrix in weights.items()
        ]
        head = ("matrix", "weights", "mean", "deviation", "largest", "gradient's", "zero")
        return f'{note}<div class="pair">{"".join(shown)}</div>{as_table(head, rows)}'

    def histogram(self, name: str, numbers: Any, color: str, i: int) -> dict[str, Any]:
        """Return a distribution as a line."""
        density, edges = [], []
        if len(numbers) > 1 and numbers.min() < numbers.max():
            bins = min(MAX_BINS, max(8, math.isqrt(len(numbers))))
            density, edges = self.numpy.histogram(numbers, bins, density=True)
            edges = _rounded((edges[1:] + edges[:-1]) / 2)
            density = _rounded(density)
        dash = ("solid", "dot", "dash")[i // len(COLORS) % 3]
        line = {"color": color, "width": 1.5, "dash": dash}
        trace = {"type": "scatter", "mode": "lines", "name": name, "line": line}
        return {**trace, "x": edges, "y": density}

    def hard(self) -> str:
        """Return the characters and the documents that cost the most bits."""
        if not self.looks:
            return ""
        which = "held-out" if self.corpus and self.corpus.held_out else "training"
        bits: dict[int, list[float]] = {}
        for look in self.looks:
            for token, cost in zip(look.tokens[1:], look.surprise.tolist()):
                bits.setdefault(token, []).append(cost)
        means = sorted(
            ((math.fsum(costs) / len(costs), token, len(costs)) for token, costs in bits.items()),
            reverse=True,
        )
        common = [mean for mean in means if mean[2] >= MIN_COUNT]
        note = ""
        if len(common) >= MIN_BARS:
            means, note = common, f", of those that occur at least {MIN_COUNT} times there"
        trace = {
            "type": "bar",
            "x": [label(self.look.character(token)) for _, token, _ in means],
            "y": _rounded([mean for mean, _, _ in means]),
            "customdata": [count for _, _, count in means],
            "hovertemplate": "%{x}: %{y:.2f} bits, %{customdata} times<extra></extra>",
            "marker": {"color": COLORS[0]},
        }
        chart = self.figure(
            "characters", [trace], "", "bits, mean", "surprise by character", category=True
        )
        ranked = sorted(self.looks, key=lambda look: -look.surprise.mean())
        hardest = "".join(_document(look) for look in ranked[:SHOWN])
        easiest = "".join(_document(look) for look in ranked[: -SHOWN - 1 : -1])
        return (
            f"<p>Over {_count(len(self.looks), f'{which} document')}. The mean surprise of each "
            f"character{note}:</p>{chart}"
            f'<h3>Hardest documents</h3><div class="documents">{hardest}</div>'
            f'<h3>Easiest documents</h3><div class="documents">{easiest}</div>'
        )

    def figure(
        self,
        name: str,
        traces: list[dict[str, Any]],
        x: str,
        y: str,
        title: str,
        *,
        height: int = 340,
        category: bool = False,
    ) -> str:
        """Keep a plotly figure and return its place in the page."""
        xaxis: dict[str, Any] = {"title": {"text": escape(x)}}
        if category:
            xaxis |= {"type": "category"}
        layout = {
            "height": height,
            "xaxis": xaxis,
            "yaxis": {"title": {"text": escape(y)}},
            "showlegend": len(traces) > 1,
        }
        for trace in traces:  # plotly reads markup in text
            for key in ("text", "x"):
                if trace.get(key) and isinstance(trace[key][0], str):
                    trace[key] = [escape(text) for text in trace[key]]
        self.figures[f"plot-{name}"] = {"data": traces, "layout": layout}
        return (
            f'<div class="figure" id="plot-{name}" role="img" aria-label="{escape(title)}"></div>'
        )

    def matrices(self, numbers: Iterable[float]) -> dict[str, Any]:
        """Return numbers, one a weight, as {name: array (n_out, n_in)}."""
        flat, found, start = self.numpy.array(numbers), {}, 0
        for name, (n_out, n_in) in self.model.config.shapes().items():
            found[name] = flat[start : start + n_out * n_in].reshape(n_out, n_in)
            start += n_out * n_in
        return found


def document(
    name: str, summary: str, sections: dict[str, str], figures: dict[str, Any], plotly: Any
) -> str:
    """Return a whole page: sections of HTML by title, and figures by the ids of their places."""
    kept = {title: body for title, body in sections.items() if body}
    ids = {title: title.lower().replace(" ", "-") for title in kept}
    links = " ".join(f'<a href="#{ids[title]}">{title}</a>' for title in kept)
    body = "".join(
        f'<section id="{ids[title]}" class="microgpt"><h2>{title}</h2>{text}</section>'
        for title, text in kept.items()
    )
    drawn = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>microgpt: {escape(name)}</title>'
        f"{pages.STYLE}<style>{STYLE}</style></head><body><h1>microgpt: {escape(name)}</h1>"
        f"<p>{escape(summary)}</p><nav>{links}</nav>{body}"
        "<noscript><p>The curves and scatter plots need JavaScript.</p></noscript>"
        f"<script>{plotly.get_plotlyjs()}</script>"
        f"<script>const FIGURES = {drawn};\n{SCRIPT}</script></body></html>\n"
    )


def _log(directory: Path) -> tuple[curves.LoggedRun | None, str]:
    """Return a run's log, or why it has none."""
    try:
        return curves.LoggedRun(directory), ""
    except ValueError as error:
        return None, str(error)


def _corpus(run: dict[str, Any] | None) -> tuple[Corpus | None, str]:
    """Return the text that a run was trained on, or why it cannot be read."""
    if run is None:
        return None, "the model was saved without its run."
    try:
        corpus = Corpus.of(Settings(**run["settings"]))
    except (OSError, ValueError) as error:
        return None, f"its text cannot be read ({error})."
    if corpus.sha256 != run["sha256"]:
        return None, "its text has changed since."
    return corpus, ""


def _plane(numpy: Any, matrix: Any) -> tuple[Any, list[float]]:
    """Return rows in the plane of their two principal components, and its shares of variance."""
    centred = matrix - matrix.mean(0)
    u, s, _ = numpy.linalg.svd(centred, full_matrices=False)
    points = numpy.zeros((len(matrix), 2))
    kept = min(2, len(s))
    points[:, :kept] = u[:, :kept] * s[:kept]
    variance = s**2 / (s**2).sum() if s.any() else s
    return points, [*variance[:kept].tolist(), 0.0, 0.0][:2]


def _document(look: Look) -> str:
    return f"<div>{pages.strip(look)}<small>{look.surprise.mean():.2f} bits per token</small></div>"


def _tag(text: str, known: dict[str, set[str]] | None) -> str:
    if known is None:
        return ""
    for name, documents in known.items():
        if text in documents:
            return f'<span class="tag known">{name}</span>'
    return '<span class="tag">new</span>'


def _visible(text: str) -> str:
    return f"<code>{escape(''.join(c if c == ' ' else label(c) for c in text))}</code>"


def _line(
    name: str, curve: curves.Curve, color: str, *, width: float = 2, **rules: Any
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": curve.x,
        "y": _rounded(curve.y),
        "line": {"color": color, "width": width},
        **rules,
    }


def _milestones(
    mean: curves.Curve, held_out: curves.Curve
) -> list[tuple[float, float, float | None]]:
    """Return the running mean at about ten steps, with the held-out loss where there is one."""
    held = dict(zip(held_out.x, held_out.y))
    at = dict(zip(mean.x, mean.y))
    steps = [x for x in held if x in at][-20:] or list(curves.thinned(mean, 10).x)
    return [(x, at[x], held.get(x)) for x in steps]


def _rounded(numbers: Iterable[float]) -> list[float]:
    """Return numbers to six digits: enough for a plot, and a smaller page."""
    return [float(f"{float(x):.6g}") for x in numbers]


def fact_list(values: dict[str, str], kind: str = "facts") -> str:
    """Return names and values as a list."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="{kind}">{rows}</dl>'


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text below a head."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>'


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
