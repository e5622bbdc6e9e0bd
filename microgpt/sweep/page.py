"""The report page of a sweep: its best trials, and Optuna's own plots."""

from __future__ import annotations

import json
import os
import warnings
from html import escape
from typing import Any

from microgpt import extras, report
from microgpt.sweep.results import Results, short

SHOWN = 20  # of the best trials
CONTOURS = 4  # settings that are drawn against each other: the most important
MOST = 2_000  # trials that are drawn


def page(results: Results) -> str:
    """Return the page.

    Raises:  ImportError without Optuna or plotly
    """
    plotly = extras.need("plotly.offline", "a report")
    drawing = extras.need("optuna.visualization", "the page of a sweep", "sweep")
    importance = extras.need("optuna.importance", "the page of a sweep", "sweep")
    found: dict[str, Any] = {}
    if len({result.val_loss for result in results.best()}) > 1:
        study, shares = results.study(MOST), results.importance()
        names = sorted(shares, key=lambda name: -shares[name])
        named = {"target_name": "held-out loss"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of points too few for a surface
            found["History"] = drawing.plot_optimization_history(study, **named)
            found["Parallel coordinates"] = drawing.plot_parallel_coordinate(study, names, **named)
            found["Each setting"] = drawing.plot_slice(study, names, **named)
            if len(names) > 1:
                evaluator = importance.PedAnovaImportanceEvaluator()
                found["Importance"] = drawing.plot_param_importances(study, evaluator)
                found["Contours"] = drawing.plot_contour(study, names[:CONTOURS], **named)
    sections, figures = {"Best trials": _best(results)}, {}
    for title, figure in found.items():
        name = f"plot-{title.lower().replace(' ', '-')}"
        figures[name] = json.loads(figure.to_json())
        layout = figures[name]["layout"]
        for unwanted in ("template", "title"):  # the page has its own
            layout.pop(unwanted, None)
        rows = sum(key.startswith("yaxis") for key in layout)
        columns = sum(key.startswith("xaxis") for key in layout)
        layout["height"] = 260 * min(rows, CONTOURS) if rows > 1 and columns == rows else 420
        label = f'role="img" aria-label="{escape(title)}"'
        sections[title] = f'<div class="figure" id="{name}" {label}></div>'
    settings = {name: str(value) for name, value in results.space.as_json().items()}
    rules = {key: str(results.definition[key]) for key in ("sampler", "pruner", "trials")}
    sections["Settings"] = report.fact_list({**rules, **settings})
    title = os.path.basename(os.path.abspath(results.directory))
    return report.document(title, _summary(results), sections, figures, plotly)


def _summary(results: Results) -> str:
    states = [result.state for result in results.trials.values()]
    counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    text = f"A sweep of {len(states):,} trials: {', '.join(counts) or 'none has ended'}."
    for result in results.best()[:1]:
        text += f" Lowest held-out loss {result.val_loss:.4f} nats per token, trial {result.number}"
        text += f", whose run is in {results.path(result.number).name}."
    return text


def _best(results: Results) -> str:
    names = list(results.space.domains)
    rows = [
        (
            f"{result.number:04d}",
            f"{result.val_loss:.4f}",
            f"{result.train_loss:.4f}",
            f"{result.seconds:.2f}",
            *(short(result.params[name]) for name in names),
        )
        for result in results.best()[:SHOWN]
    ]
    return report.as_table(("trial", "val_loss", "train_loss", "seconds", *names), rows)
