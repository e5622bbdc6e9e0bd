"""Train without end and see that memory does not grow: python tests/soak.py SECONDS.

After a first tenth of the time, which fills what the engines keep for reuse, the
resident memory may grow by no more than a mebibyte.
"""

import gc
import random
import resource
import sys
import time

from fuzz import compare, make

from microgpt.engine import load

GROWTH = 2**20


def resident():
    """Return the bytes of memory that the process holds now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def rounds():
    """Train a model of each engine and run a few random programs, again and again."""
    documents = [[26, *(random.Random(i).choices(range(26), k=6)), 26] for i in range(50)]
    while True:
        for name in ("cython", "fused"):
            model = load(name).GPT(27, n_embd=8, n_head=2, block_size=8)
            model.fit(documents, 40, batch_size=2)
            model.generate()
        for number in range(1, 10):
            _, difference = compare(*make(0, number))
            assert difference is None
        gc.collect()
        yield


def main():
    seconds = float(sys.argv[1])
    start = time.monotonic()
    first = None
    highest = n = 0
    for _ in rounds():
        n += 1
        passed = time.monotonic() - start
        if passed > seconds / 10 and first is None:
            first = resident()
        highest = max(highest, resident()) if first else 0
        if passed > seconds:
            break
    growth = highest - first
    print(f"{passed:,.0f} s, {n:,} rounds: {first / 2**20:.1f} MiB, {growth / 2**10:+,.0f} KiB")
    return int(growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
