"""Make the notebooks from the programs: a cell for each part that begins with `# %%`.

Run in this folder: python notebooks.py
"""

import json
from pathlib import Path


def notebook(source):
    """Return a program as a notebook."""
    head, *parts = source.split("# %% ")
    doc, imports = head.split("\n\n", 1)
    cells = [("markdown", doc.strip('"')), ("code", imports)]
    for part in parts:
        title, code = part.split("\n", 1)
        cells += [("markdown", f"## {title}"), ("code", code)]
    return {
        "cells": [cell(i, kind, text.strip("\n")) for i, (kind, text) in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cell(i, kind, text):
    """Return a cell of a notebook that has not run."""
    made = {"id": f"cell{i}", "cell_type": kind, "metadata": {}, "source": text.splitlines(True)}
    return made if kind == "markdown" else {**made, "outputs": [], "execution_count": None}


if __name__ == "__main__":
    for path in sorted(Path().glob("train*.py")):
        made = notebook(path.read_text(encoding="utf-8"))
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        path.with_suffix(".ipynb").write_text(text, encoding="utf-8")
