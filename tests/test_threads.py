"""Threads, forks and interpreters: the same bits, or a clear refusal."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from random import Random

import pytest
from fuzz import graphs

N_THREADS = 8
DOCUMENTS = [[4, 0, 1, 2, 3, 4], [4, 2, 4]]

has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def in_threads(work):
    """Run work(i) in eight threads at once, which change as often as they can; return results."""
    results = [None] * N_THREADS
    barrier = threading.Barrier(N_THREADS)

    def run(i):
        barrier.wait()
        try:
            results[i] = work(i)
        except BaseException as error:
            results[i] = error

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(N_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return results


def tame(seed):
    """Return a program without numpy's arrays, whose warnings are the process's."""
    steps = graphs.program(Random(f"threads {seed}"))
    return [step for step in steps if step[0] not in graphs.ARRAYS]


def test_graphs_in_many_threads_are_those_of_one(scalar, oracle):
    programs = [[tame(10 * i + n) for n in range(10)] for i in range(N_THREADS)]
    expected = [[graphs.show(program, oracle) for program in some] for some in programs]
    found = in_threads(lambda i: [graphs.show(program, scalar) for program in programs[i]])
    assert found == expected


def test_graphs_that_threads_share_get_every_gradient(compiled_scalar):
    x = compiled_scalar.Value(1.0)

    def work(i):
        for _ in range(2000):
            out = sum(x * 1.0 for _ in range(3))
            out.backward()

    in_threads(work)
    assert x.grad == N_THREADS * 2000 * 3


def test_models_train_in_many_threads_as_in_one(compiled_model):
    def work(i):
        model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6, rng=Random(i))
        return model.fit(DOCUMENTS, 20), bytes(model.weights())

    expected = [work(i) for i in range(N_THREADS)]
    assert in_threads(work) == expected


def test_two_fits_of_one_model_at_once_do_not_crash(compiled_model):
    model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6)
    losses = in_threads(lambda i: model.fit(DOCUMENTS, 20))
    assert [len(some) for some in losses] == [20] * N_THREADS


class Fork:
    """A fork of this process, in which `tell` gives the test its result and ends it."""

    def __init__(self):
        reading, self.writing = os.pipe()
        self.pipe = os.fdopen(reading, "rb")
        with warnings.catch_warnings():  # Python's own, that this process has threads
            warnings.simplefilter("ignore", DeprecationWarning)
            self.child = os.fork()
        if self.child == 0:
            signal.alarm(60)  # what hangs ends by this signal

    def tell(self, work):
        """In the fork, send what work returns or raises, and end; else return what was sent."""
        if self.child == 0:
            try:
                result = work()
            except BaseException as error:
                result = error
            os.write(self.writing, repr(result).encode())
            os._exit(0)
        os.close(self.writing)
        with self.pipe:
            found = self.pipe.read().decode()
        assert os.waitpid(self.child, 0)[1] == 0
        return found


@has_fork
def test_a_fork_computes_what_its_parent_does(compiled_model):
    def work():
        graph.backward()
        model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6, rng=Random(1))
        return model.fit([[4, 0, 1, 2, 3, 4]], 5)

    graph = sum(compiled_model.Value(i) * 2.0 for i in range(100))
    found = Fork().tell(work)
    assert graph.grad == 0.0
    assert found == repr(work())


@has_fork
@pytest.mark.parametrize("threads", [1, 3])
def test_a_fork_between_two_steps_trains_as_its_parent_does(compiled_model, threads):
    forks = []

    def on_step(t, loss):
        if t == 2:
            forks.append(Fork())
            forks.append(Fork())
            inner = forks[1].tell(lambda: len(model.fit(DOCUMENTS, 2, threads=threads)))
            assert inner == "2"

    model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6)
    expected = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6).fit(DOCUMENTS, 6)
    losses = model.fit(DOCUMENTS, 6, threads=threads, on_step=on_step)
    assert forks[0].tell(lambda: losses) == repr(losses) == repr(expected)


@has_fork
def test_a_fork_of_a_process_that_trains_in_another_thread_says_so(fused):
    def on_step(t, loss):
        started.set()
        assert ended.wait(300)

    started, ended = threading.Event(), threading.Event()
    model = fused.GPT(5, n_embd=8, n_head=2, block_size=6)
    thread = threading.Thread(target=model.fit, args=(DOCUMENTS, 2), kwargs={"on_step": on_step})
    thread.start()
    assert started.wait(300)
    found = Fork().tell(lambda: model.fit(DOCUMENTS, 2))
    ended.set()
    thread.join()
    assert "another thread was training this model when the process was forked" in found
    assert len(model.fit(DOCUMENTS, 2)) == 2


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import microgpt._value
code = '''
try:
    import microgpt._value
except ImportError:
    refused = True
else:
    refused = False
assert refused
'''
other = interpreters.create()
outcome = interpreters.run_string(other, code)
assert outcome is None, outcome
microgpt._value.Value(2.0).backward()
print("refused")
"""


def test_a_second_interpreter_is_refused(compiled_scalar):
    done = subprocess.run(
        [sys.executable, "-c", SUBINTERPRETER], capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.usefixtures("compiled_scalar")
def test_trainer_that_could_not_begin_waits_for_no_worker():
    program = "from microgpt import _gpt\ntry: _gpt.Trainer()\nexcept TypeError: print('refused')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "refused\n"


def test_threads_that_wait_take_no_processor_time(fused):
    model = fused.GPT(5, n_embd=32)
    spent = []

    def on_step(_step, _loss):
        start = time.process_time()
        time.sleep(0.3)
        spent.append(time.process_time() - start)

    model.fit(DOCUMENTS, 3, 2, threads=2, on_step=on_step)
    assert min(spent) < 0.15
