"""A Kubeflow Pipelines API server (2.17, REST v2beta1) for tests: real HTTP on loopback, the rules of the real one.

    with KfpServer(token="right") as server: ...     # server.url
    server.faults.append(Fault(503, times=2))         # asked for by nobody, answered to the next two requests
    server.script = [{"state": "RUNNING", "tasks": {"check": "RUNNING"}}, ...]     # what a run shows, one step a question

What it refuses, the real one refuses too (backend/src/apiserver, 2.17.0): IR with unknown fields, parameters of another type,
unknown parameters, values that are no literal, versions of a name that is taken, runs without a version.
"""

from __future__ import annotations

import email
import email.policy
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from tutelage.orchestrate.native import documents_of

KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,), "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,), "LIST": (list,),
    "STRUCT": (dict,),
}  # fmt: skip
PAGE = 2


class Refused(Exception):
    """An answer that is no 200, in the shape that KFP gives errors."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


@dataclass
class Fault:
    """What the next requests that match get instead of an answer. Status 0 breaks the connection."""

    status: int
    times: int = 1
    method: str | None = None
    after: bool = False
    """Do what was asked for first: the answer is lost, not the request."""
    retry_after: str = "0"


class Runner(Protocol):
    """The workflow engine behind a server: see stand_in.py."""

    def start(self, run_id: str, documents: list[dict[str, Any]], parameters: Mapping[str, Any]) -> None:
        """Begin a run of an uploaded file."""

    def state(self, run_id: str) -> dict[str, Any]:
        """`state` of the run and `tasks` with theirs."""

    def terminate(self, run_id: str) -> None:
        """Cancel it."""


@dataclass
class KfpServer:
    """Pipelines, versions, experiments and runs of one server."""

    token: str | None = None
    namespaces: tuple[str, ...] = ()
    """Names that a caller may use; empty on a server with one user."""
    literals: bool = True
    """Whether it knows allowed values (from 2.16 on)."""
    script: list[dict[str, Any]] = field(default_factory=lambda: [{"state": "SUCCEEDED", "tasks": {}}])
    faults: list[Fault] = field(default_factory=list)
    on_terminate: Callable[[dict[str, Any]], None] = lambda run: run["script"].__setitem__(
        slice(None), [{"state": "CANCELED", "tasks": {}}]
    )
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    runner: Runner | None = None
    """Who really runs what is started here; `script` says what is shown where nobody does."""
    page: str | None = None
    """An HTML page that stands before everything: a gateway's login."""

    def __enter__(self) -> Self:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"kfp": self}))
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def made(self, method: str, path: str) -> int:
        """How often this was asked."""
        return sum(request.startswith(f"{method} {path}") for request in self.requests)

    # One method a route.

    def healthz(self, query: dict[str, str], body: Any) -> Any:
        return {"multi_user": bool(self.namespaces), "pipeline_store": "database"}

    def get_by_name(self, query: dict[str, str], body: Any, name: str) -> Any:
        self.allow(query.get("namespace"))
        for item in self.pipelines.values():
            if item["name"] == name and item.get("namespace", "") == query.get("namespace", ""):
                return item
        raise Refused(404, f"Failed to get a pipeline with name {name}: not found")

    def list_pipelines(self, query: dict[str, str], body: Any) -> Any:
        return self.paged("pipelines", filtered(self.pipelines, query), query)

    def create_pipeline(self, query: dict[str, str], body: Any) -> Any:
        self.allow(body.get("namespace"))
        if any(item["name"] == body["name"] for item in self.pipelines.values()):
            raise Refused(
                409, f"Already exist error: Failed to create a new pipeline. The name {body['name']} already exist"
            )
        strict(body, {"name", "display_name", "description", "namespace", "tags"})
        return keep(self.pipelines, "pipeline_id", body)

    def list_versions(self, query: dict[str, str], body: Any, pipeline: str) -> Any:
        mine = {key: item for key, item in self.versions.items() if item["pipeline_id"] == pipeline}
        return self.paged("pipeline_versions", filtered(mine, query), query)

    def upload_version(self, query: dict[str, str], body: Any) -> Any:
        if query["pipelineid"] not in self.pipelines:
            raise Refused(400, "Failed to create a pipeline version. Error reading namespace")
        mine = [item for item in self.versions.values() if item["pipeline_id"] == query["pipelineid"]]
        if any(item["name"] == query["name"] for item in mine):
            raise Refused(409, "Failed to create a pipeline version")
        spec = self.parsed(body)
        tags = json.loads(query.get("tags") or "{}")
        if len(tags) > 20 or any(len(key) > 63 or len(value) > 63 or "." in key for key, value in tags.items()):
            raise Refused(400, "Tags are too many or too long")
        version = {
            "pipeline_id": query["pipelineid"], "name": query["name"], "tags": tags, "documents": spec,
            "pipeline_spec": stored(spec, self.pipelines[query["pipelineid"]]),
            "display_name": query.get("display_name") or query["name"], "description": query.get("description", ""),
        }  # fmt: skip
        return shown(keep(self.versions, "pipeline_version_id", version))

    def get_version(self, query: dict[str, str], body: Any, pipeline: str, version: str) -> Any:
        if version not in self.versions:
            raise Refused(404, f"Pipeline version {version} not found")
        return shown(self.versions[version])

    def list_experiments(self, query: dict[str, str], body: Any) -> Any:
        self.allow(query.get("namespace"))
        return self.paged("experiments", filtered(self.experiments, query), query)

    def create_experiment(self, query: dict[str, str], body: Any) -> Any:
        self.allow(body.get("namespace"))
        strict(body, {"display_name", "description", "namespace"})
        return keep(self.experiments, "experiment_id", body)

    def list_runs(self, query: dict[str, str], body: Any) -> Any:
        mine = {key: run for key, run in self.runs.items() if run["experiment_id"] == query.get("experiment_id")}
        return self.paged("runs", filtered(mine, query), query)

    def create_run(self, query: dict[str, str], body: Any) -> Any:
        known = {
            "display_name", "experiment_id", "description", "pipeline_version_reference", "runtime_config", "service_account",
        }  # fmt: skip
        strict(body, known)
        if body["experiment_id"] not in self.experiments:
            raise Refused(404, "Experiment not found")
        reference = body["pipeline_version_reference"]
        version = self.versions.get(reference["pipeline_version_id"])
        if version is None or version["pipeline_id"] != reference["pipeline_id"]:
            raise Refused(400, "Failed to fetch a template with an invalid pipeline version reference")
        check_parameters(version["documents"][0], body["runtime_config"].get("parameters", {}))
        script = [dict(step) for step in self.script]
        run = keep(self.runs, "run_id", {**body, "script": script, "state": "PENDING"})
        if self.runner is not None:
            self.runner.start(run["run_id"], version["documents"], body["runtime_config"].get("parameters", {}))
        return shown(run)

    def get_run(self, query: dict[str, str], body: Any, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refused(404, f"Run {run_id} not found")
        run = self.runs[run_id]
        if self.runner is not None:
            step = self.runner.state(run_id)
        else:
            step = run["script"].pop(0) if len(run["script"]) > 1 else run["script"][0]
        if callable(step.get("do")):
            step.pop("do")()
        run["state"] = step["state"]
        start = datetime(2026, 3, 1, tzinfo=UTC)
        tasks = {"root-driver": "SUCCEEDED", **step["tasks"], "executor": "RUNNING"}
        run["run_details"] = {
            "task_details": [
                {"display_name": name, "state": state, "start_time": (start + timedelta(seconds=n)).isoformat()}
                for n, (name, state) in enumerate(tasks.items())
            ]
        }
        if "error" in step:
            run["error"] = {"code": 13, "message": step["error"]}
        return shown(run)

    def terminate_run(self, query: dict[str, str], body: Any, run_id: str) -> Any:
        if self.runner is not None:
            self.runner.terminate(run_id)
        else:
            self.on_terminate(self.runs[run_id])
        return {}

    # What all of them do.

    def allow(self, namespace: str | None) -> None:
        """As RBAC on a server with several users; namespaces are not asked for on others."""
        if self.namespaces and not namespace:
            raise Refused(400, "Invalid input error: Namespace is empty")
        if self.namespaces and namespace not in self.namespaces:
            raise Refused(403, f'User "someone" is not authorized with reason:  (namespace {namespace})')

    def paged(self, key: str, items: list[dict[str, Any]], query: dict[str, str]) -> Any:
        """Pages of two, so that everything that is more than a page is tested."""
        if query.get("sort_by") == "created_at desc":
            items = sorted(items, key=lambda item: item["created_at"], reverse=True)
        begin = int(query.get("page_token") or 0)
        page = {key: items[begin : begin + PAGE], "total_size": len(items)}
        more = begin + PAGE < len(items)
        return {**page, **({"next_page_token": str(begin + PAGE)} if more else {})} if items else {}

    def parsed(self, text: str) -> list[dict[str, Any]]:
        """The documents of an uploaded file, read as the server does: by protobuf, unknown fields refused."""
        documents = documents_of(text)
        try:
            json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
            for platform in documents[1:]:
                for config in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
                    json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        except json_format.ParseError as error:
            raise Refused(400, f"Invalid input error: {error}") from error
        if not self.literals and '"literals"' in json.dumps(documents[0]):
            raise Refused(400, 'Invalid input error: unknown field "literals"')
        return documents


def stored(documents: list[dict[str, Any]], pipeline: dict[str, Any]) -> dict[str, Any]:
    """A version's content as the server answers it: written anew from its protobuf, its name with where it belongs."""
    kinds = (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec)
    parsed = [json_format.ParseDict(item, kind()) for item, kind in zip(documents, kinds, strict=False)]
    namespace = pipeline.get("namespace")
    parsed[0].pipeline_info.name = (f"namespace/{namespace}/" if namespace else "") + f"pipeline/{pipeline['name']}"
    ir, *platform = [json_format.MessageToDict(item) for item in parsed]
    return {"pipeline_spec": ir, "platform_spec": platform[0]} if platform else ir


def check_parameters(spec: dict[str, Any], given: dict[str, Any]) -> None:
    """What v2_template.go asks of a run's parameters."""
    wanted = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, definition in wanted.items():
        if name not in given:
            if "defaultValue" not in definition and not definition.get("isOptional"):
                raise Refused(
                    400, f"parameter {name} is not optional, yet has neither default value nor user provided value"
                )
            continue
        if not isinstance(given[name], KINDS[definition["parameterType"]]):
            raise Refused(400, f"input parameter {name} requires type {definition['parameterType']}")
        if definition.get("literals") and given[name] not in definition["literals"]:
            raise Refused(400, f"input parameter {name!r} does not match any of the allowed literal values")
    if extra := sorted(set(given) - set(wanted)):
        raise Refused(400, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


def filtered(items: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """Items that match the filter, newest first."""
    predicates = json.loads(query.get("filter") or "{}").get("predicates", [])
    found = []
    for item in reversed(items.values()):
        values = [item.get(p["key"], item.get("display_name")) for p in predicates]
        if all(
            value == p.get("string_value", p.get("stringValue")) for p, value in zip(predicates, values, strict=True)
        ):
            found.append(shown(item))
    return found


def shown(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("script", "documents")}


def strict(body: dict[str, Any], known: set[str]) -> None:
    if extra := sorted(set(body) - known):
        raise Refused(400, f'proto: unknown field "{extra[0]}"')


def keep(items: dict[str, dict[str, Any]], key: str, body: dict[str, Any]) -> dict[str, Any]:
    identity = str(uuid.uuid4())
    items[identity] = {**body, key: identity, "created_at": f"2026-03-01T00:00:{len(items):02}Z"}
    return items[identity]


ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("GET", "healthz"): KfpServer.healthz,
    ("GET", "pipelines"): KfpServer.list_pipelines,
    ("GET", "pipelines/names/*"): KfpServer.get_by_name,
    ("POST", "pipelines"): KfpServer.create_pipeline,
    ("GET", "pipelines/*/versions"): KfpServer.list_versions,
    ("GET", "pipelines/*/versions/*"): KfpServer.get_version,
    ("POST", "pipelines/upload_version"): KfpServer.upload_version,
    ("GET", "experiments"): KfpServer.list_experiments,
    ("POST", "experiments"): KfpServer.create_experiment,
    ("GET", "runs"): KfpServer.list_runs,
    ("POST", "runs"): KfpServer.create_run,
    ("GET", "runs/*"): KfpServer.get_run,
    ("POST", "runs/*:terminate"): KfpServer.terminate_run,
}


def route(method: str, path: str) -> tuple[Callable[..., Any], list[str]]:
    parts = path.removeprefix("/apis/v2beta1/").split("/")
    for (verb, pattern), action in ROUTES.items():
        wanted = pattern.split("/")
        if verb != method or len(wanted) != len(parts):
            continue
        pairs = [
            (w.removesuffix(":terminate"), p.removesuffix(":terminate")) for w, p in zip(wanted, parts, strict=True)
        ]
        if pattern.endswith(":terminate") == path.endswith(":terminate") and all(w in ("*", p) for w, p in pairs):
            return action, [unquote(p) for w, p in pairs if w == "*"]
    raise Refused(404, "Not Found")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    kfp: KfpServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        with self.kfp.lock:
            self.kfp.requests.append(f"{self.command} {url.path.removeprefix('/apis/v2beta1')}")
            if self.kfp.page is not None:
                self._send(200, self.kfp.page.encode(), "text/html")
                return
            fault = self._fault()
            try:
                if fault is not None and not fault.after:
                    self._fail(fault)
                    return
                answer = self._answer(url.path, query, raw)
            except Refused as refusal:
                self._send(
                    refusal.status,
                    json.dumps({"error": refusal.message, "code": 3, "message": refusal.message}).encode(),
                )
                return
            if fault is not None:
                self._fail(fault)
                return
            self._send(200, json.dumps(answer).encode())

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def _answer(self, path: str, query: dict[str, str], raw: bytes) -> Any:
        if self.kfp.token and self.headers.get("Authorization") != f"Bearer {self.kfp.token}":
            raise Refused(401, "Unauthenticated: there is no user identity header")
        action, arguments = route(self.command, path)
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            head = f"Content-Type: {content_type}\r\n\r\n".encode()
            message = email.message_from_bytes(head + raw, policy=email.policy.HTTP)
            part = next(
                part
                for part in message.iter_parts()
                if part.get_param("name", header="content-disposition") == "uploadfile"
            )
            body: Any = part.get_payload(decode=True).decode()
        else:
            body = json.loads(raw) if raw else None
        return action(self.kfp, query, body, *arguments)

    def _fault(self) -> Fault | None:
        for fault in self.kfp.faults:
            if fault.times > 0 and fault.method in (None, self.command):
                fault.times -= 1
                return fault
        return None

    def _fail(self, fault: Fault) -> None:
        if fault.status == 0:
            self.close_connection = True
            return
        self._send(
            fault.status, json.dumps({"message": "upstream connect error"}).encode(), retry_after=fault.retry_after
        )

    def _send(
        self, status: int, data: bytes, content_type: str = "application/json", retry_after: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if status in (301, 302):
            self.send_header("Location", "https://dex.example.com/auth?state=secret")
        if retry_after is not None and status == 429:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(data)
