"""What a step is given: inputs where they can be read, settings it asked for, progress that nobody drowns in."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.contracts.payloads import FILES, finished
from tutelage.contracts import locations
from tutelage.contracts.manifest import Manifest
from tutelage.errors import InvalidInput
from tutelage.step import Context, Request


def context_for(tmp_path: Path, inputs: dict[str, Manifest]) -> Context:
    request = Request(
        step="data/curate", config={}, inputs={}, outputs={"curated": str(tmp_path / "out")}, scratch=str(tmp_path / "scratch"),
        cache=str(tmp_path / "cache"), outcome=str(tmp_path / "outcome.json"), step_key="k", attempt="a", code_version="c",
        run="run-1", label="curate", events=str(tmp_path / "events.jsonl"), settings={"registry": "r"},
    )  # fmt: skip
    return Context(request, inputs)


def test_a_local_input_is_read_where_it_stands(tmp_path):
    manifest = finished(str(tmp_path / "store"))
    path = context_for(tmp_path, {"documents": manifest}).input_path("documents")
    assert str(path) == manifest.location
    assert not (tmp_path / "cache").exists()


def test_a_remote_input_is_downloaded_once_and_again_where_it_was_torn(tmp_path, s3_location):
    manifest = finished(f"{s3_location}/store")
    context = context_for(tmp_path, {"documents": manifest})
    path = context.input_path("documents")
    assert {name: (path / name).read_bytes() for name in FILES} == FILES
    (path / "rows-00000.parquet").write_bytes(b"x" * len(FILES["rows-00000.parquet"]))
    kept = (path / "nested" / "dropped-00000.parquet").stat().st_mtime_ns
    assert context.input_path("documents") == path
    assert (path / "rows-00000.parquet").read_bytes() == FILES["rows-00000.parquet"]
    assert (path / "nested" / "dropped-00000.parquet").stat().st_mtime_ns == kept
    locations.remove(manifest.location)
    assert context.input_path("documents") == path, "what is here in full needs no store"


def test_ranks_that_download_at_once_all_read_the_whole(tmp_path, s3_location):
    manifest = finished(f"{s3_location}/store")
    read: list[dict[str, bytes]] = []

    def rank() -> None:
        path = context_for(tmp_path, {"documents": manifest}).input_path("documents")
        read.append({name: (path / name).read_bytes() for name in FILES})

    ranks = [threading.Thread(target=rank) for _ in range(4)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert read == [FILES] * 4
    assert list((tmp_path / "cache").rglob("*.tmp")) == []


def test_an_output_elsewhere_is_written_here_and_brought_there(tmp_path, s3_location):
    context = context_for(tmp_path, {})
    output = context.outputs["curated"]
    output.location = f"{s3_location}/out"
    (output.path / "nested").mkdir()
    (output.path / "nested" / "a.txt").write_text("a")
    output.settle()
    assert locations.list_files(f"{s3_location}/out") == [("nested/a.txt", 1)]
    here = output.path
    output.discard_copy()
    assert not here.exists()


def test_an_output_that_stands_here_is_no_copy(tmp_path):
    output = context_for(tmp_path, {}).outputs["curated"]
    (output.path / "a.txt").write_text("a")
    output.discard_copy()
    assert (tmp_path / "out" / "a.txt").read_text() == "a"


def test_a_setting_that_is_not_set_is_said(tmp_path):
    context = context_for(tmp_path, {})
    assert context.setting("registry") == "r"
    with pytest.raises(InvalidInput, match="'signing_key' is not set for data/curate") as caught:
        context.setting("signing_key")
    assert "tutelage.toml" in (caught.value.hint or "")


def test_progress_is_said_twice_a_second_at_most_and_at_the_end(tmp_path):
    context = context_for(tmp_path, {})
    for done in range(1, 1001):
        context.progress(done, 1000, "rows", loss=1.0 / done)
    context.warn("look here")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["progress", "progress", "warning"]
    assert (events[1]["done"], events[1]["total"], events[1]["unit"], events[1]["loss"]) == (1000, 1000, "rows", 0.001)
    assert {event["task"] for event in events} == {"curate"}
    assert all(event["time"].endswith("+00:00") for event in events)
