"""The documents hold: examples run, the table of differences is true, commands exist."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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
    if engine.NAME == "python" and "inputs=[" in document.read_text(encoding="utf-8"):
        pytest.skip("its examples replay tapes, which the oracle does not")
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
        "pip install '.[test]' && pytest\npytest --benchmark-only",
    ]


@pytest.mark.parametrize("line", re.findall(r"^microgpt .*", README, re.MULTILINE))
def test_the_commands_of_the_tour_exist(line):
    words = line.partition("#")[0].split()
    command = [sys.executable, "-m", "microgpt", words[1], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "tests")
    for word in words[2:]:
        if word.startswith("--"):
            assert word in done.stdout


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
