"""What a run took is measured: processes that really allocate, files that really stand there, events as steps write them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.payloads import finished
from tutelage.contracts import locations
from tutelage.orchestrate import measured
from tutelage.orchestrate.measured import ProcessWatch, payload_bytes, stages_of, store_bytes

MEBIBYTE = 2**20
#: A process whose child holds 300 MiB, gives them back, and goes on.
ALLOCATE = "import time; data = b'x' * (300 * 2**20); del data; time.sleep(1.2)"
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}])"


def event(name: str, step: str, second: float, **fields: Any) -> dict[str, Any]:
    time_stamp = f"2026-01-01T00:00:{second:06.3f}+00:00"
    return {"time": time_stamp, "event": name, "task": step.split("/")[1], "step": step, **fields}


def test_stages_add_up_their_tasks_in_the_order_of_the_line() -> None:
    events = [
        event("started", "data/ingest", 1), event("finished", "data/ingest", 3.5), event("started", "data/curate", 4),
        event("finished", "data/curate", 6), event("started", "plan/check", 7),
        event("finished", "plan/check", 7.25, reused=True), event("started", "fork/own", 8), event("failed", "fork/own", 9),
    ]  # fmt: skip
    stages = stages_of(events)
    assert list(stages) == ["plan", "data", "fork"]
    assert stages["data"] == {"seconds": 4.5, "finished": 2, "reused": 0, "failed": 0, "unfinished": 0}
    assert (stages["plan"]["reused"], stages["fork"]["failed"]) == (1, 1)


def test_tasks_at_the_same_time_are_counted_once_and_one_cut_off_until_the_last_event() -> None:
    events = [
        event("started", "data/ingest", 1), event("started", "data/curate", 2), event("finished", "data/ingest", 4),
        event("finished", "data/curate", 5), event("started", "train/train", 6), event("progress", "train/train", 9),
        {"time": None, "event": "warning", "task": None, "step": None, "message": "torn event line of 3 bytes"},
    ]  # fmt: skip
    stages = stages_of(events)
    assert stages["data"]["seconds"] == 4.0
    assert (stages["train"]["seconds"], stages["train"]["unfinished"]) == (3.0, 1)


WATCHER = """
import json, subprocess, sys
from tutelage.orchestrate import measured
measured.SAMPLE_SECONDS = 0.1
with subprocess.Popen([sys.executable, "-c", sys.argv[1]]) as child:
    watch = measured.ProcessWatch(child.pid)
    watch.task = "curate"
    with watch:
        child.wait()
print(json.dumps([watch.peak.size, watch.peak.process, watch.spark_starts]))
"""


def test_the_largest_process_is_measured_also_when_it_gave_its_memory_back() -> None:
    # In a process of its own: the system counts children from a process's beginning, and those of other tests are larger.
    ended = subprocess.run([sys.executable, "-c", WATCHER, FAMILY], capture_output=True, text=True, check=True)
    size, process, spark_starts = json.loads(ended.stdout)
    assert 300 * MEBIBYTE < size < 400 * MEBIBYTE
    assert process is not None and process.endswith(", in curate")
    assert spark_starts == 0


def test_the_virtual_machine_of_a_spark_session_is_counted_once_and_its_launcher_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "SAMPLE_SECONDS", 0.05)
    java = tmp_path / "java"
    java.symlink_to("/bin/sleep")
    # The name of a process is that of its file, its command line what it was given: as Spark's own processes have them.
    names = (
        "org.apache.spark.deploy.SparkSubmit",
        "org.apache.spark.launcher.Main org.apache.spark.deploy.SparkSubmit",
    )
    program = f"import os, sys; os.posix_spawn({str(java)!r}, [sys.argv[1], '1'], os.environ); os.wait()"
    for words, expected in zip((*names, "java"), (1, 0, 0), strict=True):
        with subprocess.Popen([sys.executable, "-c", program, words]) as child, ProcessWatch(child.pid) as watch:
            child.wait()
        assert watch.spark_starts == expected, words


def test_what_cannot_be_seen_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_read", lambda process_id, name: b"")
    monkeypatch.setattr(measured, "_peak_of_children", lambda: 0)
    with subprocess.Popen(["sleep", "0.2"]) as child, ProcessWatch(child.pid) as watch:
        child.wait()
    assert (watch.peak, watch.spark_starts) == (None, None)


def test_the_store_is_measured_whatever_stands_in_it_and_wherever_it_is(s3_location: str, tmp_path: Path) -> None:
    for root in (str(tmp_path / "store"), s3_location):
        assert store_bytes(root) == 0
        locations.write_bytes(f"{root}/model/key/attempt/model.safetensors", bytes(1000))
        locations.write_bytes(f"{root}/scratch/key/checkpoint", bytes(500))
        assert store_bytes(root) == 1500


def test_a_thousand_payloads_are_measured_within_two_seconds(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / "documents" / str(number) / "attempt"
        folder.mkdir(parents=True)
        for name in ("manifest.json", "rows.parquet", "observations.json"):
            (folder / name).write_bytes(bytes(10))
    started = time.process_time()
    assert store_bytes(str(tmp_path)) == 30_000
    assert time.process_time() - started < 2


def test_a_payload_that_two_steps_name_is_counted_once(tmp_path: Path) -> None:
    manifest = finished(str(tmp_path))
    size = sum(file.size for file in manifest.files)
    assert size > 0 and payload_bytes([manifest, manifest]) == size
