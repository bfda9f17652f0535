"""Time of the fake cluster: it passes when everybody waits, so that hours of queueing cost milliseconds.

Operators put what they do next on an agenda; the engine's `sleep` and the server's watch streams wait here for a moment of this
time. A thread moves time to the next such moment as soon as nothing has been asked of the server for a few milliseconds.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

EPOCH = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
#: Real seconds without a request after which everybody is taken to wait.
QUIET_SECONDS = 0.004
#: Looks in a row that must find every thread asleep: one that waits for the interpreter's lock looks asleep too.
LOOKS = 3
THREADS = Path("/proc/self/task")


class FakeTime:
    """One time for server, operators and engine, in seconds since the start; `lock` guards the whole cluster."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.seconds = 0.0
        self.skew_seconds = 0.0
        """How far the wall clock of the machines of the cluster is ahead of ours."""
        self.busy = 0
        """Requests being answered: while there are any, time stands still."""
        self.quiet_seconds = quiet_seconds
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: list[float] = []
        self._order = itertools.count()
        self._touched = time.monotonic()
        self._closed = False
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._move, name="fake-time", daemon=True)
        self._thread.start()

    def now(self) -> float:
        """Monotonic seconds: what the engine takes for `time.monotonic`."""
        return self.seconds

    def wall(self) -> datetime:
        """The cluster's wall clock."""
        return EPOCH + timedelta(seconds=self.seconds + self.skew_seconds)

    def stamp(self) -> str:
        """The cluster's wall clock as objects carry it: whole seconds."""
        return self.wall().strftime("%Y-%m-%dT%H:%M:%SZ")

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do `action` `seconds` from now."""
        with self.lock:
            heapq.heappush(self._agenda, (self.seconds + seconds, next(self._order), action))

    def touch(self) -> None:
        """Somebody does something: keep time standing for a moment."""
        self._touched = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of this time: what the engine takes for `time.sleep`."""
        with self.lock:
            self.wait_until(self.seconds + max(seconds, 0.0))

    def wait_until(self, moment: float, woken: Callable[[], bool] = lambda: False) -> None:
        """Wait, holding `lock`, until `moment` or until `woken()`."""
        self._waiting.append(moment)
        try:
            self.touch()
            while self.seconds < moment and not woken() and not self._closed:
                self.changed.wait(1.0)
        finally:
            self._waiting.remove(moment)
            self.touch()

    def close(self) -> None:
        """Let everybody go."""
        with self.lock:
            self._closed = True
            self.changed.notify_all()
        self._thread.join(5)

    @property
    def closed(self) -> bool:
        """Whether the test is over."""
        return self._closed

    def _move(self) -> None:
        quiet, before = 0, _others()
        while not self._closed:
            time.sleep(self.quiet_seconds / LOOKS)
            # None of them runs, and none has run since the last look: one that waits for the interpreter's lock gets it
            # between two looks, since this thread sleeps.
            others = _others()
            idle = others == before and not any(state in {"R", "D"} for state, _ in others.values())
            quiet, before = quiet + 1 if idle else 0, others
            with self.lock:
                if self.busy or quiet < LOOKS or time.monotonic() - self._touched < self.quiet_seconds:
                    continue
                quiet = 0
                # Streams that wait without end (logs) do not make time pass: the engine itself may be at work.
                next_wake = min(self._waiting, default=float("inf"))
                if next_wake == float("inf"):
                    continue
                moments = [next_wake, *(moment for moment, _, _ in self._agenda[:1])]
                self.seconds = max(self.seconds, min(moments))
                self._act()
                self.touch()
                self.changed.notify_all()

    def _act(self) -> None:
        while self._agenda and self._agenda[0][0] <= self.seconds:
            _, _, action = heapq.heappop(self._agenda)
            try:
                action()
            except BaseException as error:  # shown by the test's fixture
                self.errors.append(error)


def _others() -> dict[str, tuple[str, str]]:
    """State of this process's other threads and how often each was given a processor; empty where the system does not say."""
    own, found = str(threading.get_native_id()), {}
    for thread in THREADS.iterdir() if THREADS.is_dir() else ():
        # A thread may end meanwhile.
        with suppress(OSError):
            if thread.name != own:
                words = dict(line.partition(":")[::2] for line in (thread / "status").read_text().splitlines())
                switches = words["voluntary_ctxt_switches"] + words["nonvoluntary_ctxt_switches"]
                found[thread.name] = words["State"].split()[0], switches
    return found
