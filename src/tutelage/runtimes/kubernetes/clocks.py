"""Three clocks: waiting in a queue, starting, running. Each counts only while it applies, by a monotonic clock of this machine.

Time stamps of the API server and of nodes are never compared with ours, so skewed clocks change nothing. A job that is
suspended, by Kueue or by a person, waits in a queue: its start and run clocks stand still.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tutelage.runtimes.kubernetes.causes import Cause, CauseKind
from tutelage.runtimes.kubernetes.jobs import Observation, Phase

#: Phase → the clock that runs in it.
RUNS_IN = {
    Phase.QUEUED: "queue", Phase.PENDING: "start", Phase.RUNNING: "run", Phase.RESTARTING: "run",
}  # fmt: skip


@dataclass(kw_only=True)
class Clocks:
    """Limits in seconds (None: unlimited), and what was spent. `now` and `sleep` are given by tests."""

    queue_seconds: float | None = None
    """All waits for admission together."""
    start_seconds: float | None = 1800
    """From admission until a container runs, of Spark an executor's; starts anew with each admission."""
    run_seconds: float | None = 86_400
    """All time running of one job."""
    grace_seconds: float = 120
    """How long what will hardly mend (an image that cannot be pulled, denied quota) may last before it is fatal."""
    report_seconds: float = 60
    """How often phase and reason are said when nothing changes; a queued job is looked at as often."""
    look_seconds: float = 15
    """Longest time between two looks at the pods; also how long one watch lasts."""
    stale_seconds: float = 60
    """How long a job may stay Running after its step has written its end (hung ranks) before that end counts."""
    settle_seconds: float = 60
    """How long logs of ended containers and an unreachable store are waited for."""
    delete_seconds: float = 120
    """How long a deleted object may take to go before it is reported as stuck."""
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    spent: dict[str, float] = field(default_factory=lambda: {"queue": 0.0, "start": 0.0, "run": 0.0})
    """Seconds that each clock has counted."""
    _counting: str | None = None
    _since: float = 0.0
    _lasting: tuple[CauseKind, float] | None = None

    def restart(self) -> None:
        """Begin another job: start and run at zero. What was spent in queues stays spent."""
        self.spent.update(start=0.0, run=0.0)
        self._counting, self._lasting = None, None

    def see(self, observation: Observation) -> Cause | None:
        """Count the time since the last look under the phase seen then. Gives the cause when a clock has ended."""
        now = self.now()
        if self._counting is not None:
            self.spent[self._counting] += now - self._since
        before = self._counting
        self._counting = "queue" if observation.suspended else RUNS_IN.get(observation.phase)
        self._since = now
        if before == "queue" and self._counting == "start":
            self.spent["start"] = 0.0
        return self._ended(observation)

    def lasts(self, cause: Cause | None) -> bool:
        """Whether a cause of this kind has been seen at every look for `grace_seconds`."""
        if cause is None:
            self._lasting = None
            return False
        if self._lasting is None or self._lasting[0] != cause.kind:
            self._lasting = (cause.kind, self.now())
        return self.now() - self._lasting[1] >= self.grace_seconds

    def _ended(self, observation: Observation) -> Cause | None:
        name = self._counting
        if name is None:
            return None
        limit = {"queue": self.queue_seconds, "start": self.start_seconds, "run": self.run_seconds}[name]
        if limit is None or self.spent[name] < limit:
            return None
        what = {"queue": "not admitted by its queue", "start": "not started", "run": "still running"}[name]
        why = observation.queue_reason or observation.message or observation.reason
        return Cause(
            kind=CauseKind.DEADLINE,
            message=f"{what} after {self.spent[name]:.0f} s, {name}_seconds is {limit:.0f}"
            + (f": {why}" if why else ""),
            hint=f"raise cluster.clocks.{name}_seconds, or look at what it waited for",
        )
