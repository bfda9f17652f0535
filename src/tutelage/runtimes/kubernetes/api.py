"""The Kubernetes API as the engine needs it: raw JSON in and out, transient trouble outlived, everything else typed.

429 (with its Retry-After), 5xx, refused and reset connections and timeouts are tried again with jittered back-off, as long as
`budget_seconds` lasts: an API server may restart under us, and deny us what we may do while it comes up. A 401 makes the
credentials be read again, once: tokens of service accounts rotate. A create whose answer was lost is not sent again; the
caller looks first. Written against what kubernetes clients 30 and 37 share: configuration, auth settings, connection pool.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes.credentials import credentials
from tutelage.runtimes.kubernetes.jobs import (
    EVENT,
    INFERENCESERVICE,
    JOB_KINDS,
    POD,
    PYTORCHJOB,
    SPARKAPPLICATION,
    WORKFLOW,
    Object,
    Resource,
)

__all__ = [
    "EVENT", "INFERENCESERVICE", "JOB_KINDS", "POD", "PYTORCHJOB", "SPARKAPPLICATION", "WORKFLOW", "Api", "ApiError", "Event",
    "LogStream", "Resource",
]  # fmt: skip

log = logging.getLogger("tutelage")
PAGE = 500
REQUEST_SECONDS = 30
#: A log stream that says nothing for so long is opened anew; nothing is lost by that.
SILENCE_SECONDS = 300
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
RETRIED = frozenset({429, 500, 502, 503, 504})
#: An API server that has just started refuses everybody until it has read its roles and accounts, before it says that it is
#: ready: what only a role or a token is said to lack is asked for again for so long.
DOUBTED_SECONDS = 20
#: What the authoriser says; quotas, webhooks and policies refuse in other words.
DENIED = re.compile(r"\bcannot \S+ resource\b")


class ApiError(StepFailed):
    """The API server said no, or did not answer within the budget of retries."""

    def __init__(
        self, status: int, reason: str, message: str, *, retryable: bool = False, hint: str | None = None
    ) -> None:
        """`status` is 0 where no answer came; `reason` is the server's word (AlreadyExists, Expired) or one of ours."""
        super().__init__(message, hint=hint)
        self.status, self.reason, self.retryable = status, reason, retryable
        self.doubtful = status == 401 or (status == 403 and DENIED.search(message) is not None)
        """Whether a server that has just started may say so of an account that has the right."""
        self.wait_seconds: float | None = None
        """What the server's Retry-After asks for."""


@dataclass(frozen=True)
class Event:
    """One change that a watch saw. `BOOKMARK` carries a resource version only."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class LogStream:
    """Lines of a container's log as they come; `close` may be called from another thread."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.whole = False
        """Whether the server itself ended it: a broken connection may have had more to say."""

    def __iter__(self) -> Iterator[bytes]:
        """Whole lines without their newline. A broken connection ends it with a rest that is no whole line left out."""
        rest = b""
        with suppress(*_broken()):
            for chunk in self._response.stream(amt=65536, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
            if rest:
                # The server ended it: a last line may lack its newline.
                yield rest
            self.whole = True
        self.close()

    def close(self) -> None:
        """Give the connection up, also while another thread waits for its next line."""
        with suppress(Exception):  # a connection that is gone, or in the pool again
            self._response.shutdown()
        with suppress(Exception):
            self._response.close()


class Api:
    """A client of one namespace."""

    def __init__(
        self,
        load: Callable[[], Any],
        namespace: str,
        *,
        budget_seconds: float = 600,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`load` gives a `kubernetes.client.ApiClient` with fresh credentials; `now` and `sleep` are given by tests."""
        self.namespace = namespace
        self._load, self._client = load, load()
        self.budget_seconds = budget_seconds
        """How long a request is tried again before its ApiError is raised."""
        self._now, self._sleep = now, sleep
        self._random = random.Random()

    @classmethod
    def connect(cls, namespace: str | None = None, **options: Any) -> Self:
        """From KUBECONFIG where it is set, else from the pod's service account. Raises InvalidInput without either."""
        load, own = credentials()
        return cls(load, namespace or own, **options)

    def another(self) -> Api:
        """A client with connections of its own that tries nothing again: for signal handlers, which must not wait for
        locks held below them, and for what has its own way of trying again."""
        return Api(self._load, self.namespace, budget_seconds=0, now=self._now, sleep=self._sleep)

    # --- objects ---

    def create(self, resource: Resource, body: Object) -> Object:
        """Create strictly (unknown fields refused). Raises ApiError: 409 AlreadyExists, 403, 404 OperatorMissing, 422.

        Never sent again once it may have arrived: raises ApiError(0, "ReplyLost"), for the caller to look.
        """
        return self._json("POST", self._path(resource), {"fieldValidation": "Strict"}, body=body, once=True)

    def get(self, resource: Resource, name: str) -> Object | None:
        """The object, or None. Raises ApiError(404, "OperatorMissing") where nobody serves the kind."""
        try:
            return self._json("GET", self._path(resource, name))
        except ApiError as error:
            if error.status == 404 and error.reason != "OperatorMissing":
                return None
            raise

    def list(self, resource: Resource, labels: str = "", fields: str = "") -> Sequence[Object]:
        """All objects that match, sorted by name. Read page by page; from the start again when a page has expired."""
        while True:
            found: list[Object] = []
            query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE), "continue": ""}
            try:
                while True:
                    page = self._json(
                        "GET", self._path(resource), {key: value for key, value in query.items() if value}
                    )
                    found += page.get("items") or []
                    query["continue"] = (page.get("metadata") or {}).get("continue") or ""
                    if not query["continue"]:
                        return sorted(found, key=lambda item: str(item["metadata"]["name"]))
            except ApiError as error:
                if error.status != 410 or not query["continue"]:
                    raise

    def delete(self, resource: Resource, name: str, uid: str | None = None) -> bool:
        """Ask for deletion of the object with this uid; its pods follow. False where that object is not there."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", self._path(resource, name), body=body)
        except ApiError as error:
            # 409: another object has the name by now.
            if error.status in (404, 409) and error.reason != "OperatorMissing":
                return False
            raise
        return True

    def patch(self, resource: Resource, name: str, body: Mapping[str, Any]) -> Object:
        """Merge-patch the object."""
        content = "application/merge-patch+json"
        return self._json("PATCH", self._path(resource, name), body=dict(body), content_type=content)

    def watch(self, resource: Resource, name: str, since: str, timeout_seconds: int = 60) -> Generator[Event]:
        """Changes of one object after resource version `since`, until the server or `timeout_seconds` ends it.

        Raises ApiError(410, "Expired") when `since` is too old; a broken connection just ends it. Its `close` gives the
        connection up: call it (`contextlib.closing`) where the loop is left early.
        """
        query = {
            "watch": "true", "fieldSelector": f"metadata.name={name}", "resourceVersion": since,
            "allowWatchBookmarks": "true", "timeoutSeconds": str(timeout_seconds),
        }  # fmt: skip
        lines = LogStream(self._send("GET", self._path(resource), query, timeout=timeout_seconds + REQUEST_SECONDS))
        try:
            for line in lines:
                try:
                    change = json.loads(line)
                except ValueError:
                    # Cut off in the middle: the next look shows what it would have said.
                    return
                if change.get("type") == "ERROR":
                    raise _error_of(change.get("object") or {}, int((change.get("object") or {}).get("code") or 500))
                yield Event(change["type"], change["object"])
        finally:
            lines.close()

    # --- pods ---

    def pods(self, labels: str) -> Sequence[Object]:
        """Pods by label selector."""
        return self.list(POD, labels)

    def events(self, kind: str, name: str, uid: str | None = None) -> Sequence[Object]:
        """Events about one object, oldest first as the server orders them."""
        fields = {"involvedObject.kind": kind, "involvedObject.name": name} | (
            {"involvedObject.uid": uid} if uid else {}
        )
        return self.list(EVENT, fields=",".join(f"{key}={value}" for key, value in fields.items()))

    def log(
        self, pod: str, container: str, *, since_time: str | None = None, follow: bool = False, previous: bool = False
    ) -> LogStream:
        """Lines of a container's log, each with its RFC 3339 time stamp. Raises ApiError: 400 not started, 404 gone."""
        query = {"container": container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        query |= {"sinceTime": since_time} if since_time else {}
        return LogStream(self._send("GET", f"{self._path(POD, pod)}/log", query, timeout=SILENCE_SECONDS))

    # --- requests ---

    def _path(self, resource: Resource, name: str | None = None) -> str:
        group = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        path = f"{group}/namespaces/{quote(self.namespace)}/{resource.plural}"
        return f"{path}/{quote(name)}" if name else path

    def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, **options: Any) -> Object:
        def whole(response: Any) -> Any:
            return json.loads(response.read())

        answer: Object = self._send(method, path, query or {}, read=whole, **options)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Object | None = None,
        content_type: str = "application/json",
        timeout: int = REQUEST_SECONDS,
        once: bool = False,
        read: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The open response, or what `read` makes of it. Retries within the budget. Raises ApiError."""
        started, tries, renewed = self._now(), 0, False
        doubted_until: float | None = None
        while True:
            try:
                return self._try(method, path, query, body, content_type, timeout, read)
            except ApiError as error:
                if error.status == 401 and not renewed:
                    renewed, self._client = True, self._load()
                    continue
                if error.reason == "ConnectionLost" and once:
                    raise ApiError(0, "ReplyLost", error.message, retryable=True) from error
                if error.doubtful and doubted_until is None:
                    # From the first denial on, not from the request: the server may have been away before.
                    doubted_until, tries = self._now() + DOUBTED_SECONDS, 0
                wait = self.backoff(tries, error)
                then = self._now() + wait
                doubted = error.doubtful and doubted_until is not None and then <= doubted_until
                if not (error.retryable or doubted) or then - started > self.budget_seconds:
                    raise
                log.info("%s %s: %s; again in %.1f s", method, path.rsplit("/", 1)[-1], error.message, wait)
                self._sleep(wait)
                tries += 1

    def backoff(self, tries: int, error: ApiError) -> float:
        """Seconds until the next try: what the server asks for, else full jitter (Brooker, "Exponential Backoff and
        Jitter", 2015), but never nothing."""
        if error.wait_seconds is not None:
            return error.wait_seconds + self._random.uniform(0, 1)
        # A denial is doubted for seconds only: four seconds at most between two tries.
        doublings = min(tries, 3 if error.doubtful else 10)
        return self._random.uniform(0.2, 1.0) * min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**doublings)

    def _try(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str, timeout: int,
        read: Callable[[Any], Any] | None,
    ) -> Any:  # fmt: skip
        import urllib3

        headers = {"Accept": "application/json", "User-Agent": "tutelage"}
        if body is not None:
            headers["Content-Type"] = content_type
        for setting in self._client.configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = _sendable(setting["value"])
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._client.rest_client.pool_manager.request(
                method, url, body=None if body is None else json.dumps(body), headers=headers, preload_content=False,
                timeout=urllib3.Timeout(connect=10, read=timeout), retries=False, redirect=False,
            )  # fmt: skip
            if response.status >= 300:
                raise _refusal(response, self.namespace)
            return response if read is None else read(response)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise ApiError(0, "Unreachable", f"API server does not answer: {error}", retryable=True) from error
        except _broken() as error:
            raise ApiError(0, "ConnectionLost", f"connection lost: {error}", retryable=True) from error


def _sendable(credential: str) -> str:
    """A header's value without the white space around it: files of tokens end in a newline.

    Raises ApiError where no header can carry it. Here and not by urllib3, whose error would show it, and would be taken for a
    connection that broke.
    """
    credential = credential.strip()
    if credential.isascii() and credential.isprintable():
        return credential
    error = ApiError(
        401, "Unsendable", "the token for the API server holds a line break or another character that no HTTP header can carry",
        hint="look at the token in the account's file or in KUBECONFIG: it may have been pasted with a line break in it",
    )  # fmt: skip
    error.doubtful = False
    raise error


def _broken() -> tuple[type[Exception], ...]:
    """What urllib3 raises for connections that break, and json for a body that was cut off."""
    import urllib3

    return (urllib3.exceptions.HTTPError, OSError, ValueError)


def _refusal(response: Any, namespace: str) -> ApiError:
    """The ApiError of an answer that is no success."""
    try:
        data = response.read()
    finally:
        response.close()
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict) or body.get("kind") != "Status":
        body = {"message": data.decode(errors="replace")[:500].strip()}
        if response.status == 404:
            body["reason"] = "OperatorMissing"
    error = _error_of(body, response.status)
    if response.status == 401:
        error.hint = (
            "the token is expired or not accepted, also after reading it again: log in, or check the service account"
        )
    if response.status == 403 and error.doubtful:
        error.hint = f"grant the run's account this verb in namespace {namespace}: see manifests/base"
    wait = response.headers.get("Retry-After", "")
    if wait.isdigit():
        error.wait_seconds = float(wait)
    return error


def _error_of(body: Mapping[str, Any], status: int) -> ApiError:
    reason, message = str(body.get("reason") or ""), str(body.get("message") or f"HTTP status {status}")
    details = body.get("details") or {}
    if status == 404 and not details.get("name") and (not reason or "could not find the requested resource" in message):
        reason = "OperatorMissing"
    # A quota or a webhook denies with 403 and a sentence; the account's rights are not at fault.
    hint = "see the namespace's ResourceQuota" if "exceeded quota" in message else None
    return ApiError(status, reason or str(status), message, retryable=status in RETRIED, hint=hint)
