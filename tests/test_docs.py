"""The pages of docs/: every command runs, the reference has every name, all are linked."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import SWEEPS, environment

import microgpt
from microgpt import engine

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RUN = ["tutorial.md", "text.md", "runs.md", "look.md", "sweeps.md"]
HEAVY = re.compile(r"--to (torch|onnx)")
LONG = re.compile(r"curl|head|.*--n-layer 4")  # of text.md: .github/workflows/pages.yml runs them
WORDS = "ada grace alan edsger barbara donald tony john frances adele radia lynn".split()


def commands(page):
    """Return the command lines in a page's sh blocks, without those that install."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith("pip install")]


def run_all(lines, folder):
    """Run command lines one after the other in a folder, as a reader would type them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -ex\n" + "\n".join(lines)
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory in which the tutorial's first command has run."""
    if engine.NAME == "python":
        pytest.skip("the pages train models that take minutes there")
    folder = tmp_path_factory.mktemp("pages")
    run_all(["microgpt train --out names --num-steps 50"], folder)
    return folder


@pytest.mark.parametrize("page", RUN)
def test_every_command_of_a_page_runs(folder, tmp_path, page):
    if page == "sweeps.md" and not SWEEPS:
        pytest.skip("optuna is not installed, and has no wheels here")
    folder = folder if page == "look.md" else tmp_path  # which begins with nothing
    (folder / "words.txt").write_text("\n".join([*WORDS, "xqzt"]))
    (folder / "book.txt").write_text((ROOT / "README.md").read_text("utf-8"), "utf-8")
    lines = [line for line in commands(page) if not (HEAVY.search(line) or LONG.match(line))]
    assert len(lines) > 3
    run_all(lines, folder)


@pytest.mark.heavy
def test_every_command_that_needs_torch_or_onnx_runs(folder):
    lines = [line for page in RUN for line in commands(page) if HEAVY.search(line)]
    assert len(lines) == 2
    run_all(lines, folder)


def test_the_reference_has_every_public_name_and_its_examples_run():
    made = subprocess.run(
        [sys.executable, DOCS / "reference.py"], capture_output=True, text=True, check=True
    )
    for name in microgpt.__all__:
        assert f"### `{name}`\n" in made.stdout
    example = doctest.DocTestParser().get_doctest(made.stdout, {}, "reference", None, 0)
    assert len(example.examples) > 2
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_site_leads_to_every_page():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"[\w-]+\.(?:md|ipynb)", nav)
    pages = [path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")]
    assert sorted(named) == sorted([*pages, "reference.md"])


def test_every_address_of_the_repository_is_the_one_in_pyproject():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (name,) = re.findall(r'^Repository = "https://github.com/([^"]+)"$', settings, re.MULTILINE)
    pages = [ROOT / "mkdocs.yml", ROOT / "CITATION.cff", ROOT / "README.md"]
    pages += [path for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")]
    found = [
        (path.name, other)
        for path in pages
        for other in re.findall(
            r"github(?:\.com)?/([\w.-]+/microgpt-cython)\b", path.read_text(encoding="utf-8")
        )
    ]
    assert {"mkdocs.yml", "CITATION.cff", "article.ipynb"} <= {path for path, _ in found}
    assert {other for _, other in found} == {name}


@pytest.mark.heavy
def test_the_site_builds_without_a_broken_link(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env=environment(NO_MKDOCS_2_WARNING="1", PYTHONWARNINGS="default"),
        check=True,
    )
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?://[^\"]+)", text)
        assert all("colab.research.google.com/assets" in url for url in loaded), loaded
