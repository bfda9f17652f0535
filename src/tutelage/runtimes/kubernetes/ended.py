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


class Done(Exception):
    """The work was done by another job. Raised to the engine only."""

    def __init__(self, collected: Collected) -> None:
        super().__init__("done by another job")
        self.collected = collected


class Memory(Protocol):
    """How many launches a job had, where it outlives the launcher and the objects."""

    def last(self, job: Job, /) -> int:
        """The launch that was to come next when the one before was ended; 0 without any."""

    def note(self, job: Job, ordinal: int, /) -> None:
        """Launch `ordinal` comes next; called before the one before it is deleted."""


class Share(Protocol):
    """Other runs that do the same work (sharing.py)."""

    def wait(self, job: Job, cancelled: Callable[[], bool], /) -> bool:
        """Wait while another job does this work. Whether it was waited for. Raises Done."""

    def claim(self, job: Job, found: Object, cancelled: Callable[[], bool], /) -> Object | None:
        """The object, as the one that does the work from now on; None where it has to give way."""


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
