"""How the tasks of a run on a cluster ended, told through the store: what `tutelage submit` reads.

    STORE/runs/<run>/<task>.json      one event, as events.jsonl holds it on a laptop; the last try's

Kubeflow's API says of a task that it failed, never why: its launcher turns every exit code into 1, and what a task writes goes to
a log that only the cluster's people can read. The store is shared by cluster and command line anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tutelage.contracts import locations
from tutelage.errors import StoreError

FOLDER = "runs"
ENDS = ("finished", "failed")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def tell(store_root: str, run: str, event: Mapping[str, Any]) -> None:
    """Write a task's end. Other events are passed over. Raises StoreError, OSError."""
    if event["event"] in ENDS:
        locations.write_bytes(_place(store_root, run, str(event["task"])), json.dumps(dict(event)).encode())


def read_all(store_root: str, run: str) -> list[dict[str, Any]]:
    """The ends of a run's tasks in the order in which they came. Raises StoreError, OSError where the store cannot be read."""
    folder = locations.join(store_root, FOLDER, _name(run))
    found = []
    for file, _ in sorted(locations.list_files(folder)):
        if file.endswith(".json"):
            try:
                found.append(json.loads(locations.read_bytes(locations.join(folder, file))))
            except ValueError as error:
                raise StoreError(f"{locations.join(folder, file)} is torn: {error}", hint="remove it") from error
    return sorted(found, key=lambda event: (str(event.get("time", "")), str(event.get("task", ""))))


def _place(store_root: str, run: str, task: str) -> str:
    return locations.join(store_root, FOLDER, _name(run), f"{_name(task)}.json")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise StoreError(f"not a name of a run or task: {text!r}", hint="accepted: letters, digits, '.', '_' and '-'")
    return text
