"""Random programs over models: shape, data, Adam, training, sampling, edited weights.

A program is a list of steps (name, i, j, k), as in `graphs`. The model has the shape
of the last "shape" step, so any list of steps is a program.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

from fuzz.graphs import EXTREME, Program, told

SHAPES = [
    # vocab_size, n_embd, n_head, n_layer, block_size
    (3, 4, 2, 1, 4),
    (1, 1, 1, 1, 1),
    (2, 2, 1, 2, 3),
    (5, 6, 3, 1, 5),
    (9, 8, 4, 1, 3),
    (4, 3, 3, 3, 2),
    (17, 5, 1, 1, 6),
    (6, 16, 2, 1, 4),
    (3, 9, 3, 2, 8),
    (4, 28, 2, 1, 3),  # more weights than are updated together
]
WIDE = [  # products are packed, if a batch has positions enough; `cython` is the reference
    (67, 68, 2, 1, 40),
    (34, 100, 4, 1, 33),
    (5, 65, 5, 2, 50),
]
FIRST_WIDE = 100  # the shapes' numbers from which on they are of WIDE
SETTINGS: dict[str, list[Any]] = {
    "learning_rate": [0.01, 0.0, 1.0, 1e-300, 1e300, 0.1],
    "beta1": [0.85, 0.0, 0.9999999999999999, 0.5, 1e-300],
    "beta2": [0.99, 0.0, 0.9999999999999999, 0.999],
    "eps_adam": [1e-8, 0.0, 1e300, 5e-324],
    "num_steps": [1000, 3, 10],
    "schedule": ["linear", "constant", "cosine"],
    "warmup": [0, 1, 2],
    "min_lr": [0.0, 1e-300, 0.001],
    "weight_decay": [0.0, 0.1, 3.0, 1e300],
    "clip": [None, 1e-3, 1.0, 1e-300, 1e300],
}


class Machine:
    """What a program has made so far on one engine."""

    def __init__(self, engine: SimpleNamespace) -> None:
        self.engine = engine
        self.losses: list[Any] = []
        self.seen: list[Any] = []
        self.model: Any = None
        self.adam: Any = None
        _shape(self, 0, 0, 1.0)

    def document(self, i: int) -> list[int]:
        """Return a document that depends on i alone, BOS on both ends."""
        rng = Random(i)
        bos = self.model.config.vocab_size - 1
        longest = max(8, self.model.config.block_size + 2)
        return [bos, *(rng.randint(0, bos) for _ in range(rng.randrange(longest))), bos]

    def documents(self, i: int, n: int) -> list[list[int]]:
        return [self.document(i + step) for step in range(n)]

    def weight(self, i: int) -> Any:
        return self.model.params[i * 7919 % len(self.model.params)]


def _shape(m: Machine, i: int, j: int, k: Any) -> None:
    dropout = (0.0, 0.0, 0.1, 0.7)[j % 4]
    shapes = WIDE if i >= FIRST_WIDE else SHAPES
    m.model = m.engine.GPT(*shapes[i % len(shapes)], rng=Random(j), dropout=dropout)
    m.adam = m.engine.Adam(m.model.params)
    m.losses.clear()


def _adam(m: Machine, i: int, j: int, k: Any) -> None:
    rng = Random(i)
    settings = {
        name: rng.choice(choices) for name, choices in SETTINGS.items() if rng.random() < 0.5
    }
    m.adam = m.engine.Adam(m.model.params, **settings)


def _scale(m: Machine, i: int, j: int, k: Any) -> None:
    for p in m.model.params:
        p.data = p.data * k


def _set(m: Machine, i: int, j: int, k: Any) -> None:
    m.weight(i).data = k


def _set_grad(m: Machine, i: int, j: int, k: Any) -> None:
    m.weight(i).grad = k
    if j % 2:
        for p in m.model.params:
            p.grad = -0.0


def _fit(m: Machine, i: int, j: int, k: Any) -> None:
    steps, batch_size = 1 + j % 4, 1 + i % 3
    told: list[Any] = []
    on_step = None if j % 2 else lambda t, loss: told.append((t, float(loss).hex()))
    documents = m.documents(i, 1 + j % 3)
    losses = m.model.fit(
        documents, steps, batch_size, adam=m.adam, on_step=on_step, threads=1 + i % 4
    )
    m.seen += [*told, [loss.hex() for loss in losses]]


def _loss(m: Machine, i: int, j: int, k: Any) -> None:
    if j % 3:
        m.losses.append(m.model.loss(m.document(i)))
    else:
        m.losses.append(m.model.batch_loss(m.documents(i, 1 + j % 4)))
    m.seen.append(m.losses[-1].data.hex())


def _backward(m: Machine, i: int, j: int, k: Any) -> None:
    if m.losses:
        m.losses[i % len(m.losses)].backward()


def _generate(m: Machine, i: int, j: int, k: Any) -> None:
    rng = Random(i)
    prompt = [rng.randrange(m.model.config.vocab_size) for _ in range(j % 3)]
    top_k = (None, None, 1, 2, 5)[i % 5]
    beyond = {"top_p": (None, None, 0.5, 1e-9)[j % 4], "length": (None, 0, 3, 20)[i % 4]}
    beyond |= {"stop": (0, 1) if j % 5 == 0 else (), "bos": i % 3 > 0}
    temperature = 0 if i % 7 == 0 else abs(k)
    m.seen.append(m.model.generate(prompt, temperature=temperature, top_k=top_k, rng=rng, **beyond))
    m.seen.append(rng.random())


def _evaluate(m: Machine, i: int, j: int, k: Any) -> None:
    found = m.model.evaluate(m.documents(i, 1 + j % 9), threads=1 + i % 4)
    m.seen.append((found.nats.hex(), found.tokens))


def _wrong_token(m: Machine, i: int, j: int, k: Any) -> None:
    tokens = m.document(i)
    tokens[j % len(tokens)] = -1 if i % 2 else m.model.config.vocab_size
    m.model.fit([m.document(j), tokens], 3, 1, adam=m.adam)


def _copied(m: Machine, i: int, j: int, k: Any) -> None:
    ways: list[Callable[[Any], Any]] = [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
    m.model, m.adam = ways[j % 2]((m.model, m.adam))


STEPS: dict[str, Callable[[Machine, int, int, Any], None]] = {
    "shape": _shape,
    "adam": _adam,
    "scale": _scale,
    "set": _set,
    "set grad": _set_grad,
    "fit": _fit,
    "loss": _loss,
    "backward": _backward,
    "step": lambda m, i, j, k: m.adam.step(),
    "generate": _generate,
    "copied": _copied,
    "evaluate": _evaluate,
    "wrong token": _wrong_token,
}


def program(rng: Random) -> Program:
    """Return a random program: one model, its weights tame or wild."""
    names = [*STEPS, "fit", "fit", "loss", "backward", "step"]
    names.remove("shape")
    wild = rng.choice([0.0, 0.0, 0.3])

    def number() -> float:
        if rng.random() < wild:
            return rng.choice(EXTREME)
        return rng.choice([rng.uniform(0.5, 2.0), rng.gauss(0, 1), 10.0])

    shape = rng.randrange(len(SHAPES)) if rng.random() < 0.96 else FIRST_WIDE + rng.randrange(100)
    steps: Program = [("shape", shape, rng.randrange(100), 1.0)]
    for _ in range(rng.randint(1, 8)):
        steps.append((rng.choice(names), rng.randrange(100), rng.randrange(100), number()))
    return steps


def is_wide(program: Program) -> bool:
    """Return whether a program's models are too wide for the plain oracle."""
    return any(name == "shape" and i >= FIRST_WIDE for name, i, _, _ in program)


def show(program: Program, engine: SimpleNamespace) -> list[Any]:
    """Return all that a program shows on an engine: losses, samples, errors, every weight."""
    machine = Machine(engine)
    for name, i, j, k in program:
        try:
            STEPS[name](machine, i, j, k)
        except Exception as error:
            machine.seen.append((name, *told(error)))
            machine.seen.append([machine.adam.t, *_weights(machine)])
    machine.seen += [machine.adam.t, machine.model.dropout_rng.random()]
    return [*machine.seen, *_weights(machine)]


def _weights(m: Machine) -> list[Any]:
    weights = zip(m.model.weights(), m.model.gradients(), m.adam.m, m.adam.v)
    return [("weight", *(float(x).hex() for x in numbers)) for numbers in weights]


def size(shown: list[Any]) -> int:
    """Return how many weights `show` has shown in the end."""
    return sum(isinstance(entry, tuple) and entry[0] == "weight" for entry in shown)
