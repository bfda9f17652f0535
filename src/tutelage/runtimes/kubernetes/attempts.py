"""Requests and outcomes of a job's launches, an attempt each, and how many launches there were.

    STORE/scratch/jobs/RUN/JOB.ATTEMPT.request.json        what the pods of that launch do; read by them
    STORE/scratch/jobs/RUN/JOB.ATTEMPT.outcome.json        how it ended; `.rank1` … behind it where another rank says why
    STORE/scratch/jobs/RUN/JOB.relaunch.json               the launch that comes next, written before the last one is deleted

Two launchers may work on one task: Kubernetes starts a second one where it has lost sight of the first. Only the API server can
tell them apart, by letting one create succeed. So each puts its request where no other writes, and names that place in the
object that it asks for: the create that wins decides what pods read and which attempt they write, as an annotation tells
whoever adopts the object. The loser has touched nothing. A rendered spec, and its hash, name no attempt, so that every
launcher of a task renders the same.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.store import Store, new_attempt
from tutelage.errors import StoreError
from tutelage.runtimes.kubernetes.jobs import Job, Object
from tutelage.runtimes.kubernetes.names import ATTEMPT_ANNOTATION, request_location, stem_of
from tutelage.step import Request, describe, request_json

log = logging.getLogger("tutelage")
OUTCOME_SUFFIX = ".outcome.json"
RECORD_SUFFIX = ".relaunch.json"
FILE = re.compile(r"(?P<job>[^.]+)(?:\.(?P<attempt>[^.]+))?\.(?:request|outcome)\.json.*")


class Attempts:
    """The store's side of one task's launches; also the engine's `Memory`."""

    def __init__(self, request: Request, store: Store, requests: str, scratch: str) -> None:
        """`requests`: the folder of the run; `scratch`: where checkpoints of the step lie."""
        self.request, self.store, self.requests, self.scratch = request, store, requests, scratch
        self.current = ""
        """The attempt of the job that is followed."""
        self._asked: tuple[str, str] | None = None
        """Job and attempt of a create that is not known to have made anything."""
        self._known: set[str] = set()

    def prepare(self, job: Job) -> Object:
        """Put a request of its own into the store. Gives the object whose pods read it."""
        if self._asked is None or self._asked[0] != job.name:
            self._asked = job.name, new_attempt()
            self._write(*self._asked)
        _, attempt = self._asked
        body = _replaced(
            job.body,
            request_location(self.requests, job.name),
            request_location(self.requests, job.name, attempt),
        )
        body["metadata"]["annotations"][ATTEMPT_ANNOTATION] = attempt
        made: Object = body
        return made

    def _write(self, name: str, attempt: str) -> None:
        self._known.add(attempt)
        writes = describe(self.request.step).writes
        request = replace(
            self.request,
            attempt=attempt,
            outputs={
                output: self.store.attempt(kind, self.request.step_key, attempt) for output, kind in writes.items()
            },
            outcome=locations.join(self.requests, f"{name}.{attempt}{OUTCOME_SUFFIX}"),
            scratch=self.scratch,
            cache="",
            events=None,
            leashed=False,
        )
        locations.write_bytes(request_location(self.requests, name, attempt), request_json(request))

    def follow(self, found: Object) -> None:
        """This object is the task's job: ours, or another launcher's."""
        self.current = str((found["metadata"].get("annotations") or {}).get(ATTEMPT_ANNOTATION, ""))
        self._asked = None
        self._known.add(self.current)

    def outcomes(self, name: str) -> str:
        """What the outcomes of the followed job begin with."""
        return f"{name}.{self.current}{OUTCOME_SUFFIX}" if self.current else name + OUTCOME_SUFFIX

    def last(self, job: Job) -> int:
        """The launch that was to come next when the last one was ended; 0 without any. Raises StoreError."""
        try:
            return int(json.loads(locations.read_bytes(self._record(job)))["relaunch"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            log.warning("%s: cannot be read, and is passed over", self._record(job))
            return 0

    def note(self, job: Job, ordinal: int) -> None:
        """Launch `ordinal` comes next. A store that does not answer is no reason to leave the last one running."""
        try:
            locations.write_bytes(self._record(job), json.dumps({"relaunch": ordinal}).encode())
        except StoreError as error:
            log.warning("%s: relaunch %d is not noted: %s", job.name, ordinal, error.message)

    def forget(self, job: Job) -> None:
        """Remove what this launcher wrote or followed, what is older, and the record. What is newer belongs to another."""
        stem, latest = stem_of(job.name), max(self._known, default="")
        try:
            for path, _ in locations.list_files(self.requests):
                if path == stem + RECORD_SUFFIX or self._is_ours(path, stem, latest):
                    locations.remove(locations.join(self.requests, path))
        except StoreError as error:
            # How the job ended is known; that must not be lost over sweeping up.
            log.warning("%s: requests not removed: %s", job.name, error.message)

    def _is_ours(self, path: str, stem: str, latest: str) -> bool:
        named = FILE.fullmatch(path)
        # Attempts sort by time.
        return named is not None and stem_of(named["job"]) == stem and (named["attempt"] or "") <= latest

    def _record(self, job: Job) -> str:
        return locations.join(self.requests, stem_of(job.name) + RECORD_SUFFIX)


def _replaced(value: Any, old: str, new: str) -> Any:
    """`value` (JSON) with every text that is `old` as `new`."""
    if isinstance(value, dict):
        return {name: _replaced(item, old, new) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return new if value == old else value
