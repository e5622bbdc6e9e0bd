"""The fuzzer finds a differing bit, a crash and a hang, and shrinks the program."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fuzz
import pytest
from fuzz import graphs, models

from microgpt import oracle
from microgpt.engine import load

FUZZ = Path(fuzz.__file__).parent
EXP = 'y = math.exp(self._data)\n        return self._result("exp", y, (self,), (y,))'
RELU = 'return self._result("relu", y, (self,), (float(y > 0),))'


def engine(line, other):
    """Return the oracle with one line changed, as an engine."""
    text = Path(oracle.__file__).read_text(encoding="utf-8")
    assert text.count(line) == 1
    module = ModuleType("microgpt.wrong")
    exec(text.replace(line, other), vars(module))
    changed = {"NAME": "wrong", "Value": module.Value, "Tape": module.Tape}
    return SimpleNamespace(**{**vars(load("python")), **changed})


def fuzzed(monkeypatch, line, other):
    """Fuzz an oracle with one line changed until it fails; return what was told."""
    wrong = engine(line, other)
    monkeypatch.setattr(fuzz, "candidates", lambda subject: [wrong] if subject is graphs else [])
    told = []
    assert fuzz.fuzz(60, 0, told.append) == 1
    return told


def steps(test):
    return [line.strip() for line in test.splitlines() if line.startswith("        (")]


def test_a_wrong_bit_is_found_and_cut_down(monkeypatch):
    told = fuzzed(monkeypatch, EXP, EXP.replace("(y,)", "(y * (1 + 2**-52),)"))
    assert "seed 0: wrong: entry " in told[-2]
    assert len(steps(told[-1])) == 1


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import time; time.sleep(60)", "signal 14"),
        ("import os; os._exit(7)", "status 7"),
    ],
)
def test_the_end_of_the_process_is_found_and_cut_down(monkeypatch, fault, how):
    if how == "signal 14":
        monkeypatch.setattr(fuzz, "PATIENCE", 16.0)
    told = fuzzed(monkeypatch, RELU, f"{fault}; {RELU}")
    assert f"the process ended with {how}" in told[-2]
    (step,) = [step.split(",")[0] for step in steps(told[-1])]
    assert step in {"('relu'", "('replay'", "('replay of rows'"}  # replays use relu too


def test_the_test_it_prints_runs(compiled_scalar):
    program = [("leaf", 0, 0, float("nan")), ("a + b", 0, 1, float("-inf"))]
    names = {}
    exec(fuzz.as_test(graphs, program, "something"), names)
    names["test_something"]()


def test_programs_of_a_seed_are_the_same_everywhere():
    assert fuzz.make(3, 1) == fuzz.make(3, 1)
    assert fuzz.make(3, 1) != fuzz.make(3, 2)
    assert fuzz.make(0, 0)[0] is models
    assert fuzz.make(0, 1)[0] is graphs


def test_a_run_says_what_it_compared(compiled):
    done = subprocess.run(
        [sys.executable, "-W", "error", FUZZ, "--seconds", "1", "--seed", "5"],
        capture_output=True,
        text=True,
        check=True,
    )
    *_, summary, verdict = done.stdout.splitlines()
    assert "programs over graphs" in summary
    assert verdict.startswith("no difference between python and cython, fused ")


@pytest.mark.parametrize("flags", [["--seconds", "0"], ["--seconds", "nan"], ["--seed", "x"]])
def test_nonsense_on_the_command_line_is_status_2(flags):
    command = [sys.executable, FUZZ, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
