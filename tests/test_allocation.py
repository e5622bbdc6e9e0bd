"""Every allocation fails in turn: MemoryError, the graph intact, the next try right.

A preloaded malloc fails the n-th call, for n from 1 until what is tested gets
through; alone, and with ten calls after it. PYTHONMALLOC=malloc sends Python's own
allocations there too. CPython 3.13 itself loops for ever where all calls fail, and
crashes where a generator gets no memory, so neither is in a program here; nor are
threads, which any CPython waits for at their start though they had no memory for it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("allocation.c")
PRELUDE = """
import ctypes, gc, random, sys
from operator import mul
from microgpt import _value
from microgpt.engine import load
engine = load({engine!r})
Value, Tape, functions = engine.Value, engine.Tape, engine.functions
preloaded = ctypes.CDLL({library!r})
fail_at, is_pending = preloaded.fail_at, preloaded.is_pending
fail_at.restype = None
gc.disable()
# CPython's own. 3.10: in an import; where a function called 1,024 times gets its cache of opcodes.
# 3.15: an object's dict is cleared while an exception is raised, which is printed and lost.
FAULTS = {{
    (3, 10): (
        "can't allocate lock",
        "_PyEval_EvalFrameDefault returned NULL without setting an exception",
    ),
    (3, 15): ("error return without exception set",),
}}.get(sys.version_info[:2], ())
spare, two = [], Value(2.0)

def drain():
    "Use up what the engine keeps for reuse, so that it has to ask for memory."
    spare.append([functions.dot([two] * 20, [two] * 20) for _ in range(30)])
    spare.append([0 + Value(0.0) for _ in range(30)])
    spare.append([Value(0.0) for _ in range(_value._free())])

def numbers(nodes):
    return [(float(node.data).hex(), float(node.grad).hex()) for node in nodes]

def fail_each(setup, act, observe, unchanged):
    "Fail each allocation of act in turn; return how many there were."
    state = setup()
    expected = observe(state, act(state))
    for more in (0, 10):
        n = 0
        for _ in range(5000):
            spare.append(0 + Value(0.0))  # what imports and the first try have left
        while True:
            n += 1
            result = error = None
            state = setup()
            drain()
            before = unchanged(state)
            fail_at(n, more)
            try:
                result = act(state)
            except MemoryError:
                error = MemoryError
            except BaseException as other:
                fail_at(0, 0)
                error = MemoryError
                if str(other) not in FAULTS:
                    raise SystemExit(f"allocation {{n}}: {{other!r}}")
            pending = is_pending()
            fail_at(0, 0)
            if error is None:
                assert observe(state, result) == expected, n
                if pending:
                    break
                continue  # that allocation was optional
            result = None
            assert unchanged(state) == before, n
            assert observe(state, act(state)) == expected, n
        print(n - 1, end=" ")
"""
GRAPH = """
def setup():
    leaves = [Value(float(i) + 0.5) for i in range(8)]
    return leaves

def unchanged(leaves):
    return numbers(leaves)

def observe(leaves, out):
    out.backward()
    return numbers([*leaves, out]), len(Tape(out))
"""
BUILD = {
    "operators": "((x[0] + x[1] * 2 - x[2] / x[3]) ** 2).log().exp().relu()",
    "a sum": "sum(map(mul, x, x[1:]))",
    "a long sum": "sum(map(mul, x * 20, x[1:] * 22))",
    "constructor": "Value(2.0, tuple(x), (1.0,) * 8)",
    "dot": "functions.dot(x, x[::-1])",
    "linear": "sum(functions.linear(x, [x, x[::-1]]))",
    "softmax": "sum(functions.softmax(x)[:3])",
    "rmsnorm": "functions.rmsnorm(x)[2]",
    "cross_entropy": "functions.cross_entropy(x, 3)",
    "attention": "sum(functions.attention(x, [x, x[::-1]], [x[::-1], x], 2))",
    "maximum": "functions.maximum(x[0], x[1]) * functions.where(x[2], x[3], x[4])",
}
USE = {
    "tape": "Tape(out).backward()",
    "children": "[out._children, out._children[0]._children]",
    "copy": "__import__('copy').copy(out)",
}
MODEL = """
def setup():
    model = engine.GPT(5, n_embd=2, n_head=1, n_layer=1, block_size=2, rng=random.Random(1))
    return model, engine.Adam(model.params, num_steps=50)

def unchanged(state):
    model, adam = state
    return bytes(model.weights()), bytes(model.gradients()), bytes(adam.m), adam.t

def observe(state, result):
    return unchanged(state), result

documents = [[4, 0, 1, 2, 4], [4, 3, 4]]
"""
FIT = """
documents = [[4, 0, 1, 2, 4], [4, 3, 4]]

def setup():
    model = engine.GPT(5, n_embd=2, n_head=1, n_layer=1, block_size=2, rng=random.Random(1))
    return model, engine.Adam(model.params, num_steps=50)

def whole(state):
    model, adam = state
    return bytes(model.weights()), bytes(adam.m), bytes(adam.v), adam.t

def observe(state, losses):
    return whole(state)

def fit(state):
    model, adam = state
    return model.fit(documents, 3 - adam.t, 2, adam=adam)

state = setup()
steps = [whole(state)]
for _ in range(3):
    state[0].fit(documents, 1, 2, adam=state[1])
    steps.append(whole(state))

def unchanged(state):
    for p in state[0].params:
        p.grad = 0.0
    return whole(state) in steps
"""
REPLAY = """
def setup():
    x = [Value(float(i) + 0.5) for i in range(4)]
    w = [Value(float(i) - 0.5) for i in range(4)]
    inner = functions.softmax([functions.dot(x, w), functions.maximum(x[0], w[1]), x[2] ** 2])
    out = sum(inner) * x[3].exp() + functions.where(x[0], w[0], w[1]).relu()
    return x, w, out, Tape(out, inputs=x)

rows = [[0.25 * i, 1.0, -0.5 * i, 0.125] for i in range(20)]

def unchanged(state):
    "Return whether so many whole rows have been added, and take them away again."
    x, w, out, tape = state
    found = numbers(w)
    for leaf in [*x, *w]:
        leaf.grad = 0.0
    return found in done

def observe(state, result):
    x, w, out, tape = state
    tape.refresh()
    return numbers([*x, *w, out]), result

def record(state):
    return len(Tape(state[2], inputs=state[0]))

def forward(state):
    return state[3].forward(rows[1]).hex()

def run(state):
    return bytes(state[3].run(rows))

state = setup()
done = [numbers(state[1])]
for row in rows:
    state[3].run([row])
    done.append(numbers(state[1]))
"""
TRAIN = {
    "a loss": "model.loss(documents[0]).data",
    "a batch": "model.batch_loss(documents).data",
    "a sample": "model.generate(rng=random.Random(1))",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The compiled wrapper."""
    if sys.platform != "linux" or "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("wraps glibc's malloc, which sanitizers wrap themselves")
    compiler = shutil.which("cc") or sysconfig.get_config_var("CC").split()[0]
    path = tmp_path_factory.mktemp("allocation") / "allocation.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", SOURCE, "-o", path], check=True)
    return path


def run(engine, library, program):
    source = PRELUDE.format(engine=engine.NAME, library=str(library)) + program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:] or f"died with status {done.returncode}"
    failures = [int(n) for n in done.stdout.split()]
    assert min(failures) > 0, failures


@pytest.mark.parametrize("name", BUILD)
def test_a_graph_is_built_without_memory_or_leaves_no_trace(compiled_scalar, library, name):
    act = f"act = lambda x: {BUILD[name]}"
    run(
        compiled_scalar,
        library,
        f"{GRAPH}\n{act}\nfail_each(setup, act, observe, unchanged)",
    )


@pytest.mark.parametrize("name", USE)
def test_a_graph_is_used_without_memory_or_stays_as_it_was(compiled_scalar, library, name):
    run(
        compiled_scalar,
        library,
        f"""
def setup():
    leaves = [Value(float(i) + 0.5) for i in range(8)]
    inner = sum(a * b for _ in range(4) for a, b in zip(leaves, leaves[1:]))
    out = inner * leaves[0] + functions.dot(leaves, leaves)
    for _ in range(20):
        out = out * leaves[1]
    return leaves, 0 + out * 2.0

def unchanged(state):
    return numbers(state[0]), state[1].data

def observe(state, result):
    leaves, out = state
    return numbers(leaves), out.data, len(Tape(out))

def act(state):
    leaves, out = state
    {USE[name]}

fail_each(setup, act, observe, unchanged)
""",
    )


@pytest.mark.parametrize("name", TRAIN)
def test_a_model_that_lacks_memory_is_left_as_it_was(compiled, library, name):
    act = f"def act(state):\n    model, adam = state\n    return {TRAIN[name]}\n"
    run(compiled, library, f"{MODEL}\n{act}\nfail_each(setup, act, observe, unchanged)")


def test_training_that_lacks_memory_ends_between_two_steps(compiled, library):
    run(compiled, library, f"{FIT}\nfail_each(setup, fit, observe, unchanged)")


@pytest.mark.parametrize("play", ["record", "forward", "run"])
def test_a_replay_that_lacks_memory_ends_between_two_rows(compiled_scalar, library, play):
    act = f"fail_each(setup, {play}, observe, unchanged)"
    run(compiled_scalar, library, f"{REPLAY}\n{act}")


def test_value_and_grad_without_memory_is_right_the_next_time(compiled_scalar, library):
    run(
        compiled_scalar,
        library,
        """
from microgpt import value_and_grad

def setup():
    return value_and_grad(lambda x, y: (x * y + y**2).exp())

def act(slope):
    return slope(0.5, 0.25), slope(0.75, 0.5), slope(0.5, 0.25)

fail_each(setup, act, lambda slope, result: result, lambda slope: None)
""",
    )
