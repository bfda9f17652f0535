"""A Kubernetes API server for tests: real HTTP on loopback, objects of `objects.py`, time of `fake_time.py`, faults on demand.

    server = ApiServer(cluster, accounts); server.start()      # server.url, a bearer token of `accounts`
    server.faults.append(Fault("refuse", answer=Refused(429, …, retry_after=1), times=3))
    server.restart(outage_seconds=20)                          # same port, same objects, every stream and watch broken

It answers what the client of this project asks: create, get, list, watch, patch (merge), replace, delete, status, logs.
"""

from __future__ import annotations

import functools
import json
import random
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.cluster.access import Accounts
from tests.cluster.answers import Answers, Call, Reset, Watch
from tests.cluster.nodes import Nodes, Run
from tests.cluster.objects import Cluster, Kind, Object, Refused

PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>status|log))?"
)
#: Connection closed by a reset (RST) rather than an orderly end.
LINGER_NONE = struct.pack("ii", 1, 0)


@dataclass
class Fault:
    """Something that goes wrong with requests: `refuse` them, `reset` the connection, or do them and `lose` the reply.

    `cut` breaks a watch or a log stream by a reset after `after` pieces.
    """

    what: str
    verb: str | None = None
    plural: str | None = None
    subresource: str | None = None
    times: int = 1
    answer: Refused | None = None
    after: int = 0
    when: Callable[[], bool] = lambda: True
    seen: int = 0

    def hits(self, call: Call) -> bool:
        fits = (self.verb in (None, call.verb)) and (self.plural in (None, call.kind.plural))
        if self.seen >= self.times or not fits or not self.when():
            return False
        if self.subresource is not None and self.subresource != call.subresource:
            return False
        self.seen += 1
        return True


@dataclass
class ApiServer:
    """The server: one thread a connection."""

    cluster: Cluster
    accounts: Accounts
    nodes: Nodes
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stream_generation: int = 0
    port: int = 0

    def start(self) -> None:
        """Listen, on the port that was ours before."""
        handler = type("BoundHandler", (Handler,), {"api": self})
        self.http = _Http(("127.0.0.1", self.port), handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening and break every connection."""
        self.http.shutdown()
        self.http.server_close()
        with self.cluster.time.lock:
            self.stream_generation += 1
            self.cluster.time.changed.notify_all()
        self.http.break_connections()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart(self, outage_seconds: float) -> None:
        """Go away now and come back after `outage_seconds` with the same objects, but no memory for watches."""
        threading.Thread(target=self._restart, args=(outage_seconds,), daemon=True).start()

    def _restart(self, outage_seconds: float) -> None:
        with _counted(self):
            self.stop()
            self.cluster.compact()
            self.cluster.time.after(outage_seconds, self.start)

    def expire_watches(self) -> None:
        """Forget the history and end every watch with 410 in its stream."""
        with self.cluster.time.lock:
            self.cluster.version += 1
            self.cluster.compact()
            self.cluster.time.changed.notify_all()

    def storm(self, seconds: float, seed: int = 7, share: float = 0.7) -> None:
        """For `seconds`, answer most requests with 429, 500, 503 or 504, or by a reset."""
        end = self.cluster.time.seconds + seconds
        dice = random.Random(seed)
        codes = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
        for code, reason in codes.items():
            answer = Refused(code, reason, reason, retry_after=1 if code == 429 else None)
            when = lambda: self.cluster.time.seconds < end and dice.random() < share / 5
            self.faults.append(Fault("refuse", times=1000, answer=answer, when=when))
        for what in ("reset", "lose"):
            when = lambda: self.cluster.time.seconds < end and dice.random() < share / 5
            self.faults.append(Fault(what, times=1000, when=when))

    def count(self, verb: str, plural: str) -> int:
        """How many requests of this kind were made."""
        return sum(call.verb == verb and call.kind.plural == plural for call in self.calls)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        self.broken: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        if request in self.broken:
            # Without the orderly end (FIN): closing sends RST.
            self.broken.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self.connections):
            self.break_connection(connection)

    def break_connection(self, connection: socket.socket) -> None:
        """End a connection by a reset, as soon as its handler lets go."""
        self.broken.add(connection)
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            connection.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what these tests are about."""


@contextmanager
def _counted(api: ApiServer) -> Iterator[None]:
    time = api.cluster.time
    with time.lock:
        time.busy += 1
    try:
        yield
    finally:
        with time.lock:
            time.busy -= 1
            time.touch()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    api: ApiServer
    protocol_version = "HTTP/1.1"
    #: Else each answer waits 40 ms for the acknowledgement of its header.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        with _counted(self.api):
            try:
                self._answer(raw)
            except Refused as refusal:
                self.send_json(refusal.code, refusal.status(), refusal.retry_after)
            except Reset:
                self.close_connection = True
                self.server.break_connection(self.connection)  # type: ignore[attr-defined]
            except OSError:
                self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _answer(self, raw: bytes) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path == "/version":
            self.send_json(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
            return
        match = PATH.fullmatch(unquote(url.path))
        kind = self._kind(match) if match else None
        if match is None or kind is None:
            self.send_text(404, "404 page not found\n")
            return
        body = json.loads(raw) if raw else None
        content_type = (self.headers.get("Content-Type") or "").split(";")[0]
        namespace, name, subresource = match["namespace"] or "", match["name"], match["subresource"]
        verb = _verb(self.command, name, query)
        call = Call(verb, kind, namespace, name, subresource, query, body, content_type)
        self.api.calls.append(call)
        self.call = call
        fault = next((fault for fault in list(self.api.faults) if fault.hits(call)), None)
        if fault is not None and fault.what == "reset":
            raise Reset
        if fault is not None and fault.what == "refuse":
            assert fault.answer is not None
            raise fault.answer
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.api.accounts.check(token, verb, kind, namespace, subresource, name)
        if verb == "watch":
            self._watch(call, fault)
        elif subresource == "log":
            self._log(call, fault)
        else:
            code, answer = Answers(self.api.cluster).of(call)
            if fault is not None and fault.what == "lose":
                raise Reset
            self.send_json(code, answer)

    def _kind(self, match: re.Match[str]) -> Kind | None:
        group, version = match["group"] or "", match["version"] or match["core"]
        fits = (
            k for k in self.api.cluster.kinds if (k.group, k.version, k.plural) == (group, version, match["plural"])
        )
        return next(fits, None)

    def send_json(self, code: int, body: Object, retry_after: int | None = None) -> None:
        self._send(code, json.dumps(body).encode(), "application/json", retry_after)

    def send_text(self, code: int, text: str) -> None:
        self._send(code, text.encode(), "text/plain; charset=utf-8", None)

    def _send(self, code: int, data: bytes, content_type: str, retry_after: int | None) -> None:
        self.api.statuses.append(code)
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self, content_type: str) -> None:
        self.api.statuses.append(200)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """While a stream waits for news, it does not keep time standing."""
        time = self.api.cluster.time
        time.busy -= 1
        try:
            yield
        finally:
            time.busy += 1

    def _watch(self, call: Call, fault: Fault | None) -> None:
        time = self.api.cluster.time
        with time.lock:
            watch = Watch(self.api, call)
            self._begin_stream("application/json;stream=watch")
            pieces = 0
            while True:
                for event in watch.news():
                    self._piece(json.dumps(event).encode() + b"\n")
                    pieces += 1
                    if fault is not None and fault.what == "cut" and pieces >= fault.after:
                        raise Reset
                if watch.over:
                    break
                with self._waiting():
                    time.wait_until(watch.wakes(), lambda: watch.has_news() or self._client_left())
                if self._client_left():
                    raise Reset
        self._end_stream()

    def _log_goes_on(self, run: Run, size: int, generation: int) -> bool:
        more = len(run.lines) > size or run.ended or generation != self.api.stream_generation
        return more or self._client_left()

    def _client_left(self) -> bool:
        """Whether the client has closed its end: nobody sends on a connection that streams."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def _log(self, call: Call, fault: Fault | None) -> None:
        time, nodes = self.api.cluster.time, self.api.nodes
        assert call.name is not None
        with time.lock:
            pod = self.api.cluster.get(call.kind, call.name, call.namespace)
            run = nodes.run_of(pod, call.query.get("container"), previous=call.query.get("previous") == "true")
            since = call.query.get("sinceTime")
            # The kubelet is told whole seconds.
            begin = datetime.fromisoformat(since).replace(microsecond=0) if since else None
            self._begin_stream("text/plain")
            generation, index, pieces = self.api.stream_generation, 0, 0
            while generation == self.api.stream_generation and not time.closed:
                while index < len(run.lines):
                    moment, line = run.lines[index]
                    index += 1
                    if begin is not None and moment.at < begin:
                        continue
                    stamp = f"{moment.text} " if call.query.get("timestamps") == "true" else ""
                    text = f"{stamp}{line}\n".encode()
                    pieces += 1
                    if fault is not None and fault.what == "cut" and pieces > fault.after:
                        self._piece(text[: len(text) // 2])
                        raise Reset
                    self._piece(text)
                if call.query.get("follow") != "true" or run.ended or run.lost:
                    self._end_stream()
                    return
                with self._waiting():
                    time.wait_until(float("inf"), functools.partial(self._log_goes_on, run, len(run.lines), generation))
                if self._client_left():
                    raise Reset
        raise Reset


def _verb(method: str, name: str | None, query: dict[str, str]) -> str:
    if method == "GET":
        if query.get("watch") in {"true", "True", "1"}:
            return "watch"
        return "get" if name else "list"
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}
    return verbs[method]
