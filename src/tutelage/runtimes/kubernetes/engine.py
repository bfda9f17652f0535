"""One engine that runs any job-like custom resource to its end.

    ensure ── watch ── collect ── clean       queued → pending → running ⇄ restarting → succeeded | failed | gone
       ↑_____ relaunch (what came from outside, a bounded number of times)

Rules:
- A name is taken once (ensure.py). On 409 the object is adopted when its spec hash is ours and nobody is deleting it; another
  spec is refused. A create whose answer was lost is looked up, never assumed.
- Launches of one task never work at once (launches.py), nor do those of several runs at one step key (sharing.py).
- What the step wrote decides, the operator's word does not: SUCCEEDED needs an outcome `done` and every output's manifest,
  verified. With them a job counts as done even where a rank hangs (after `stale_seconds`), a peer failed in its last breath, or
  somebody deleted the object: the work exists, and the next run would find it. A job that "succeeded" while workers still
  run is waited for, since rank 0 may be the one that is writing.
- Nothing is left: object and pods are deleted by name and uid and waited for; what a finalizer holds is reported. A failed
  job is deleted only after its logs and its cause are collected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.runtimes.kubernetes import causes
from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.causes import Cause, CauseKind
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.ended import Cancel, Collect, Collected, Done, Ended, Memory, Share, Tell
from tutelage.runtimes.kubernetes.ensure import NameTaken, Prepare, Refused, ensure
from tutelage.runtimes.kubernetes.evidence import Evidence
from tutelage.runtimes.kubernetes.jobs import Job, Object, Observation, Phase
from tutelage.runtimes.kubernetes.launches import Superseded, latest, ordinal_of
from tutelage.runtimes.kubernetes.logs import Follower, TaskLog
from tutelage.runtimes.kubernetes.names import KEPT_LABEL
from tutelage.runtimes.kubernetes.reaping import cancel_run, reap

__all__ = ["Cancel", "Collect", "Collected", "Ended", "NameTaken", "Tell", "cancel_run", "reap", "run_to_end"]

log = logging.getLogger("tutelage")
POLL_SECONDS = 1.0
#: How a launch ended: phase, cause, what the store holds.
End = tuple[Phase, Cause | None, Collected]


def run_to_end(
    job: Job,
    api: Api,
    *,
    clocks: Clocks,
    log_file: Path,
    event: Tell,
    collect: Collect,
    prepare: Prepare = lambda job: None,
    follow: Callable[[Object], None] = lambda found: None,
    relaunches: int = 2,
    keep_failed: bool = False,
    memory: Memory | None = None,
    share: Share | None = None,
    cancel: Cancel | None = None,
    passed: Callable[[dict[str, Any]], None] | None = None,
) -> Ended:
    """Make `job` exist, follow it to its end, collect, clean up, and relaunch what something outside ended.

    `prepare` is called before an object is asked for, and `follow` with the one that is there then: ours, or that of another
    launcher of this task. `memory` counts launches for launchers to come, `share` keeps other runs from the same work; `passed`
    gets the events that the step prints. Raises NameTaken, and ApiError where the API server stays away longer than its budget.
    """
    cancel = cancel or Cancel()

    def begun() -> int:
        return max(latest(api, job), memory.last(job) if memory else 0)

    ordinal = begun()
    task_log, around = TaskLog(log_file, passed), _Around(prepare, follow, memory, share)
    attempts = 0
    try:
        while True:
            attempts += 1
            current = job if ordinal == 0 else job.relaunched(ordinal)
            clocks.restart()
            launch = _Launch(current, api, clocks, task_log, event, collect, cancel, around)
            try:
                (phase, cause, collected), kept = launch.to_end(keep_failed, may_relaunch=ordinal < relaunches)
            except Superseded as later:
                ordinal = later.ordinal
                continue
            if phase is Phase.GONE and (ahead := begun()) > ordinal:
                # Deleted by another launcher of this task, which has gone on to the next one.
                ordinal = ahead
                continue
            retry = (
                phase is Phase.FAILED and cause is not None and cause.retryable and ordinal < relaunches and not kept
            )
            if not retry or cause is None:
                return Ended(
                    phase=phase, cause=cause, outcome=collected.outcome, attempts=attempts, kept=kept, job=current.name
                )
            ordinal += 1
            log.warning("%s: %s: %s; relaunch %d of %d", job.name, cause.kind, cause.message, ordinal, relaunches)
            event("relaunched", ordinal=ordinal, limit=relaunches, reason=cause.kind.value, message=cause.message)
    finally:
        cancel.delete = None
        task_log.close()


class _Around(NamedTuple):
    """What surrounds a launch (run_to_end)."""

    prepare: Prepare
    follow: Callable[[Object], None]
    memory: Memory | None
    share: Share | None


class _Launch:
    """One launch of a job, from ensure to clean."""

    def __init__(
        self, job: Job, api: Api, clocks: Clocks, task_log: TaskLog, event: Tell, collect: Collect, cancel: Cancel,
        around: _Around,
    ) -> None:  # fmt: skip
        self.job, self.api, self.clocks = job, api, clocks
        self.event, self.collect, self.cancel, self.around = event, collect, cancel, around
        self.evidence = Evidence(api, job, clocks.now)
        self.follower = Follower(api, task_log, clocks.sleep)
        self.uid = ""
        self.seen = Observation(phase=Phase.PENDING)
        self._said: tuple[str, ...] = ()
        self._said_at = self._collected_at = float("-inf")
        self._stale_since: float | None = None

    def to_end(self, keep_failed: bool, *, may_relaunch: bool) -> tuple[End, tuple[str, ...]]:
        """How it ended, and the names of what is left on the cluster. Raises Superseded."""
        try:
            found = self._exist()
            while found is None:
                found = self._exist()
        except Refused as refused:
            return (Phase.FAILED, refused.cause, Collected(complete=False)), ()
        except Done as done:
            log.info("%s: not made, another job has done the work", self.job.name)
            return (Phase.SUCCEEDED, None, done.collected), ()
        try:
            end = self._follow(found)
            phase, cause, _ = end
            if cause is None or cause.kind is not CauseKind.CANCELLED:
                self._settle_logs()
            retried = phase is Phase.FAILED and cause is not None and cause.retryable and may_relaunch
            # Only what has ended is kept: a job that ran out of time, or hangs, would go on working.
            may_keep = phase is Phase.FAILED and self.seen.phase is Phase.FAILED and not retried
            if keep_failed and may_keep and self._keep():
                return end, (self.job.name,)
            if retried and self.around.memory is not None:
                self.around.memory.note(self.job, ordinal_of(self.job.body) + 1)
            return end, self._clean(gone=phase is Phase.GONE)
        finally:
            self.cancel.delete = None
            self.follower.close()

    def _exist(self) -> Object | None:
        """The job on the cluster, ours to follow. None: it had to give way to another run's, and goes."""
        prepare, follow, _, share = self.around
        cancelled = lambda: self.cancel.requested
        wait = partial(share.wait, self.job, cancelled) if share else lambda: False
        found, adopted = ensure(self.api, self.job, self.clocks, prepare, cancelled, wait)
        self.uid = str(found["metadata"]["uid"])
        self._arm()
        how = "adopted" if adopted else "created"
        log.info("%s: %s %s", self.job.name, how, self.job.resource.kind)
        self.event("progress", phase=how, job=self.job.name)
        follow(found)
        claimed = share.claim(self.job, found, cancelled) if share else found
        if claimed is None:
            self.cancel.delete = None
            self.api.delete(self.job.resource, self.job.name, self.uid)
        return claimed

    def _arm(self) -> None:
        """Let the signal handler delete this job, over a connection that only it uses."""
        spare, resource, name, uid = self.api.another(), self.job.resource, self.job.name, self.uid
        self.cancel.delete = lambda: spare.delete(resource, name, uid)
        if self.cancel.requested:
            self.cancel.request()

    # --- watch ---

    def _follow(self, found: Object | None) -> End:
        """Look, then wait for a change, until the job has ended one way or another."""
        while True:
            ended = self._look(found)
            if ended is not None:
                return ended
            found = (self._changed(found) if found else None) or self._get()

    def _get(self) -> Object | None:
        found = self.api.get(self.job.resource, self.job.name)
        # Another object of that name is not ours: ours is gone.
        return found if found is None or found["metadata"]["uid"] == self.uid else None

    def _changed(self, found: Object) -> Object | None:
        """The object's next state; None when it is time to look again: a while has passed, or the watch expired or broke."""
        slow = self.seen.phase is Phase.QUEUED or self.seen.suspended
        seconds = self.clocks.report_seconds if slow else self.clocks.look_seconds
        started, since = self.clocks.now(), str(found["metadata"]["resourceVersion"])
        try:
            changes = self.api.watch(self.job.resource, self.job.name, since, max(1, round(seconds)))
            with closing(changes):
                for change in changes:
                    if change.type in ("ADDED", "MODIFIED") and change.object["metadata"]["uid"] == self.uid:
                        return change.object
                    if change.type == "DELETED":
                        return None
        except ApiError as error:
            if error.status != 410 and not error.retryable:
                raise
        if self.clocks.now() - started < POLL_SECONDS:
            # A server that ends watches at once must not be asked without pause.
            self.clocks.sleep(POLL_SECONDS)
        return None

    def _look(self, found: Object | None) -> End | None:
        """Read object, pods and events; None while the job goes on."""
        if self.cancel.requested:
            told = causes.cause(CauseKind.CANCELLED, "the run was told to end")
            return Phase.FAILED, told, Collected(complete=False)
        pods = self.evidence.look()
        self.follower.see(pods, self.job.log_sources(pods))
        seen = self.seen = self.job.observe(found, pods, self._events())
        if seen.suspended:
            self.evidence.forget()
        self._say(seen)
        late = self.clocks.see(seen)
        if found is None or seen.phase is Phase.GONE:
            return self._gone()
        if seen.phase is Phase.SUCCEEDED:
            return self._succeeded()
        if seen.phase is Phase.FAILED:
            return self._failed(seen.cause, seen.message)
        if late is not None:
            return self._failed(self._why_late(late, found))
        if self.clocks.lasts(None if seen.suspended else seen.cause):
            return self._failed(seen.cause)
        return self._stale(seen)

    # --- what an end means ---

    def _gone(self) -> End:
        collected = self._collect()
        if collected.complete:
            self._warn("the job is gone, but its outputs are complete")
            return Phase.SUCCEEDED, None, collected
        what = f"{self.job.resource.kind} {self.job.name} was deleted by somebody else"
        return Phase.GONE, causes.cause(CauseKind.DELETED, what, "run it again; finished steps are reused"), collected

    def _succeeded(self) -> End | None:
        """The operator's success counts with a complete manifest; without one, workers that still run are waited for."""
        collected = self._collect()
        if collected.complete:
            return Phase.SUCCEEDED, None, collected
        if self.evidence.running():
            running = Observation(phase=Phase.RUNNING, reason="WorkersStillRunning")
            late = self.clocks.see(running)
            return self._failed(late) if late else self._stale(running, collected)
        why = causes.best([causes.of_outcome(collected.outcome), causes.of_pods(self.evidence.recent())])
        missing = f"ended well but left nothing usable: {collected.problem or 'no outcome.json'}"
        unknown = causes.cause(CauseKind.UNKNOWN, missing, "its log says more")
        return Phase.FAILED, self._known(why or unknown, collected), collected

    def _failed(self, seen: Cause | None, message: str = "") -> End:
        collected = self._collect()
        if collected.complete:
            self._warn(f"the job failed after its outputs were complete: {seen.message if seen else message}")
            return Phase.SUCCEEDED, None, collected
        order = [causes.of_outcome(collected.outcome), seen, causes.of_pods(self.evidence.recent())]
        unknown = causes.cause(CauseKind.UNKNOWN, message or "no reason given", "its log says more")
        return Phase.FAILED, self._known(causes.best(order) or unknown, collected), collected

    def _known(self, cause: Cause, collected: Collected) -> Cause:
        """The cause, or where it is unknown what events tell of pods that went, and the scheduler of pods waited for in vain."""
        gone = causes.of_disruptions(self.evidence.events_of_gone()) if cause.kind is CauseKind.UNKNOWN else None
        return gone or causes.waited_for(cause, collected.outcome, self.evidence.recent())

    def _stale(self, seen: Observation, collected: Collected | None = None) -> End | None:
        """Whether the step wrote its end, but the job goes on regardless: ranks that hang. Ended after `stale_seconds`."""
        if seen.phase not in (Phase.RUNNING, Phase.RESTARTING) or seen.suspended:
            self._stale_since = None
            return None
        if collected is None:
            if self.clocks.now() - self._collected_at < min(self.clocks.look_seconds, self.clocks.stale_seconds):
                return None
            collected = self._collect(patient=False)
        why = causes.of_outcome(collected.outcome)
        if not collected.complete and why is None:
            self._stale_since = None
            return None
        if self._stale_since is None:
            self._stale_since = self.clocks.now()
        if self.clocks.now() - self._stale_since < self.clocks.stale_seconds:
            return None
        self._warn("the step has ended, but the job still runs: ranks hang, and the job is deleted")
        if collected.complete:
            return Phase.SUCCEEDED, None, collected
        return Phase.FAILED, causes.best([why, causes.of_pods(self.evidence.recent())]), collected

    def _why_late(self, late: Cause, found: Object) -> Cause:
        """What the job waited for when its start clock ended; the clock itself where nothing is known."""
        if self.seen.phase is not Phase.PENDING or self.seen.suspended:
            return late
        pods = self.evidence.pods
        known = causes.best(
            [self.seen.cause, causes.unschedulable(pods), causes.of_waiting(pods), causes.of_events(self._events())]
        )
        if known is None and not pods and not found.get("status"):
            untouched = f"no operator has touched {self.job.resource.kind} {self.job.name}"
            known = causes.cause(CauseKind.OPERATOR_MISSING, untouched)
        return late if known is None else causes.cause(known.kind, f"{late.message}; {known.message}", known.hint)

    def _collect(self, *, patient: bool = True) -> Collected:
        """What the store holds; a store that does not answer is asked again for `settle_seconds`."""
        until = self.clocks.now() + self.clocks.settle_seconds
        while True:
            collected = self.collect(self.job)
            self._collected_at = self.clocks.now()
            if not collected.unreachable or not patient or self.clocks.now() >= until:
                return collected
            self.clocks.sleep(5 * POLL_SECONDS)

    # --- say ---

    def _events(self) -> list[Object]:
        readable = self.evidence.denied is None
        found = self.evidence.events(self.uid)
        if readable and self.evidence.denied is not None:
            self._warn(f"events cannot be read, so a denied quota shows late: {self.evidence.denied}")
        return found

    def _say(self, seen: Observation) -> None:
        """Phase and reason: at once when they change, and every minute."""
        now = self.clocks.now()
        said = (seen.phase.value, seen.reason, seen.queue_reason or "")
        if said == self._said and now - self._said_at < self.clocks.report_seconds:
            return
        self._said, self._said_at = said, now
        why = seen.queue_reason or seen.message
        reason = f" ({seen.reason})" if seen.reason else ""
        log.info("%s: %s%s%s", self.job.name, seen.phase.value, reason, f": {why}" if why else "")
        spent = {f"{name}_seconds": round(value, 1) for name, value in self.clocks.spent.items()}
        fields = {"phase": seen.phase.value, "reason": seen.reason, "message": why, "suspended": seen.suspended}
        self.event("progress", job=self.job.name, **fields, **spent)

    def _warn(self, message: str) -> None:
        log.warning("%s: %s", self.job.name, message)
        self.event("warning", message=f"{self.job.name}: {message}")

    # --- clean ---

    def _settle_logs(self) -> None:
        """Wait for the logs of ended containers: deletion takes them away. Those of running ones end with their pod.

        `settle_seconds` is for streams that say nothing more; while lines come, time does not count, and an API server
        that refuses us may do so for as long as with any other request.
        """
        limits = {True: self.api.budget_seconds, False: self.clocks.settle_seconds}
        spent = {True: 0.0, False: 0.0}
        lines, since = self.follower.lines(), self.clocks.now()
        while self.follower.unfinished(ended_only=True):
            refused = self.follower.refused()
            self.clocks.sleep(POLL_SECONDS if refused else POLL_SECONDS / 4)
            now, more = self.clocks.now(), self.follower.lines()
            if more == lines:
                spent[refused] += now - since
                if spent[refused] >= limits[refused]:
                    self._warn("logs of ended containers could not be read to their end")
                    return
            lines, since = more, now

    def _keep(self) -> bool:
        """Mark the job as one that only its Workflow's end removes (reaping.py), or its own after a day."""
        try:
            self.api.patch(self.job.resource, self.job.name, {"metadata": {"labels": {KEPT_LABEL: "true"}}})
        except ApiError as error:
            self._warn(f"not kept: {error.message}")
            return False
        return True

    def _clean(self, *, gone: bool) -> tuple[str, ...]:
        """Delete the job, wait for it, its pods and their last lines. Gives the names of what does not go."""
        try:
            if not gone:
                self.api.delete(self.job.resource, self.job.name, self.uid)
            left = self._wait_for_nothing()
        except ApiError as error:
            # How the job ended is known; that must not be lost over sweeping up.
            self._warn(f"not cleaned up: {error.message}")
            return (self.job.name,)
        if left:
            self._warn(f"deleted, but there after {self.clocks.delete_seconds:.0f} s (a finalizer?): {', '.join(left)}")
        return left

    def _wait_for_nothing(self) -> tuple[str, ...]:
        """Names of what is still there when nothing more comes, or `delete_seconds` after the deletion."""
        until = self.clocks.now() + self.clocks.delete_seconds
        while True:
            pods = self.evidence.look()
            self.follower.see(pods, self.job.log_sources(pods))
            left: tuple[str, ...] = (self.job.name,) if self._get() is not None else ()
            left += tuple(f"pod/{pod['metadata']['name']}" for pod in pods)
            quiet = not self.follower.unfinished(ended_only=False)
            if (not left and quiet) or self.clocks.now() >= until:
                torn = self.follower.torn() if quiet else ["not all streams have ended"]
                if torn:
                    self._warn(f"the end of a log could not be read: {', '.join(torn)}")
                return left
            self.clocks.sleep(POLL_SECONDS)
