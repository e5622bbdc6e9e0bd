"""Characters to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable

from microgpt.message import quoted


class CharTokenizer:
    """A vocabulary of single characters and BOS, the token at both ends of a document.

    Shapes:  chars (vocab_size - 1,), sorted and unique; BOS is the last id
    """

    def __init__(self, chars: Iterable[str]) -> None:
        self.chars = sorted(set(chars))
        self.BOS = len(self.chars)
        self.vocab_size = len(self.chars) + 1
        self._ids = {char: i for i, char in enumerate(self.chars)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({''.join(self.chars)!r})"

    def _repr_html_(self) -> str:
        from microgpt.pages import tokenizer_html

        return tokenizer_html(self)

    @classmethod
    def from_documents(cls, documents: Iterable[str]) -> CharTokenizer:
        """Return the tokenizer of all characters that occur in documents."""
        return cls(set().union(*documents))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of text, without BOS.

        Raises:  ValueError naming the first character that is not in the vocabulary
        """
        try:
            return [self._ids[char] for char in text]
        except KeyError as error:
            raise ValueError(
                f"character {error.args[0]!r} is not in the vocabulary "
                f"{quoted(''.join(self.chars))}"
            ) from None

    def encode_document(self, text: str) -> list[int]:
        """Return the token ids of text with BOS on both ends."""
        return [self.BOS, *self.encode(text), self.BOS]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of token ids.

        Raises:  ValueError if a token is BOS or not in the vocabulary; TypeError if
                 one is not an integer
        """
        chars = []
        for token in tokens:
            if not isinstance(token, int) and not hasattr(token, "__index__"):
                raise TypeError(f"a token is an integer, not {quoted(token)}: see encode")
            if not 0 <= token < self.BOS:
                raise ValueError(
                    f"token {quoted(token)} stands for no character: ids are 0..{self.BOS - 1}"
                )
            chars.append(self.chars[token])
        return "".join(chars)
