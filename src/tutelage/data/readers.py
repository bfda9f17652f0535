"""Files of sources → drafts of rows, a reader for each format. What cannot be read is a draft with a reason, never a crash."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.contracts.licences import UNKNOWN, normalise
from tutelage.data import python_code
from tutelage.data.conversations import NotARow, canned, content_of, conversation_of, metadata_of
from tutelage.data.sources import Source
from tutelage.errors import InvalidInput

#: Bytes of one YAML file, at most: reading a megabyte takes about ten seconds.
MAXIMUM_YAML_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Draft:
    """What a reader finds: a row's content, or, with a reason, that there is none."""

    content: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    group: str | None = None
    language: str | None = None
    reason: str | None = None
    detail: str = ""


Reader = Callable[[Source, Path, Counter[str]], Iterator[Draft]]


def _decoded(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")


def _read_text(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    try:
        text = _decoded(path)
    except UnicodeDecodeError as error:
        yield Draft(reason="not_utf8", detail=f"byte {error.start}")
        return
    yield Draft({"text": text}) if text.strip() else Draft(reason="empty")


def _read_python(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    try:
        text = _decoded(path)
        tree = python_code.parse(text)
    except UnicodeDecodeError as error:
        yield Draft(reason="not_utf8", detail=f"byte {error.start}")
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield Draft(reason="unparsable_python", detail=f"line {getattr(error, 'lineno', None) or 1}")
        return
    if source.format == "python_docstrings":
        for name, docstring in python_code.docstrings(tree):
            if _fits(source, len(docstring), passed_over):
                yield Draft({"text": docstring}, {"name": name})
        return
    found = list(python_code.functions(text, tree))
    yield from (_preferences if source.phase == "dpo" else _examples)(source, found, passed_over)


def _fits(source: Source, characters: int, passed_over: Counter[str]) -> bool:
    if characters < source.minimum_characters:
        passed_over["too_short"] += 1
        return False
    if source.maximum_characters is not None and characters > source.maximum_characters:
        passed_over["too_long"] += 1
        return False
    return True


def _examples(source: Source, found: list[python_code.Function], passed_over: Counter[str]) -> Iterator[Draft]:
    for function in found:
        if _fits(source, len(function.exercise) + len(function.answer()), passed_over):
            turns = [_turn("user", function.exercise), _turn("assistant", function.answer())]
            yield Draft({"messages": turns}, {"name": function.name})


def _preferences(source: Source, found: list[python_code.Function], passed_over: Counter[str]) -> Iterator[Draft]:
    """Chosen is the function; rejected is its signature over the body nearest in length of another one of the file.

    Of the same file, so that the pair stays within its group; nearest in length, so that length gives nothing away.
    """
    for function in found:
        if not _fits(source, len(function.exercise) + len(function.answer()), passed_over):
            continue
        others = [other for other in found if other.body != function.body]
        if not others:
            passed_over["no_other_function"] += 1
            continue
        size = len(function.body)
        other = min(others, key=lambda item: (abs(len(item.body) - size), item.name, item.body))
        content = {
            "prompt": [_turn("user", function.exercise)],
            "chosen": [_turn("assistant", function.answer())],
            "rejected": [_turn("assistant", function.answer(other.body))],
        }
        yield Draft(content, {"name": function.name, "rejected_body_of": other.name})


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _read_jsonl(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _line(source, line, number)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            yield Draft(reason="truncated", detail=f"after line {number}")


def _line(source: Source, line: bytes, number: int) -> Draft:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Draft(reason="not_utf8", detail=f"line {number}")
    except (ValueError, RecursionError):
        # Nine times of ten the end of a file that was cut off.
        return Draft(reason="malformed_line", detail=f"line {number}")
    if not isinstance(record, dict):
        return Draft(reason="malformed_line", detail=f"line {number}: no object")
    return _record(source, record, f"line {number}")


def _record(source: Source, record: dict[str, Any], where: str) -> Draft:
    fields = source.fields
    try:
        content = content_of(record, source.phase, fields, source.preference)
        metadata = metadata_of(record, fields) | canned(record, fields, source.preference)
    except NotARow as error:
        return Draft(reason=error.reason, detail=f"{where}: {error}")
    declared = record.get(fields.licence) if fields.licence else None
    language = record.get(fields.language) if fields.language else None
    group = record.get(fields.group) if fields.group else None
    return Draft(
        content,
        metadata,
        licence=(normalise(str(declared)) or UNKNOWN) if declared else None,
        language=str(language) if language else None,
        group=str(group) if group is not None else None,
    )


def _read_parquet(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_missing_columns(source, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                for record in _records(batch):
                    number += 1
                    where = f"row {number}"
                    yield (
                        Draft(reason=record, detail=where)
                        if isinstance(record, str)
                        else _record(source, record, where)
                    )
    except (pa.ArrowException, OSError) as error:
        yield Draft(reason="unreadable_parquet", detail=f"after row {number}: {type(error).__name__}")


def _records(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Records of a batch of rows; a str stands for one that Python has no value for, and is the reason."""
    try:
        records = batch.to_pylist()
    except (ValueError, OverflowError):
        # One string that is no UTF-8, or one date after the year 9999: row by row the others can be read.
        for place in range(batch.num_rows):
            try:
                yield batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "not_utf8"
            except (ValueError, OverflowError):
                yield "malformed_row"
        return
    yield from records


def _refuse_missing_columns(source: Source, columns: list[str]) -> None:
    fields = source.fields
    pair = [fields.chosen, fields.rejected] if source.preference is None else [fields.prompt]
    needed = {"pretrain": [fields.text], "dpo": pair, "sft": [fields.messages]}[source.phase]
    if source.phase == "sft" and fields.messages not in columns:
        needed = [fields.prompt, fields.completion]
    needed += [name for name in (fields.licence, fields.group, fields.language, *fields.metadata) if name]
    if missing := [name for name in needed if name not in columns]:
        raise InvalidInput(
            f"source {source.name!r} has no column {', '.join(missing)}; it has {', '.join(columns)}",
            hint="name the columns under `fields`",
        )


def _read_chatterbot(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    """A file of ChatterBot's corpus: `conversations`, each a list of statements made in turn."""
    import yaml

    from tutelage.data import plain_yaml

    if path.stat().st_size > MAXIMUM_YAML_BYTES:
        yield Draft(reason="too_large", detail=f"{path.stat().st_size} bytes, at most {MAXIMUM_YAML_BYTES}")
        return
    try:
        loaded = plain_yaml.load(_decoded(path))
    except UnicodeDecodeError as error:
        yield Draft(reason="not_utf8", detail=f"byte {error.start}")
        return
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        yield Draft(reason="malformed_yaml", detail=f"line {mark.line + 1}" if mark else "")
        return
    conversations = loaded.get("conversations") if isinstance(loaded, dict) else None
    if not isinstance(conversations, list):
        yield Draft(reason="malformed_yaml", detail="no list of conversations")
        return
    for number, statements in enumerate(conversations, start=1):
        try:
            record = conversation_of(statements, source.phase)
        except NotARow as error:
            yield Draft(reason=error.reason, detail=f"conversation {number}: {error}")
            continue
        if len(statements) % 2:
            passed_over["unanswered_statement"] += 1
        yield _record(source, record, f"conversation {number}")


READERS: dict[str, Reader] = {
    "text": _read_text,
    "markdown": _read_text,
    "python_source": _read_text,
    "python_docstrings": _read_python,
    "python_functions": _read_python,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "chatterbot_yaml": _read_chatterbot,
}
