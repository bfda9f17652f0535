"""`tutelage runs` and the end of `tutelage run`, as people and programs read them, whatever state the runs are in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from tests.contracts.payloads import finished
from tests.library.orchestrate.test_records import event, record_in
from tutelage.cli import commands
from tutelage.contracts import locations
from tutelage.orchestrate.records import conclude
from tutelage.orchestrate.runs_table import summary

FIGURES = [
    {"name": "perplexity/pretrain", "unit": "x", "lower_is_better": True, "baseline": 4178.238, "candidate": 1372.861,
     "verdict": "better"},
    {"name": "accuracy/basics", "unit": "x", "lower_is_better": False, "baseline": 0.21875, "candidate": 0.34375,
     "verdict": "cannot_be_told"},
    {"name": "refusal/harmless", "unit": "x", "lower_is_better": True, "baseline": 0.0, "candidate": 1.0, "verdict": "worse"},
]  # fmt: skip
GOLDEN = """\
run                        outcome  verdict  seconds  payloads  started (UTC)     recipe
20260101-000000-tiny-abcd  done     PASS       137.8   81.2 MB  2026-01-01 00:00  tiny
    perplexity/pretrain  4,178 → 1,373         better
    accuracy/basics      0.2188 → 0.3438       cannot be told from it
    refusal/harmless     0 → 1                 worse
20260102-000000-tiny-abcd  failed   -            3.2         -  2026-01-02 09:30  tiny
    train-sft: loss is not finite at step 3
20260103-000000-tiny-abcd  killed   -              -         -  2026-01-01 00:00  tiny

store {store}: 1.5 kB
"""


def tutelage_runs(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["runs", *arguments])


def listed(runs: Path) -> dict[str, Any]:
    ended = tutelage_runs("--runs", str(runs), "--json")
    assert ended.exit_code == 0, ended.output
    return dict(json.loads(ended.stdout))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run that was released, one that failed, one that was killed, and a store of 1,500 bytes."""
    ended = {"finished": "2026-01-01T00:02:17+00:00"}
    record_in(
        tmp_path, outcome="done", verdict="PASS", seconds=137.805, payload_bytes=81_200_000, figures=FIGURES, **ended
    )
    failed = {"outcome": "failed", "failed_task": "train-sft", "cause": "loss is not finite at step 3\nTraceback …"}
    started = {"started": "2026-01-02T09:30:00+00:00", "seconds": 3.21}
    record_in(tmp_path, "20260102-000000-tiny-abcd", **started, **failed)
    record_in(tmp_path, "20260103-000000-tiny-abcd", process_started=12345.0)
    locations.write_bytes(str(tmp_path / "store" / "model" / "key" / "attempt" / "model.safetensors"), bytes(1500))
    return tmp_path


def test_the_table_says_what_became_of_each_run(runs: Path) -> None:
    ended = tutelage_runs("--runs", str(runs))
    assert ended.stdout == GOLDEN.format(store=runs / "store")
    assert ended.stderr == ""


def test_json_holds_everything_on_record(runs: Path) -> None:
    found = listed(runs)
    assert [run["state"] for run in found["runs"]] == ["done", "failed", "killed"]
    assert found["runs"][0]["figures"] == FIGURES
    assert found["store"] == {"location": str(runs / "store"), "bytes": 1500}
    assert found["problems"] == []


def test_without_runs_it_says_how_to_start_one(tmp_path: Path) -> None:
    ended = tutelage_runs("--runs", str(tmp_path / "none"))
    assert ended.exit_code == 0
    assert ended.stdout.startswith("no runs on record; start one: tutelage run recipes/tiny.yaml\n")
    assert listed(tmp_path / "none")["runs"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"run": ', "Expecting value"),
        ("[1, 2]", "argument after ** must be a mapping"),
        ("{}", "missing"),
        (b"\xff\xfe", "can't decode"),
        ("[" * 200_000, "nested too deeply"),
        (None, "Is a directory"),
    ],
)
def test_a_broken_record_is_named_and_hides_no_other(runs: Path, content: Any, message: str) -> None:
    folder = runs / "20260104-000000-tiny-abcd"
    folder.mkdir()
    if content is None:
        (folder / "run.json").mkdir()
    else:
        (folder / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = listed(runs)
    assert len(found["runs"]) == 3
    assert len(found["problems"]) == 1 and folder.name in found["problems"][0] and message in found["problems"][0]
    assert f"warning: record of run {folder.name}" in tutelage_runs("--runs", str(runs)).stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("seconds", "fast"), ("figures", {"a": 1}), ("started", 3), ("process", None), ("started", "2026-01-02T09:30:00")],
)
def test_a_record_with_a_value_of_another_type_is_broken(runs: Path, name: str, value: Any) -> None:
    file = runs / "20260102-000000-tiny-abcd" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    found = listed(runs)
    assert len(found["runs"]) == 2 and f"cannot be read: {name}" in found["problems"][0]


@pytest.mark.parametrize("started", ["yesterday", "2026-01-02T09:30:00", ""])
def test_a_living_run_whose_start_is_no_time_is_named_and_hides_no_other(runs: Path, started: str) -> None:
    living: dict[str, Any] = {"process": os.getpid(), "process_started": psutil.Process().create_time()}
    record_in(runs, "20260106-000000-tiny-abcd", started=started, **living)
    found = listed(runs)
    assert len(found["runs"]) == 3 and "record of run 20260106-000000-tiny-abcd cannot be read" in found["problems"][0]
    assert "warning: record of run 20260106" in tutelage_runs("--runs", str(runs)).stderr


def test_a_cause_of_blank_lines_is_no_cause(tmp_path: Path) -> None:
    record_in(tmp_path, outcome="failed", seconds=1.0, failed_task="curate", cause="\n \n")
    table = tutelage_runs("--runs", str(tmp_path))
    assert table.exit_code == 0 and "curate" not in table.stdout


@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_a_record_is_named_and_not_waited_for(runs: Path) -> None:
    folder = runs / "20260104-000000-tiny-abcd"
    folder.mkdir()
    os.mkfifo(folder / "run.json")
    found = listed(runs)
    assert len(found["runs"]) == 3 and "run.json is a pipe, a socket or a device" in found["problems"][0]


def test_a_run_that_was_cut_off_before_it_had_a_record_is_named(runs: Path) -> None:
    folder = runs / "20260105-000000-tiny-abcd"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("pipeline: llm_training\n")
    assert listed(runs)["problems"] == [f"run {folder.name} has no record: it was cut off as it started"]


def test_a_run_under_way_is_running_and_its_time_so_far_is_shown(tmp_path: Path) -> None:
    living = {"process": os.getpid(), "process_started": psutil.Process().create_time()}
    record_in(tmp_path, **living)
    line = tutelage_runs("--runs", str(tmp_path)).stdout.splitlines()[1]
    assert " running " in line and line.split()[3].replace(",", "").replace(".", "").isdigit()


def test_a_store_in_s3_is_measured_too(s3_location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locations.write_bytes(f"{s3_location}/model/key/attempt/model.safetensors", bytes(2000))
    settings = tmp_path / "tutelage.toml"
    settings.write_text(f'runs = "runs"\nstore = "{s3_location}"\n')
    monkeypatch.setenv("TUTELAGE_SETTINGS", str(settings))
    ended = tutelage_runs("--json")
    assert json.loads(ended.stdout)["store"] == {"location": s3_location, "bytes": 2000}


def test_a_store_that_does_not_answer_is_said_and_the_runs_are_listed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = runs / "tutelage.toml"
    settings.write_text(f'runs = "{runs}"\nstore = "s3://bucket/store"\n')
    monkeypatch.setenv("TUTELAGE_SETTINGS", str(settings))
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"),
                        ("MAX_ATTEMPTS", "1")):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    found = json.loads(tutelage_runs("--json").stdout)
    assert len(found["runs"]) == 3 and found["store"]["bytes"] is None
    assert "size of the store is not measured" in found["problems"][0]
    assert "store s3://bucket/store: not measured" in tutelage_runs().stdout


def test_five_hundred_runs_are_all_listed(tmp_path: Path) -> None:
    for number in range(500):
        record_in(tmp_path, f"20260101-000000-tiny-{number:04d}", outcome="done", seconds=1.0, figures=FIGURES)
    assert len(tutelage_runs("--runs", str(tmp_path)).stdout.splitlines()) == 1 + 500 * 4 + 2


def comparison_of(tmp_path: Path) -> str:
    """A finished comparison with more figures than a policy asks about."""
    location = str(tmp_path / "store" / "comparison" / "k" / "a")
    figures = [{**figure, "low": 0.0, "items": 9} for figure in FIGURES]
    locations.write_bytes(f"{location}/comparison.json", json.dumps({"figures": figures}).encode())
    return location


@pytest.mark.parametrize(
    ("rules", "names"), [(["refusal/harmless", "perplexity/pretrain", "gone"], [2, 0]), ([], [0, 1, 2])]
)
def test_the_figures_on_record_are_those_that_the_policy_asks_about(
    tmp_path: Path, rules: list[str], names: list[int]
) -> None:
    from tests.contracts.payloads import manifest_for
    from tutelage.contracts import store

    made = store.finish(
        manifest_for(comparison_of(tmp_path), "k", "a", kind="comparison", output="comparison", rows=None)
    )
    record = record_in(tmp_path)
    policy = {"release": {"rules": [{"figure": name, "must_be": "better"} for name in rules]}}
    (Path(record.folder) / "recipe.yaml").write_text(json.dumps({"parameters": {"policy": policy}}))
    done = event("finished", "compare", outputs={"comparison": made.uri})
    conclude(record, [event("started", "compare"), done], 0)
    assert record.figures == [FIGURES[index] for index in names]
    assert record.payload_bytes == made.files[0].size


def test_payloads_of_a_run_count_also_when_it_failed(tmp_path: Path) -> None:
    made = finished(str(tmp_path / "store"))
    record = record_in(tmp_path)
    done = event("finished", "ingest", outputs={"documents": made.uri})
    conclude(record, [event("started", "ingest"), done, event("started", "curate")], 1)
    assert (record.outcome, record.failed_task) == ("failed", "curate")
    assert record.payload_bytes == sum(file.size for file in made.files)
    assert record.stages["x"] == {"seconds": 0.0, "finished": 1, "reused": 0, "failed": 0, "unfinished": 1}


def test_a_run_ends_with_what_it_took(tmp_path: Path) -> None:
    none = {"finished": 0, "reused": 0, "failed": 0, "unfinished": 0}
    stages = {
        "plan": {**none, "seconds": 8.32, "finished": 1, "reused": 1},
        "data": {**none, "seconds": 27.9, "failed": 1},
    }
    record = record_in(
        tmp_path, outcome="failed", seconds=40.0, stages=stages, peak_memory_bytes=743_900_000, spark_starts=1,
        peak_memory_process="java, in curate", store_bytes=41_300_000, payload_bytes=1500, written_bytes=1500,
        plan_page="plan.html", report="report.html",
    )  # fmt: skip
    assert summary(record).splitlines()[1:] == [
        "outcome   failed in 40.0 s",
        "stages    plan          8.3 s   1 finished, 1 reused",
        "          data         27.9 s   1 failed",
        "          between       3.8 s   starting each step",
        "memory    743.9 MB, the largest process (java, in curate)",
        "store     41.3 MB; this run wrote 1.5 kB",
        "spark     1 start",
        "plan      plan.html",
        "report    report.html",
    ]


def test_what_a_run_wrote_and_what_it_found_again_are_told_apart(tmp_path: Path) -> None:
    made = finished(str(tmp_path / "store"))
    bytes_of_it = sum(file.size for file in made.files)
    for reused, written in ((True, 0), (False, bytes_of_it)):
        record = record_in(tmp_path, f"20260101-000000-tiny-{written:04x}", store_bytes=2000)
        done = event("finished", "ingest", outputs={"documents": made.uri}, reused=reused)
        conclude(record, [event("started", "ingest"), done], 0)
        assert (record.payload_bytes, record.written_bytes) == (bytes_of_it, written)
        record.seconds = 1.0
        again = f" 0 bytes, and found {bytes_of_it} bytes of earlier runs again" if reused else f" {bytes_of_it} bytes"
        assert f"store     2.0 kB; this run wrote{again}" in summary(record).splitlines()


def test_the_plan_lies_beside_the_run_also_when_it_failed(tmp_path: Path) -> None:
    from tests.contracts.payloads import manifest_for
    from tutelage.contracts import store

    location = str(tmp_path / "store" / "plan" / "k" / "a")
    locations.write_bytes(f"{location}/page.html", b"<p>the plan</p>")
    made = store.finish(manifest_for(location, "k", "a", kind="plan", output="plan", rows=None))
    record = record_in(tmp_path)
    checked = event("finished", "check", outputs={"plan": made.uri})
    conclude(record, [event("started", "check"), checked, event("started", "curate")], 1)
    assert record.outcome == "failed" and record.plan_page == str(Path(record.folder) / "plan.html")
    assert Path(record.plan_page).read_bytes() == b"<p>the plan</p>"


@pytest.mark.parametrize(
    ("cause", "shown"),
    [
        ("word " * 40, "word " * 23 + "word …"),
        ("w" * 500, "w" * 119 + " …"),
        ("short", "short"),
        ("w" * 120, "w" * 120),
    ],
)
def test_a_long_cause_is_cut_at_a_word(tmp_path: Path, cause: str, shown: str) -> None:
    record_in(tmp_path, outcome="failed", seconds=1.0, cause=cause)
    assert shown in [line.strip() for line in tutelage_runs("--runs", str(tmp_path)).stdout.splitlines()]


def test_what_was_not_measured_is_said_to_be_so(tmp_path: Path) -> None:
    lines = summary(record_in(tmp_path, outcome="failed", seconds=0.5)).splitlines()
    assert lines[2:] == ["memory    not measured", "store     not measured", "spark     not measured"]
