"""Speed-ups of `microgpt run` over Python itself, a step of three kinds of script.

    python benchmarks/scripts.py                 the three kinds below
    python benchmarks/scripts.py SCRIPT.py ...   scripts of your own that print "step" once a step

Each script runs unedited in both ways, in turn; a step is the processor time between two lines
that begin with "step", the first ones left out; the garbage collector is as Python sets it. Both
have to print the same.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tests" / "scripts"
WARM_UP = 3


def edited(source: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in source, old
        source = source.replace(old, new)
    return source


def article() -> str:
    """The article's program, at its size."""
    return edited(
        (SCRIPTS / "train.py").read_text(encoding="utf-8"),
        ("n_embd = 8", "n_embd = 16"),
        ("n_head = 2", "n_head = 4"),
        ("block_size = 6", "block_size = 16"),
        ("num_steps = 4", "num_steps = 1000"),
        (" | loss {loss.data:.4f} {loss.data.hex()}", " | loss {loss.data:.4f}"),
    )


def closures() -> str:
    """micrograd's demonstration: nodes with `_backward` functions."""
    return edited(
        (SCRIPTS / "moons.py").read_text(encoding="utf-8"),
        ("MLP(2, [6, 6, 1])", "MLP(2, [16, 16, 1])"),
        ("range(20)", "range(100)"),
        ("for step in range(5):", "for step in range(1000):"),
    )


def gates() -> str:
    """A recurrent network with tanh and gates, trained by SGD with momentum, in a function."""
    source = (SCRIPTS / "train.py").read_text(encoding="utf-8")
    node = source[source.index("class Value:") : source.index("n_embd = 8")]
    node = edited(
        node,
        (
            "    def exp(self):",
            "    def tanh(self):\n        t = math.tanh(self.data)\n"
            "        return Value(t, (self,), (1 - t**2,))\n\n"
            "    def sigmoid(self):\n        s = 1 / (1 + math.exp(-self.data))\n"
            "        return Value(s, (self,), (s * (1 - s),))\n\n"
            "    def exp(self):",
        ),
    )
    return f"import math\nimport random\n\n\n{node}\n{GATES}"


GATES = """
def main(n=24, length=12, lr=0.05, momentum=0.9):
    random.seed(7)
    text = "the quick brown fox jumps over the lazy dog " * 20
    chars = sorted(set(text))

    def matrix(rows, columns):
        return [[Value(random.gauss(0, 0.2)) for _ in range(columns)] for _ in range(rows)]

    def linear(x, w):
        return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]

    weights = {name: matrix(n, n) for name in ("forget", "update", "new")}
    inputs, out = matrix(len(chars), n), matrix(len(chars), n)
    params = [p for w in (*weights.values(), inputs, out) for row in w for p in row]
    velocity = [0.0] * len(params)

    def cell(x, h):
        z = [a + b for a, b in zip(x, h)]
        forget = [v.sigmoid() for v in linear(z, weights["forget"])]
        update = [v.sigmoid() for v in linear(z, weights["update"])]
        new = [v.tanh() for v in linear(z, weights["new"])]
        return [f * a + u * b for f, a, u, b in zip(forget, h, update, new)]

    for step in range(1000):
        start = step * 7 % (len(text) - length - 1)
        h = [Value(0.0) for _ in range(n)]
        losses = []
        for i in range(start, start + length):
            h = cell(inputs[chars.index(text[i])], h)
            exps = [v.exp() for v in linear(h, out)]
            losses.append(-(exps[chars.index(text[i + 1])] / sum(exps)).log())
        loss = sum(losses) * (1 / length)
        for p in params:
            p.grad = 0
        loss.backward()
        for i, p in enumerate(params):
            velocity[i] = momentum * velocity[i] - lr * p.grad
            p.data += velocity[i]
        print(f"step {step} loss {loss.data}")


main()
"""


CLOCK = """
import sys, time


class Clock:
    def write(self, text):
        if text.startswith("step"):
            text = f"{time.process_time()} {text}"
        return sys.__stdout__.write(text)

    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)


sys.stdout = Clock()
"""
WAYS = {
    "by itself": CLOCK + "import runpy; runpy.run_path('script.py', run_name='__main__')",
    "microgpt run": CLOCK + "from microgpt.run import main; main(['script.py'])",
}


def steps(way: str, folder: str, n: int) -> tuple[float, list[str]]:
    """Return the seconds of a step, over n after the first ones, and what was printed."""
    command = [sys.executable, "-u", "-c", WAYS[way]]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    times: list[float] = []
    lines = []
    for line in process.stdout:
        clock, _, rest = line.partition(" ")
        if rest.startswith("step"):
            times.append(float(clock))
            line = rest
        lines.append(line)
        if len(times) > n + WARM_UP:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    return (times[-1] - times[WARM_UP]) / n, lines


def measure(name: str, source: str, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "script.py").write_text(source, encoding="utf-8")
        for file in (SCRIPTS / "words.txt", ROOT / "microgpt" / "names.txt"):
            for copy in (file.name, "input.txt"):
                Path(folder, copy).write_bytes(file.read_bytes())
        ratios = []
        for _ in range(rounds):
            (alone, printed), (compiled, other) = (steps(way, folder, 10) for way in WAYS)
            assert printed == other, "they print other lines"
            ratios.append(alone / compiled)
        print(
            f"{name}: {alone * 1e3:.1f} ms a step by itself, {compiled * 1e3:.2f} ms under "
            f"microgpt run: {statistics.median(ratios):.0f} times "
            f"({min(ratios):.0f} to {max(ratios):.0f})"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for path in sys.argv[1:]:
            measure(path, Path(path).read_text(encoding="utf-8"))
    else:
        measure("the article's program", article())
        measure("tanh, gates and momentum in a function", gates())
        measure("a class with _backward closures", closures())
