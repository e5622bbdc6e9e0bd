"""Streams of real processes, closed, full or interrupted: one line and an exit status each."""

import itertools
import signal
import subprocess
import sys
import time

import pyte
import pytest
from command import COMMAND, environment, on_terminal, run, running

from microgpt.training import Training

TEXT = "ada\ngrace\nalan\nedsger\nbarbara\ndonald\n"
SMALL = ["--data", "text", "--n-embd", "4", "--n-head", "2", "--block-size", "8"]
COMMANDS = {
    "help": ["--help"],
    "train": ["train", *SMALL, "--num-steps", "2", "--num-samples", "1"],
    "verify": ["verify", *SMALL, "--num-steps", "1", "--num-samples", "1"],
    "sample": ["sample", "model", "--num-samples", "1"],
    "look": ["look", "model", "ada"],
    "a wrong flag": ["train", "--bogus"],
    "a missing file": ["sample", "missing"],
}
STATUS = {"a wrong flag": 2, "a missing file": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a text and a run."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "text").write_text(TEXT)
    status, _, err = run("train", *SMALL, "--num-steps", "2", "--out", "model", cwd=folder)
    assert status == 0, err
    return folder


def shell(folder, command, redirections):
    """Run a command by bash with redirections; return its status and stderr."""
    line = f"{subprocess.list2cmdline([*COMMAND, *command])} {redirections}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, cwd=folder, env=environment(), text=True
    )
    return done.returncode, done.stderr


CLOSED = [
    " ".join(closed)
    for n in (1, 2, 3)
    for closed in itertools.combinations(("<&-", ">&-", "2>&-"), n)
]


@pytest.mark.parametrize("name", COMMANDS)
def test_closed_streams_change_nothing_but_what_is_seen(folder, name):
    for redirections in CLOSED:
        status, err = shell(folder, COMMANDS[name], redirections)
        assert status == STATUS.get(name, 0), redirections
        assert err.count("\n") <= 1, redirections
        assert "Traceback" not in err


def test_a_file_never_takes_the_place_of_a_closed_stream(folder):
    flags = ["--out", "closed", "--losses", "losses", "--overwrite"]
    status, _ = shell(folder, [*COMMANDS["train"], *flags], "<&- >&- 2>&-")
    assert status == 0
    assert len((folder / "losses").read_text().splitlines()) == 2
    assert len((folder / "closed" / "log.jsonl").read_text().splitlines()) == 2
    assert Training.load(folder / "closed").step == 2


@pytest.mark.parametrize("command", [["--help"], ["-V"], ["train", "--help"], ["run", "--help"]])
def test_help_that_cannot_be_written_is_a_failure(folder, command):
    assert shell(folder, command, ">/dev/full") == (1, "microgpt: No space left on device\n")
    assert shell(folder, command, "| true; exit ${PIPESTATUS[0]}")[1] == ""


def test_errors_that_cannot_be_written_keep_their_status(folder):
    for name, status in STATUS.items():
        assert shell(folder, COMMANDS[name], "2>/dev/full")[0] == status


INTERRUPTED = """
import os, signal, sys
target, sys.argv[:] = sys.argv[1], ["microgpt", *sys.argv[2:]]
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(name, *rest):
        if name == target:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from microgpt.commands import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    [
        "microgpt.gpt",
        "dataclasses",
        "microgpt.settings",
        "argparse",
        "microgpt.training",
        "tomllib",
    ],
)
def test_interrupt_while_a_module_is_imported_is_one_line(folder, module):
    command = ["train", *SMALL, "--config", "missing.toml"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
    )
    if module == "tomllib" and sys.version_info < (3, 11):
        pytest.skip("this Python reads TOML by another module")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "microgpt: interrupted\n")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_two_quick_signals_end_with_the_signals_own_status(folder, signum):
    flags = ["--num-steps", "1000000", "--log-every", "1", "--engine", "python", "--num-samples=0"]
    with running("train", *SMALL, *flags, cwd=folder) as process:
        for line in process.stdout:
            if line.startswith("step    3"):
                break
        process.send_signal(signum)
        process.send_signal(signum)
        assert process.wait(300) == 128 + signum
        err = process.stderr.read()
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_threads_that_the_system_refuses_are_one_line(folder, compiled):
    if compiled.NAME != "fused":
        pytest.skip("has one thread")
    much = ["--n-embd", "64", "--block-size", "16", "--batch-size", "256"]  # work for 200 threads
    command = [*COMMANDS["train"], *much, "--threads", "1000", "--quiet"]
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 300000; {subprocess.list2cmdline([*COMMAND, *command])}"],
        capture_output=True,
        cwd=folder,
        env=environment(),
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "thread" in done.stderr


def test_a_terminal_is_told_that_it_is_read_from(folder):
    flags = ["--data", "-", "--num-steps", "2", "--num-samples", "1"]
    with on_terminal("train", *flags, cwd=folder) as child:
        child.expect_exact("reading the text from this terminal, a document a line; Ctrl-D ends it")
        child.sendline("ada")
        child.sendeof()
        child.expect_exact("num docs: 1")
        child.read()
    assert child.exitstatus == 0


@pytest.mark.parametrize("columns", [100, 60, 50, 40, 25])
def test_the_bar_is_one_line_after_an_interrupt_at_any_width(folder, columns):
    screen = pyte.Screen(columns, 40)
    stream = pyte.ByteStream(screen)
    command = ["train", *SMALL, "--num-steps", "10000000", "--num-samples", "0"]
    with on_terminal(*command, cwd=folder, dimensions=(40, columns)) as child:
        child.expect(r"step +\d\d\d+")
        stream.feed(child.before + child.after)
        time.sleep(0.5)
        child.sendintr()
        stream.feed(child.read())
    assert child.exitstatus == 130
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert [line.startswith("step ") for line in lines].count(True) == 1, lines
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("columns", [100, 50])
def test_the_bar_moves_before_the_first_step_is_done(folder, columns):
    flags = ["--engine", "python", "--n-embd", "64", "--n-head", "1", "--batch-size", "100"]
    command = ["train", "--data", "text", *flags]
    with on_terminal(*command, cwd=folder, dimensions=(40, columns)) as child:
        child.expect(rb"0:0\d:\d[1-9]")
        child.expect(rb"(?!%b)0:0\d:\d\d" % child.after)
        assert b"loss -" in child.before
        child.sendintr()
        time.sleep(0.1)
        child.sendintr()
        child.read()
    assert child.exitstatus == 130
