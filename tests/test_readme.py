"""The pages are true: examples run, the table of differences is right, commands exist."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import SWEEPS, environment
from golden import original

from microgpt import engine

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))


def differences():
    """Return the rows of README's table of differences: what to run, and what it gives where."""
    table = README.partition("| Python | original | `python` | `cython` |\n")[2].partition("\n\n")[
        0
    ]
    cells = [re.findall(r"`(.+?)` \|", line) for line in table.splitlines()[1:]]
    return [pytest.param(*row, id=row[0]) for row in cells]


def result(statements, value):
    """Return what the last of some statements gives, or the name of what it raises."""
    *first, last = statements.split("; ")
    names = {"Value": value, "numpy": np}
    try:
        exec("\n".join(first), names)
        return repr(eval(last, names))
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples_give_what_they_show(document):
    text = document.read_text(encoding="utf-8")
    if engine.NAME == "python" and ("inputs=[" in text or "RecordingError" in text):
        pytest.skip("its examples replay tapes or record losses, which the oracle does not")
    failed, _ = doctest.testfile(str(document), module_relative=False, encoding="utf-8")
    assert not failed


def test_the_readme_has_examples():
    assert len(doctest.DocTestParser().get_examples(README)) > 10


@pytest.mark.parametrize(("statements", "theirs", "python", "cython"), differences())
def test_each_row_of_the_table_of_differences_is_true(scalar, statements, theirs, python, cython):
    assert result(statements, original.Value) == theirs
    ours = {"python": python, "cython": cython}[scalar.NAME]
    assert result(statements, scalar.Value) == ours
    assert {python, cython} != {theirs}


def test_the_table_of_differences_was_found():
    assert len(differences()) > 10


def test_the_two_commands_are_the_first_two():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]
    assert commands == [
        "pip install . && microgpt train",
        "pip install '.[test]' && pytest -n auto --dist loadfile\npytest --benchmark-only",
    ]


def commands(page):
    """Return the commands of a page's blocks, as typed: sh blocks, and lines that begin with $."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = [(kind, line) for kind, block in blocks for line in block.splitlines()]
    found = [line for kind, line in lines if kind == "sh"]
    found += [line[2:] for kind, line in lines if kind in ("", "console") and line[:2] == "$ "]
    return [line.partition(" #")[0].strip() for line in found]


TOUR = [line for line in commands(ROOT / "README.md") if line.startswith("microgpt ")]
# The start of each command of each page, and the file that runs it: that file has the very
# command, or the name of the page that it reads its commands from.
RUN_BY = {
    "[README.md] microgpt": "tests/test_readme.py",  # the next test
    "[docs/index.md] pip install . && microgpt train": ".ci/run",  # README's
    "[docs/look.md] microgpt": "tests/test_docs.py",
    "[docs/models.md] microgpt": ".github/workflows/pages.yml",
    "[docs/run.md] microgpt run": "tests/test_run.py",
    "[docs/sweeps.md] microgpt": "tests/test_docs.py",
    "[docs/runs.md] microgpt": "tests/test_docs.py",
    "[docs/text.md] curl": ".github/workflows/pages.yml",
    "[docs/text.md] head": ".github/workflows/pages.yml",
    "[docs/text.md] microgpt train --data train.txt": ".github/workflows/pages.yml",
    "[docs/text.md] microgpt train --data original": ".github/workflows/pages.yml",
    "[docs/text.md] microgpt": "tests/test_docs.py",
    "[docs/tutorial.md] microgpt": "tests/test_docs.py",
    "[README.md] pip install": ".ci/run",  # which reads them there
    "[README.md] pytest --benchmark-only": ".ci/run",
    "[README.md] time microgpt train --data original": ".github/workflows/pages.yml",
    "[HACKING.md] p": ".github/workflows/pages.yml",  # pip, pytest
    "[docs/roofline.md] pip install": ".github/workflows/pages.yml",
    "[docs/roofline.md] python benchmarks/roofline.py": ".github/workflows/pages.yml",
    "[docs/roofline.md] python benchmarks/growth.py": ".github/workflows/pages.yml",
    "[docs/roofline.md] python benchmarks/nanogpt.py": ".github/workflows/pages.yml",
    "[docs/roofline.md] MICROGPT_SIMD=avx2 python benchmarks/nanogpt.py": (
        ".github/workflows/pages.yml"
    ),
    "[docs/roofline.md] CFLAGS=-g pip": ".github/workflows/pages.yml",
    "[docs/roofline.md] perf": ".github/workflows/pages.yml",
}
READERS = {".ci/run": "README.md"}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_page_is_run_by_a_test_or_by_ci(page):
    for command in commands(page):
        key = f"[{page.relative_to(ROOT)}] {command}"
        runners = [file for start, file in RUN_BY.items() if key.startswith(start)]
        assert runners, f"nothing runs {command!r} of {page.name}: add it to a test, or to CI"
        text = (ROOT / runners[0]).read_text("utf-8")
        reads = READERS.get(runners[0], page.name)  # a runner that takes its commands from a page
        assert command in text or reads in text


def test_every_runner_has_a_command():
    keys = [f"[{page.relative_to(ROOT)}] {c}" for page in DOCUMENTS for c in commands(page)]
    assert [start for start in RUN_BY if not any(key.startswith(start) for key in keys)] == []


def test_the_tour_runs_as_it_stands(tmp_path):
    if engine.NAME == "python":
        pytest.skip("the tour takes hours there")
    assert len(TOUR) > 5
    (tmp_path / "words.txt").write_text("ada\ngrace\nmarie\nalan\nmaria\n" * 20)
    shutil.copy(ROOT / "tests" / "scripts" / "train.py", tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -ex\n" + "\n".join(line for line in TOUR if SWEEPS or " sweep " not in line)
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_engines_is_complete():
    table = README.partition("| engine | what runs")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == sorted(
        engine.names(), key=["python", "cython", "fused"].index
    )


def test_links_within_the_documents_lead_somewhere():
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert (document.parent / target).exists(), (document.name, target)
