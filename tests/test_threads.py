"""Threads, forks and interpreters: the same bits, or a clear refusal."""

import os
import subprocess
import sys
import threading
from random import Random

import pytest
from fuzz import graphs

N_THREADS = 8


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
    documents = [[4, 0, 1, 2, 3, 4], [4, 2, 4]]

    def work(i):
        model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6, rng=Random(i))
        return model.fit(documents, 20), bytes(model.weights())

    expected = [work(i) for i in range(N_THREADS)]
    assert in_threads(work) == expected


def test_two_fits_of_one_model_at_once_do_not_crash(compiled_model):
    documents = [[4, 0, 1, 2, 3, 4], [4, 2, 4]]
    model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6)
    losses = in_threads(lambda i: model.fit(documents, 20))
    assert [len(some) for some in losses] == [20] * N_THREADS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_computes_what_its_parent_does(compiled_model):
    def work():
        model = compiled_model.GPT(5, n_embd=8, n_head=2, block_size=6, rng=Random(1))
        losses = model.fit([[4, 0, 1, 2, 3, 4]], 5)
        return repr([loss.hex() for loss in losses]).encode()

    graph = sum(compiled_model.Value(i) * 2.0 for i in range(100))
    expected = work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            graph.backward()
            os.write(writing, work())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert found == expected
    assert graph.grad == 0.0


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "refused\n"
