"""Every line of every container, once, in the task's log file.

    2026-11-23T02:34:09.123456789Z train-sft-0c1d-worker-0/pytorch/3f9a1c20 step 12 of 400: loss 2.31

A thread follows each container by its pod's UID (a pod's name may come back with another UID). When a stream breaks it is
opened again a little before the last line seen, and what was written already is passed over: `sinceTime` counts whole
seconds only, so the time stamp alone would double lines or lose them. The file itself says what was written, so a retried
launcher that finds it goes on where it ends.

An API server that refuses or breaks a stream is asked again for as long as the engine waits: a container's log counts as
read only once a stream that was opened after its end was ended by the server.

What a step prints is no promise: a line that looks like an event and is none, or that nobody can take, is a line of the log
like any other, and never ends a thread.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tutelage.runtimes.kubernetes.api import DOUBTED_SECONDS, POD, Api, ApiError, LogStream
from tutelage.runtimes.kubernetes.jobs import Object
from tutelage.runtimes.kubernetes.log_position import Position, digest

log = logging.getLogger("tutelage")
AGAIN_SECONDS = 1.0
LINE = re.compile(rb"(?P<stamp>\d{4}-\d\d-\d\dT\S+) (?P<where>\S+) (?P<text>.*)")
Passed = Callable[[dict[str, Any]], None]


class TaskLog:
    """The task's log file: whole lines from several threads, and how far each container's log is in it."""

    def __init__(self, file: Path, passed: Passed | None = None) -> None:
        """`passed` gets the events that a step prints among its lines (step/cluster.py)."""
        self._file, self._passed = file, passed
        self._lock = threading.Lock()
        self._refused: set[type[Exception]] = set()
        self.positions: dict[str, Position] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        self._recover()
        self._out = file.open("ab", buffering=0)

    def close(self) -> None:
        """Nothing more will be written."""
        with self._lock:
            self._out.close()

    def position(self, where: str) -> Position:
        """How far the log of `where` (pod/container/uid) is written."""
        with self._lock:
            return self.positions.setdefault(where, Position())

    def write(self, where: str, line: bytes) -> None:
        """Append one line (`<time stamp> <text>`) and pass on the event in it, if it is one."""
        stamp, _, text = line.partition(b" ")
        with self._lock:
            if self._out.closed:
                # A thread that nobody waits for any more.
                return
            rest = b"%s %s %s\n" % (stamp, where.encode(), text)
            while rest:
                # On a full disk a part is written; writing the rest then says why.
                rest = rest[self._out.write(rest) :]
            self.positions.setdefault(where, Position()).note(line)
        if self._passed is not None and text.startswith(b'{"time":') and b'"event":' in text:
            self._pass_on(where, text)

    def _pass_on(self, where: str, text: bytes) -> None:
        """Give away the event in a line. A line that only looks like one is no event, and one that nobody takes is said."""
        assert self._passed is not None
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            return
        try:
            self._passed(event)
        except Exception as error:  # noqa: BLE001 (whatever it is, the log goes on)
            # Of a full disk every line would say so.
            if type(error) not in self._refused:
                self._refused.add(type(error))
                log.warning("an event of %s was not passed on: %s: %s", where, type(error).__name__, error)

    def _recover(self) -> None:
        if not self._file.is_file():
            return
        with self._file.open("rb") as lines:
            for line in lines:
                found = LINE.fullmatch(line.rstrip(b"\n"))
                if found and found["where"].count(b"/") == 2:
                    self.position(found["where"].decode()).note(found["stamp"] + b" " + found["text"])


class Follower:
    """Follows the containers that the engine names, a thread each."""

    def __init__(self, api: Api, task_log: TaskLog, sleep: Callable[[float], None]) -> None:
        """`sleep` is given by tests."""
        # Its own client tries nothing again: each thread does, and says whether it is being refused.
        self._api, self._log, self._sleep = api.another(), task_log, sleep
        self._sources: dict[tuple[str, str], _Source] = {}

    def see(self, pods: Sequence[Object], sources: Iterable[tuple[str, str]]) -> None:
        """Follow each (pod uid, container) that has started and is not followed yet; note which have ended."""
        by_uid = {str(pod["metadata"]["uid"]): pod for pod in pods}
        for uid, container in sources:
            pod = by_uid.get(uid)
            status = _container(pod, container) if pod else None
            if pod is None or status is None:
                continue
            state, restarts = status.get("state") or {}, int(status.get("restartCount") or 0)
            if not ("running" in state or "terminated" in state or restarts):
                continue
            source = self._sources.get((uid, container))
            if source is None:
                source = _Source(self._api, self._log, str(pod["metadata"]["name"]), uid, container, self._sleep)
                self._sources[uid, container] = source
                source.note(status)
                source.start()
            source.note(status)
        for (uid, _), source in self._sources.items():
            if uid not in by_uid:
                source.gone = True

    def unfinished(self, *, ended_only: bool) -> bool:
        """Whether lines are still to come: of containers that have ended, or of any."""
        return any(
            source.is_alive() and (source.ended or source.gone or not ended_only) for source in self._sources.values()
        )

    def refused(self) -> bool:
        """Whether the API server keeps the log of an ended container from us. A node that does not answer is not it."""
        return any(
            source.is_alive() and source.refusal is not None and not NODE_AWAY.search(source.refusal.message)
            for source in self._sources.values() if source.ended or source.gone
        )  # fmt: skip

    def lines(self) -> int:
        """How many lines were written: it grows while there is progress."""
        return sum(source.lines for source in self._sources.values())

    def torn(self) -> list[str]:
        """Containers whose log may lack its end: refused for good, or the pod went before it was read."""
        return sorted(source.where for source in self._sources.values() if source.torn)

    def close(self) -> None:
        """Stop following."""
        for source in self._sources.values():
            if source.is_alive():
                source.stop()


class _Source:
    """One container's log, followed to its end by a thread."""

    def __init__(
        self, api: Api, task_log: TaskLog, pod: str, uid: str, container: str, sleep: Callable[[float], None]
    ) -> None:
        self._api, self._log, self._sleep = api, task_log, sleep
        self._pod, self._uid, self._container = pod, uid, container
        self.where = f"{pod}/{container}/{uid[:8]}"
        self.gone = self.torn = self._stopped = False
        self.lines = 0
        self.refusal: ApiError | None = None
        """Why the log cannot be had at the moment."""
        self._state = (0, False)
        self._lock = threading.Lock()
        self._whole = False
        """Whether the last stream was read to an end that the server made."""
        self._stream: LogStream | None = None
        self._thread = threading.Thread(target=self._work, name=f"log {self.where}", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether the container's present run has ended."""
        return self._state[1]

    def note(self, status: Object) -> None:
        """The container was seen so. Engine and thread both look; what was read earlier may arrive later."""
        seen = int(status.get("restartCount") or 0), "terminated" in (status.get("state") or {})
        with self._lock:
            self._state = max(self._state, seen)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.close()

    def _work(self) -> None:
        try:
            self._follow()
        except Exception as error:
            log.exception("log of %s", self.where)
            self._tear(f"{type(error).__name__}: {error}")

    def _follow(self) -> None:
        read, tries, doubted = 0, 0, 0.0
        while not self._stopped:
            # Read before the stream: what ends while it is read is read once more.
            (restarts, ended), gone = self._state, self.gone
            try:
                # The run before first, and nothing else until it is read.
                before = restarts > read
                there = self._read(previous=before, follow=not (before or ended or gone))
            except OSError as error:
                self._tear(str(error))
                return
            except ApiError as error:
                tries = 0 if error.doubtful and not doubted else tries
                wait = self._api.backoff(tries, error)
                if not (error.retryable or (error.doubtful and doubted + wait <= DOUBTED_SECONDS)):
                    self._tear(str(error))
                    return
                self.refusal = error
                self._sleep(wait)
                tries, doubted = tries + 1, doubted + (wait if error.doubtful else 0)
                continue
            self.refusal, tries, doubted = None, 0, 0.0
            if not there:
                if not self._whole:
                    self._tear("the pod went before its log was read")
                return
            if before and self._whole:
                read, self._whole = restarts, False
                continue
            if (ended or gone) and self._whole and self._state[0] == read:
                return
            self._sleep(AGAIN_SECONDS)

    def _tear(self, why: str) -> None:
        if not self._stopped:
            self.torn = True
            log.warning("log of %s ends here: %s", self.where, why)

    def _read(self, *, follow: bool = False, previous: bool = False) -> bool:
        """Write what is new. False when there is nothing more to come: the pod is gone."""
        position = self._log.position(self.where)
        written = position.written()
        try:
            if not self._is_ours():
                return False
            self._stream = self._api.log(
                self._pod, self._container, since_time=position.since(), follow=follow, previous=previous
            )
        except ApiError as error:
            if error.status == 400:
                # Not started yet, or no previous container.
                self._whole = True
                return True
            if error.status == 404:
                return False
            raise
        self.refusal = None
        for line in self._stream:
            if not LINE_STAMP.match(line):
                # Not a line of the log: the kubelet's "unable to retrieve container logs".
                log.warning("log of %s: %s", self.where, line.decode(errors="replace")[:200])
            elif written and written[known := digest(line)] > 0:
                written[known] -= 1
            else:
                self._log.write(self.where, line)
                self.lines += 1
            if self._stopped:
                break
        self._stream.close()
        self._whole = self._stream.whole
        return True

    def _is_ours(self) -> bool:
        pod = self._api.get(POD, self._pod)
        if pod is None or pod["metadata"]["uid"] != self._uid:
            return False
        status = _container(pod, self._container)
        if status is not None:
            self.note(status)
        return True


#: What the API server says when it cannot reach the kubelet: waiting long for a lost node's logs helps nobody.
NODE_AWAY = re.compile(r":10250\b|containerLogs|No agent available|proxy error from")
LINE_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)( |$)")


def _container(pod: Object, name: str) -> Object | None:
    status = pod.get("status") or {}
    statuses = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    return next((item for item in statuses if item.get("name") == name), None)
