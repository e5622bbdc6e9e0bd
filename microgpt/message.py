"""Text for a terminal: one line, no control characters, bounded length; suggestions."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

MAX_LINE = 600  # characters of one message
MAX_VALUE = 60  # characters of a value that a message quotes

# C0 and C1 controls, line separators, and the marks that reorder what a terminal shows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def one_line(text: object, limit: int = MAX_LINE) -> str:
    """Return text with control characters escaped, its middle left out if it is too long."""
    text = _CONTROL.sub(_escape, str(text))
    if len(text) <= limit:
        return text
    return f"{text[: limit - 100]} ... {text[-90:]}"


def quoted(value: object) -> str:
    """Return the repr of a value, cut after MAX_VALUE characters."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 10]}...{text[-5:]}"


def label(character: str, *, ascii_only: bool = False) -> str:
    """Return a character as a reader sees it: BOS as <>, white space and controls as signs.

    A token without a character, <7>, stays as it is.
    """
    if not character:
        return "<>"
    if character == " ":
        return "_" if ascii_only else "\N{OPEN BOX}"
    if not character.isprintable():
        return character.encode("unicode_escape").decode()
    if len(character) == 1 and unicodedata.combining(character):  # needs a letter to stand on
        character = "\N{DOTTED CIRCLE}" + character
    return character if not ascii_only else character.encode("ascii", "backslashreplace").decode()


# What nanoGPT, makemore and PyTorch call a setting or flag, and what it is called here.
_ELSEWHERE = {
    "block": "block_size",
    "context": "block_size",
    "context_length": "block_size",
    "dataset": "data",
    "decay_lr": "schedule",
    "embd": "n_embd",
    "epochs": "num_steps",
    "eval_interval": "eval_every",
    "file": "data",
    "grad_clip": "clip",
    "heads": "n_head",
    "hidden": "n_hidden",
    "init_from": "resume",
    "input": "data",
    "input_file": "data",
    "iters": "num_steps",
    "layers": "n_layer",
    "log_interval": "log_every",
    "lr": "learning_rate",
    "max_iters": "num_steps",
    "max_new_tokens": "length",
    "max_steps": "num_steps",
    "min_learning_rate": "min_lr",
    "o": "out",
    "out_dir": "out",
    "output": "out",
    "save": "out",
    "start": "prompt",
    "temp": "temperature",
    "type": "model",
    "warmup_iters": "warmup",
    "wd": "weight_decay",
    "work_dir": "out",
}


def suggestion(word: str, words: Iterable[str]) -> str:
    """Return "; did you mean X?" for the one of words that is meant, or an empty string."""
    names = {_name(known): known for known in words}
    meant = names.get(_ELSEWHERE.get(_name(word), ""))
    similar = difflib.get_close_matches(word[:100], names.values(), n=1, cutoff=0.7)
    close = [meant] if meant else similar
    return f"; did you mean {close[0]}?" if close else ""


def _name(word: str) -> str:
    """Return a flag's name as that of a setting."""
    return word.lstrip("-").replace("-", "_")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in "\n\r\t":
        return repr(match[0])[1:-1]
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
