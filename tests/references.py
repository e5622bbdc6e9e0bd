"""Count all references, round after round: python3.11-dbg tests/references.py ROUNDS.

Needs a CPython compiled with Py_DEBUG, which counts every reference that there is. A
round is the fuzzer's programs, training, sampling and replays, the same every time.
After the first rounds, which fill what is kept for reuse, the count may not change.
"""

import array
import gc
import itertools
import random
import sys

# A release build: the total sees the references that it gives back, not those it takes.
sys.modules["numpy"] = None

from fuzz import compare, make

from microgpt import value_and_grad
from microgpt.engine import load

FIRST = 4  # rounds
PROGRAMS = range(1, 101)


def programs():
    """Run the fuzzer's programs on all engines and instruction sets."""
    for number in PROGRAMS:
        _, difference = compare(*make(0, number))
        assert difference is None, (number, difference)


def training():
    """Train, sample and differentiate a model of each compiled engine."""
    documents = [[4, 0, 1, 2, 4], [4, 3, 4]]
    for name in ("cython", "fused"):
        model = load(name).GPT(5, n_embd=4, n_head=2, block_size=4, rng=random.Random(1))
        model.fit(documents, 5, batch_size=2)
        model.loss(documents[0]).backward()
        model.generate(rng=random.Random(2))


def replays():
    """Play recorded graphs again, for one row of numbers and for many."""
    gradient = value_and_grad(lambda x, y: (x * y + y**2).exp())
    for x in (0.5, 0.25, 0.75):
        gradient(x, 1.5)
    cython = load("cython")
    leaves = [cython.Value(float(i)) for i in range(4)]
    tape = cython.Tape(sum(a * b for a, b in itertools.pairwise(leaves)), inputs=leaves)
    tape.backward()
    tape.run([[1.0, 2.0, 3.0, 4.0]] * 40)
    tape.refresh()


def main():
    rounds = FIRST + int(sys.argv[1])
    totals = array.array("q", [0]) * rounds  # numbers: a list of them would hold references
    for i in range(rounds):
        programs()
        training()
        replays()
        gc.collect()
        sys._clear_type_cache()
        totals[i] = sys.gettotalrefcount()
    growth = [after - before for before, after in itertools.pairwise(totals)]
    print(f"{rounds} rounds: {totals[-1]:,} references; from round to round: {growth}")
    return int(any(growth[FIRST - 1 :]))


if __name__ == "__main__":
    sys.exit(main())
