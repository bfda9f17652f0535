"""Every error Tutelage raises on purpose, and how a step ends.

    TutelageError                exit  outcome
    ├── InvalidInput               2   invalid    a recipe, flag, source or model that cannot be used
    │   └── MissingTool            2   invalid    something the machine lacks: Java, a wheel, a key
    ├── GateRefused                3   refused    policy, signature or licence said no
    ├── BudgetSpent                4   budget     tokens, time or money ran out before anything useful existed
    └── StepFailed                 1   failed     started and did not finish
        ├── NotFinite              1   failed     a loss, gradient or weight is NaN or infinite
        └── StoreError             1   failed     payloads, manifests and the places they live
            └── CorruptPayload     1   failed     files differ from what their manifest says

A message says what was wrong, the value and what is accepted; `hint` says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake in an input: where it stands, what is wrong with it, what to do."""

    where: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class TutelageError(Exception):
    """Root of the tree. Carries a hint, an exit code and the name of the outcome it causes."""

    exit_code = 1
    outcome = "failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class InvalidInput(TutelageError):
    """What was asked for cannot be used. Holds every problem found, not only the first."""

    exit_code = 2
    outcome = "invalid"

    def __init__(self, message: str, *, hint: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    @classmethod
    def from_problems(cls, subject: str, problems: Sequence[Problem]) -> InvalidInput:
        """One error that lists all problems of `subject`, each with its own hint."""
        lines = [f"{subject}: {len(problems)} problem{'s' if len(problems) != 1 else ''}"]
        for problem in problems:
            lines.append(f"  - {problem}")
            if problem.hint:
                lines.append(f"    hint: {problem.hint}")
        return cls("\n".join(lines), problems=problems)


class MissingTool(InvalidInput):
    """The machine lacks something the step needs."""


class GateRefused(TutelageError):
    """A gate said no: policy not met, or a verdict that cannot be trusted."""

    exit_code = 3
    outcome = "refused"


class BudgetSpent(TutelageError):
    """A budget ran out before there was anything worth keeping."""

    exit_code = 4
    outcome = "budget"


class StepFailed(TutelageError):
    """A step started and did not finish."""


class NotFinite(StepFailed):
    """Training left the numbers: NaN or infinity. The same data and settings would do it again."""


class StoreError(StepFailed):
    """The store could not be read or written."""


class CorruptPayload(StoreError):
    """A payload's files differ from its manifest, or the manifest is not where it says it is."""
