"""Memory and failure paths, each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import gc, resource, sys
from microgpt.engine import load
engine = load({engine!r})
Value, Tape = engine.Value, engine.Tape

def resident():
    "Return the bytes of memory that the process holds now."
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(engine, program):
    """Run a program in a fresh interpreter; its assertions are the test's."""
    source = PRELUDE.format(engine=engine.NAME) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:] or f"died with status {done.returncode}"


def test_a_node_costs_at_most_96_bytes(compiled_scalar):
    run(
        compiled_scalar,
        """
        x, n = Value(1.0), 1_000_000
        assert sys.getsizeof(x) <= 96, sys.getsizeof(x)
        before = resident()
        for _ in range(n):
            x = x * x
        cost = (resident() - before) / n
        assert cost <= 96, cost
        """,
    )


def test_a_million_steps_leak_nothing(compiled_scalar):
    run(
        compiled_scalar,
        """
        def steps(n):
            for _ in range(n):
                a, b = Value(-4.0), Value(2.0)
                c = (a * b + b**3).relu() + (a - b).exp() / (b * b + 1).log()
                c = c + sum([a, b, c, 3.0])
                c.backward()
                Value(c.data, (a, b, c), (1.0, 2.0, 3.0)).backward()

        steps(200_000)  # fills the engine's store of freed nodes, which is bounded
        before = resident()
        steps(1_000_000)
        assert resident() - before < 2**20, resident() - before
        """,
    )


def test_training_steps_leak_nothing(engine):
    run(
        engine,
        """
        model = engine.GPT(5, n_embd=4, n_head=2)
        adam = engine.Adam(model.params, num_steps=10_000)
        documents = [[4, 0, 1, 2, 3, 4], [4, 2, 4]]
        model.fit(documents, 60, adam=adam)
        before = resident()
        model.fit(documents, 300, adam=adam)
        gc.collect()
        assert resident() - before < 2**21, resident() - before
        """,
    )


def test_a_step_takes_the_memory_that_is_asked_for(engine):
    run(
        engine,
        """
        from microgpt import memory

        before = resident()
        model = engine.GPT(27, n_embd=64, n_head=2, n_layer=2)
        model.fit([[26, 0, 1, 2, 26]], 1)
        with open("/proc/self/status") as status:
            (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
        taken = int(peak) * 1024 - before
        least = memory.least(model.config, engine.NAME, 4)
        assert least - 2**21 < taken < 2 * least + 2**21, (taken, least)
        """,
    )


def test_errors_leak_nothing(compiled_scalar):
    run(
        compiled_scalar,
        """
        zero, big, x = Value(0.0), Value(1e3), Value(-8.0)
        broken = [
            lambda: zero**-1, zero.log, big.exp, lambda: x**0.5, lambda: x + "1",
            lambda: None * x, lambda: x**x, lambda: Value("1"), lambda: Value(1, (1,), (1,)),
            lambda: Value(1, (x, x, x), (1, 2, None)), lambda: Tape(1), lambda: x / 0,
        ]

        def errors(n):
            for _ in range(n):
                for function in broken:
                    try:
                        function()
                    except Exception:
                        pass
                    else:
                        raise SystemExit("no error")

        errors(100_000)  # fills the engine's store of freed nodes, which is bounded
        before = resident()
        errors(100_000)
        assert resident() - before < 2**20, resident() - before
        """,
    )


def test_a_chain_of_ten_million_nodes_is_built_played_and_freed(compiled_scalar):
    run(
        compiled_scalar,
        """
        n = 10_000_000
        before = resident()
        x = out = Value(1.0)
        one = Value(1.0)
        for _ in range(n):
            out = out * one
        assert len(Tape(out)) == n + 2
        out.backward()
        assert (x.grad, one.grad) == (1.0, float(n))
        del out
        assert resident() - before < 2**26, resident() - before
        """,
    )


def test_a_sum_of_ten_million_terms_is_built_played_and_freed(compiled_scalar):
    run(
        compiled_scalar,
        """
        n = 10_000_000
        x = Value(0.5)
        total = sum(x for _ in range(n))
        total.backward()
        assert (total.data, x.grad) == (n / 2, float(n))
        total._children
        del total
        """,
    )


def test_a_chain_of_any_classes_is_freed_without_recursion(scalar):
    run(
        scalar,
        """
        class Named(Value):
            pass

        x = out = Value(1.0)
        for i in range(300_000):
            out = Named(out.data, (out,), (1.0,)) if i % 2 else out * 1.0
        out.backward()
        assert x.grad == 1.0
        del out
        """,
    )


def test_a_chain_of_watched_nodes_is_freed_without_recursion(compiled_scalar):
    run(
        compiled_scalar,
        """
        class Watched(Value):
            __slots__ = ()
            ended = 0

            def __del__(self):
                Watched.ended += 1

        node = Watched(1.0)
        for _ in range(200_000):
            node = Watched(2.0, (node,), (1.0,))
        del node
        gc.collect()
        assert Watched.ended == 200_001
        """,
    )


def test_a_million_children_on_one_node(scalar):
    run(
        scalar,
        """
        xs = [Value(float(i)) for i in range(1_000_000)]
        out = Value(1.0, tuple(xs), tuple([2.0] * len(xs)))
        out.backward()
        assert all(x.grad == 2.0 for x in xs)
        """,
    )


def test_ctrl_c_during_backward_loses_nothing(compiled_scalar):
    run(
        compiled_scalar,
        """
        import signal

        n = 3_000_000
        x, one = Value(1.0), Value(1.0)
        out = x
        for _ in range(n):
            out = out * one

        def interrupt(signum, frame):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        interrupted = 0
        for delay in (0.001, 0.01, 0.05):
            x.grad = one.grad = 0.0
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                while True:
                    out.backward()
            except KeyboardInterrupt:
                interrupted += 1
            node, zeroed = out, 0
            while node._children:
                node.grad = 0.0
                node = node._children[0]
                zeroed += 1
            assert zeroed == n
            x.grad = one.grad = 0.0
            out.backward()
            assert (x.grad, one.grad, out.grad) == (1.0, float(n), 1.0)
        assert interrupted == 3
        """,
    )


@pytest.mark.parametrize(
    "build",
    [
        "kept = [Value(1.0)]\nwhile True: kept[0] = kept[0] * 1.0",
        "kept = []\nwhile True: kept.append(Value(1.0))",
        "kept = [Value(1.0)]\nwhile True: kept[0] = kept[0] + 1.0",
        "kept = []\nwhile True: kept.append(Value(0.0, (x,) * 1000, (1.0,) * 1000))",
        "kept = [x] * 50_000_000\nValue(0.0, tuple(kept), (1.0,) * len(kept))",
    ],
    ids=["product chain", "leaves", "sum chain", "wide nodes", "one huge node"],
)
def test_running_out_of_memory_raises_and_the_engine_goes_on(compiled_scalar, build):
    run(
        compiled_scalar,
        f"""
        x = Value(2.0)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20, hard))
        try:
            exec({build!r}, globals())
        except MemoryError:
            pass
        kept = None
        y = x * x + 3
        y.backward()
        assert (y.data, x.grad) == (7.0, 4.0)
        """,
    )


def test_backward_without_memory_for_its_tape_raises_and_changes_nothing(compiled_scalar):
    run(
        compiled_scalar,
        """
        n = 3_000_000
        x, one = Value(1.0), Value(1.0)
        out = x
        for _ in range(n):
            out = out * one
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 2**20, hard))
        for play in (out.backward, lambda: Tape(out)):
            try:
                play()
            except MemoryError:
                pass
            else:
                raise SystemExit("no MemoryError")
        assert (out.grad, x.grad, one.grad) == (0.0, 0.0, 0.0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        out.backward()
        assert (out.grad, x.grad, one.grad) == (1.0, 1.0, float(n))
        """,
    )
