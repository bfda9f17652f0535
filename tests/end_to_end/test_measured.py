"""What a run says it took agrees with what its events, its steps' own observations and its store say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.command_line import TinyRun, reused, tutelage
from tutelage.contracts import locations, manifest
from tutelage.contracts.manifest import OBSERVATIONS_NAME
from tutelage.step import describe

pytestmark = pytest.mark.timeout(900)
STAGES = ["plan", "data", "train", "evaluate", "release", "serve"]


def test_seconds_by_stage_add_up_to_no_more_than_the_run(tiny: TinyRun) -> None:
    stages = tiny.record["stages"]
    assert list(stages) == STAGES
    _, ran = reused(tiny.record)
    assert sum(stage["finished"] for stage in stages.values()) == len(ran)
    assert 0.5 * tiny.record["seconds"] < sum(stage["seconds"] for stage in stages.values()) < tiny.record["seconds"]


def test_each_spark_step_that_ran_started_spark_once(tiny: TinyRun) -> None:
    steps = {event["task"]: event["step"] for event in tiny.events() if event["event"] == "finished"}
    _, ran = reused(tiny.record)
    spark = [task for task in ran if describe(steps[task]).runtime == "spark"]
    assert spark and tiny.record["spark_starts"] == len(spark)


def test_the_largest_process_is_at_least_as_large_as_any_step_saw_itself(tiny: TinyRun) -> None:
    seen = []
    for artifact in tiny.record["artifacts"].values():
        made = manifest.read(artifact["manifest"])
        place = locations.join(made.location, OBSERVATIONS_NAME)
        if made.run == tiny.record["run"] and locations.exists(place):
            seen.append(json.loads(locations.read_bytes(place))["peak_memory_bytes"])
    # What a process gained in its last half second may be missed where it outlived its parent.
    assert 0.9 * max(seen) <= tiny.record["peak_memory_bytes"] < 8e9


def test_the_store_holds_the_payloads_of_the_run(tiny: TinyRun) -> None:
    assert 1e6 < tiny.record["payload_bytes"] <= tiny.record["store_bytes"] < 2e9


def test_a_run_that_reuses_everything_starts_no_spark_and_says_so(tiny: TinyRun) -> None:
    ended = tutelage("run", "recipes/tiny.yaml", "--runs", str(tiny.runs))
    assert ended.exit_code == 0, ended.err
    lines = {line[:10].strip(): line[10:] for line in ended.out.splitlines()}
    assert lines["spark"] == "0 starts"
    assert "          data " in ended.out and "5 reused" in ended.out
    assert Path(lines["report"]).is_file()


def test_the_runs_are_listed_with_the_figures_that_the_policy_asks_about(tiny: TinyRun) -> None:
    listed = tutelage("runs", "--runs", str(tiny.runs), "--json").json
    run = next(item for item in listed["runs"] if item["run"] == tiny.record["run"])
    assert [figure["name"] for figure in run["figures"]][:3] == [
        f"perplexity/{phase}" for phase in ("pretrain", "sft", "dpo")
    ]
    assert {figure["verdict"] for figure in run["figures"][:3]} == {"better"}
    assert listed["store"]["bytes"] >= run["store_bytes"] > 0
