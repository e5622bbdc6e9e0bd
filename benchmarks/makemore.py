"""makemore's models on PyTorch, in makemore itself, compared with ours.

    python benchmarks/makemore.py PATH/makemore.py PATH/names.txt          times of a step
    python benchmarks/makemore.py PATH/makemore.py PATH/names.txt 3000     and held-out losses

Both begin from makemore's first weights and take the same names, on one thread, at
makemore's settings: n_embd and n_hidden 64, AdamW at a rate of 5e-4 with betas 0.9 and 0.99
and a decay of 0.01; makemore in its 32-bit floats. Times are medians of rounds that alternate,
of the step alone: makemore's data loader is left out. With a number of steps both are trained
for so many at batch 32. Needs torch and a copy of karpathy/makemore.
"""

from __future__ import annotations

import importlib.util
import random
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch

from microgpt import CharTokenizer, engine

LADDER = ["bigram", "mlp", "rnn", "gru", "bow"]
BLOCK_SIZE = 16  # the longest name, and its end
HELD_OUT = 1000
ROUNDS = 7
NAMES = {  # of ours in makemore's state_dict
    "mlp": {"fc1": "mlp.0", "lm_head": "mlp.2"},
    "rnn": {"xh_to_h": "cell.xh_to_h"},
    "gru": {f"xh_to_{z}": f"cell.xh_to_{z}" for z in ("z", "r", "hbar")},
    "bow": {"fc1": "context_block.mlp.c_fc", "fc2": "context_block.mlp.c_proj"},
}


def makemore(path: str) -> Any:
    """Return makemore as a module; it imports TensorBoard, which is not needed here."""
    sys.modules["torch.utils.tensorboard"] = types.ModuleType("tensorboard")
    sys.modules["torch.utils.tensorboard"].SummaryWriter = None  # type: ignore[attr-defined] # of a stub
    spec = importlib.util.spec_from_file_location("makemore", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["makemore"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Theirs:
    """A model of makemore's and its optimizer."""

    def __init__(self, module: Any, name: str, vocab_size: int) -> None:
        config = module.ModelConfig(BLOCK_SIZE, vocab_size, n_embd=64, n_embd2=64)
        kinds = {"bigram": module.Bigram, "mlp": module.MLP, "bow": module.BoW}
        made = kinds[name](config) if name in kinds else module.RNN(config, cell_type=name)
        self.model = made
        self.adam = torch.optim.AdamW(
            made.parameters(), lr=5e-4, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8
        )

    def fit(self, batches: list[Any]) -> None:
        for x, y in batches:
            _, loss = self.model(x, y)
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()

    @torch.no_grad()
    def evaluate(self, batch: Any) -> float:
        loss: float = self.model(*batch)[1].item()
        return loss


def tensors(batch: list[list[int]], vocab_size: int) -> Any:
    """Return documents as makemore has them: 0 is the start, -1 is not counted."""
    x = torch.zeros(len(batch), BLOCK_SIZE, dtype=torch.long)
    y = torch.full((len(batch), BLOCK_SIZE), -1)
    for i, tokens in enumerate(batch):
        shifted = torch.tensor([(token + 1) % vocab_size for token in tokens])
        x[i, : len(tokens) - 1], y[i, : len(tokens) - 1] = shifted[:-1], shifted[1:]
    return x, y


def ours(name: str, vocab_size: int) -> Any:
    """Return our model and its optimizer."""
    fused = engine.load("fused")
    sizes = {} if name == "bigram" else {"n_embd": 64, "n_hidden": 64}
    model = fused.models[name](vocab_size, block_size=BLOCK_SIZE, **sizes)
    adam = fused.Adam(
        model.params, 5e-4, 0.9, 0.99, 1e-8, 10**6, schedule="constant", weight_decay=0.01
    )
    return model, adam


def copy_weights(name: str, state: dict[str, Any], model: Any) -> None:
    """Give our model makemore's weights."""
    v = model.config.vocab_size
    order = [*range(1, v), 0]  # of tokens: makemore's 0 is our last
    for matrix, rows in model.state_dict.items():
        own = matrix.removesuffix("_bias")
        found = NAMES.get(name, {}).get(own, own)
        kind = "bias" if own != matrix else "weight"
        tensor = state[f"{found}.{kind}" if f"{found}.{kind}" in state else found].detach()
        if own in ("wte", "lm_head", "logits"):
            tensor = tensor[[*order, *range(v, len(tensor))]]
        if own == "logits":
            tensor = tensor[:, order]
        for row, numbers in zip(rows, torch.atleast_2d(tensor).tolist()):
            for p, number in zip(row, numbers):
                p.data = number


def time_steps(name: str, module: Any, documents: list[list[int]], vocab_size: int) -> None:
    """Print how long a step takes both, at batch 1 and 32."""
    for batch_size, steps in ((1, 64), (32, 8)):
        peer, (model, adam) = Theirs(module, name, vocab_size), ours(name, vocab_size)
        copy_weights(name, peer.model.state_dict(), model)
        count = steps * batch_size
        rows = [documents[i : i + batch_size] for i in range(0, count, batch_size)]
        batches = [tensors(batch, vocab_size) for batch in rows]
        first = peer.evaluate(batches[0])
        own = model.evaluate(rows[0]).loss
        assert abs(own - first) < 1e-5, f"{name}: {own} is not {first}"
        model.fit(documents[:count], steps, batch_size, adam=adam)  # records
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for fit, taken in zip((peer.fit, None), times):
                start = time.perf_counter()
                if fit is not None:
                    fit(batches)
                else:
                    model.fit(documents[:count], steps, batch_size, adam=adam)
                taken.append((time.perf_counter() - start) / steps)
        torch_time, own_time = map(statistics.median, times)
        print(
            f"{name}, batch {batch_size}: makemore {1e6 * torch_time:,.0f} us, "
            f"ours {1e6 * own_time:,.0f} us: {torch_time / own_time:.2f} times as fast",
            flush=True,
        )


def compare_losses(
    name: str, module: Any, documents: list[list[int]], vocab_size: int, num_steps: int
) -> None:
    """Print the held-out losses of both after num_steps."""
    training, held_out = documents[:-HELD_OUT], documents[-HELD_OUT:]
    peer, (model, adam) = Theirs(module, name, vocab_size), ours(name, vocab_size)
    copy_weights(name, peer.model.state_dict(), model)
    for t in range(num_steps):
        places = range(32 * t, 32 * t + 32)
        peer.fit([tensors([training[i % len(training)] for i in places], vocab_size)])
    model.fit(training, num_steps, 32, adam=adam)
    theirs = peer.evaluate(tensors(held_out, vocab_size))
    print(
        f"{name}, held-out loss after {num_steps} steps: makemore {theirs:.4f}, "
        f"ours {model.evaluate(held_out).loss:.4f}",
        flush=True,
    )


def main() -> None:
    path, names, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(3407)
    words = Path(names).read_text(encoding="utf-8").split()
    random.Random(3407).shuffle(words)
    tokenizer = CharTokenizer.from_documents(words)
    documents = [tokenizer.encode_document(word) for word in words]
    module = makemore(path)
    for name in LADDER:
        if rest:
            compare_losses(name, module, documents, tokenizer.vocab_size, int(rest[0]))
        else:
            time_steps(name, module, documents, tokenizer.vocab_size)


if __name__ == "__main__":
    main()
