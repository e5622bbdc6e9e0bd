"""Whether a model fits into this machine.

Linux overcommits memory: the OOM killer would end the process before malloc fails, so this
is checked first.
"""

from __future__ import annotations

import os

from microgpt.gpt import Config
from microgpt.model import Sizes

# The least bytes that a weight takes: with its gradient and Adam's two moments; and
# at each position, in the graph of a step. tests/test_memory.py measures both.
WEIGHT = {"python": 120, "cython": 104, "fused": 32}
LOOKED_UP = {"wte", "wpe", "logits", "start"}  # matrices of which a position reads one row
TERM = {"python": 400, "cython": 32, "fused": 0}
GROUP = 256  # K_BLOCK of src/gpt/matmul.pxd: positions that the fused engine runs at once


def check(config: Sizes, engine_name: str, positions: int = 0, dropout: float = 0.0) -> None:
    """Refuse a model that cannot fit, training on so many positions a step.

    Raises:  MemoryError that says how much memory it would take
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return
    needed = least(config, engine_name, positions, dropout)
    if needed > memory:
        other = "" if engine_name == "fused" else ", or take --engine fused"
        raise MemoryError(
            f"{config.num_params:,} weights and {positions:,} positions a step need at least "
            f"{needed / 2**30:,.1f} GiB on the {engine_name} engine, this machine has "
            f"{memory / 2**30:,.1f}: lower --n-embd, --n-layer, --block-size or --batch-size{other}"
        )


def least(config: Sizes, engine_name: str, positions: int, dropout: float = 0.0) -> int:
    """Return the fewest bytes that a step needs."""
    if not isinstance(config, Config):
        shapes = config.shapes()
        for name in LOOKED_UP & shapes.keys():
            del shapes[name]
        terms = sum([rows * columns for rows, columns in shapes.values()])
        weight = WEIGHT["python" if engine_name == "python" else "cython"]  # they are Values
        return weight * config.num_params + positions * TERM.get(engine_name, 0) * terms
    tokens = 8 * positions
    if engine_name == "fused" and dropout == 0.0:
        positions = min(positions, max(GROUP, config.n_embd + 1))
    looked_up = (config.vocab_size + config.block_size) * config.n_embd
    activations = 8 * (12 * config.n_layer * config.n_embd + 2 * config.vocab_size)
    graph = TERM.get(engine_name, 0) * (config.num_params - looked_up)
    weights = WEIGHT.get(engine_name, 32) * config.num_params
    return weights + tokens + positions * (activations + graph)
