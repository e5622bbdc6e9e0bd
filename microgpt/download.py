"""Text from the web: fetched once, checked, and kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from microgpt import __version__, data, files
from microgpt.message import one_line

TIMEOUT = 30.0


def download(url: str) -> bytes:
    """Return the content of an address, from the user's cache directory if it is there.

    It is fetched once: to fetch again, delete the file. With #sha256=HEX at the
    end of the address, the content must have that checksum.

    Writes:  the whole file if it is text with a document in it, else nothing
    Raises:  OSError if it cannot be fetched or kept; ValueError naming the address if it
             is larger than MAX_BYTES, not text, or the checksum differs
    """
    import platformdirs

    url, _, fragment = url.partition("#")
    sha256 = _checksum(fragment)
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = platformdirs.user_cache_path("microgpt") / f"{key}.txt"
    if path.is_file():
        kept = path.read_bytes()
        if _is_usable(kept) and sha256 in (None, hashlib.sha256(kept).hexdigest()):
            return kept
    content = b"".join(_fetch(url))
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise ValueError(f"{url}: its sha256 is {digest}, not {sha256}; not kept")
    data.parse(content, url)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        file.write(content)
    return content


def _is_usable(content: bytes) -> bool:
    try:
        data.parse(content, "")
    except ValueError:
        return False
    return True


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follow redirects to other http and https addresses alone."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if not data.WEB.match(newurl):
            fp.close()
            raise ValueError(
                f"redirects to {one_line(newurl)}; only http and https addresses can be fetched"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str) -> Iterator[bytes]:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"microgpt/{__version__}"})
        response = urllib.request.build_opener(_Redirect).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{url}: {error.code} {one_line(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OSError(f"{url}: {_reason(error)}") from None
    with response:
        promised, received = response.headers.get("Content-Length", ""), 0
        try:
            for chunk in data.chunks(response.read, url):
                received += len(chunk)
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{url}: {_reason(error)}") from None
        if promised.isdecimal() and received != int(promised):
            raise OSError(f"{url}: the connection ended after {received} of {promised} bytes")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return one_line(getattr(reason, "strerror", None) or str(reason) or repr(reason))


def _checksum(fragment: str) -> str | None:
    if not fragment:
        return None
    match = re.fullmatch("sha256=([0-9a-f]{64})", fragment, re.IGNORECASE)
    if match is None:
        raise ValueError(f"#{fragment} is no checksum: write #sha256= and 64 hexadecimal digits")
    return match[1].lower()
