"""Every line of every container, once, in the task's log file.

    2026-11-23T02:34:09.123456789Z train-sft-0c1d-worker-0/pytorch/3f9a1c20 step 12 of 400: loss 2.31

A thread follows each container by its pod's UID (a pod's name may come back with another UID). When a stream breaks it is
opened again a little before the last line seen, and what was written already is passed over: `sinceTime` counts whole
seconds only, so the time stamp alone would double lines or lose them. The file itself says what was written, so a retried
launcher that finds it goes on where it ends.

An API server that refuses or breaks a stream is asked again for as long as the engine waits: a container's log counts as
read only once a stream that was opened after its end was ended by the server.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tutelage.runtimes.kubernetes.api import POD, Api, ApiError, LogStream
from tutelage.runtimes.kubernetes.jobs import Object

log = logging.getLogger("tutelage")
#: How far before the last line a broken stream is opened again.
OVERLAP = timedelta(seconds=2)
#: How far back lines are remembered: a node's clock may be set back so far, and no line is lost or doubled.
REMEMBERED = timedelta(minutes=15)
AGAIN_SECONDS = 1.0
#: How often a denial is doubted: a server that has just started denies what it will soon allow (api.py).
DOUBTED_TRIES = 6
LINE = re.compile(rb"(?P<stamp>\d{4}-\d\d-\d\dT\S+) (?P<where>\S+) (?P<text>.*)")
Passed = Callable[[dict[str, Any]], None]


class Position:
    """What was written of one container's log near its end: lines by time stamp, as often as they came."""

    def __init__(self) -> None:
        self.last = ""
        self._near: Counter[bytes] = Counter()
        self._limit = 20_000

    def note(self, line: bytes) -> None:
        """A line was written."""
        # The last one that came, not the latest: after a clock was set back the server would skip lines from before.
        self.last = line.split(b" ", 1)[0].decode()
        self._near[line] += 1
        if len(self._near) > self._limit:
            self._forget()
            self._limit = max(20_000, 2 * len(self._near))

    def since(self) -> str | None:
        """Where to open the stream again; None: from its start."""
        if not self.last:
            return None
        return (_moment(self.last) - OVERLAP).replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")

    def written(self) -> Counter[bytes]:
        """Lines that will come again when the stream is opened at `since()`."""
        self._forget()
        since = self.since()
        return self._from(_moment(since)) if since else Counter()

    def _forget(self) -> None:
        if self.last:
            self._near = self._from(_moment(self.last) - REMEMBERED)

    def _from(self, edge: datetime) -> Counter[bytes]:
        return Counter(
            {line: count for line, count in self._near.items() if _moment(line.split(b" ", 1)[0].decode()) >= edge}
        )


class TaskLog:
    """The task's log file: whole lines from several threads, and how far each container's log is in it."""

    def __init__(self, file: Path, passed: Passed | None = None) -> None:
        """`passed` gets the events that a step prints among its lines (step/cluster.py)."""
        self._file, self._passed = file, passed
        self._lock = threading.Lock()
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
            self.positions.setdefault(where, Position()).note(line)
            self._out.write(b"%s %s %s\n" % (stamp, where.encode(), text))
        if self._passed is not None and text.startswith(b'{"time":') and b'"event":' in text:
            try:
                event = json.loads(text)
            except ValueError:
                return
            self._passed(event)

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
        self._thread = threading.Thread(target=self._follow, name=f"log {self.where}", daemon=True)

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

    def _follow(self) -> None:
        read, tries = 0, 0
        while not self._stopped:
            # Read before the stream: what ends while it is read is read once more.
            (restarts, ended), gone = self._state, self.gone
            try:
                # The run before first, and nothing else until it is read.
                before = restarts > read
                there = self._read(previous=before, follow=not (before or ended or gone))
            except (ApiError, OSError) as error:
                if not isinstance(error, ApiError) or not (error.retryable or (error.doubtful and tries < DOUBTED_TRIES)):
                    self._tear(str(error))
                    return
                self.refusal = error
                self._sleep(self._api.backoff(tries, error))
                tries += 1
                continue
            self.refusal, tries = None, 0
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
            elif written[line] > 0:
                written[line] -= 1
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


def _moment(stamp: str) -> datetime:
    """A time stamp of the kubelet's, nanoseconds cut to microseconds; the beginning of time for none."""
    if not stamp:
        return datetime.fromisoformat("0001-01-01T00:00:00+00:00")
    text = re.sub(r"(\.\d{6})\d+", r"\1", stamp)
    return datetime.fromisoformat(text)
