"""Sweeps on a Dask cluster: real schedulers and workers on the loopback interface, killed."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from command import environment, interruptible, run, running
from sweeping import FIXED, FLAGS, TEXT, VARIES, Here, content, stored, swept, wait_for

from microgpt import engine
from microgpt.sweep import Results, cluster, trial
from microgpt.sweep.search import Sweep
from microgpt.sweep.space import Space

LONG = ["--n-embd=2,4,6,8", "--num-steps=3000", "--save-every=100", "--sampler=grid"]
LONG_FLAGS = [flag for flag in FLAGS if "num-steps" not in flag]


@contextlib.contextmanager
def process(module, *arguments, folder):
    """Yield a process of Dask; it is killed at the end."""
    started = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"],
        cwd=folder,
        env=environment(PYTHONWARNINGS="ignore"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=interruptible,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Dask:
    """A scheduler at a port, and its workers, of one thread each."""

    def __init__(self, stack, folder):
        self.stack, self.folder, self.port = stack, folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        where = ("--host", "127.0.0.1", "--port", str(self.port))
        started = process("dask_scheduler", *where, folder=self.folder)
        self.scheduler = self.stack.enter_context(started)
        wait_for(lambda: is_listening(self.port))

    def worker(self):
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder / "dask"))
        started = process("dask_worker", self.address, *options, folder=self.folder)
        return self.stack.enter_context(started)


@pytest.fixture
def dask(tmp_path):
    """A scheduler without workers, which run in a directory of their own."""
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "elsewhere").mkdir()
    with contextlib.ExitStack() as stack:
        yield Dask(stack, tmp_path / "elsewhere")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the sweep of LONG comes to here."""
    if engine.NAME == "python":
        pytest.skip("its trainings take minutes there")
    folder = tmp_path_factory.mktemp("here")
    (folder / "text").write_text(TEXT)
    assert run("sweep", *LONG_FLAGS, *LONG, "--out=out", "--jobs=2", cwd=folder)[0] == 0
    return content(folder / "out")


def begun(folder, count=1):
    """Return whether so many trials run."""
    return lambda: len(list((folder / "out" / "trials").glob(".*/*/log.jsonl"))) >= count


def finished(folder):
    """Return whether a trial has ended, and the sweep has not."""
    return lambda: len(list((folder / "out" / "trials").glob("0*"))) > 0


def test_a_cluster_trains_what_processes_here_do(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dask.worker()
    flags = [*FLAGS, "--learning-rate=log:1e-3:0.3", "--n-embd=2,4,6", "--trials=6"]
    flags += ["--sampler=random", "--scheduler", dask.address, "--jobs=2", "--out=out"]
    status, output, error = run("sweep", *flags, cwd=tmp_path)
    assert (status, error) == (0, "")
    assert output.count("val_loss") == 7
    swept(tmp_path / "here", Here(1), storage=None)
    trial._corpus.cache_clear()
    assert content(tmp_path / "out") == content(tmp_path / "here")
    assert stored(tmp_path / "out") == stored(tmp_path / "here")


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    address = f"tcp://127.0.0.1:{free_port()}"
    flags = [*FLAGS, "--n-embd=2,4", "--out=out", "--scheduler", address]
    status, _, error = run("sweep", *flags, cwd=tmp_path)
    assert status == 2
    assert address in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_trial(dask, expected, tmp_path):
    workers = [dask.worker(), dask.worker()]
    flags = [*LONG_FLAGS, *LONG, "--out=out", "--jobs=2", "--scheduler", dask.address]
    with running("sweep", *flags, cwd=tmp_path) as client:
        wait_for(begun(tmp_path, 2))
        workers[0].kill()
        assert client.wait() == 0, client.stderr.read()
    assert content(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_turn_of_short_trials_loses_none(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workers = [dask.worker(), dask.worker()]
    flags = [*FLAGS, "--learning-rate=log:1e-3:0.3", "--n-embd=2,4,6", "--trials=90"]
    flags += ["--sampler=random", "--scheduler", dask.address, "--jobs=2", "--out=out"]
    with running("sweep", *flags, cwd=tmp_path) as client:
        wait_for(lambda: len(list((tmp_path / "out/trials").glob("00[1-9]*"))) > 1)
        workers[0].kill()
        assert client.wait() == 0, client.stderr.read()
    swept(tmp_path / "here", Here(1), trials=90)
    trial._corpus.cache_clear()
    assert content(tmp_path / "out") == content(tmp_path / "here")
    assert len(stored(tmp_path / "out")) == 90


def test_a_turn_ends_in_time_or_with_an_error_and_trains_no_trial_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    sweep = Sweep.create("out", Space(dict(VARIES), FIXED), trials=4, sampler="random")
    here = Here(4)
    here.wait = lambda seconds: [(task.number, None) for task in here.tasks]
    assert not sweep.run(here, stopped=lambda: bool(here.tasks))
    sweep.close()
    tasks = here.tasks
    monkeypatch.setattr(cluster, "TURN", 0.0)
    assert [number for number, _ in cluster.run(tasks)] == [0]
    monkeypatch.setattr(cluster, "TURN", 60.0)
    first, second, third, fourth = cluster.run(tasks)
    trial._corpus.cache_clear()
    monkeypatch.setattr(trial, "_train", None)
    assert cluster.run(tasks) == [first, second, third, fourth]
    shutil.rmtree("out/trials")
    ((number, error),) = cluster.run(tasks)
    assert number == 0
    assert isinstance(error, FileNotFoundError)


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_started_again_loses_no_trial(dask, expected, tmp_path):
    dask.worker()
    flags = [*LONG_FLAGS, *LONG, "--out=out", "--jobs=2", "--scheduler", dask.address]
    with running("sweep", *flags, cwd=tmp_path) as client:
        wait_for(finished(tmp_path))
        ended = {
            name: os.stat(tmp_path / "out/trials" / name).st_ino
            for name in os.listdir(tmp_path / "out/trials")
            if name.startswith("0")
        }
        dask.scheduler.kill()
        dask.scheduler.wait()
        dask.start()
        dask.worker()
        assert client.wait() == 0, client.stderr.read()
    for name, inode in ended.items():
        assert os.stat(tmp_path / "out/trials" / name).st_ino == inode
    assert content(tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_client_that_is_killed_goes_on_by_resume(dask, expected, tmp_path, signum):
    dask.worker()
    flags = [*LONG_FLAGS, *LONG, "--out=out", "--jobs=2", "--scheduler", dask.address]
    with running("sweep", *flags, cwd=tmp_path) as client:
        wait_for(finished(tmp_path))
        client.send_signal(signum)
        client.wait()
    assert 1 <= len(Results(tmp_path / "out").trials) < 4
    flags = ["--resume=out", "--scheduler", dask.address]
    status, _, error = run("sweep", *flags, cwd=tmp_path)
    assert status == 0, error
    assert content(tmp_path / "out") == expected


def test_a_worker_that_does_not_see_the_directory_sends_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    swept(tmp_path / "here", trials=3)

    class Elsewhere(Here):
        def wait(self, seconds):
            task = self.tasks[-1]
            os.rename("out/sweep.json", "out/unseen")
            outcomes = super().wait(seconds)
            os.rename("out/unseen", "out/sweep.json")
            assert outcomes[0][1].files
            assert task.directory == str(tmp_path / "out")
            return outcomes

    sweep = Sweep.create("out", Space(dict(VARIES), FIXED), trials=3, sampler="random")
    assert sweep.run(Elsewhere(1))
    sweep.close()
    trial._corpus.cache_clear()
    assert content(tmp_path / "out") == content(tmp_path / "here")
    names = {path.name for path in (tmp_path / "out/trials/0000").iterdir()}
    assert names == {path.name for path in (tmp_path / "here/trials/0000").iterdir()}
    shutil.rmtree("out")
