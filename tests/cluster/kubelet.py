"""The part of a kubelet that an API server asks for logs: HTTPS, `/containerLogs/<namespace>/<pod>/<container>`.

What containers print is kept by `nodes.py`; the API server passes its requests on to here, so that what an engine reads has
gone through the real proxy, with its own way of breaking off.
"""

from __future__ import annotations

import ssl
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.cluster.control_plane import ControlPlane
from tests.cluster.nodes import Nodes, Run
from tests.cluster.objects import POD, Refused

NODE = "node-1"


class Kubelet:
    """Serves the logs of one site's pods, and registers the node that they are bound to."""

    def __init__(self, plane: ControlPlane, nodes: Nodes) -> None:
        handler = type("BoundHandler", (_Handler,), {"nodes": nodes})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads, self.http.block_on_close = True, False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(plane.authority, plane.private_key)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        register(plane, self.http.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Answer nobody any more."""
        self.http.shutdown()
        self.http.server_close()


def register(plane: ControlPlane, port: int) -> None:
    """Say that the one node's kubelet answers at `port` of this machine."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    code, answer = plane.administrator.ask("POST", "/api/v1/nodes", body)
    assert code in (201, 409), answer
    addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
    status = {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}
    kind = "application/merge-patch+json"
    plane.administrator.must("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, kind)


class _Handler(BaseHTTPRequestHandler):
    nodes: Nodes
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        _, what, namespace, pod, container = unquote(url.path).split("/")
        assert what == "containerLogs", self.path
        try:
            item = self.nodes.cluster.get(POD, pod, namespace)
            run = self.nodes.run_of(item, container, previous=query.get("previous") == "true")
        except Refused as refusal:
            self.send_error(refusal.code if refusal.code == 400 else 404, refusal.message)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._stream(run, query)

    def _stream(self, run: Run, query: dict[str, str]) -> None:
        since = query.get("sinceTime")
        begin = datetime.fromisoformat(since).replace(microsecond=0) if since else None
        written, time = 0, self.nodes.cluster.time
        while True:
            with time.lock:
                lines, ended = run.lines[written:], run.ended
            written += len(lines)
            for moment, line in lines:
                if begin is None or moment.at >= begin:
                    stamp = f"{moment.text} " if query.get("timestamps") == "true" else ""
                    data = f"{stamp}{line}\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            if query.get("follow") != "true" or (ended and not lines) or time.closed:
                break
            with time.changed:
                time.changed.wait(0.05)
        self.wfile.write(b"0\r\n\r\n")
