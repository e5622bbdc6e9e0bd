"""The documents of a run: read by `data`, shuffled, the last ones held out."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from microgpt import data
from microgpt.settings import Settings, SettingsError


class Corpus(NamedTuple):
    """The documents of a run in the order in which it trains on them.

    chars are those of all documents; sha256 is `data.checksum` of all in this order; rng
    is the state of the run's random stream after the shuffle.
    """

    training: list[str]
    held_out: list[str]
    chars: list[str]
    sha256: str
    rng: Any

    @classmethod
    def of(cls, settings: Settings) -> Corpus:
        """Return the corpus that settings name.

        Order:   the documents are shuffled by random.Random(seed), then the last ones are
                 held out
        Raises:  as `data.documents`; SettingsError if the text is less than one window, or
                 nothing of it is left to train on
        """
        documents = data.documents(settings.data, settings.split, settings.block_size)
        if settings.split == "windows" and len(documents[0]) <= settings.block_size:
            raise SettingsError(
                f"the text of {len(documents[0])} characters is less than one window of "
                f"block_size {settings.block_size} and 1: lower --block-size"
            )
        rng = random.Random(settings.seed)
        rng.shuffle(documents)
        held_out: list[str] = []
        if isinstance(settings.val, str):
            held_out = data.documents(settings.val, settings.split, settings.block_size)
        elif settings.val is not None:
            count = max(1, int(len(documents) * settings.val))
            if count >= len(documents):
                raise SettingsError(
                    f"val {settings.val} of {len(documents)} documents leaves none to train on"
                )
            documents, held_out = documents[:-count], documents[-count:]
        chars = sorted(set().union(*documents, *held_out))
        digest = data.checksum([*documents, "", *held_out])
        return cls(documents, held_out, chars, digest, rng.getstate())
