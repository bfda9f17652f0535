"""A run's `events.jsonl`, read while it grows.

Tasks append one line per event (`tutelage.step.append_event`): time, event (started, progress, waiting, warning, failed,
finished), task (the label), step, and what the event says. The command line tails the file; the run page reads it whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of an event file from byte `offset` on, and the offset to go on from.

    A line still being written (no newline yet) is left for the next call; a line that is no JSON object, such as one torn by
    a full disk, comes back as a `warning` event that says so. Empty where there is no file yet.
    """
    if not path.is_file():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [_parse(line) for line in data[:end].splitlines() if line.strip()], offset + end


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and "event" in event:
        return event
    return {
        "time": None,
        "event": "warning",
        "task": None,
        "step": None,
        "message": f"torn event line of {len(line)} bytes",
    }


def payloads_in(events: Iterable[Event]) -> dict[str, dict[str, str]]:
    """Label → output name → location of the manifest, for every task that finished, those that reused work among them."""
    finished = (event for event in events if event["event"] == "finished")
    return {event["task"]: dict(event.get("outputs", {})) for event in finished}
