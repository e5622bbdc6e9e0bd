"""Trained models as safetensors files: configuration, vocabulary and weights, exact.

A file is eight bytes of header length, a JSON header, and the matrices as
little-endian f64, so any reader of the format can open it. It is written whole
or not at all. Nothing in a file is believed: sizes are checked before memory is
taken, and each name, type, shape and number before the model is used.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import sys
from array import array
from pathlib import Path
from typing import Any, BinaryIO

from microgpt import engine, files, memory
from microgpt.gpt import GPT, Config
from microgpt.tokenizer import CharTokenizer

FILENAME = "model.safetensors"
MAX_HEADER = 1 << 24


def save(path: str | os.PathLike[str], model: GPT, tokenizer: CharTokenizer) -> Path:
    """Save a model and its vocabulary; return the file: path itself, or within path.

    Writes:  the whole file, or nothing; a directory path gets FILENAME
    Raises:  ValueError if a weight is not finite or a vocabulary entry is not one
             character; OSError if the file cannot be written
    """
    path = _file(path)
    weights = array("d", model.weights())
    try:
        _check_finite(weights, model.config)
        if any(len(char) != 1 for char in tokenizer.chars):
            raise ValueError("the vocabulary has an entry that is not one character")
    except ValueError as error:
        raise ValueError(f"not saved: {error}") from None
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "microgpt",
            "config": json.dumps(dataclasses.asdict(model.config)),
            "vocabulary": "".join(tokenizer.chars),
        }
    }
    end = 0
    for name, (rows, columns) in model.config.shapes().items():
        begin, end = end, end + 8 * rows * columns
        header[name] = {"dtype": "F64", "shape": [rows, columns], "data_offsets": [begin, end]}
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with files.replacing(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.write(_little_endian(weights))
    return path


def load(path: str | os.PathLike[str], engine_name: str | None = None) -> tuple[GPT, CharTokenizer]:
    """Return the model and the tokenizer that `save` put in path, on an engine.

    Raises:  OSError if the file cannot be read; ValueError naming the file and
             what is wrong in it; MemoryError if the model cannot fit; as `engine.load`
    """
    model_class = engine.GPT if engine_name is None else engine.load(engine_name).GPT
    path = _file(path)
    status = path.stat()
    try:
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a file")
        with open(path, "rb") as file:
            config, tokenizer, weights = _read(file, status.st_size, engine_name or engine.NAME)
    except (ValueError, TypeError, RecursionError) as error:
        reason = "its header is nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: no microgpt model: {reason}") from None
    model: GPT = model_class(**dataclasses.asdict(config))
    model.set_weights(weights)
    model.tokenizer = tokenizer
    return model, tokenizer


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path / FILENAME if path.is_dir() else path


def _read(
    file: BinaryIO, size: int, engine_name: str
) -> tuple[Config, CharTokenizer, array[float]]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or 8 + length > size:
        raise ValueError(f"{size:,} bytes are not the whole of a safetensors file")
    if length > MAX_HEADER:
        raise ValueError(f"its header of {length:,} bytes exceeds {MAX_HEADER:,}")
    header = _json(file.read(length).decode(), "its header")
    config, tokenizer = _metadata(header.pop("__metadata__", None))
    if 8 * config.num_params != size - 8 - length:
        raise ValueError(
            f"it holds {size - 8 - length:,} bytes of weights, "
            f"its configuration asks for {8 * config.num_params:,}"
        )
    shapes = config.shapes()
    if header.keys() != shapes.keys():
        raise ValueError(f"its matrices are {_some(header)}, not {_some(shapes)}")
    spans = [_span(name, header[name], shape) for name, shape in shapes.items()]
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1]:
        raise ValueError("its matrices do not lie side by side")
    memory.check(config, engine_name)
    data = file.read()
    if len(data) != 8 * config.num_params:
        raise ValueError("it changed while it was read")
    weights = array("d", b"".join([data[begin:end] for begin, end in spans]))
    weights = array("d", _little_endian(weights))
    _check_finite(weights, config)
    return config, tokenizer, weights


def _metadata(metadata: Any) -> tuple[Config, CharTokenizer]:
    if not isinstance(metadata, dict) or metadata.get("format") != "microgpt":
        raise ValueError("its header does not say that its format is microgpt")
    for key in ("config", "vocabulary"):
        if not isinstance(metadata.get(key), str):
            raise ValueError(f"its header has no {key}")
    sizes = _json(metadata["config"], "its config")
    expected = [field.name for field in dataclasses.fields(Config)]
    if sorted(sizes) != sorted(expected):
        raise ValueError(f"its config names {_some(sizes)}, not {_some(expected)}")
    config = Config(**sizes)
    chars = metadata["vocabulary"]
    chars.encode()  # JSON can spell half a surrogate pair, which is no character
    tokenizer = CharTokenizer(chars)
    if "".join(tokenizer.chars) != chars:
        raise ValueError("its vocabulary is not sorted and unique")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"its vocabulary has {tokenizer.vocab_size} tokens, vocab_size is {config.vocab_size}"
        )
    return config, tokenizer


def _span(name: str, entry: Any, shape: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.get("dtype") != "F64":
        raise ValueError(f"{name} is not of dtype F64")
    if entry.get("shape") != list(shape):
        raise ValueError(f"{name} is not of shape {list(shape)}")
    offsets = entry.get("data_offsets")
    if (
        not isinstance(offsets, list)
        or [type(offset) for offset in offsets] != [int, int]
        or offsets[0] < 0
        or offsets[1] - offsets[0] != 8 * shape[0] * shape[1]
    ):
        raise ValueError(f"{name} has data_offsets that do not fit its shape")
    return offsets[0], offsets[1]


def _json(text: str, what: str) -> dict[str, Any]:
    found = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(found, dict):
        raise ValueError(f"{what} is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in its header")
    return found


def _some(names: Any) -> str:
    shown = [repr(name) for name in list(names)[:3]]
    return ", ".join(shown + ["..."] * (len(names) > 3)) or "none"


def _check_finite(weights: array[float], config: Config) -> None:
    start = 0
    for name, (rows, columns) in config.shapes().items():
        stop = start + rows * columns
        if not all(map(math.isfinite, weights[start:stop])):
            raise ValueError(f"{name} has a weight that is not finite")
        start = stop


def _little_endian(weights: array[float]) -> bytes:
    if sys.byteorder == "big":
        weights = weights[:]
        weights.byteswap()
    return weights.tobytes()
