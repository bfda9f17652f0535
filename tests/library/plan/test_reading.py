"""What a suite and a tokenizer corpus take from files: bytes that are no text are counted and never repaired."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tutelage.contracts.sources import Fetched
from tutelage.data.readers import READERS
from tutelage.data.sources import Source
from tutelage.errors import InvalidInput
from tutelage.plan.base_model import CorpusPart
from tutelage.plan.initialise import read_texts
from tutelage.plan.suite import Items, read_task
from tutelage.plan.tasks import Task

SEPARATORS = "one\u2028two\u0085three\x0cfour"


def read(path: Path, data: bytes, **fields: Any) -> Items:
    path.write_bytes(data)
    task = Task.model_validate({"task": "t", "type": "harmful", "uri": str(path), "licence": "MIT", **fields})
    return read_task(task, Fetched(path=path, digest="", licence=None, origin=str(path)))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("jsonl", b'{"prompt": "good"}\r\n{"prompt": "b\xff"}\n'),
        ("csv", b"prompt,a\r\ngood,1\r\nb\xff,2\r\n"),
        ("text", b"\xef\xbb\xbfgood\nb\xff\n"),
    ],
)
def test_a_row_with_bytes_that_are_no_utf8_is_dropped_and_counted(tmp_path: Path, kind: str, data: bytes) -> None:
    items = read(tmp_path / "items", data, format=kind)
    assert [item["prompt"] for item in items.kept] == ["good"]
    assert [(row["reason"], row["detail"]) for row in items.dropped] == [("not_utf8", "items:2")]


def test_a_json_file_with_bytes_that_are_no_utf8_is_dropped_whole(tmp_path: Path) -> None:
    items = read(tmp_path / "items", b'[{"prompt": "b\xff"}]', format="json")
    assert (items.kept, [row["reason"] for row in items.dropped]) == ([], ["not_utf8"])


def test_an_item_with_lone_surrogates_is_dropped_and_counted(tmp_path: Path) -> None:
    items = read(tmp_path / "items", rb'[{"prompt": "\ud800"}, {"prompt": "good"}, 3]', format="json")
    assert len(items.kept) == 1 and [row["reason"] for row in items.dropped] == ["not_unicode", "malformed"]


@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_line_ends_at_a_line_feed_and_at_no_other_separator(tmp_path: Path, kind: str) -> None:
    lines = {"jsonl": f'{{"prompt": "{SEPARATORS.replace(chr(12), "")}"}}\n', "text": f"{SEPARATORS}\n"}
    items = read(tmp_path / "items", lines[kind].encode(), format=kind)
    assert (len(items.kept), items.dropped) == (1, [])


def test_a_source_in_json_lines_is_cut_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one\u2028two\u0085three"}\n' * 2, encoding="utf-8")
    source = Source.model_validate(
        {"name": "s", "uri": str(path), "phase": "pretrain", "licence": "MIT", "format": "jsonl"}
    )
    drafts = list(READERS["jsonl"](source, path, Counter()))
    assert [(draft.content["text"], draft.reason) for draft in drafts] == [("one\u2028two\u0085three", None)] * 2


def test_files_of_the_tokenizer_corpus_that_are_no_utf8_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes(b"b\xff")
    part = CorpusPart(uri=str(tmp_path), licence="MIT")
    fetched = Fetched(path=tmp_path, digest="", licence=None, origin=part.uri)
    assert read_texts(fetched, part) == (["good"], 1)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InvalidInput, match="no file for the tokenizer") as refused:
        read_texts(fetched, part)
    assert "none of 1 is UTF-8" in str(refused.value.hint)
