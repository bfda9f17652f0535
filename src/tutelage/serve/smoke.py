"""A server to ask: our model server as a child process on 127.0.0.1, gone when the block ends, or one that runs elsewhere.

The parent listens before the child starts and hands the socket over: no port can be lost, requests wait in the socket until
the server answers, and a server that dies resets them at once.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tutelage.contracts.masking import mask
from tutelage.errors import InvalidInput, StepFailed

#: What a server may see of its parent's environment. Neither credentials nor HOME, where files with credentials stand.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")
STOP_SECONDS = 5.0
LOG_TAIL_LINES = 20
_SECRET = re.compile(
    r"\b(?:sk|hf|ghp|xox[a-z]|AKIA)[-_]?[A-Za-z0-9_-]{12,}"  # keys of well-known services
    r"|(?i:(?<=token=)|(?<=password=)|(?<=secret=)|(?<=bearer ))\S+"
)


@dataclass(frozen=True)
class Reply:
    """Status and JSON body of a response, and how long it took."""

    status: int
    body: Any
    seconds: float


@dataclass(frozen=True)
class Server:
    """A running model server."""

    port: int
    timeout_seconds: float
    process: subprocess.Popen[bytes] | None = None
    """The server itself, where it is a child of ours."""
    log: IO[bytes] | None = None
    """What it writes, where we can read it."""
    host: str = "127.0.0.1"
    tls: bool = False
    path: str = ""
    """What stands before every route."""

    def get(self, path: str, timeout_seconds: float | None = None) -> Reply:
        """GET. Raises StepFailed, with the end of the server's log, when no answer comes."""
        return self._request("GET", path, None, timeout_seconds)

    def post(self, path: str, body: Any) -> Reply:
        """POST of JSON. Raises StepFailed, with the end of the server's log, when no answer comes."""
        return self._request("POST", path, body, None)

    def events(self, path: str, body: Any) -> Iterator[tuple[float, dict[str, Any]]]:
        """Server-sent events of a POST: seconds since the request, and the event. Raises StepFailed."""
        started = time.monotonic()
        with self._response("POST", path, body, None) as response:
            if response.status != http.client.OK:
                raise self.failed(f"POST {path} gave status {response.status}")
            for line in response:
                data = line.removeprefix(b"data: ").strip()
                if line.startswith(b"data: ") and data != b"[DONE]":
                    yield time.monotonic() - started, dict(json.loads(data))

    def _request(self, method: str, path: str, body: Any, timeout_seconds: float | None) -> Reply:
        started = time.monotonic()
        with self._response(method, path, body, timeout_seconds) as response:
            data = response.read()
            seconds = time.monotonic() - started
            try:
                return Reply(response.status, json.loads(data), seconds)
            except ValueError:
                return Reply(response.status, None, seconds)

    @contextmanager
    def _response(
        self, method: str, path: str, body: Any, timeout_seconds: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        timeout = timeout_seconds or self.timeout_seconds
        connect = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        connection = connect(self.host, self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self.path + path, data, {"content-type": "application/json"})
            yield connection.getresponse()
        except TimeoutError as error:
            raise self.failed(f"the server did not answer {method} {path} within {timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            # Sockets go first when a process ends; its exit code takes a moment.
            if self.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=STOP_SECONDS)
            raise self.failed(f"the server broke off {method} {path}: {type(error).__name__}") from error
        finally:
            connection.close()

    def failed(self, message: str) -> StepFailed:
        """The error with what the server last wrote, masked."""
        if self.process is None:
            return StepFailed(message, hint=f"its pods' logs say more; the server is {self.host}")
        if self.process.poll() is not None:
            message += f"; it exited with code {self.process.returncode}"
        return StepFailed(
            f"{message}\n{self.log_tail()}".rstrip(), hint="start it by hand: python -m tutelage.serve.server"
        )

    def log_tail(self) -> str:
        """The end of the server's log, without addresses and secrets; nothing where it cannot be read."""
        if self.log is None:
            return ""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        return masked("\n".join(f"  server: {line[:300]}" for line in lines[-LOG_TAIL_LINES:]))


def masked(text: str) -> str:
    """`text` without mail addresses, keys and passwords."""
    return _SECRET.sub("[masked]", mask(text))


@contextmanager
def elsewhere(address: str, *, timeout_seconds: float) -> Iterator[Server]:
    """The server at a URL, which others started and will end. Raises InvalidInput for what is no http(s) URL."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"not an endpoint: {address!r}", hint="accepted: http://host[:port][/path]")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    yield Server(port, timeout_seconds, host=parts.hostname, tls=tls, path=parts.path.rstrip("/"))


@contextmanager
def served(folder: Path, name: str, *, threads: int, timeout_seconds: float) -> Iterator[Server]:
    """A server of the Model in `folder`, starting: its first answer comes when it is ready. Stopped when the block ends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryDirectory(prefix="tutelage-home-", ignore_cleanup_errors=True) as home,
    ):
        port, descriptor = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, "-m", "tutelage.serve.server", "--model", str(folder), "--name", name]
        command += ["--threads", str(threads), "--descriptor", str(descriptor), "--leashed"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, pass_fds=(descriptor,), env=_environment(home)
        )  # fmt: skip
        # Only the child may hold the socket: its death must reset what waits there.
        listening.close()
        try:
            yield Server(port, timeout_seconds, process, log)
        finally:
            _stop(process)


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return kept | {
        "HOME": home,
        "PYTHONUSERBASE": site.getuserbase(),  # packages installed for one user stand below HOME
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        process.stdin.close()
