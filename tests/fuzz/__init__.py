"""Random programs on every engine, everything that they show compared by bits.

`python tests/fuzz --seconds N --seed S` runs programs over graphs of `Value`
and over models (`graphs`, `models`) until the time is over, on the oracle and on
every engine and instruction set that is built. At the first program that shows
something else, or ends the process, it stops and prints the program cut down to
the steps that are needed, as a test to be pasted.

Programs run in forked processes, so a crash is a finding like any other. Program
number n of a seed is the same in every run and on every machine.
"""

from __future__ import annotations

import argparse
import functools
import mmap
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from sets import SETS, fused_on, runs

from fuzz import graphs, models
from fuzz.graphs import Program
from microgpt import engine as engines

ORACLE = "python"
COMPILED = "cython"  # the reference for wide models
AT_ONCE = 20  # programs in one forked process
PATIENCE = 600.0  # seconds that these may take, on a busy machine, before they count as hanging
MODEL_EVERY = 10  # of so many programs one is over models


@functools.cache
def candidates(subject: ModuleType) -> list[SimpleNamespace]:
    """Return the built engines to compare with the oracle, for graphs or for models.

    Raises:  ImportError if no compiled engine is built
    """
    found = [engines.load(COMPILED)]
    if subject is models:
        found += [fused_on(simd) for simd in SETS if runs(simd)]
    return found


def make(seed: int, number: int) -> tuple[ModuleType, Program]:
    """Return a program of a seed, and the module that runs it."""
    subject = graphs if number % MODEL_EVERY else models
    return subject, subject.program(Random(f"{seed}:{number}"))


def compare(subject: ModuleType, program: Program) -> tuple[int, str | None]:
    """Run a program on all engines; return the nodes compared and what differs first."""
    compared = 0
    wide = subject is models and models.is_wide(program)
    expected = _shown(subject, program, engines.load(COMPILED if wide else ORACLE))
    for engine in candidates(subject)[wide:]:  # without the reference
        found = _shown(subject, program, engine)
        if found != expected:
            return compared, f"{engine.NAME}: {_first_difference(expected, found)}"
        compared += subject.size(expected)
    return compared, None


def _shown(subject: ModuleType, program: Program, engine: SimpleNamespace) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's own, at division by zero
        shown: list[Any] = subject.show(program, engine)
    return shown


def _first_difference(expected: list[Any], found: list[Any]) -> str:
    for place, (ours, theirs) in enumerate(zip(expected, found)):
        if ours != theirs:
            return f"entry {place} is {theirs}, not {ours}"
    return f"{len(found)} entries, not {len(expected)}"


class Findings:
    """The results of some programs: how many programs and nodes, and the first that failed."""

    def __init__(self) -> None:
        self.programs = {graphs: 0, models: 0}
        self.nodes = {graphs: 0, models: 0}

    def run(self, seed: int, numbers: range) -> tuple[int, str] | None:
        """Run programs in a process of their own; return the number that failed, and how."""

        def work(tell: Callable[[int], None]) -> Any:
            done = []
            for number in numbers:
                tell(number)
                compared, difference = compare(*make(seed, number))
                done.append(compared)
                if difference:
                    return done, (number, difference)
            return done, None

        result, last, status = _forked(work, PATIENCE)
        if result is None:
            return last, f"the process ended with {status}"
        done, failure = result
        for number, compared in zip(numbers, done):
            subject = graphs if number % MODEL_EVERY else models
            self.programs[subject] += 1
            self.nodes[subject] += compared
        return failure


def _forked(work: Callable[[Callable[[int], None]], Any], patience: float) -> tuple[Any, int, str]:
    """Return what work returns in a forked process, the last number it told, and how it ended."""
    told = mmap.mmap(-1, 8)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, patience)
        try:
            result = work(lambda number: told.__setitem__(slice(8), number.to_bytes(8, "little")))
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(result, pipe)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    last = int.from_bytes(told[:], "little")
    if os.WIFSIGNALED(status):
        return None, last, f"signal {os.WTERMSIG(status)}"
    if os.WEXITSTATUS(status):
        return None, last, f"status {os.WEXITSTATUS(status)}"
    return pickle.loads(answer), last, "status 0"


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Return a program that still fails, from which no step can be left out or made simpler."""
    size = max(1, len(program) // 2)
    while size:
        start = 0
        while start < len(program):
            shorter = program[:start] + program[start + size :]
            if shorter and fails(shorter):
                program = shorter
            else:
                start += size
        size //= 2
    for place in range(len(program)):
        for simpler in _simpler(program[place]):
            changed = [*program[:place], simpler, *program[place + 1 :]]
            if fails(changed):
                program = changed
                break
    return program


def _simpler(step: tuple[str, int, int, Any]) -> Iterator[tuple[str, int, int, Any]]:
    name, i, j, k = step
    for a in sorted({0, 1, i % 4, i}):
        for b in sorted({0, 1, j % 4, j}):
            for c in (1, 2.0, k):
                if (a, b, c) != (i, j, k):
                    yield name, a, b, c


def as_test(subject: ModuleType, program: Program, title: str) -> str:
    """Return the lines of a test that runs a program."""
    role = subject.__name__.rpartition(".")[2]
    steps = "".join(f"        {step!r},\n" for step in program)
    return (
        "from math import inf, nan\n"
        f"from fuzz import compare, {role}\n\n\n"
        f"def test_{title}():\n"
        f"    program = [\n{steps}    ]\n"
        f"    assert compare({role}, program)[1] is None\n"
    )


def fuzz(seconds: float, seed: int, tell: Callable[[str], object] = print) -> int:
    """Run programs for some seconds; report the results; return the exit status."""
    findings = Findings()
    names = ", ".join(engine.NAME for engine in candidates(models))
    end = start = time.monotonic()
    end += seconds
    shown = start
    number = 0
    failure = None
    while failure is None and time.monotonic() < end:
        failure = findings.run(seed, range(number, number + AT_ONCE))
        number += AT_ONCE
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            tell(_summary(findings, shown - start))
    tell(_summary(findings, time.monotonic() - start))
    if failure is None:
        arrays = "" if graphs.ARRAYS.keys() <= graphs.NAMES else "; no numpy, so no arrays"
        tell(f"no difference between python and {names} (seed {seed}{arrays})")
        return 0
    number, difference = failure
    subject, program = make(seed, number)
    tell(f"program {number} of seed {seed}: {difference}; cutting it down")

    def fails(candidate: Program) -> bool:
        result, _, _ = _forked(lambda tell: compare(subject, candidate), PATIENCE / AT_ONCE)
        return result is None or result[1] is not None

    program = shrink(program, fails)
    tell(as_test(subject, program, f"found_by_seed_{seed}_program_{number}"))
    return 1


def _summary(findings: Findings, seconds: float) -> str:
    nodes = sum(findings.nodes.values())
    return (
        f"{seconds:,.0f} s: {findings.programs[graphs]:,} programs over graphs, "
        f"{findings.nodes[graphs]:,} nodes compared; {findings.programs[models]:,} over models, "
        f"{findings.nodes[models]:,} weights; {nodes / seconds * 3600 / 1e6:,.0f} million an hour"
    )


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run `fuzz`, return the exit status."""
    parser = argparse.ArgumentParser("python tests/fuzz", description=fuzz.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="which programs (default: 0)")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds < float("inf"):
        parser.error(f"--seconds must be positive, not {options.seconds}")
    try:
        return fuzz(options.seconds, options.seed)
    except ImportError as error:
        parser.error(f"there is nothing to compare: {error}")
    except KeyboardInterrupt:
        return 130
