"""The store in an object store: KFP's own names for it, and what is left when it fails in the middle of an upload."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contracts import payloads
from tutelage.contracts import locations, store
from tutelage.contracts.locations import minio_options
from tutelage.contracts.manifest import verify
from tutelage.contracts.store import Store
from tutelage.errors import StoreError

OUTPUTS = {"documents": "documents"}
#: A request → what goes wrong with it: a status, `reset` before an answer, `cut` half-way through its body, or nothing.
Trouble = Callable[[int, str, str], int | str | None]
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on to the real server, signature and all, but for those that trouble befalls."""

    protocol_version = "HTTP/1.1"
    server: FaultyServer  # type: ignore[assignment]

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trouble = self.server.meets(self.command, self.path)
        if trouble == "reset":
            self._reset()
        elif trouble == "cut":
            self._pass_on(body[: len(body) // 2], cut=True)
            self._reset()
        elif isinstance(trouble, int):
            self._answer(trouble, {}, b"<Error><Code>ServiceUnavailable</Code></Error>")
        else:
            self._answer(*self._pass_on(body))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    def _pass_on(self, body: bytes, *, cut: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The server's answer; `cut`: the connection goes after half a body."""
        connection = HTTPConnection(self.server.target, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        if cut:
            connection.close()
            return 0, {}, b""
        with connection.getresponse() as response:
            answer = response.read()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in HOP}
            if self.command == "HEAD":
                headers["Content-Length"] = response.getheader("Content-Length") or "0"
            status = response.status
        connection.close()
        return status, headers, answer

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass


class FaultyServer(ThreadingHTTPServer):
    """The proxy's own server."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Proxy)
        self.target = urlsplit(endpoint).netloc
        self.trouble: Trouble = lambda count, method, path: None
        self.count = 0

    def meets(self, method: str, path: str) -> int | str | None:
        self.count += 1
        return self.trouble(self.count, method, path)

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):
            super().shutdown_request(request)


@pytest.fixture
def faulty(s3_endpoint: str, s3_location: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyServer, str]]:
    """The proxy, and a place of its own behind it. Retries of the client cost no time."""
    import aiobotocore.retries.standard  # noqa: F401
    import s3fs

    server = FaultyServer(s3_endpoint)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    monkeypatch.setattr(s3fs.core, "_backoff", lambda *_: 0, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    yield server, s3_location
    server.trouble = lambda count, method, path: None
    server.shutdown()
    server.server_close()


def write_and_finish(root: str, folder: Path) -> None:
    """A payload brought to the store as a step does it: files, then the manifest."""
    location = Store(root).attempt("documents", payloads.KEY, "attempt")
    locations.upload(folder, location)
    store.finish(payloads.manifest_for(location, payloads.KEY, "attempt"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("rows-00000.parquet", 300_000), ("rows-00001.parquet", 10), ("nested/dropped.parquet", 5)):
        (tmp_path / "payload" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "payload" / name).write_bytes(name.encode() * size)
    return tmp_path / "payload"


@pytest.mark.parametrize("what", [500, 503, "reset", "cut"])
def test_a_store_that_fails_at_any_write_leaves_no_manifest_or_a_whole_payload(
    faulty: tuple[FaultyServer, str], folder: Path, what: int | str
) -> None:
    server, location = faulty
    outcomes = []
    for victim in range(1, 6):
        root, puts = f"{location}/{what}-{victim}", []

        def trouble(
            count: int, method: str, path: str, puts: list[str] = puts, victim: int = victim
        ) -> int | str | None:
            if method == "PUT":
                name = path.split("?", maxsplit=1)[0]
                if name not in puts:
                    puts.append(name)
                # From the victim-th object on nothing comes through, however often it is tried.
                return what if puts.index(name) + 1 >= victim else None
            return None

        server.trouble = trouble
        try:
            write_and_finish(root, folder)
            outcomes.append("done")
        except StoreError:
            outcomes.append("failed")
        server.trouble = lambda count, method, path: None
        found = Store(root).find(OUTPUTS, payloads.KEY)
        assert (found is not None) == (outcomes[-1] == "done")
        if found:
            verify(found["documents"])
        else:
            # Another attempt beside the torn one is found: nothing has to be swept up first.
            whole = payloads.finished(root)
            again = Store(root).find(OUTPUTS, payloads.KEY)
            assert again is not None and again["documents"].attempt == whole.attempt
    # Three files and a manifest are written: a fault at the fifth hurts nobody.
    assert outcomes == ["failed"] * 4 + ["done"]


def test_trouble_that_passes_is_outlived_and_no_bucket_is_asked_for(
    faulty: tuple[FaultyServer, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    s3fs.S3FileSystem.clear_instance_cache()
    server, root = faulty
    hit: set[str] = set()

    def once(count: int, method: str, path: str) -> int | str | None:
        key = f"{method} {path}"
        if key in hit:
            return None
        hit.add(key)
        return 503

    server.trouble = once
    write_and_finish(root, folder)
    found = Store(root).find(OUTPUTS, payloads.KEY)
    assert found is not None and len(hit) > 4
    assert not [key for key in hit if re.fullmatch(r"PUT /tutelage/?(\?.*)?", key)]


def test_a_store_that_is_away_is_a_store_error_with_a_hint_not_an_empty_store(
    faulty: tuple[FaultyServer, str], folder: Path
) -> None:
    server, root = faulty
    write_and_finish(root, folder)
    for what in (500, 503, "reset"):
        server.trouble = lambda count, method, path, what=what: what  # type: ignore[misc]
        with pytest.raises(StoreError, match=re.escape(root.split("/")[-1])) as caught:
            Store(root).find(OUTPUTS, payloads.KEY)
        assert "AWS_ENDPOINT_URL" in str(caught.value.hint)


def test_minio_is_kfps_own_store_by_its_own_variables_and_keys(
    s3_endpoint: str, s3_location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    import s3fs

    place = urlsplit(s3_endpoint)
    given = {"accesskey": os.environ["AWS_ACCESS_KEY_ID"], "secretkey": os.environ["AWS_SECRET_ACCESS_KEY"]}
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        **given,
        "OBJECT_STORE_HOST": str(place.hostname),
        "OBJECT_STORE_PORT": str(place.port),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    root = s3_location.replace("s3://", "minio://")
    made = payloads.finished(root)
    found = Store(root).find(OUTPUTS, payloads.KEY)
    assert found is not None and found["documents"] == made and made.location.startswith("minio://")
    assert locations.list_folders(f"{root}/documents") == [payloads.KEY]
    locations.remove(root)
    assert Store(root).find(OUTPUTS, payloads.KEY) is None


def test_where_minio_is_follows_kfps_launcher_and_aws_variables_come_first() -> None:
    assert minio_options({})["endpoint_url"] == "http://minio-service.kubeflow:9000"
    old = {"MINIO_SERVICE_SERVICE_HOST": "10.0.0.9", "MINIO_SERVICE_SERVICE_PORT": "9000"}
    assert minio_options(old)["endpoint_url"] == "http://10.0.0.9:9000"
    new = {"OBJECT_STORE_HOST": "seaweedfs.kubeflow", "OBJECT_STORE_PORT": "8333"}
    assert minio_options(old | new)["endpoint_url"] == "http://seaweedfs.kubeflow:8333"
    aws = {
        "AWS_ENDPOINT_URL": "http://store",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "r",
    }
    assert minio_options(aws | new | {"accesskey": "x", "secretkey": "y"}) == {}
