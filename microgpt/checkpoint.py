"""Runs and models as safetensors files: configuration, vocabulary and numbers, exact.

A file is eight bytes of header length, a JSON header, and tensors as little-endian f64,
so any reader of the format can open it: the weights under the model's names and, in the
file of a run, Adam's moments (`adam.m`, `adam.v`) and the run's state as JSON in the
metadata. It is written whole or not at all. Files are not trusted: sizes are
checked before memory is allocated, and each name, type, shape and number before it is used.

Own code instead of the safetensors package, which tests read the files with: the format
is a length and a JSON object, and the package would be a compiled dependency of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import random
import stat
import sys
from array import array
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from microgpt import engine, files, memory
from microgpt.gpt import GPT
from microgpt.message import quoted
from microgpt.model import Model, Sizes
from microgpt.models import MODELS
from microgpt.tokenizer import CharTokenizer

FILENAME = "model.safetensors"
BEST = "best.safetensors"
MAX_HEADER = 1 << 24
MOMENTS = ("adam.m", "adam.v")


class Content(NamedTuple):
    """The content of a file. Only a run's file has moments (m, v) and run, the training state."""

    model: str
    config: Sizes
    tokenizer: CharTokenizer
    weights: array[float]
    moments: tuple[array[float], array[float]] | None
    run: dict[str, Any] | None


def save(
    path: str | os.PathLike[str],
    model: Model,
    tokenizer: CharTokenizer,
    moments: tuple[Any, Any] | None = None,
    run: dict[str, Any] | None = None,
) -> Path:
    """Save a model and its vocabulary; return the file: path itself, or within path.

    Shapes:  moments, m and v of as many numbers as the model has weights
    Writes:  the whole file, or nothing; a directory path gets FILENAME
    Raises:  ValueError if a number is not finite or a vocabulary entry is not one
             character; OSError if the file cannot be written
    """
    path = Path(path)
    path = path / FILENAME if path.is_dir() else path
    weights = array("d", model.weights())
    kept = [array("d", moment) for moment in moments or ()]
    try:
        _check_finite(weights, kept, model.config)
        if any(len(char) != 1 for char in tokenizer.chars):
            raise ValueError("the vocabulary has an entry that is not one character")
    except ValueError as error:
        raise ValueError(f"not saved: {error}") from None
    metadata = {
        "format": "microgpt",
        "config": json.dumps(dataclasses.asdict(model.config)),
        "vocabulary": "".join(tokenizer.chars),
    }
    if model.name != "gpt":
        metadata["model"] = model.name
    if run is not None:
        metadata["run"] = json.dumps(run)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in _shapes(model.config, bool(kept)).items():
        begin, end = end, end + 8 * math.prod(shape)
        header[name] = {"dtype": "F64", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with files.replacing(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for numbers in (weights, *kept):
            file.write(_little_endian(numbers))
    return path


def load(
    path: str | os.PathLike[str], engine_name: str | None = None
) -> tuple[Model, CharTokenizer]:
    """Return the model and the tokenizer of a file, or of a run's directory, on an engine.

    Raises:  OSError if the file cannot be read; ValueError naming the file and
             what is wrong in it; MemoryError if the model cannot fit; as `engine.load`
    """
    content = read(path, engine_name)
    return model_of(content, engine_name), content.tokenizer


def model_of(content: Content, engine_name: str | None = None) -> Model:
    """Return the model of a file's content, on an engine."""
    model_class = engine.load(engine_name or engine.NAME).models[content.model]
    model: Model = model_class(**dataclasses.asdict(content.config), rng=NoRandom())
    model.set_weights(content.weights)
    model.tokenizer = content.tokenizer
    return model


def load_gpt(
    path: str | os.PathLike[str], engine_name: str | None = None
) -> tuple[GPT, CharTokenizer]:
    """Load a model as `load` does, and require a GPT.

    Raises:  as `load`; ValueError if it is another model than a GPT
    """
    model, tokenizer = load(path, engine_name)
    if not isinstance(model, GPT):
        raise ValueError(f"{path}: holds a model of the kind {model.name}; expected is a gpt")
    return model, tokenizer


def read(
    path: str | os.PathLike[str], engine_name: str | None = None, *, best: bool = True
) -> Content:
    """Return the content of a file, or of the file in a directory.

    In a directory it is BEST, if that is there and wanted, or else FILENAME.

    Raises:  as `load`
    """
    path = file_in(path, best=best)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if path.parent.is_dir() and path.name == FILENAME:
            raise FileNotFoundError(
                error.errno,
                "there is no model in it; expected is a directory that microgpt train --out made",
                str(path.parent),
            ) from None
        raise
    try:
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a file")
        with open(path, "rb") as file:
            return _read(file, status.st_size, engine_name or engine.NAME)
    except (ValueError, TypeError, RecursionError) as error:
        reason = "its header is nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(
            f"{path}: no microgpt model: {reason}; expected is a directory that microgpt "
            "train --out made, or its model.safetensors"
        ) from None


def file_in(path: str | os.PathLike[str], *, best: bool = True) -> Path:
    """Return the file that a path stands for: itself, or a directory's BEST or FILENAME."""
    path = Path(path)
    if not path.is_dir():
        return path
    return path / BEST if best and (path / BEST).exists() else path / FILENAME


@functools.cache
def libm() -> str:
    """Return a digest of this machine's exp, log and pow on fixed arguments.

    Another digest means another mathematics library, with which training gives other bits.
    """
    rng, digest = random.Random(1), hashlib.sha256()
    for _ in range(2_000):
        x = rng.uniform(0, 40)
        for y in (math.exp(-x), math.log(x), x ** rng.choice((-1, -0.5, 0.5, 2, -1.5))):
            digest.update(y.hex().encode())
    return digest.hexdigest()[:32]


class NoRandom(random.Random):
    """Draws zeros: for weights that are replaced at once."""

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        return 0.0


def _shapes(config: Sizes, with_moments: bool) -> dict[str, tuple[int, ...]]:
    """Return {tensor name: shape} in the order in which a file has them."""
    shapes: dict[str, tuple[int, ...]] = dict(config.shapes())
    if with_moments:
        shapes |= dict.fromkeys(MOMENTS, (config.num_params,))
    return shapes


def _read(file: BinaryIO, size: int, engine_name: str) -> Content:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or 8 + length > size:
        raise ValueError(f"{size:,} bytes are not the whole of a safetensors file")
    if length > MAX_HEADER:
        raise ValueError(f"its header of {length:,} bytes exceeds {MAX_HEADER:,}")
    header = _json(file.read(length).decode(), "its header")
    name, config, tokenizer, run = _metadata(header.pop("__metadata__", None))
    copies = 1 if run is None else 3
    if 8 * copies * config.num_params != size - 8 - length:
        raise ValueError(
            f"it holds {size - 8 - length:,} bytes of numbers, "
            f"its configuration asks for {8 * copies * config.num_params:,}"
        )
    shapes = _shapes(config, run is not None)
    if header.keys() != shapes.keys():
        raise ValueError(f"its tensors are {_some(header)}, not {_some(shapes)}")
    spans = [_span(name, header[name], shape) for name, shape in shapes.items()]
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1]:
        raise ValueError("its tensors do not lie side by side")
    memory.check(config, engine_name)
    data = file.read()
    if len(data) != 8 * copies * config.num_params:
        raise ValueError("it changed while it was read")
    numbers = array("d", b"".join([data[begin:end] for begin, end in spans]))
    numbers = array("d", _little_endian(numbers))
    n = config.num_params
    parts = [numbers[i * n : (i + 1) * n] for i in range(copies)]
    _check_finite(parts[0], parts[1:], config)
    moments = (parts[1], parts[2]) if run is not None else None
    return Content(name, config, tokenizer, parts[0], moments, run)


def _metadata(metadata: Any) -> tuple[str, Sizes, CharTokenizer, dict[str, Any] | None]:
    if not isinstance(metadata, dict) or metadata.get("format") != "microgpt":
        raise ValueError("its header does not say that its format is microgpt")
    for key in ("config", "vocabulary"):
        if not isinstance(metadata.get(key), str):
            raise ValueError(f"its header has no {key}")
    name = metadata.get("model", "gpt")
    if name not in MODELS:
        raise ValueError(f"its model is none of {', '.join(MODELS)}")
    sizes = _json(metadata["config"], "its config")
    expected = [field.name for field in dataclasses.fields(MODELS[name].Config)]
    if sorted(sizes) != sorted(expected):
        raise ValueError(f"its config names {_some(sizes)}, not {_some(expected)}")
    config: Sizes = MODELS[name].Config(**sizes)
    chars = metadata["vocabulary"]
    chars.encode()  # JSON can spell half a surrogate pair, which is no character
    tokenizer = CharTokenizer(chars)
    if "".join(tokenizer.chars) != chars:
        raise ValueError("its vocabulary is not sorted and unique")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"its vocabulary has {tokenizer.vocab_size} tokens, vocab_size is {config.vocab_size}"
        )
    run = metadata.get("run")
    if run is not None and not isinstance(run, str):
        raise ValueError("its run is not text")
    return name, config, tokenizer, None if run is None else _json(run, "its run")


def _span(name: str, entry: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.get("dtype") != "F64":
        raise ValueError(f"{name} is not of dtype F64")
    found = entry.get("shape")
    if found != list(shape) or any(type(size) is not int for size in found):
        raise ValueError(f"{name} is not of shape {list(shape)}")
    offsets = entry.get("data_offsets")
    if (
        not isinstance(offsets, list)
        or [type(offset) for offset in offsets] != [int, int]
        or offsets[0] < 0
        or offsets[1] - offsets[0] != 8 * math.prod(shape)
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
    shown = [quoted(name) for name in list(names)[:3]]
    return ", ".join(shown + ["..."] * (len(names) > 3)) or "none"


def _check_finite(weights: array[float], moments: list[array[float]], config: Sizes) -> None:
    for name, numbers in zip(MOMENTS, moments):
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{name} has a number that is not finite")
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
