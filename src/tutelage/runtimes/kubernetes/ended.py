"""What goes into the engine besides a job, and what comes out: the store's view, the run's record, the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tutelage.runtimes.kubernetes.api import ApiError
from tutelage.runtimes.kubernetes.causes import Cause
from tutelage.runtimes.kubernetes.jobs import Job, Object, Phase


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a job left in the store."""

    complete: bool
    """Whether outcome.json says done and every output's manifest is there and verifies."""
    outcome: Object | None = None
    """outcome.json, of rank 0 or of the rank that tells most; None where none was written."""
    problem: str | None = None
    """What is missing or wrong, where it is not complete."""
    unreachable: bool = False
    """The store did not answer: ask again."""


class Collect(Protocol):
    """Reads what a job left: the engine's only view of the store."""

    def __call__(self, job: Job, /) -> Collected:
        """Look now. Raises nothing for what is missing."""


class Tell(Protocol):
    """Appends an event to the run's record: `progress`, `warning`, `relaunched`."""

    def __call__(self, name: str, /, **fields: Any) -> None:
        """Append."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended, after all relaunches."""

    phase: Phase
    """SUCCEEDED only with a complete, verified manifest; else FAILED or GONE."""
    cause: Cause | None
    """None when it succeeded."""
    outcome: Object | None
    """What the step wrote, if it did."""
    attempts: int
    """Jobs that were started or adopted: 1 plus relaunches."""
    kept: tuple[str, ...]
    """Names of what is still on the cluster: with keep_failed, or behind a stuck finalizer."""
    job: str
    """Name of the last job."""


@dataclass
class Cancel:
    """Whether the run was told to end. A signal handler calls `request`: deletion first, everything else after."""

    requested: bool = False
    delete: Callable[[], object] | None = None
    """Set by the engine while there is something to delete; uses a connection that nothing else uses."""

    def request(self) -> None:
        """Ask the engine to stop. A handler may have 20 ms only, so the request to delete is sent at once."""
        self.requested = True
        if self.delete is not None:
            with suppress(ApiError, OSError):
                self.delete()
