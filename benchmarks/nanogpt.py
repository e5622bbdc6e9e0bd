"""A step at nanoGPT's sizes beside PyTorch in 32 and 64 bits, and the machine's peak.

    python benchmarks/nanogpt.py                        one thread and two
    MICROGPT_SIMD=avx2 python benchmarks/nanogpt.py     by AVX2, on a processor with AVX-512
    python benchmarks/nanogpt.py --busy                 with one core kept busy (Linux)
    python benchmarks/nanogpt.py --page docs/roofline.md

The sizes are nanoGPT's settings for a CPU, makemore's defaults and nanoGPT's "baby GPT" with
four documents a step. Every document is a full context of random tokens. The peer is the same
model and Adam on eager tensors; both begin from the same weights, and the first losses must
agree. Rounds alternate; figures are medians of five: of processor time on one thread, so that
other programs of the machine hardly count, of time on several.

Products are counted as in roofline.py. The peak is what vectors reach that never leave their
registers (`peak` in src/testing), on one thread.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from roofline import products, put

from microgpt import fused

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import testing

SHAPES = {  # n_layer, n_head, n_embd, block_size, documents a step
    "nanoGPT on a CPU": (4, 4, 128, 64, 12),
    "makemore": (4, 4, 64, 16, 32),
    "baby GPT": (6, 6, 384, 256, 4),
}
VOCAB_SIZE = 65
ROUNDS, STEPS = 5, 3
Step = Callable[[], float]


def torch_step(model: fused.GPT, documents: list[list[int]], bits: int) -> Step:
    """Return a step of the model on eager tensors, with torch's own Adam."""
    import torch
    from torch.nn import functional

    dtype = {32: torch.float32, 64: torch.float64}[bits]
    config = model.config
    w = {
        name: torch.tensor(matrix.data.tolist(), dtype=dtype, requires_grad=True)
        for name, matrix in model.state_dict.items()
    }
    adam = torch.optim.Adam(w.values(), 1e-4, betas=(0.85, 0.99))
    tokens = torch.tensor([document[:-1] for document in documents])
    targets = torch.tensor([document[1:] for document in documents])

    def rmsnorm(x):
        return x * ((x * x).mean(-1, keepdim=True) + 1e-5) ** -0.5

    def heads(x):
        return x.unflatten(-1, (config.n_head, -1)).transpose(1, 2)

    def step() -> float:
        x = rmsnorm(w["wte"][tokens] + w["wpe"][: tokens.shape[1]])
        for i in range(config.n_layer):
            norm = rmsnorm(x)
            q, k, v = (heads(norm @ w[f"layer{i}.attn_w{name}"].T) for name in "qkv")
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + attended.transpose(1, 2).flatten(2) @ w[f"layer{i}.attn_wo"].T
            hidden = (rmsnorm(x) @ w[f"layer{i}.mlp_fc1"].T).relu()
            x = x + hidden @ w[f"layer{i}.mlp_fc2"].T
        logits = x @ w["lm_head"].T
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return step


def torch_steps(model: fused.GPT, documents: list[list[int]], threads: int) -> dict[str, Step]:
    """Return PyTorch's steps by name, none where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError as error:
        print(f"PyTorch: skipped, {error}")
        return {}
    torch.set_num_threads(threads)
    return {f"PyTorch, {bits} bits": torch_step(model, documents, bits) for bits in (32, 64)}


def busy_core() -> subprocess.Popen[bytes]:
    """Start a program that keeps the last core busy."""
    core = max(os.sched_getaffinity(0))
    program = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    return subprocess.Popen([sys.executable, "-c", program])


def measure(name: str, threads: int, busy: bool) -> str:
    """Return a size's row of the table."""
    n_layer, n_head, n_embd, block_size, count = SHAPES[name]
    rng = random.Random(1)
    model = fused.GPT(VOCAB_SIZE, n_embd, n_head, n_layer, block_size)
    bos = VOCAB_SIZE - 1
    documents = [[bos, *(rng.randrange(bos) for _ in range(block_size))] for _ in range(count)]
    peers = torch_steps(model, documents, threads)
    first = model.batch_loss(documents).data
    for program, step in peers.items():
        assert abs(step() - first) < 1e-3, f"{program} is another model"
    adam = fused.Adam(model.params, 1e-4, num_steps=10**9)
    now = time.process_time if threads == 1 and not busy else time.perf_counter
    took: dict[str, list[float]] = {program: [] for program in peers}
    ours: list[float] = []
    for _ in range(ROUNDS):
        ends: list[float] = []  # of steps; the first makes the memory of a batch
        model.fit(
            documents, STEPS + 1, count, adam=adam, threads=threads,
            on_step=lambda t, loss, ends=ends: ends.append(now()),
        )  # fmt: skip
        ours.append((ends[-1] - ends[0]) / STEPS)
        for program, step in peers.items():
            start = now()
            for _ in range(STEPS):
                step()
            took[program].append((now() - start) / STEPS)
    own = statistics.median(ours)
    best = threads * testing.load(fused.SIMD).peak(0.3)
    peak = products(model.config, [block_size] * count) / best
    cells = [name, str(threads), f"{1e3 * own:,.1f}", f"{1e3 * peak:,.1f}", f"{peak / own:.0%}"]
    for times in took.values():
        other = statistics.median(times)
        cells += [f"{1e3 * other:,.1f}", f"{own / other:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--busy", action="store_true", help="keep a core busy meanwhile")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between marks")
    arguments = parser.parse_args()
    heads = ["size", "threads", "ms a step", "products at the peak", "of the peak"]
    for bits in (32, 64):
        heads += [f"PyTorch, {bits} bits", "our time / its"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    other = busy_core() if arguments.busy else None
    try:
        for name in arguments.size:
            lines += [measure(name, count, arguments.busy) for count in arguments.threads]
    finally:
        if other is not None:
            other.kill()
            other.wait()
    lines += ["", f"Medians of {ROUNDS} rounds, {fused.SIMD}, {time.strftime('%F')}."]
    if arguments.page:
        put(arguments.page, "nanogpt", "\n".join(lines))
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
