"""Mutation testing: edits of the source, each of which must make some test fail.

`make mutants`, or `python tests/mutants [PATTERN ...]` for those whose file or text
contains a pattern, makes each edit of the tables (`package`, `kernels`, `value`) in a
copy of the tree and runs its tests until one fails, which has to pass without the edit.
The edits of compiled modules are branches of one build (`together`). An edit that no test can
notice says why, and has to survive.

Each result is written to a file (--results) as it comes. The next run takes from it what
was killed or explained, if the edit, the text of its file and the names of its tests are
the same, and tries the others, first with the test that noticed the edit last.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import Cython.Build  # noqa: F401 (for the forks)
import numpy  # noqa: F401 (for the forks)
import pytest
import setuptools

from mutants import together

ROOT = Path(__file__).parents[2]
TESTING = "testing"  # the modules of src/testing, which the tests compile themselves
PATIENCE = 300.0  # seconds for the tests of one mutant; what takes longer hangs, and is noticed
RESULTS = ROOT / "build" / "mutants.jsonl"
SETTLED = (
    "killed",
    "explained",
)  # outcomes that stand until the edit, its file or its tests change


class Mutant(NamedTuple):
    """One edit: `before`, which occurs once in the file, becomes `after`."""

    file: str
    before: str
    after: str
    tests: str  # files, or files -k expression, for pytest
    module: str  # the compiled one that they use, TESTING or ""
    reason: str  # why no test can notice it, or ""


class Equivalent(NamedTuple):
    """An edit that no test can notice, and why."""

    before: str
    after: str
    reason: str


def of(file: str, module: str, tests: str, *edits: tuple[str, ...] | Equivalent) -> list[Mutant]:
    """Return the mutants of a file: (before, after), or (before, after, tests of its own)."""
    made = []
    for edit in edits:
        reason = edit.reason if isinstance(edit, Equivalent) else ""
        own = edit[2] if len(edit) > 2 and not reason else tests
        alone = own.startswith("test_certificates.py -k")
        made.append(Mutant(file, edit[0], edit[1], own, TESTING if alone else module, reason))
    return made


def copy_of_tree(into: Path) -> None:
    """Copy the files that git knows or would know; of a source distribution all."""
    if not (ROOT / ".git").exists():
        ignore = shutil.ignore_patterns("build", "__pycache__", "*.so")
        shutil.copytree(ROOT, into, ignore=ignore, dirs_exist_ok=True)
        return
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)


def forked(work: Callable[[], int], folder: Path, patience: float) -> tuple[int | None, str]:
    """Return the status of work, done in a fork in a folder, and what it printed.

    The fork has pytest, numpy and Cython imported, which take longer than most tests.
    The status is negative for a signal, None where patience seconds were not enough.
    """
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                os.chdir(folder)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                status = work()
                sys.stdout.flush()
                os._exit(status)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(99)
        try:
            status = waited(child, patience)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # it, or what it has left behind
        output.seek(0)
        return status, output.read()


def waited(child: int, patience: float) -> int | None:
    """Return the status of a child process, None and its end after patience seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def build(tree: Path, modules: list[str]) -> str:
    """Compile modules as far as their sources changed; return what failed, or nothing.

    They are not optimised: that takes a fourth of the time.
    """

    def work() -> int:
        setup = setuptools.setup

        def some(ext_modules: list[Any], **options: Any) -> Any:
            ext_modules = [e for e in ext_modules if e.name.rpartition(".")[2] in modules]
            assert len(ext_modules) == len(modules), modules
            for extension in ext_modules:
                flags = [flag for flag in extension.extra_compile_args if flag != "-O3"]
                extension.extra_compile_args = [*flags, "-O0", "-g0"]
            return setup(ext_modules=ext_modules, **options)

        setuptools.setup = some
        sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
        exec(compile(Path("setup.py").read_text(), "setup.py", "exec"), {"__name__": "__main__"})
        return 0

    status, said = forked(work, tree, 10 * PATIENCE)
    return said or "no compiler" if status else ""


class Tree:
    """A copy of the tree in a folder, in which mutants are tried.

    Those that `together` can join are compiled once, as branches; `numbers` has theirs.
    The others are edited in and taken back, and their module is compiled for each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[Mutant, int] = {}
        self.originals: dict[str, str] = {}
        copy_of_tree(folder)

    def key(self, mutant: Mutant) -> str:
        """Return a digest of a mutant, of the text that it edits and of the names of its tests."""
        text = self.source(mutant.file)
        parts = (mutant.before, mutant.after, mutant.tests, mutant.module, text)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def source(self, file: str) -> str:
        """Return the text of a file without mutants."""
        if file not in self.originals:
            self.originals[file] = (self.folder / file).read_text(encoding="utf-8")
        return self.originals[file]

    def has(self, mutant: Mutant) -> bool:
        """Return whether what a mutant edits is in its file, once."""
        return self.source(mutant.file).count(mutant.before) == 1

    def compile(self, mutants: list[Mutant]) -> None:
        """Add the installed modules, and those of the mutants with all that can be joined."""
        package = find_spec("microgpt")  # not imported: each fork imports its own
        assert package is not None
        for module in Path(str(package.origin)).parent.glob("*.so"):
            shutil.copy2(module, self.folder / "microgpt")
        (self.folder / "src" / "shared" / "mutant.h").write_text(together.HEADER)
        compiled = [m for m in mutants if m.file.endswith((".pxd", ".pyx")) and self.has(m)]
        for file in dict.fromkeys(m.file for m in compiled):
            edits = {i: m for i, m in enumerate(compiled) if m.file == file}
            text, joined = together.joined(
                self.source(file), {i: (m.before, m.after) for i, m in edits.items()}
            )
            self.numbers.update({edits[i]: i for i in joined})
            (self.folder / file).write_text(text + together.DECLARATION)
        modules = sorted({mutant.module for mutant in mutants} - {"", TESTING})
        failure = build(self.folder, modules) if modules else ""
        if failure:
            raise SystemExit(failure)

    def try_mutant(self, mutant: Mutant, patience: float, last: str = "") -> tuple[str, str]:
        """Return the result of a mutant: "killed", "survived" or "broken", and by what.

        `last`, a test that noticed it once, is run before the others.
        """
        if not self.has(mutant):
            return "broken", "what it edits is not in the file, or not once"
        if mutant in self.numbers:
            return self.judged(mutant, patience, last)
        target = self.folder / mutant.file
        text = target.read_text()
        compiled = (self.folder / "microgpt").glob(f"{mutant.module or None}.*.so")
        kept = [(path, path.read_bytes()) for path in compiled]
        target.write_text(self.source(mutant.file).replace(mutant.before, mutant.after))
        try:
            if mutant.module not in ("", TESTING):
                failure = build(self.folder, [mutant.module])
                if failure:
                    return "broken", failure[-2000:]
            return self.judged(mutant, patience, last)
        finally:
            target.write_text(text)
            for path, content in kept:
                path.unlink(missing_ok=True)  # a process may have the old one mapped
                path.write_bytes(content)

    def judged(self, mutant: Mutant, patience: float, last: str) -> tuple[str, str]:
        """Return what the tests say of a mutant that is in the tree."""
        number = self.numbers.get(mutant)
        outcome, by = run_tests(self.folder, last or mutant.tests, patience, number)
        if last and outcome != "killed":
            outcome, by = run_tests(self.folder, mutant.tests, patience, number)
        return ("survived", "") if outcome == "passed" else (outcome, by)

    def passes_unedited(self, mutant: Mutant, by: str, patience: float) -> bool:
        """Return whether the test that noticed a mutant, or else all its tests, pass without it."""
        outcome = run_tests(self.folder, by, patience)[0] if "::" in by else "broken"
        if outcome == "broken":  # a time-out, a crash, a name that pytest does not find
            outcome = run_tests(self.folder, mutant.tests, patience)[0]
        return outcome == "passed"


def run_tests(
    tree: Path, tests: str, patience: float, number: int | None = None
) -> tuple[str, str]:
    """Return the result of the tests in a tree: "passed", "killed" or "broken", and by what.

    number is that of the mutant among those compiled together.
    """
    files, _, expression = tests.partition(" -k ")
    named = [tests] if "::" in tests else ["-k", expression, *files.split()]

    def work() -> int:
        sys.path.insert(0, str(tree))
        os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1")
        if number is not None:
            os.environ["MUTANT"] = str(number)
        sys.dont_write_bytecode = True
        options = ["-x", "-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
        return int(pytest.main([*options, *named]))

    status, said = forked(work, tree / "tests", patience)
    if status is None:
        return "killed", "time-out"
    if status == 0:
        return "passed", ""
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if status in (1, 2) and failed:
        return "killed", failed[0].split(" ", 1)[1].split(" - ")[0]
    if status < 0:
        return "killed", f"signal {-status}"
    if "ImportError while loading conftest" in said:
        return "killed", "import"
    return "broken", said[-2000:]


def expected(mutant: Mutant) -> str:
    """Return the outcome that a mutant is in the table for."""
    return "explained" if mutant.reason else "killed"


def read_results(path: Path) -> dict[str, dict[str, str]]:
    """Return the last result of each mutant in a file, by its title."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {found["title"]: found for found in map(json.loads, lines)}


def commit() -> str:
    """Return the commit of the tree, with a + where files differ from it; nothing without git."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    if not shutil.which("git"):
        return ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def title(mutant: Mutant) -> str:
    """Return a line that names a mutant."""
    before, after = (" ".join(text.split()) for text in (mutant.before, mutant.after))
    start = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), 0)
    start = max(0, before.rfind(" ", 0, max(0, start - 12)) + 1)
    return f"{mutant.file}: {before[start : start + 60]} => {after[start : start + 60]}"


def every() -> list[Mutant]:
    """Return all mutants of the tables."""
    from mutants import kernels, package, value

    return package.MUTANTS + kernels.MUTANTS + value.MUTANTS


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, try the mutants, return the exit status."""
    parser = argparse.ArgumentParser("tests/mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="which (default: all)")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for one's tests")
    parser.add_argument(
        "--unchecked", action="store_true", help="do not run the test that failed without the edit"
    )
    parser.add_argument("--again", action="store_true", help="try also those killed before")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    mutants = [
        mutant
        for mutant in every()
        if not options.patterns or any(p in text for p in options.patterns for text in mutant[:3])
    ]
    if not mutants:
        print(f"no mutant has {' or '.join(options.patterns)} in its file or text")
        return 2
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="microgpt-mutants-") as folder:
        tree = Tree(Path(folder))
        known = {} if options.again else read_results(options.results)
        settled = {(found["key"], found["outcome"]) for found in known.values()}
        stands = [m for m in mutants if (tree.key(m), expected(m)) in settled]
        mutants = [m for m in mutants if m not in stands]
        explained = sum(bool(m.reason) for m in stands)
        print(f"{len(stands) - explained} killed and {explained} explained before", flush=True)
        tree.compile(mutants)
        return report(mutants, tree, options.patience, options.results, not options.unchecked)


def report(mutants: list[Mutant], tree: Tree, patience: float, results: Path, checked: bool) -> int:
    """Try mutants, print and write each result, and return the exit status."""
    counts = {"killed": 0, "survived": 0, "explained": 0, "broken": 0}
    wrong = []
    known = read_results(results)
    at = commit()
    sound = {}  # by test, whether it passes without an edit
    for number, mutant in enumerate(mutants, 1):
        start = time.monotonic()
        last = known.get(title(mutant), {})
        last_by = last["by"] if last.get("outcome") == "killed" else ""
        outcome, by = tree.try_mutant(mutant, patience, last_by if "::" in last_by else "")
        if outcome == "killed" and checked:
            test = by if "::" in by else mutant.tests
            if test not in sound:
                sound[test] = tree.passes_unedited(mutant, by, 4 * patience)
            if not sound[test]:
                outcome, by = "broken", f"fails without the edit: {by}"
        if mutant.reason and outcome == "survived":
            outcome, by = "explained", mutant.reason
        if outcome != expected(mutant):
            wrong.append(f"{outcome}, not {expected(mutant)}: {title(mutant)}")
        counts[outcome] += 1
        seconds = time.monotonic() - start
        print(f"{number:3} {outcome:9} {seconds:4.0f} s  {title(mutant)}  [{by}]", flush=True)
        line = {"title": title(mutant), "key": tree.key(mutant), "outcome": outcome}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "by": by, "commit": at}) + "\n")
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    print("\n".join(wrong))
    return int(bool(wrong))
