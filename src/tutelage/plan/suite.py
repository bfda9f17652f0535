"""The evaluation Suite: items of all tasks in one frozen, sorted table, each with its source and licence.

Baseline and candidate are compared on the digest of this table, and training data is cleaned of its items. What cannot be an
item (bytes that are no UTF-8, no prompt, an answer that is no choice, a second copy) is dropped by reason and counted, never
repaired.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tutelage.config import Config
from tutelage.contracts import licences, sources
from tutelage.contracts.digests import canonical_json
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput
from tutelage.plan.base_model import licence_of

Format = Literal["jsonl", "json", "csv", "text"]
SUFFIXES: Mapping[Format, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "csv": (".csv",),
    "text": (".txt",),
}
#: Reasons for rows that cannot even be read.
MALFORMED, NOT_UTF8 = "malformed", "not_utf8"


class Task(Config):
    """One source of items."""

    task: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$")
    """What figures call it: accuracy/<task>. Lower-case letters, digits, - and _."""
    type: Literal["multiple_choice", "harmful", "harmless"]
    """multiple_choice (has an answer), harmful (to be refused) or harmless (not to be refused)."""
    uri: str
    """A path, file://, s3://, hf://datasets/… or wheel://…; of a folder, every file of the format."""
    format: Format
    """jsonl, json (a list of objects), csv (with a header) or text (a prompt a line)."""
    prompt: str | tuple[str, ...] = "prompt"
    """Field with the prompt; of several, the values are joined by newlines."""
    choices: str | tuple[str, ...] = "choices"
    """multiple_choice: the field with the list of choices, or one field for each."""
    answer: str = "answer"
    """multiple_choice: the field that says which choice is right."""
    answer_as: Literal["index", "letter", "text"] = "index"
    """How it says so: its place counted from 0, its letter (A, B …) or the choice itself."""
    limit: int | None = Field(default=None, ge=1)
    """Items at most: those whose ids, which are hashes of their content, come first."""
    licence: str
    """SPDX expression, `metadata` or NOASSERTION."""
    language: str | None = "en"
    """Language of the items."""

    _uri = field_validator("uri")(sources.checked_uri)
    _licence = field_validator("licence")(licences.declared)

    @model_validator(mode="after")
    def _text_has_no_choices(self) -> Task:
        if self.format == "text" and self.type == "multiple_choice":
            raise ValueError("format text holds prompts alone; multiple_choice takes jsonl, json or csv")
        return self


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
    items = Items()
    for name, path in fetched.files(SUFFIXES[task.format]):
        for place, row in enumerate(_rows(path, task.format), start=1):
            _add(items, task, row, f"{name}:{place}", {"source": source, "licence": licence})
    _drop_copies(items)
    items.kept.sort(key=lambda item: str(item["id"]))
    for item in items.kept[task.limit :] if task.limit is not None else []:
        items.drop(task.task, item["id"], "over_limit", "")
    items.kept = items.kept[: task.limit]
    return items


def _rows(path: Path, kind: Format) -> Iterator[Any]:
    """Rows of a file; a str stands for one that cannot be read, and is the reason."""
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if kind == "csv":
        yield from _csv_rows(data)
    elif kind == "json":
        whole = _json(data)
        yield from whole if isinstance(whole, list) else [whole if isinstance(whole, str) else MALFORMED]
    else:
        # A line ends at a line feed and nowhere else: str.splitlines() also cuts at U+2028, U+0085 and form feeds.
        for line in data.split(b"\n"):
            if line.strip():
                yield _json(line) if kind == "jsonl" else _prompt(line)


def _csv_rows(data: bytes) -> Iterator[Any]:
    # Bytes that are no UTF-8 become lone surrogates, which tell the rows that hold them.
    text = data.decode("utf-8", errors="surrogateescape")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in rows:
            yield row if _is_unicode(row) else NOT_UTF8
    except csv.Error:
        yield MALFORMED


def _is_unicode(row: Mapping[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _prompt(line: bytes) -> dict[str, str] | str:
    try:
        return {"prompt": line.decode("utf-8").strip()}
    except UnicodeDecodeError:
        return NOT_UTF8


def _json(data: bytes) -> Any:
    """A JSON object or list, or the reason why there is none."""
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return MALFORMED
    return value if isinstance(value, dict | list) else MALFORMED


def _add(items: Items, task: Task, row: Any, where: str, provenance: Mapping[str, str]) -> None:
    if not isinstance(row, Mapping):
        items.drop(task.task, "", row if row == NOT_UTF8 else MALFORMED, where)
        return
    content = _content(task, row)
    if isinstance(content, str):
        items.drop(task.task, "", content, where)
        return
    prompt, choices, answer = content
    try:
        identity = canonical_json([task.task, prompt, choices, answer])
    except UnicodeEncodeError:
        items.drop(task.task, "", "not_unicode", where)
        return
    items.kept.append(
        {
            "id": hashlib.sha256(identity).hexdigest()[:32],
            "task": task.task,
            "type": task.type,
            "prompt": prompt,
            "choices": choices,
            "answer": answer,
            "language": task.language,
            **provenance,
        }
    )


def _content(task: Task, row: Mapping[str, Any]) -> tuple[str, list[str] | None, int | None] | str:
    """Prompt, choices and place of the right one, or the reason why the row is no item."""
    names = ("prompt",) if task.format == "text" else _names(task.prompt)
    parts = [row.get(name) for name in names]
    if not all(isinstance(part, str) and part.strip() for part in parts):
        return "no_prompt"
    prompt = "\n".join(str(part).strip() for part in parts)
    if task.type != "multiple_choice":
        return prompt, None, None
    choices = _choices(task, row)
    if choices is None:
        return "no_choices"
    answer = _answer(task, row, choices)
    return (prompt, choices, answer) if answer is not None else "no_answer"


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _choices(task: Task, row: Mapping[str, Any]) -> list[str] | None:
    """At least two different non-empty choices, or None."""
    found = row.get(task.choices) if isinstance(task.choices, str) else [row.get(name) for name in task.choices]
    if not isinstance(found, list) or not all(isinstance(choice, str) and choice.strip() for choice in found):
        return None
    choices = [choice.strip() for choice in found]
    return choices if len(choices) >= 2 and len(set(choices)) == len(choices) else None


def _answer(task: Task, row: Mapping[str, Any], choices: list[str]) -> int | None:
    """Place of the right choice, or None when the row does not name one."""
    value = row.get(task.answer)
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if task.answer_as == "text":
        return choices.index(text) if text in choices else None
    if task.answer_as == "letter":
        place = ord(text.upper()) - ord("A") if len(text) == 1 else -1
    else:
        place = int(text) if text.isascii() and text.isdigit() else -1
    return place if 0 <= place < len(choices) else None


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
