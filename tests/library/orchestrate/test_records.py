"""Records of runs survive what happens to runs: kills, removed stores, torn files, process ids used again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil

from tutelage.orchestrate.records import RunRecord, conclude, is_alive, readable_records
from tutelage.orchestrate.run_locally import Lineage, settle_interrupted
from tutelage.runtimes.settings import Settings


def record_in(runs: Path, name: str = "20260101-000000-tiny-abcd", **changes: Any) -> RunRecord:
    folder = runs / name
    (folder / "logs").mkdir(parents=True)
    (folder / "events.jsonl").touch()
    values = {
        "run": name, "recipe": "tiny", "pipeline": "llm_training", "folder": str(folder), "command": "tutelage run tiny",
        "started": "2026-01-01T00:00:00+00:00", "process": os.getpid(), "process_started": psutil.Process().create_time(),
    }  # fmt: skip
    record = RunRecord(**{**values, **changes})
    record.save()
    return record


def event(name: str, task: str, **fields: Any) -> dict[str, Any]:
    return {"time": "2026-01-01T00:00:00.000+00:00", "event": name, "task": task, "step": f"x/{task}", **fields}


def test_a_torn_record_is_named_and_does_not_hide_the_others(tmp_path: Path) -> None:
    record_in(tmp_path, "20260101-000000-tiny-aaaa")
    torn = record_in(tmp_path, "20260102-000000-tiny-bbbb")
    (Path(torn.folder) / "run.json").write_text('{"run": ')
    records, problems = readable_records(Settings(runs=str(tmp_path)))
    assert [item.run for item in records] == ["20260101-000000-tiny-aaaa"]
    assert "20260102-000000-tiny-bbbb" in problems[0]


def test_a_run_whose_store_is_gone_is_still_concluded(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    finished = event("finished", "ingest", outputs={"documents": str(tmp_path / "store" / "gone" / "manifest.json")})
    conclude(record, [event("started", "ingest"), finished], 0)
    assert (record.outcome, record.artifacts["ingest/documents"]["kind"]) == ("done", "gone")


def test_a_process_id_used_again_does_not_keep_a_dead_run_alive(tmp_path: Path) -> None:
    assert is_alive(record_in(tmp_path, "20260101-000000-tiny-aaaa"))
    assert not is_alive(record_in(tmp_path, "20260101-000000-tiny-bbbb", process_started=12345.0))


def test_a_killed_run_gets_its_outcome_when_the_next_one_starts(tmp_path: Path) -> None:
    record = record_in(tmp_path, process_started=12345.0)
    line = json.dumps(event("started", "ingest"))
    (Path(record.folder) / "events.jsonl").write_text(line + "\n" + '{"torn')
    settle_interrupted(Settings(runs=str(tmp_path)), lambda _: None)
    settled = readable_records(Settings(runs=str(tmp_path)))[0][0]
    assert (settled.outcome, settled.failed_task) == ("failed", "ingest")
    assert settled.cause == "the command line was killed"


def test_lineage_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "lineage.sqlite").mkdir()
    said: list[Any] = []
    lineage = Lineage(Settings(runs=str(tmp_path)), record_in(tmp_path), said.append)
    lineage.consume([event("started", "ingest")])
    lineage.close()
    assert [item["event"] for item in said] == ["warning"]
    assert "lineage" in said[0]["message"]


def test_only_a_refusal_for_the_budget_alone_ends_as_budget(tmp_path: Path) -> None:
    for name, checks, outcome in (("aaaa", ["budget"], "budget"), ("bbbb", ["budget", "licences"], "refused")):
        record = record_in(tmp_path, f"20260101-000000-tiny-{name}")
        record.failed_checks = checks
        refused = event("failed", "enforce", outcome="refused", cause="the gate said no", hint=None)
        conclude(record, [event("started", "enforce"), refused], 1)
        assert record.outcome == outcome
