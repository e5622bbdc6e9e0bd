"""Notebooks: `%load_ext microgpt` in a cell, and `microgpt run NOTEBOOK.ipynb`."""

from __future__ import annotations

import ast
import builtins
import os
import sys
from typing import Any

from microgpt.run import functions, rewrite
from microgpt.run.mentions import short
from microgpt.run.watch import Watch

_NAMES = "_microgpt_run_"
_EXPLAIN = "print('\\n'.join(get_ipython().microgpt_watch.lines()))"


class _Transformer(ast.NodeTransformer):
    """Marks the loops and functions of each cell; what the marks stand for is in builtins."""

    def __init__(self, watch: Watch, shell: Any) -> None:
        self.watch, self.shell = watch, shell

    def cell(self) -> str:
        return f"cell {len(self.shell.user_ns['In']) - 1}"  # as in In [1]:

    def short(self, filename: str) -> str:
        is_cell = "ipython-input" in filename or "ipykernel" in filename
        return self.cell() if is_cell else short(filename)

    def visit_Module(self, tree: ast.Module) -> ast.Module:
        names: dict[str, str] = {}

        def reference(marker: str) -> ast.expr:
            name = names.setdefault(marker, f"{_NAMES}{len(vars(builtins))}_{len(names)}")
            return ast.Name(name, ast.Load())

        rewriter = rewrite.Rewriter(self.cell(), reference)
        tree = rewriter.visit(tree)
        self.watch.cell.tests = rewriter.tests
        for marker, name in names.items():
            setattr(builtins, name, rewriter.loops.get(marker, functions))
        for _, _, adoption in self.watch.adoptions:
            if adoption.mentions.builtins & rewriter.bound.keys():
                adoption.retire()
        return tree


def load(shell: Any) -> None:
    """Watch the cells that an IPython shell runs from now on."""
    watch = Watch()
    watch.at_refusal = lambda line: print(line, file=sys.stderr)
    watch.install()
    transformer = _Transformer(watch, shell)
    watch.short = transformer.short
    shell.ast_transformers.append(transformer)
    shell.microgpt_watch = watch


def run_notebook(path: str, source: bytes, explain: bool = False) -> int:
    """Run the cells of a notebook, print what they print; return the exit status.

    explain: print what is replaced, in place of what they print.
    """
    try:
        import nbformat as formats
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError:
        print(
            f"microgpt run: {path} is a notebook, which needs nbclient: pip install nbclient "
            "ipykernel; or put %load_ext microgpt into its first cell",
            file=sys.stderr,
        )
        return 2
    nbformat: Any = formats  # it is not typed throughout
    try:
        notebook = nbformat.reads(source.decode(), as_version=4)
    except Exception as error:
        print(f"microgpt run: {path} cannot be read as a notebook: {error}", file=sys.stderr)
        return 1
    cells = notebook.cells
    cells.insert(0, nbformat.v4.new_code_cell("%load_ext microgpt"))
    if explain:
        cells.append(nbformat.v4.new_code_cell(_EXPLAIN))
    folder = os.path.dirname(os.path.abspath(path))
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}})
    status = 0
    try:
        client.execute()
    except CellExecutionError:
        status = 1
    for output in [out for cell in cells[-explain:] for out in cell.get("outputs", ())]:
        if output.output_type == "stream":
            stream = sys.stderr if output.name == "stderr" else sys.stdout
            stream.write(output.text)
        elif output.output_type == "error":
            print("\n".join(output.traceback), file=sys.stderr)
        elif "text/plain" in output.get("data", {}):
            print(output.data["text/plain"])
    return status
