"""Kubeflow Pipelines' REST API (v2beta1) as uploading and submitting need it: JSON in and out, transient trouble outlived.

Not `kfp.Client`: it prints to stdout, waits 25 seconds for a host that is not there, reads and writes ~/.config/kfp with session
cookies, takes a login page for an empty answer, and forgets a token that was rotated.

Who we are comes from the environment (kfp_access.py), is sent and never stored.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3

from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate import kfp_access
from tutelage.orchestrate.kfp_access import CERTIFICATES_VARIABLE, COOKIE_VARIABLE, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
ROOT = "/apis/v2beta1"
TRANSIENT = (429, 500, 502, 503, 504)
TIMEOUT = urllib3.Timeout(connect=10, read=60)
LONGEST_PAUSE_SECONDS = 30.0
PAGE_SIZE = 100
Object = dict[str, Any]


class KfpError(StepFailed):
    """The server said no, or did not answer."""

    def __init__(self, status: int, message: str, *, hint: str | None = None) -> None:
        """`status` is HTTP's, or 0 where no answer came."""
        super().__init__(message, hint=hint)
        self.status = status


class KfpApi:
    """A client of one server. Requests that the server could not take are made again for `patience_seconds`."""

    def __init__(
        self, host: str, *, token_file: str | None = None, patience_seconds: float = 120,
        sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.host = kfp_access.checked_host(host)
        self.patience_seconds, self._sleep, self._now = patience_seconds, sleep, now
        self._token_file = token_file or os.environ.get(TOKEN_FILE_VARIABLE)
        self._token, self._cookie = kfp_access.token(self._token_file), kfp_access.cookie()
        self._reached = False
        self._pool = urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=kfp_access.certificates(), retries=False)

    # What is asked, one method a question.

    def healthy(self) -> Object:
        """What the server says of itself. The first question to ask: an unreachable host is told at once."""
        return self._request("GET", "/healthz")

    def pipeline(self, name: str, namespace: str | None) -> Object | None:
        """The pipeline of that name, or None."""
        return self._find(f"/pipelines/names/{quote(name, safe='')}", _given(namespace=namespace))

    def create_pipeline(self, body: Object) -> Object:
        """Make a pipeline without a version."""
        return self._request("POST", "/pipelines", body=body)

    def versions(self, pipeline_id: str) -> Iterator[Object]:
        """Every version of a pipeline, newest first."""
        return self._pages(f"/pipelines/{pipeline_id}/versions", "pipeline_versions", {"sort_by": "created_at desc"})

    def version(self, pipeline_id: str, version_id: str) -> Object:
        """A version, whole."""
        return self._request("GET", f"/pipelines/{pipeline_id}/versions/{version_id}")

    def upload_version(self, pipeline_id: str, name: str, text: str, *, description: str, tags: Object) -> Object:
        """Upload a compiled file as a version. Raises KfpError 409 when there is one of that name."""
        query = {
            "pipelineid": pipeline_id, "name": name, "display_name": name, "description": description,
            "tags": json.dumps(tags, sort_keys=True),
        }  # fmt: skip
        file = ("pipeline.yaml", text.encode(), "application/yaml")
        return self._request("POST", "/pipelines/upload_version", query, fields={"uploadfile": file})

    def experiment(self, name: str, namespace: str | None) -> Object | None:
        """The experiment of that name, or None."""
        predicate = {"key": "name", "operation": "EQUALS", "string_value": name}
        query = _given(namespace=namespace, filter=json.dumps({"predicates": [predicate]}))
        found = self._pages("/experiments", "experiments", query)
        return next((item for item in found if item.get("display_name") == name), None)

    def create_experiment(self, name: str, namespace: str | None) -> Object:
        """Make an experiment."""
        return self._request("POST", "/experiments", body={"display_name": name, **_given(namespace=namespace)})

    def create_run(self, body: Object) -> Object:
        """Start a run. A lost answer is looked up by the run's name, which therefore must be unique, not asked for twice."""
        try:
            return self._request("POST", "/runs", body=body, once=True)
        except KfpError as error:
            made = self._run_called(body) if error.status in (0, *TRANSIENT) else None
            if made is None:
                raise
            return made

    def run(self, run_id: str) -> Object:
        """A run, with the states of its tasks."""
        return self._request("GET", f"/runs/{run_id}")

    def terminate(self, run_id: str) -> None:
        """Ask for a run's end."""
        self._request("POST", f"/runs/{run_id}:terminate")

    def _run_called(self, body: Object) -> Object | None:
        query = {"experiment_id": body["experiment_id"], "sort_by": "created_at desc"}
        runs = self._pages("/runs", "runs", query)
        return next((run for run in runs if run.get("display_name") == body["display_name"]), None)

    # How it is asked.

    def _find(self, path: str, query: Object) -> Object | None:
        try:
            return self._request("GET", path, query)
        except KfpError as error:
            if error.status == 404:
                return None
            raise

    def _pages(self, path: str, key: str, query: Object) -> Iterator[Object]:
        token = ""
        while True:
            page = self._request("GET", path, {**query, "page_size": PAGE_SIZE, **_given(page_token=token)})
            yield from page.get(key) or []
            token = page.get("next_page_token") or ""
            if not token:
                return

    def _request(
        self, method: str, path: str, query: Object | None = None, *, body: Object | None = None,
        fields: Object | None = None, once: bool = False,
    ) -> Object:  # fmt: skip
        """One question, asked again while the server cannot take it; `once`: unless it may have been taken."""
        end, pause, refreshed = self._now() + self.patience_seconds, 1.0, False
        while True:
            try:
                return self._ask(method, path, query, body, fields)
            except KfpError as error:
                if error.status == 401 and not refreshed and self._token_changed():
                    refreshed = True
                    continue
                retryable = error.status in TRANSIENT or (error.status == 0 and self._reached)
                if not retryable or (once and error.status != 429) or self._now() + pause > end:
                    raise
                wait = max(pause * random.uniform(0.5, 1.0), getattr(error, "retry_after", 0.0))
            self._sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _ask(self, method: str, path: str, query: Object | None, body: Object | None, fields: Object | None) -> Object:
        url = self.host + ROOT + path + ("?" + _encoded(query) if query else "")
        try:
            answer = self._pool.request(
                method, url, headers=self._headers(), json=body, fields=fields, timeout=TIMEOUT, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._no_answer(error) from error
        self._reached = True
        if answer.status >= 300:
            raise self._refusal(answer, method, path)
        try:
            value = json.loads(answer.data or b"{}")
        except ValueError as error:
            raise KfpError(
                answer.status, f"{self.host} answers with a page, not with data ({self._said(answer.data)!r})",
                hint=f"it asks for a login: set {TOKEN_VARIABLE} or {COOKIE_VARIABLE}, or name the API's own address",
            ) from error  # fmt: skip
        return value if isinstance(value, dict) else {}

    def _headers(self) -> dict[str, str]:
        return {
            "Accept": "application/json",
            **({"Authorization": f"Bearer {self._token}"} if self._token else {}),
            **({"Cookie": self._cookie} if self._cookie else {}),
        }

    def _token_changed(self) -> bool:
        """Read the token again; whether it is another now."""
        before, self._token = self._token, kfp_access.token(self._token_file)
        return self._token != before

    def _no_answer(self, error: Exception) -> KfpError:
        reason = getattr(error, "reason", None) or error
        cause = (
            str(error).rsplit(": ", 1)[-1] if isinstance(error, urllib3.exceptions.NewConnectionError) else str(reason)
        )
        if isinstance(reason, ssl.SSLError) or isinstance(error, urllib3.exceptions.SSLError):
            hint = f"if the authority is your own, set {CERTIFICATES_VARIABLE} to its certificate; http:// for a port-forward"
            return KfpError(-1, f"no trusted connection to {self.host}: {cause}", hint=hint)
        hint = "check the address; from outside: kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888"
        return KfpError(0, f"{self.host} does not answer: {cause}", hint=hint)

    def _refusal(self, answer: urllib3.BaseHTTPResponse, method: str, path: str) -> KfpError:
        said = f"{self.host} answers {answer.status} to {method} {path}: {self._said(answer.data)}"
        hints = {
            401: f"set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE} to a token for this server, or {COOKIE_VARIABLE} to a session",
            403: "this account lacks the right in that namespace; see docs/gitops.md, Who may upload and submit",
            404: "check --host and --namespace",
        }
        if 300 <= answer.status < 400:
            place = urlsplit(answer.headers.get("Location", "")).netloc or "a login"
            return KfpError(answer.status, f"{self.host} sends us to {place}", hint=hints[401])
        error = KfpError(answer.status, said, hint=hints.get(answer.status))
        wait = answer.headers.get("Retry-After", "")
        error.retry_after = min(float(wait), LONGEST_PAUSE_SECONDS) if wait.isdigit() else 0.0  # type: ignore[attr-defined]
        return error

    def _said(self, data: bytes) -> str:
        """A line of what a server said, which may repeat what it was sent."""
        line = _line(data)
        for secret in filter(None, (self._token, self._cookie)):
            line = line.replace(secret, "…")
        return line


def connect(host: str | None, token_file: str | None = None) -> KfpApi:
    """A client that has reached its server. Raises InvalidInput without a host, KfpError for one that does not answer."""
    named = host or os.environ.get(HOST_VARIABLE)
    if not named:
        raise InvalidInput("no server named", hint=f"give --host URL or set {HOST_VARIABLE}")
    api = KfpApi(named, token_file=token_file)
    api.healthy()
    return api


def _given(**values: str | None) -> Object:
    return {name: value for name, value in values.items() if value}


def _encoded(query: Mapping[str, Any]) -> str:
    return "&".join(f"{name}={quote(str(value), safe='')}" for name, value in sorted(query.items()))


def _line(data: bytes) -> str:
    """One line of what a server said, at most 300 characters."""
    text = data.decode(errors="replace").strip()
    try:
        body = json.loads(text)
        text = str(body.get("error_message") or body.get("message") or body.get("error") or text)
    except (ValueError, AttributeError):
        pass
    line = text.splitlines()[0] if text else "nothing"
    return line if len(line) <= 300 else line[:297] + "..."
