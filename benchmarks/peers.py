"""The same model and step in JAX (compiled) and PyTorch (eager), beside the fused engine.

    python benchmarks/peers.py

One document a step, one thread, Adam included, their usual 32-bit floats. What is
not installed is skipped with a message: `pip install jax` and `pip install torch`.
Figures are the fastest rounds of 50 steps.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable, Iterator

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

from microgpt import data, engine
from microgpt.tokenizer import CharTokenizer

STEPS, BLOCK, HEADS = 50, 16, 4
Step = Callable[[list[int]], object]
say_once = functools.cache(print)


def jax_step(model: engine.GPT) -> Step:
    """Return a step of the model as one compiled function, documents padded to the block."""
    import jax
    import jax.numpy as jnp

    def rmsnorm(x):
        return x * ((x * x).mean(-1, keepdims=True) + 1e-5) ** -0.5

    def loss(w, tokens, targets, n):
        x = rmsnorm(w["wte"][tokens] + w["wpe"])
        norm = rmsnorm(x)
        q, k, v = (
            (norm @ w[f"layer0.attn_{name}"].T).reshape(BLOCK, HEADS, -1).transpose(1, 0, 2)
            for name in ("wq", "wk", "wv")
        )
        scores = q @ k.transpose(0, 2, 1) / q.shape[-1] ** 0.5
        scores = jnp.where(jnp.tril(jnp.ones((BLOCK, BLOCK), bool)), scores, -jnp.inf)
        attended = (jax.nn.softmax(scores) @ v).transpose(1, 0, 2).reshape(BLOCK, -1)
        x = x + attended @ w["layer0.attn_wo"].T
        x = x + jax.nn.relu(rmsnorm(x) @ w["layer0.mlp_fc1"].T) @ w["layer0.mlp_fc2"].T
        each = -jax.nn.log_softmax(x @ w["lm_head"].T)[jnp.arange(BLOCK), targets]
        return jnp.where(jnp.arange(BLOCK) < n, each, 0).sum() / n

    @jax.jit
    def step(w, m, v, t, tokens, targets, n):
        value, g = jax.value_and_grad(loss)(w, tokens, targets, n)
        m = jax.tree.map(lambda m, g: 0.85 * m + 0.15 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, g)
        rate = 0.01 * (1 - t / 1000)
        w = jax.tree.map(
            lambda w, m, v: (
                w - rate * m / (1 - 0.85 ** (t + 1)) / (jnp.sqrt(v / (1 - 0.99 ** (t + 1))) + 1e-8)
            ),
            w,
            m,
            v,
        )
        return value, w, m, v

    weights = {name: jnp.array(matrix.data.tolist()) for name, matrix in model.state_dict.items()}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = [weights, zeros, zeros]

    @functools.cache
    def prepared(document: tuple[int, ...]) -> tuple[object, object, int]:
        n = min(BLOCK, len(document) - 1)
        padding = (0,) * (BLOCK - n)
        return jnp.array(document[:n] + padding), jnp.array(document[1 : n + 1] + padding), n

    def take(document: list[int]) -> object:
        tokens, targets, n = prepared(tuple(document))
        value, *state[:] = step(*state, 0.0, tokens, targets, n)
        return value.block_until_ready()

    return take


def torch_step(model: engine.GPT) -> Step:
    """Return a step of the model on eager tensors, with torch's own Adam."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    w = {
        name: torch.tensor(matrix.data.tolist(), requires_grad=True)
        for name, matrix in model.state_dict.items()
    }
    adam = torch.optim.Adam(w.values(), 0.01, betas=(0.85, 0.99))

    def rmsnorm(x):
        return x * ((x * x).mean(-1, keepdim=True) + 1e-5) ** -0.5

    def take(document: list[int]) -> object:
        n = min(BLOCK, len(document) - 1)
        x = rmsnorm(w["wte"][document[:n]] + w["wpe"][:n])
        norm = rmsnorm(x)
        q, k, v = (
            (norm @ w[f"layer0.attn_{name}"].T).view(n, HEADS, -1).transpose(0, 1)
            for name in ("wq", "wk", "wv")
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(0, 1).reshape(n, -1) @ w["layer0.attn_wo"].T
        x = x + (rmsnorm(x) @ w["layer0.mlp_fc1"].T).relu() @ w["layer0.mlp_fc2"].T
        loss = functional.cross_entropy(x @ w["lm_head"].T, torch.tensor(document[1 : n + 1]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return take


def peers(model: engine.GPT) -> Iterator[tuple[str, Step]]:
    """Yield the steps of the peers that are installed."""
    for name, make in (("JAX, compiled", jax_step), ("PyTorch, eager", torch_step)):
        try:
            yield name, make(model)
        except ModuleNotFoundError as error:
            say_once(f"{name}: skipped, {error}")


def fastest(function: Callable[[], object]) -> float:
    """Return the least time of twenty."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    names = data.documents()
    random.Random(42).shuffle(names)
    tokenizer = CharTokenizer.from_documents(names)
    documents = [tokenizer.encode_document(name) for name in names[:STEPS]]
    fused = engine.load("fused")
    model = fused.GPT(tokenizer.vocab_size)
    steps = list(peers(model))
    first = model.loss(documents[0]).data
    for name, step in steps:
        assert abs(float(step(documents[0])) - first) < 1e-4, f"{name} is another model"
    adam = fused.Adam(model.params, num_steps=10**9)
    own = fastest(lambda: model.fit(documents, STEPS, adam=adam)) / STEPS
    print(f"microgpt, fused: {1e6 * own:,.1f} us a step")
    for name, step in steps:
        took = fastest(lambda step=step: [step(document) for document in documents]) / STEPS
        print(f"{name}: {1e6 * took:,.1f} us a step, {took / own:,.1f} times fused")


if __name__ == "__main__":
    main()
