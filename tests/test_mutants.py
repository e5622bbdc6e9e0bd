"""The tables of mutants match the source, and the command reports which mutants are killed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import (
    ROOT,
    TESTING,
    Mutant,
    every,
    main,
    title,
    together,
)

TESTS = Path(__file__).parent
MUTANTS = every()
ENGINES = ("python", "cython", "fused", "avx512", "avx2", "baseline")


def test_there_are_mutants_of_every_part():
    files = {mutant.file for mutant in MUTANTS}
    assert len(MUTANTS) >= 120
    assert len(set(MUTANTS)) == len(MUTANTS)
    for kind in (".py", ".pxd", ".pyx", ".h"):
        assert any(name.endswith(kind) for name in files), kind


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_each_edit_finds_its_place(file):
    source = ROOT / file
    if not source.is_file():
        pytest.fail(f"{file} is gone: move its mutants in tests/mutants along")
    text = source.read_text(encoding="utf-8")
    for mutant in MUTANTS:
        if mutant.file == file:
            assert text.count(mutant.before) == 1, title(mutant)
            assert mutant.before != mutant.after, title(mutant)


def test_each_mutant_names_tests_that_are_there():
    for mutant in MUTANTS:
        files, _, expression = mutant.tests.partition(" -k ")
        found = "".join((TESTS / name).read_text(encoding="utf-8") for name in files.split())
        for word in re.findall(r"\w+", expression):
            assert word in {"and", "or", *ENGINES} or word in found, title(mutant)


def test_each_mutant_names_a_module_that_is_compiled():
    built = (ROOT / "setup.py").read_text(encoding="utf-8")
    for mutant in MUTANTS:
        assert mutant.module in ("", TESTING) or f'"{mutant.module}"' in built, title(mutant)
        assert bool(mutant.module) == mutant.file.startswith("src/"), title(mutant)


JOINED = """
LIMIT = 3

def f(x):
    \"\"\"Return a number: if (this were code.\"\"\"
    y = [
        1,  # (
        2,
    ]
    if x > 0:
        y.append(x)
        for i in range(x):
            y.append(i)
    elif x < -1 and (
        x != -5
    ):
        y = y[1:]
    else:
        y = []
    # a comment
    while y and y[-1] == 1:
        y.pop()
    return sum(y) + LIMIT
"""
EDITS = {
    1: ("x > 0", "x > 1"),
    2: ("        1,  # (\n", ""),
    3: ("            y.append(i)\n    elif x < -1", "            y.insert(0, 1)\n    elif x < -2"),
    4: ("x != -5", "x == -5"),
    5: ("        y = []\n", "        y = [7]\n"),
    6: ("y[-1] == 1", "y[-1] == 2"),
    7: ("        y.pop()\n    return sum(y)", "        y.pop(0)\n    return max(y, default=0)"),
    8: ("        y.append(x)\n", ""),
    9: ("def f(x):", "def f(x, z=0):"),
    10: ("LIMIT = 3", "LIMIT = 4"),
}


def values(text, **names):
    """Return what f gives for some numbers."""
    exec(text, names)
    return [names["f"](x) for x in range(-7, 5)]


def test_edits_that_are_branches_of_one_source_are_those_of_sources_of_their_own():
    text, done = together.joined(JOINED, EDITS)
    assert done == EDITS.keys() - {9, 10}  # a header, and what stands in no function
    assert values(text, MUTANT=-1) == values(JOINED)
    for number in done:
        edited = values(JOINED.replace(*EDITS[number]))
        assert values(text, MUTANT=number) == edited != values(JOINED), number


def test_a_declaration_that_is_edited_is_assigned_anew():
    source = "cdef int f(int x):\n    cdef int y = x  # so\n    return y\n"
    assert together.joined(source, {5: ("int y", "long y")}) == (source, set())
    text, done = together.joined(source, {4: ("y = x", "y = -x")})
    assert done == {4}
    assert "    cdef int y = x  # so\n    if MUTANT == 4:\n        y = -x" in text


def mutant(after, reason=""):
    """Return an edit of Adam."""
    before = "            p.grad = 0\n"
    return Mutant("microgpt/adam.py", before, after, "test_adam.py -k clears", "", reason)


def tried(mutants, *arguments):
    """Return the status and the lines of the command with mutants in place of the tables'."""
    program = f"import mutants; from mutants import Mutant; mutants.every = lambda: {mutants!r}"
    program += f"; raise SystemExit(mutants.main({[str(a) for a in arguments]!r}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_what_a_test_notices_is_killed_and_the_rest_is_told(tmp_path):
    mutants = [
        mutant("            p.grad = 1e-9\n"),
        mutant("            p.grad = 0 * 1\n"),
        mutant("            p.grad = 0 + 0\n", "it is the same"),
        mutant("            p.grad = 1\n", "a lie"),
        mutant("            p.grad = = 0\n"),
    ]
    results = tmp_path / "results"
    status, (before, *lines, counts, survived, lie) = tried(mutants, "--results", results)
    assert status == 1
    assert before == "0 killed and 0 explained before"
    assert [line.split()[1] for line in lines] == [
        "killed",
        "survived",
        "explained",
        "killed",
        "killed",
    ]
    assert counts == "3 killed, 1 survived, 1 explained, 0 broken"
    assert survived.startswith("survived, not killed: microgpt/adam.py: p.grad = 0 => p.grad = 0 *")
    assert lie.startswith("killed, not explained: ")
    # The next run tries what was not as expected, and what has changed.
    mutants[4] = mutant("            p.grad = ()\n")
    status, (before, *lines, counts, _, _) = tried(mutants, "--results", results)
    assert before == "1 killed and 1 explained before"
    assert [line.split()[1] for line in lines] == ["survived", "killed", "killed"]
    status, (before, *_) = tried(mutants[:1], "--results", results, "--again", "--unchecked")
    assert (status, before) == (0, "0 killed and 0 explained before")


def test_a_pattern_that_fits_nothing_is_no_success(capsys):
    assert main(["no such text anywhere"]) == 2
    assert "no mutant" in capsys.readouterr().out
