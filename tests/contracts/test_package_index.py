"""Wheels from real indexes on loopback, set up as pip is: hashes, credentials, outages, and no installer needed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tutelage.contracts import package_index
from tutelage.contracts.package_index import download, indexes
from tutelage.errors import InvalidInput

URI = "wheel://shelf==1.0/shelf"
NAME = "shelf-1.0-py3-none-any.whl"
DATA = b"as good as a wheel: nothing of it is read here"
SHA256 = hashlib.sha256(DATA).hexdigest()
Answer = tuple[int, str, bytes]


class Index:
    """An index with one package; `answers` gives what each path is answered, once for each entry, the last for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.password: str | None = None
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(handler, *arguments: object) -> None:  # noqa: N805
                """Say nothing."""

            def do_GET(handler) -> None:  # noqa: N805
                self.asked.append(handler.path)
                status, kind, body = self.answer(handler.path, handler.headers.get("Authorization"))
                handler.send_response(status)
                handler.send_header("Content-Type", kind)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.http.server_address[1]}"

    def answer(self, path: str, authorization: str | None) -> Answer:
        if self.password is not None:
            expected = "Basic " + base64.b64encode(f"me:{self.password}".encode()).decode()
            if authorization != expected:
                return 401, "text/plain", b"who are you?"
        answers = self.answers.get(path)
        if not answers:
            return 404, "text/plain", b"not here"
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def page(self, *links: str) -> None:
        """PEP 503."""
        text = "<!DOCTYPE html>" + "".join(f'<a href="{link}">{link}</a>' for link in links)
        self.answers["/simple/shelf/"] = [(200, "text/html", text.encode())]

    def json(self, *files: dict[str, object]) -> None:
        """PEP 691."""
        body = {"meta": {"api-version": "1.0"}, "name": "shelf", "files": list(files)}
        self.answers["/simple/shelf/"] = [(200, "application/vnd.pypi.simple.v1+json", json.dumps(body).encode())]

    def file(self, name: str = NAME, data: bytes = DATA) -> None:
        self.answers[f"/files/{name}"] = [(200, "application/octet-stream", data)]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    # Whoever imports pip fails: no image has it.
    monkeypatch.setitem(sys.modules, "pip", None)
    index = Index()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.place}/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "127.0.0.1")
    monkeypatch.setattr(package_index.time, "sleep", lambda seconds: None)
    yield index
    index.http.shutdown()
    index.http.server_close()


def fetched(folder: Path, sha256: str = SHA256, requirement: str = "shelf==1.0") -> Path:
    folder.mkdir(exist_ok=True)
    return download(URI, requirement, sha256, folder)


def as_links(index: Index) -> None:
    index.page(f"/files/{NAME}#sha256={SHA256}")


def as_json(index: Index) -> None:
    index.json({"filename": NAME, "url": f"/files/{NAME}", "hashes": {"sha256": SHA256}})


@pytest.mark.parametrize("told", [as_links, as_json, lambda index: index.page(f"/files/{NAME}")])
def test_a_wheel_comes_from_every_form_of_index(index: Index, tmp_path: Path, told: Callable[[Index], None]) -> None:
    told(index)
    index.file()
    assert fetched(tmp_path / "in").read_bytes() == DATA


def test_the_pinned_hash_chooses_among_the_wheels_of_a_version(index: Index, tmp_path: Path) -> None:
    other = "shelf-1.0-cp39-cp39-win_amd64.whl"
    index.page(f"/files/{other}#sha256={'0' * 64}", f"/files/{NAME}#sha256={SHA256}")
    index.file()
    assert fetched(tmp_path / "in").name == NAME
    assert f"/files/{other}" not in index.asked, "what has another hash is not even fetched"


def test_a_wheel_for_another_python_is_as_good_as_any(index: Index, tmp_path: Path) -> None:
    name = "shelf-1.0-cp27-cp27m-macosx_10_9_intel.whl"
    index.page(f"/files/{name}#sha256={SHA256}")
    index.file(name)
    assert fetched(tmp_path / "in").name == name


def test_files_that_are_not_what_was_pinned_are_refused_with_their_hashes(index: Index, tmp_path: Path) -> None:
    index.page(f"/files/{NAME}#sha256={'ab' * 32}")
    with pytest.raises(InvalidInput, match=r"abababababab…, pinned is") as caught:
        fetched(tmp_path / "in")
    assert caught.value.hint and index.asked == ["/simple/shelf/"]
    # An index that lies about the hash.
    index.page(f"/files/{NAME}#sha256={SHA256}")
    index.file(data=b"another file")
    with pytest.raises(InvalidInput, match=hashlib.sha256(b"another file").hexdigest()[:12]):
        fetched(tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_versions_that_are_not_there_are_answered_by_those_that_are(index: Index, tmp_path: Path) -> None:
    index.page("/files/shelf-1.1-py3-none-any.whl", "/files/shelf-1.2-py3-none-any.whl", "/files/shelf-9.0.tar.gz")
    with pytest.raises(InvalidInput, match=r"the newest are 1\.2, 1\.1\n"):
        fetched(tmp_path / "in")
    with pytest.raises(InvalidInput, match="'latest' is no version"):
        fetched(tmp_path / "in", requirement="shelf==latest")


def test_an_index_that_cannot_be_asked_is_named(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=f"no index has a wheel of it; .*{index.place}"):
        fetched(tmp_path / "in")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InvalidInput, match="no index and no folder"):
        fetched(tmp_path / "in")


def test_an_outage_is_outlived_and_a_refusal_is_not_asked_again(index: Index, tmp_path: Path) -> None:
    as_links(index)
    index.answers[f"/files/{NAME}"] = [
        (503, "text/plain", b"later"),
        (429, "text/plain", b"slower"),
        (200, "a/b", DATA),
    ]
    assert fetched(tmp_path / "in").read_bytes() == DATA
    index.answers[f"/files/{NAME}"] = [(403, "text/plain", b"no")]
    before = len(index.asked)
    with pytest.raises(InvalidInput, match="403"):
        fetched(tmp_path / "in")
    assert len(index.asked) == before + 2
    index.answers[f"/files/{NAME}"] = [(503, "text/plain", b"later")]
    with pytest.raises(InvalidInput, match="503") as caught:
        fetched(tmp_path / "in")
    assert caught.value.hint == "try again later"


def test_credentials_of_the_index_are_used_and_never_said(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_links(index)
    index.file()
    index.password = "s3cret-word"
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:s3cret-word@{index.place}/simple")
    assert fetched(tmp_path / "in").read_bytes() == DATA
    index.password = "changed"
    with pytest.raises(InvalidInput) as caught:
        fetched(tmp_path / "in")
    assert "s3cret-word" not in f"{caught.value}{caplog.text}"


def test_a_folder_of_wheels_is_an_index(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    assert fetched(tmp_path / "in").read_bytes() == DATA and index.asked == []


def test_settings_are_pips_own(tmp_path: Path) -> None:
    home, named = tmp_path / "home", tmp_path / "named.conf"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url =\n    https://a.example\n    https://b.example\n"
        "trusted-host = mirror.example\n[install]\nindex-url = https://only.for.installing\n"
    )
    named.write_text("[global]\ncert = /named.pem\n[download]\nindex_url = https://download.example/simple\n")
    base = {"HOME": str(home)}
    found = indexes(base)
    assert found.urls == ("https://mirror.example/simple", "https://a.example", "https://b.example")
    assert found.trusted_hosts == ("mirror.example",) and found.find_links == ()
    found = indexes(base | {"PIP_CONFIG_FILE": str(named)})
    assert (found.urls[0], found.certificates) == ("https://download.example/simple", "/named.pem")
    found = indexes(
        base | {"PIP_CONFIG_FILE": str(named), "PIP_INDEX_URL": "https://variable.example", "PIP_CERT": "/v.pem"}
    )
    assert (found.urls[0], found.certificates) == ("https://variable.example", "/v.pem")
    assert indexes({"PIP_CONFIG_FILE": os.devnull, "HOME": str(home)}).urls == ("https://pypi.org/simple",)
    named.write_text("no section\n")
    with pytest.raises(InvalidInput, match=r"named\.conf is no pip\.conf"):
        indexes(base | {"PIP_CONFIG_FILE": str(named)})
