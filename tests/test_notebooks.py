"""The notebooks run from beginning to end, and print what is stored in them."""

import json
import re
import shutil

import pytest
from golden.original import libm_fingerprint
from test_micrograd import DOCS, printed, run_notebook

from microgpt import engine

NOTEBOOKS = sorted(path.name for path in DOCS.glob("*.ipynb"))
OWN_TEST = {"two_moons.ipynb", "draw_graph.ipynb"}  # run in tests/test_micrograd.py
GOLDEN_LIBM = (DOCS.parent / "tests/golden/libm.txt").read_text().split("\n")[1]


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in OWN_TEST])
def test_a_notebook_runs_and_prints_what_is_stored_in_it(tmp_path, name):
    if engine.NAME == "python":
        pytest.skip("training takes minutes there")
    if "draw_dot" in (DOCS / name).read_text(encoding="utf-8") and shutil.which("dot") is None:
        pytest.skip("Graphviz's program dot is not installed")
    shown = run_notebook(name, tmp_path)
    assert any(shown)
    if libm_fingerprint() == GOLDEN_LIBM:  # elsewhere the last bits, and then samples, differ
        assert shown == printed(DOCS / name)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_opens_in_colab(name):
    cells = json.loads((DOCS / name).read_text(encoding="utf-8"))["cells"]
    badge = "".join(cells[0]["source"])
    path = re.search(r"colab\.research\.google\.com/github/[\w-]+/[\w-]+/blob/main/(\S+)\)", badge)
    assert path is not None
    assert (DOCS.parent / path[1]).exists()
    assert "pip install" in "".join(cells[1]["source"])


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in OWN_TEST])
def test_a_notebook_shows_its_pictures(name):
    cells = json.loads((DOCS / name).read_text(encoding="utf-8"))["cells"]
    kinds = {
        kind for cell in cells for out in cell.get("outputs", []) for kind in out.get("data", {})
    }
    assert kinds & {"image/png", "image/svg+xml", "text/html"}


def test_the_notebooks_that_are_promised_are_there():
    assert {"article", "attention", "gradient", "own_text", "reproduce"} <= {
        n[: -len(".ipynb")] for n in NOTEBOOKS
    }
