"""What a model cost: measured figures of every step that left some, stage by stage. What was not measured is not shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import OBSERVATIONS_NAME, Manifest
from tutelage.errors import StoreError

#: In the order of the line.
STAGES = ("plan", "data", "train", "evaluate", "release", "serve")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One step's cost, or None where it was not measured."""

    name: str
    step: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: float | None = None
    tokens: float | None = None
    tokens_per_second: float | None = None
    energy_joules: float | None = None

    @property
    def stage(self) -> str:
        """Stage of the step."""
        return self.step.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Bill:
    """All costs, totals by stage, and the sums."""

    rows: tuple[Cost, ...]
    stages: tuple[Cost, ...]
    total: Cost


def bill(payloads: Iterable[tuple[str, Manifest]]) -> Bill:
    """The bill of (name, payload) pairs; a step with two outputs is counted once."""
    rows, seen = [], set()
    for name, manifest in payloads:
        observed = observations(manifest)
        if not observed or (manifest.step_key, manifest.attempt) in seen:
            continue
        seen.add((manifest.step_key, manifest.attempt))
        objective = manifest.details.get("objective")
        rows.append(
            Cost(
                name=f"{name} ({objective})" if objective and str(objective) not in name else name,
                step=manifest.step,
                seconds=observed.get("seconds"),
                cpu_seconds=observed.get("cpu_seconds"),
                memory_bytes=observed.get("peak_memory_bytes"),
                tokens=_number(manifest.details.get("tokens_trained")),
                tokens_per_second=observed.get("tokens_per_second"),
                energy_joules=observed.get("energy_joules"),
            )
        )
    found = {row.stage for row in rows}
    stages = [stage for stage in STAGES if stage in found] + sorted(found - set(STAGES))
    return Bill(
        rows=tuple(rows),
        stages=tuple(_sum(stage, [row for row in rows if row.stage == stage]) for stage in stages),
        total=_sum("", rows),
    )


def observations(manifest: Manifest) -> dict[str, float]:
    """What was measured while the payload was made; empty where nothing is on record."""
    try:
        values = json.loads(locations.read_bytes(locations.join(manifest.location, OBSERVATIONS_NAME)))
    except (OSError, StoreError, ValueError):
        return {}
    numbers = values if isinstance(values, Mapping) else {}
    return {key: value for key, value in numbers.items() if isinstance(value, int | float)}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _sum(stage: str, rows: list[Cost]) -> Cost:
    """Sums of what was measured; of memory the largest."""

    def added(name: str) -> float | None:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        return (max(values) if name == "memory_bytes" else sum(values)) if values else None

    measured = {name: added(name) for name in ("seconds", "cpu_seconds", "memory_bytes", "tokens", "energy_joules")}
    return Cost(name=stage, step=stage, **measured)
