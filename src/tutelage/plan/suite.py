"""The evaluation Suite: items of all tasks in one frozen, sorted table, each with its source and licence.

Baseline and candidate are compared on the digest of this table, and training data is cleaned of its items. What cannot be an
item (bytes that are no UTF-8, no prompt, an answer that is no choice, a second copy) is dropped by reason and counted, never
repaired.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.contracts import sources
from tutelage.contracts.digests import canonical_json
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput
from tutelage.plan.base_model import licence_of
from tutelage.plan.suite_items import Content, content_of, with_distractors
from tutelage.plan.suite_rows import MALFORMED, NOT_UTF8, TRUNCATED, rows_of
from tutelage.plan.tasks import SUFFIXES, Task


@dataclass
class Items:
    """Items kept, and rows dropped with reasons (never their text)."""

    kept: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)

    def drop(self, task: str, item: str, reason: str, detail: str) -> None:
        """Note a row that is no item."""
        self.dropped.append({"id": item, "reason": reason, "source": task, "detail": detail})


def bring_in(tasks: Sequence[Task], cache: Path, location: str) -> Result:
    """Write the Suite's tables `items` and `dropped` to `location` and say what is in them. Raises InvalidInput."""
    from tutelage.contracts import tables

    every = Items()
    report: dict[str, dict[str, Any]] = {}
    for task in tasks:
        fetched = sources.fetch(task.uri, cache)
        items = read_task(task, fetched)
        if not items.kept:
            reasons = ", ".join(f"{count} {reason}" for reason, count in _reasons(items).items()) or "it is empty"
            raise InvalidInput(f"suite task {task.task!r} has no item: {reasons}", hint="check format and field names")
        every.kept += items.kept
        every.dropped += items.dropped
        entry = report.setdefault(task.task, {"type": task.type, "items": 0, "dropped": 0, "sources": []})
        if entry["type"] != task.type:
            raise InvalidInput(
                f"suite task {task.task!r} has two types: {entry['type']}, {task.type}", hint="rename one"
            )
        entry["items"] += len(items.kept)
        entry["dropped"] += len(items.dropped)
        entry["sources"].append(task.uri)
    _drop_copies(every)
    every.kept.sort(key=lambda row: (row["task"], row["id"]))
    every.dropped.sort(key=lambda row: (row["source"], row["id"], row["reason"]))
    digest = tables.write(every.kept, location, "items", tables.SUITE_ITEMS)
    tables.write(every.dropped, location, "dropped", tables.DROPPED)
    return Result(
        content_digest=digest.hexdigest(),
        rows=len(every.kept),
        rows_in=len(every.kept) + len(every.dropped),
        dropped=_reasons(every),
        licences=dict(sorted(Counter(str(row["licence"]) for row in every.kept).items())),
        details={"tasks": report},
    )


def read_task(task: Task, fetched: sources.Fetched) -> Items:
    """The items of one source, at most `limit`, each once, and what was dropped."""
    licence = licence_of(fetched, task.licence)
    # A path says where a file stands on one machine: its name and digest say the same everywhere.
    local = sources.parse(task.uri).scheme == "file"
    source = f"{fetched.path.name}#sha256={sources.content_digest(fetched.path)}" if local else task.uri
    provenance = {"source": source, "licence": licence}
    items = Items()
    for name, path in _files(task, fetched):
        for place, row in enumerate(rows_of(path, task.format), start=1):
            _add(items, task, row, f"{name}:{place}", provenance)
    _drop_copies(items)
    if task.distractors is not None:
        _add_distractors(items, task, task.distractors, provenance)
    items.kept.sort(key=lambda item: str(item["id"]))
    for item in items.kept[task.limit :] if task.limit is not None else []:
        items.drop(task.task, item["id"], "over_limit", "")
    items.kept = items.kept[: task.limit]
    return items


def _files(task: Task, fetched: sources.Fetched) -> list[tuple[str, Path]]:
    """A source that is one file, whatever it is called, or the files of a folder that have an ending of the format."""
    files = fetched.files()
    return files if fetched.path.is_file() else [file for file in files if file[0].endswith(SUFFIXES[task.format])]


def _add(items: Items, task: Task, row: Any, where: str, provenance: Mapping[str, Any]) -> None:
    if not isinstance(row, Mapping):
        items.drop(task.task, "", row if row in (NOT_UTF8, TRUNCATED) else MALFORMED, where)
        return
    content = content_of(task, row)
    if isinstance(content, str):
        items.drop(task.task, "", content, where)
        return
    try:
        items.kept.append(_item(task, content, provenance))
    except UnicodeEncodeError:
        items.drop(task.task, "", "not_unicode", where)


def _item(task: Task, content: Content, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A row of table `items`. Raises UnicodeEncodeError for text that has no UTF-8."""
    identity = canonical_json([task.task, content.prompt, content.choices, content.answer])
    return {
        "id": hashlib.sha256(identity).hexdigest()[:32],
        "task": task.task,
        "type": task.type,
        "prompt": content.prompt,
        "choices": content.choices,
        "answer": content.answer,
        "language": task.language,
        **provenance,
    }


def _add_distractors(items: Items, task: Task, number: int, provenance: Mapping[str, Any]) -> None:
    """Give every item, which has the right choice alone until now, its wrong ones."""
    right = [Content(item["prompt"], item["choices"], item["answer"]) for item in items.kept]
    kept, items.kept = items.kept, []
    for item, content in zip(kept, with_distractors(task.task, right, number), strict=True):
        if content is None:
            items.drop(task.task, item["id"], "no_distractors", "")
        else:
            items.kept.append(_item(task, content, provenance))


def _drop_copies(items: Items) -> None:
    seen: set[str] = set()
    kept = []
    for item in items.kept:
        if item["id"] in seen:
            items.drop(item["task"], item["id"], "duplicate", "")
        else:
            seen.add(item["id"])
            kept.append(item)
    items.kept = kept


def _reasons(items: Items) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in items.dropped).items()))
