"""A saved model on the command line: its file, its settings, its text."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from microgpt import checkpoint, data, state
from microgpt.commands import flags
from microgpt.corpus import Corpus
from microgpt.settings import Settings


def add_directory(command: argparse.ArgumentParser) -> None:
    """Add the argument that names a saved model."""
    command.add_argument(
        "directory", type=flags.path, metavar="DIR", help="the directory that train --out made"
    )


def file(directory: str, keep: str) -> Path:
    """Return the file of a directory: its best checkpoint, or its last one."""
    return checkpoint.file_in(directory, best=keep == "best")


def settings(content: checkpoint.Content) -> Settings:
    """Return the settings of a saved run; the defaults for a model without one."""
    return Settings() if content.run is None else state.settings_of(content.run)


def corpus(content: checkpoint.Content, name: object) -> Corpus:
    """Return the text of a saved run.

    Raises:  as `Corpus.of`; ValueError if the file has no run or its text has changed
    """
    if content.run is None:
        raise ValueError(f"{name}: holds a model without a run, so its text is not known")
    found = Corpus.of(settings(content))
    if found.sha256 != content.run.get("sha256"):
        raise ValueError(f"{name}: the text of the run has changed since it was trained")
    return found


def encoded(text: str, tokenizer: Any, split: str, block_size: int) -> list[int]:
    """Return the tokens of a document as training has them."""
    if split == "windows":
        return list(tokenizer.encode(text))
    return list(tokenizer.encode_document(text[:block_size]))


def text_of(path: str | os.PathLike[str]) -> str:
    """Return the text of a file, without the newline at its end.

    Raises:  as `data.read`, `data.decode`
    """
    content, name = data.read(os.fspath(path))
    return data.decode(content, name).removesuffix("\n")
