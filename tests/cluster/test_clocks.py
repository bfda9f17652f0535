"""Clocks that count only what they are for."""

from __future__ import annotations

import pytest

from tutelage.runtimes.kubernetes.causes import CauseKind, cause
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.jobs import Observation, Phase

QUEUED = Observation(phase=Phase.QUEUED, suspended=True, queue_reason="no quota in cohort")
PENDING = Observation(phase=Phase.PENDING, reason="ContainerCreating")
RUNNING = Observation(phase=Phase.RUNNING)
HELD_WHILE_RUNNING = Observation(phase=Phase.RUNNING, suspended=True)


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds


def clocks(time: Time, **limits: float | None) -> Clocks:
    return Clocks(**{"queue_seconds": None, "start_seconds": 60, "run_seconds": 100, **limits}, now=time.now)


def looks(time: Time, given: Clocks, *steps: tuple[Observation, float]) -> CauseKind | None:
    """Show each observation, let its seconds pass; the kind of the first cause that a clock gives."""
    for observation, seconds in steps:
        found = given.see(observation)
        if found is not None:
            return found.kind
        time.seconds += seconds
    return None


def test_hours_in_a_queue_spend_no_start_or_run_time() -> None:
    time = Time()
    given = clocks(time)
    assert looks(time, given, (QUEUED, 36_000), (PENDING, 50), (RUNNING, 99), (RUNNING, 0)) is None
    assert given.spent == {"queue": 36_000, "start": 50, "run": 99}


def test_a_queue_clock_ends_when_one_is_set_and_says_what_the_queue_said() -> None:
    time = Time()
    given = clocks(time, queue_seconds=3600)
    assert looks(time, given, (QUEUED, 3599), (QUEUED, 1)) is None
    late = given.see(QUEUED)
    assert late is not None and late.kind is CauseKind.DEADLINE
    assert "no quota in cohort" in late.message and "queue_seconds is 3600" in late.message


def test_the_start_clock_begins_anew_when_a_preempted_job_is_admitted_again() -> None:
    time = Time()
    steps = [(PENDING, 50.0), (RUNNING, 30.0), (QUEUED, 500.0), (PENDING, 50.0), (RUNNING, 30.0), (RUNNING, 0.0)]
    given = clocks(time)
    assert looks(time, given, *steps) is None
    assert given.spent["run"] == 60


def test_after_readmission_the_start_clock_counts_from_zero_and_ends_by_itself() -> None:
    time = Time()
    given = clocks(time)
    # 50 s, and 59 s after readmission, are each less than 60 s; together they are not.
    assert looks(time, given, (PENDING, 50), (QUEUED, 500), (PENDING, 40), (PENDING, 19), (PENDING, 1)) is None
    assert given.spent["start"] == 59
    assert looks(time, given, (PENDING, 0)) is CauseKind.DEADLINE


def test_run_time_adds_up_over_interruptions_until_it_is_spent() -> None:
    time = Time()
    steps = [(RUNNING, 60.0), (QUEUED, 1000.0), (PENDING, 5.0), (RUNNING, 39.0), (RUNNING, 1.0), (RUNNING, 0.0)]
    assert looks(time, clocks(time), *steps) is CauseKind.DEADLINE


def test_a_job_that_is_held_while_its_condition_says_running_spends_no_run_time() -> None:
    time = Time()
    given = clocks(time)
    assert looks(time, given, (RUNNING, 10), (HELD_WHILE_RUNNING, 9000), (RUNNING, 10), (RUNNING, 0)) is None
    assert given.spent["run"] == 20


def test_a_job_that_never_starts_is_late() -> None:
    time = Time()
    assert looks(time, clocks(time), (PENDING, 59), (PENDING, 1), (PENDING, 0)) is CauseKind.DEADLINE


@pytest.mark.parametrize("limit", ["queue_seconds", "start_seconds", "run_seconds"])
def test_a_clock_without_limit_never_ends(limit: str) -> None:
    time = Time()
    given = clocks(time, **{"queue_seconds": 1, "start_seconds": 1, "run_seconds": 1, limit: None})
    shown = {"queue_seconds": QUEUED, "start_seconds": PENDING, "run_seconds": RUNNING}[limit]
    assert looks(time, given, (shown, 1e9), (shown, 0)) is None


def test_a_hopeless_cause_is_fatal_only_when_it_lasts() -> None:
    time = Time()
    given = Clocks(grace_seconds=30, now=time.now)
    image, quota = cause(CauseKind.IMAGE, "ErrImagePull"), cause(CauseKind.QUOTA, "exceeded quota")
    assert not given.lasts(image)
    time.seconds += 29
    assert not given.lasts(image)
    assert not given.lasts(None)  # it mended
    assert not given.lasts(image)
    time.seconds += 29
    assert not given.lasts(quota)  # another cause waits from its own beginning
    time.seconds += 30
    assert given.lasts(quota)


def test_another_launch_keeps_what_was_spent_in_queues_alone() -> None:
    time = Time()
    given = clocks(time)
    looks(time, given, (QUEUED, 7), (PENDING, 8), (RUNNING, 9), (RUNNING, 0))
    given.restart()
    assert given.spent == {"queue": 7, "start": 0, "run": 0}
