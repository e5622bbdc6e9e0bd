"""Documents, one a line, from the package, a file, standard input or the web.

The original's reading, made strict: text is UTF-8, a byte order mark at the
start is dropped, a line ends with LF, CRLF or CR, white space around it is
dropped, and so are lines that are then empty. What is no text is an error that
names the line and the byte, never a guess.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from microgpt import __version__, files, names

# The names that the original trains on, at the commit that its script names.
ORIGINAL = (
    "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
    "#sha256=0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
)
MAX_BYTES = 1 << 30
TIMEOUT = 30.0
_CHUNK = 1 << 20
_NEWLINE = re.compile(rb"\r\n|\r|\n")


def documents(source: str | None = None) -> list[str]:
    """Return the documents of a source, in their order.

    source is a path, "-" for standard input, an http or https address (fetched
    once, see `download`), "original" for the names that the original trains on
    (the address ORIGINAL), or None for the names that ship with the package.

    Raises:  OSError if it cannot be read; ValueError naming the place if it is
             not UTF-8 text, larger than MAX_BYTES, or without a document
    """
    if source is None:
        return parse(names.PATH.read_bytes(), str(names.PATH))
    if source == "-":
        if sys.stdin is None:
            raise ValueError("standard input is closed: give --data a path")
        return parse(b"".join(_chunks(sys.stdin.buffer, "standard input")), "standard input")
    if source == "original":
        source = ORIGINAL
    if re.match("https?://", source, re.IGNORECASE):
        source = str(download(source))
    elif re.match("[a-z+]+://", source, re.IGNORECASE):
        raise ValueError(f"{source}: only http and https addresses can be fetched")
    try:
        with open(source, "rb") as file:
            return parse(b"".join(_chunks(file, source)), source)
    except OSError as error:  # of reading: of opening has the name
        error.filename = source
        raise


def parse(data: bytes, name: str) -> list[str]:
    """Return the documents of a text; name is what its errors call it.

    Raises:  ValueError as `documents`
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place(error.object, error.start)
        raise ValueError(
            f"{name}: {place}: 0x{error.object[error.start]:02x} is not UTF-8 ({error.reason}); "
            "convert the text to UTF-8, for example with iconv"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{name}: {_place(data, data.index(0))}: 0x00 is not text; is it binary, or UTF-16?"
        )
    # Not splitlines(): that would also cut at characters such as U+2028 and form feed.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [line for line in map(str.strip, lines) if line]
    if not found:
        raise ValueError(f"{name}: no document in it; it needs one a line")
    return found


def download(url: str) -> Path:
    """Return the file in the user's cache directory that holds what url gives.

    It is fetched once: to fetch again, delete the file. With #sha256=HEX at the
    end of the address, the content must have that checksum.

    Writes:  the whole file, or nothing
    Raises:  OSError if it cannot be fetched or kept; ValueError if it is larger
             than MAX_BYTES or the checksum differs
    """
    import platformdirs

    url, _, fragment = url.partition("#")
    sha256 = _checksum(fragment)
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = platformdirs.user_cache_path("microgpt") / f"{key}.txt"
    if path.is_file() and sha256 in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with files.replacing(path) as file:
        for chunk in _fetch(url):
            digest.update(chunk)
            file.write(chunk)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError(f"{url}: its sha256 is {digest.hexdigest()}, not {sha256}; not kept")
    return path


def _fetch(url: str) -> Iterator[bytes]:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"microgpt/{__version__}"})
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{url}: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OSError(f"{url}: {_reason(error)}") from None
    with response:
        promised, received = response.headers.get("Content-Length", ""), 0
        try:
            for chunk in _chunks(response, url):
                received += len(chunk)
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{url}: {_reason(error)}") from None
        if promised.isdecimal() and received != int(promised):
            raise OSError(f"{url}: the connection ended after {received} of {promised} bytes")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or repr(reason)


def _chunks(file: BinaryIO, name: str) -> Iterator[bytes]:
    size = 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise ValueError(f"{name}: larger than {MAX_BYTES:,} bytes, the most that is read")
        yield chunk


def _checksum(fragment: str) -> str | None:
    if not fragment:
        return None
    match = re.fullmatch("sha256=([0-9a-f]{64})", fragment, re.IGNORECASE)
    if match is None:
        raise ValueError(f"#{fragment} is no checksum: write #sha256= and 64 hexadecimal digits")
    return match[1].lower()


def _place(data: bytes, offset: int) -> str:
    lines = _NEWLINE.split(data[:offset])
    return f"line {len(lines)}, byte {len(lines[-1]) + 1}"
