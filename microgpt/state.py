"""The state of a run in its checkpoint: settings, steps and random streams, as JSON.

The JSON may come from anywhere, so each value is checked before it is used.
"""

from __future__ import annotations

import random
from typing import Any

from microgpt import settings as table
from microgpt.message import quoted
from microgpt.settings import Settings


def settings_of(run: dict[str, Any]) -> Settings:
    """Return the settings of a checkpoint's run.

    Raises:  ValueError if one is unknown or wrong
    """
    return Settings(**table.from_mapping(run.get("settings"), "its settings"))


def checked(run: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Return the settings and the state of a checkpoint's run, with every value checked."""
    state = dict(run)
    settings = settings_of(run)
    for name in ("step", "stale", "documents", "held_out"):
        if type(state[name]) is not int or state[name] < 0:
            raise ValueError(f"its {name} is {quoted(state[name])}")
    for name in ("sha256", "libm"):
        if not isinstance(state[name], str):
            raise ValueError(f"its {name} is not text")
    history = state["history"]
    steps = [n for pair in history for n in pair]
    if not steps or len(steps) != 2 * len(history) or any(type(n) is not int for n in steps):
        raise ValueError("its history is not of pairs of steps")
    begins = [begin for begin, _ in history]
    if begins[0] != 0 or begins != sorted(begins) or history[-1][1] != settings.num_steps:
        raise ValueError("its history does not lead to its settings")
    if not begins[-1] <= state["step"] <= settings.num_steps:
        raise ValueError(f"its step is {state['step']}, its history {quoted(history)}")
    for name in ("rng", "dropout_rng"):
        version, numbers, gauss = state[name]
        state[name] = (version, tuple(numbers), gauss)
        try:
            random.Random().setstate(state[name])
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"its {name} is no state of random.Random: {error}") from None
    if state["best"] is not None:
        step, loss = state["best"]
        if type(step) is not int or type(loss) is not float:
            raise ValueError("its best is not a step and a loss")
        state["best"] = (step, loss)
    return settings, state
