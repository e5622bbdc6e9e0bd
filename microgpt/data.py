"""Documents from the package, a file, standard input or the web.

Text is UTF-8; a byte order mark at the start is dropped, and CRLF and CR count as LF.
`SPLITS` are the ways to cut a text into documents:

    lines       one a line, white space around it dropped, empty lines dropped (the original's)
    paragraphs  blank lines between them, white space around them dropped
    windows     the whole text, newlines included: every block_size characters a piece of
                block_size + 1, so that the last character of one is the first of the next

Bytes that are not UTF-8 are an error that names the line and the byte.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from microgpt import names

SPLITS = ("lines", "paragraphs", "windows")
# The names that the original trains on, at the commit that its script names.
ORIGINAL = (
    "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
    "#sha256=0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
)
MAX_BYTES = 1 << 30
_CHUNK = 1 << 20
_NEWLINE = re.compile(rb"\r\n|\r|\n")
WEB = re.compile("https?://", re.IGNORECASE)
# How other files begin, what they are, and the command that makes text of them.
_OTHERS = (
    (b"\x1f\x8b", "compressed with gzip", "zcat"),
    (b"BZh", "compressed with bzip2", "bzcat"),
    (b"\xfd7zXZ\0", "compressed with xz", "xzcat"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstdcat"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4cat"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
    (b"\xff\xfe\0\0", "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
)


def documents(source: str | None = None, split: str = "lines", block_size: int = 16) -> list[str]:
    """Return the documents of a source, in their order.

    source is a path, "-" for standard input, an http or https address (fetched
    once, see `microgpt.download`), "original" for the names that the original trains on
    (the address ORIGINAL), or None for the names that ship with the package; block_size
    is the length of windows.

    Raises:  OSError if it cannot be read; ValueError naming the place if it is
             not UTF-8 text, larger than MAX_BYTES, or without a document
    """
    data, name = read(source)
    return cut(decode(data, name), name, split, block_size)


def read(source: str | None = None) -> tuple[bytes, str]:
    """Return the bytes of a source and its name in error messages.

    Raises:  as `documents`
    """
    if source is None:
        return names.PATH.read_bytes(), str(names.PATH)
    if source == "-":
        if sys.stdin is None:
            raise ValueError("standard input is closed: give --data a path")
        # read1: on a terminal, read would ask for a second Ctrl-D.
        read: Callable[[int], bytes] = getattr(sys.stdin.buffer, "read1", sys.stdin.buffer.read)
        return b"".join(chunks(read, "standard input")), "standard input"
    if source == "original":
        source = ORIGINAL
    if WEB.match(source):
        from microgpt.download import download  # whose imports take longer than all of these

        return download(source), source.partition("#")[0]
    if re.match("[a-z+]+://", source, re.IGNORECASE):
        raise ValueError(f"{source}: only http and https addresses can be fetched")
    try:
        with open(source, "rb") as file:
            return b"".join(chunks(file.read, source)), source
    except OSError as error:  # an error of reading has no name, one of opening has
        error.filename = source
        raise


def decode(data: bytes, name: str) -> str:
    """Return the text of UTF-8 bytes, its lines ended by LF.

    Raises:  ValueError that names the place and, where it is known, the command that helps
    """
    try:
        text = data.decode("utf-8-sig")
        problem = "0x00 is not text" if "\0" in text else ""
        offset, advice = data.find(0), "is it binary, or UTF-16?"
    except UnicodeDecodeError as error:
        data, offset = error.object, error.start
        problem = f"0x{data[offset]:02x} is not UTF-8 ({error.reason})"
        advice = f"if it is Latin-1: {_command('iconv -f LATIN1 -t UTF-8', name)}"
    if not problem:
        # Not splitlines(): that would also cut at characters such as U+2028 and form feed.
        return text.replace("\r\n", "\n").replace("\r", "\n")
    for start, kind, command in _OTHERS:
        if data.startswith(start):
            advice = f"it is {kind}: {_command(command, name)}"
            break
    raise ValueError(f"{name}: {_place(data, offset)}: {problem}; {advice}")


def cut(text: str, name: str, split: str = "lines", block_size: int = 16) -> list[str]:
    """Return the documents of a text; name stands for it in error messages.

    Raises:  ValueError if there is none
    """
    if split == "windows":
        starts = range(0, len(text) - 1, block_size) if text.strip() else range(0)
        found = [text[i : i + block_size + 1] for i in starts]
    elif split == "paragraphs":
        lines = [line.rstrip() for line in text.split("\n")]
        found = [part.strip() for part in re.split("\n\n+", "\n".join(lines))]
    else:
        found = [line.strip() for line in text.split("\n")]
    found = [document for document in found if document]
    if not found:
        needs = {"lines": "one a line", "paragraphs": "one", "windows": "two characters"}
        raise ValueError(f"{name}: no document in it; it needs {needs[split]}")
    return found


def parse(data: bytes, name: str) -> list[str]:
    """Return the lines of UTF-8 bytes as documents.

    Raises:  ValueError as `documents`
    """
    return cut(decode(data, name), name)


def checksum(documents: Sequence[str]) -> str:
    """Return the SHA-256 of documents in their order, in hexadecimal."""
    return hashlib.sha256("\0".join(documents).encode("utf-8", "surrogatepass")).hexdigest()


def chunks(read: Callable[[int], bytes], name: str) -> Iterator[bytes]:
    """Yield the bytes that a function reads, piece by piece.

    Raises:  ValueError that names the source if it is larger than MAX_BYTES
    """
    size = 0
    while chunk := read(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise ValueError(f"{name}: larger than {MAX_BYTES:,} bytes, the most that is read")
        yield chunk


def _place(data: bytes, offset: int) -> str:
    lines = _NEWLINE.split(data[:offset])
    return f"line {len(lines)}, byte {len(lines[-1]) + 1}"


def _command(command: str, name: str) -> str:
    """Return the shell command that makes text of a source and trains on it."""
    if name == "standard input" and command == "unzip -p":  # which reads files alone
        command = "funzip"
    if name == "standard input":
        return f"... | {command} | microgpt train --data -"
    if WEB.match(name):
        return f"curl -L {shlex.quote(name)} | {command} | microgpt train --data -"
    return f"{command} {shlex.quote(name)} | microgpt train --data -"
