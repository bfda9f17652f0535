"""The recorder writes what KFP writes, once, whatever happens to a run."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("ml_metadata", reason="no wheel on this platform")

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as proto

from tutelage.contracts import locations
from tutelage.contracts.store import Result
from tutelage.lineage.events import read_events
from tutelage.lineage.graph import from_manifests, from_metadata, payloads_of_run
from tutelage.lineage.payloads import CONTAINER, DAG, PIPELINE, PIPELINE_RUN, put_run, rebuild
from tutelage.lineage.recorder import Recorder
from tutelage.lineage.store import open_store


def record(store, run, close=True, **options):
    recorder = Recorder(store, run=run.run, pipeline="llm-training", **options)
    recorder.consume(run.events())
    if close:
        recorder.close()
    return recorder


def dump(path: Path) -> dict:
    """Everything in the file, read by ML Metadata itself, times of writing included."""
    config = proto.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    raw = metadata_store.MetadataStore(config)
    executions = raw.get_executions()
    return {
        "contexts": [str(item) for item in raw.get_contexts()],
        "artifacts": [str(item) for item in raw.get_artifacts()],
        "executions": [str(item) for item in executions],
        "events": [str(item) for item in raw.get_events_by_execution_ids([item.id for item in executions])],
    }


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "lineage.sqlite"))


def by_label(store, run):
    tasks = store.executions(store.find_context(PIPELINE_RUN, run.run))
    return {task.properties["label"]: task for task in tasks if task.type == CONTAINER}


def test_a_run_is_recorded_with_the_types_and_keys_that_kfp_uses(store, synthetic_run):
    run = synthetic_run()
    made = run.whole()
    record(store, run, tasks={"train-sft": "train-2"}, parameters={"seed": 7}, root="/runs/first")
    context = store.find_context(PIPELINE_RUN, "first")
    assert store.parents_of(context) == [store.find_context(PIPELINE, "llm-training")]
    dag = store.find_execution(DAG, "run/first")
    assert (dag.state, dag.properties["inputs"], dag.properties["task_name"]) == ("COMPLETE", {"seed": 7.0}, "")
    task = by_label(store, run)["train-sft"]
    assert task.state == "COMPLETE"
    assert task.properties["task_name"] == task.properties["display_name"] == "train-2"
    assert task.properties["parent_dag_id"] == dag.id
    assert {"image", "pod_name", "pod_uid", "namespace", "inputs", "outputs", "cache_fingerprint"} <= set(
        task.properties
    )
    assert set(task.inputs) == {"tokens", "base"}
    artifacts = {artifact.id: artifact for artifact in store.artifacts()}
    trained = artifacts[task.outputs["trained"]]
    assert (trained.type, trained.uri) == ("system.Model", made["trained"].location)
    assert trained.properties["digest"] == made["trained"].content_digest
    assert trained.properties["display_name"] == "trained"
    assert artifacts[task.inputs["tokens"]].properties["rows"] == 24.0
    metrics = artifacts[by_label(store, run)["compare"].outputs["metrics"]]
    assert (metrics.type, metrics.properties["perplexity_pretrain"]) == ("system.Metrics", -0.308)
    assert {"system.Dataset", "system.HTML", "system.Artifact"} <= {artifact.type for artifact in artifacts.values()}


def attributed(database: Path, context: int) -> set[int]:
    with closing(sqlite3.connect(database)) as connection:
        return {
            row[0] for row in connection.execute("SELECT artifact_id FROM Attribution WHERE context_id = ?", [context])
        }


def test_executions_are_associated_and_artifacts_attributed_to_run_and_pipeline(store, tmp_path, synthetic_run):
    run = synthetic_run()
    run.prepare()
    record(store, run)
    for context in (store.find_context(PIPELINE_RUN, "first"), store.find_context(PIPELINE, "llm-training")):
        assert len(store.executions(context)) == 8
        assert attributed(tmp_path / "lineage.sqlite", context) == {item.id for item in store.artifacts()}


def test_consuming_the_same_events_again_writes_nothing(store, tmp_path, synthetic_run):
    run = synthetic_run()
    made = run.data()
    run.reuse("data/curate", "curate-again", {"documents": made["documents"]}, {"curated": made["curated"]})
    run.fail("release/decide", "decide", "no key")
    run.start("serve/deploy", "deploy")
    recorder = record(store, run)
    before = dump(tmp_path / "lineage.sqlite")
    recorder.consume(run.events())
    recorder.close()
    record(store, run)
    record(open_store(str(tmp_path / "lineage.sqlite")), run)
    assert dump(tmp_path / "lineage.sqlite") == before


def test_events_consumed_one_by_one_give_what_events_at_once_give(tmp_path, synthetic_run):
    run = synthetic_run()
    run.data()
    whole, piecewise = open_store(str(tmp_path / "whole.sqlite")), open_store(str(tmp_path / "piecewise.sqlite"))
    record(whole, run)
    recorder = Recorder(piecewise, run="first", pipeline="llm-training")
    offset = 0
    events_file = run.folder / "events.jsonl"
    data = events_file.read_bytes()
    for end in range(0, len(data) + 1, 97):
        events_file.write_bytes(data[:end])
        events, offset = read_events(events_file, offset)
        recorder.consume(events)
    events_file.write_bytes(data)
    recorder.consume(read_events(events_file, offset)[0])
    recorder.close()
    assert piecewise.executions() == whole.executions()
    assert from_metadata(piecewise) == from_metadata(whole)


def test_a_recorder_that_takes_over_ends_what_another_saw_start(store, synthetic_run):
    run = synthetic_run()
    run.data()
    first = Recorder(store, run="first", pipeline="llm-training")
    first.consume(run.events()[:3])
    assert by_label(store, run)["curate"].state == "RUNNING"
    second = Recorder(store, run="first", pipeline="llm-training")
    second.consume(run.events()[3:])
    assert {task.state for task in by_label(store, run).values()} == {"COMPLETE"}
    assert len(by_label(store, run)) == 2


def test_a_payload_reused_by_another_run_is_one_artifact_and_its_task_is_cached(store, synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.data()
    record(store, first)
    second.reuse("data/ingest", "ingest", {}, {"documents": made["documents"]})
    second.reuse("data/curate", "curate", {"documents": made["documents"]}, {"curated": made["curated"]})
    record(store, second)
    assert len(store.artifacts()) == 2
    again = by_label(store, second)["curate"]
    assert again.state == "CACHED"
    assert again.properties["cached_execution_id"] == str(by_label(store, first)["curate"].id)
    assert again.outputs == by_label(store, first)["curate"].outputs
    uris = sorted(manifest.uri for manifest in made.values())
    assert payloads_of_run(store, "second") == payloads_of_run(store, "first") == uris


def test_reuse_of_a_payload_whose_run_was_never_recorded_brings_its_makers_in(store, synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.data()
    second.reuse("data/curate", "curate", {"documents": made["documents"]}, {"curated": made["curated"]})
    record(store, second)
    maker = int(by_label(store, second)["curate"].properties["cached_execution_id"])
    recorded = {task.id: task for task in store.executions(store.find_context(PIPELINE_RUN, "first"))}
    assert recorded[maker].properties["step"] == "data/curate"
    assert {task.properties.get("step") for task in recorded.values()} == {None, "data/curate", "data/ingest"}


def test_a_maker_still_running_is_waited_for_until_the_end_of_the_run(store, synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.data()
    slow = Recorder(store, run="first", pipeline="llm-training")
    slow.consume(first.events()[:3])
    second.reuse("data/curate", "curate", {"documents": made["documents"]}, {"curated": made["curated"]})
    recorder = record(store, second, close=False)
    assert "cached_execution_id" not in by_label(store, second)["curate"].properties
    slow.consume(first.events()[3:])
    recorder.close()
    maker = by_label(store, first)["curate"]
    assert by_label(store, second)["curate"].properties["cached_execution_id"] == str(maker.id)
    assert len(store.executions()) == 2 + 3


def test_parameters_with_line_breaks_addresses_and_pinned_models_are_recorded_value_by_value(store, synthetic_run):
    pinned = f"hf://gpt2@{'0123456789' * 4}"
    parameters = {"base_model": {"uri": pinned}, "note": "x\nbob@example.com"}
    put_run(store, "first", "llm-training", parameters=parameters)
    recorded = store.find_execution(DAG, "run/first").properties["inputs"]
    assert recorded == {"base_model": {"uri": pinned}, "note": "x\n[e-mail]"}


def test_a_failed_task_keeps_its_cause_without_personal_data(store, synthetic_run):
    run = synthetic_run()
    run.fail("data/curate", "curate", "row by jane.doe@example.org refused", "ask s3://key:secret@host/x", "invalid")
    record(store, run)
    task = by_label(store, run)["curate"]
    assert (task.state, task.properties["outcome"]) == ("FAILED", "invalid")
    assert task.properties["error"] == "row by [e-mail] refused"
    assert "secret" not in task.properties["hint"]
    assert store.find_execution(DAG, "run/first").state == "FAILED"


def test_addresses_in_settings_are_masked(store, synthetic_run):
    run = synthetic_run()
    run.finish("data/curate", "curate", config={"contact": "jane.doe@example.org"}, outputs={
        "curated": ("documents", {"x": b"x"}, Result(content_digest="ab" * 32))})  # fmt: skip
    record(store, run, parameters={"contact": ["jane.doe@example.org"]})
    assert by_label(store, run)["curate"].properties["inputs"]["contact"] == "[e-mail]"
    assert store.find_execution(DAG, "run/first").properties["inputs"] == {"contact": ["[e-mail]"]}


def test_a_start_without_an_end_is_failed_when_the_run_closes(store, synthetic_run):
    run = synthetic_run()
    run.start("train/train", "train-sft")
    recorder = record(store, run, close=False)
    assert by_label(store, run)["train-sft"].state == "RUNNING"
    recorder.close()
    task = by_label(store, run)["train-sft"]
    assert task.state == "FAILED"
    assert "killed" in task.properties["error"]


def test_a_task_that_fails_and_then_succeeds_leaves_two_executions_and_a_complete_run(store, synthetic_run):
    run = synthetic_run()
    run.fail("data/ingest", "ingest", "network")
    run.data()
    record(store, run)
    states = [task.state for task in store.executions() if task.properties.get("label") == "ingest"]
    assert states == ["FAILED", "COMPLETE"]
    assert store.find_execution(DAG, "run/first").state == "COMPLETE"


def test_one_payload_at_two_ports_keeps_both_ports(store, synthetic_run):
    run = synthetic_run()
    made = run.prepare()
    card = run.score("baseline", made["model"], made, 3.0)
    run.finish("evaluate/compare", "compare", {"baseline": card, "candidate": card})
    record(store, run)
    assert set(by_label(store, run)["compare"].inputs) == {"baseline", "candidate"}


def test_an_output_whose_manifest_is_gone_is_recorded_as_gone(store, synthetic_run):
    run = synthetic_run()
    made = run.data()
    locations.remove(made["documents"].location)
    record(store, run)
    gone = by_label(store, run)["curate"].inputs["documents"]
    assert next(item for item in store.artifacts() if item.id == gone).properties["display_name"] == "gone"


def test_rebuilding_from_manifests_equals_what_was_recorded(tmp_path, synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.whole()
    second.reuse("plan/acquire", "acquire", {}, {"model": made["model"], "suite": made["suite"]})
    second.model(made["tokens"], made["model"], "dpo")
    recorded, rebuilt = open_store(str(tmp_path / "a.sqlite")), open_store(str(tmp_path / "b.sqlite"))
    record(recorded, first)
    record(recorded, second)
    pipelines = {"first": "llm-training", "second": "llm-training"}
    assert rebuild(rebuilt, first.store.manifests(), pipelines) == 14
    assert from_metadata(rebuilt) == from_metadata(recorded)
    properties = [{a.uri: (a.type, a.properties) for a in store.artifacts()} for store in (recorded, rebuilt)]
    assert properties[0] == properties[1]
    assert rebuilt.contexts(PIPELINE_RUN).keys() == recorded.contexts(PIPELINE_RUN).keys()
    before = dump(tmp_path / "b.sqlite")
    rebuild(rebuilt, first.store.manifests(), pipelines)
    assert dump(tmp_path / "b.sqlite") == before
    before = dump(tmp_path / "a.sqlite")
    rebuild(recorded, first.store.manifests())
    assert dump(tmp_path / "a.sqlite") == before


def test_manifests_and_ml_metadata_tell_the_same_lineage(store, synthetic_run):
    run = synthetic_run()
    run.whole()
    record(store, run)
    said, known = from_metadata(store), from_manifests(run.store.manifests())
    assert said.edges == known.edges
    for uri, node in known.nodes.items():
        other = said.nodes[uri]
        assert (other.kind, other.digest, other.step, other.output, other.run, other.rows) == (
            node.kind, node.digest, node.step, node.output, node.run, node.rows,
        )  # fmt: skip


RECORD = """
import json, sys
from contextlib import closing
from pathlib import Path
from tutelage.lineage.recorder import Recorder
from tutelage.lineage.store import open_store
store, run, events = sys.argv[1:]
recorder = Recorder(open_store(store), run=run, pipeline="llm-training")
for line in Path(events).read_text().splitlines():
    recorder.consume([json.loads(line)])
recorder.close()
"""


def test_recorders_of_several_runs_share_one_file(tmp_path, synthetic_run):
    runs = [synthetic_run(name) for name in ("first", "second", "third")]
    made = runs[0].data()
    for run in runs[1:]:
        run.reuse("data/curate", "curate", {"documents": made["documents"]}, {"curated": made["curated"]})
    path = str(tmp_path / "shared.sqlite")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RECORD, path, run.run, str(run.folder / "events.jsonl")], stderr=subprocess.PIPE
        )
        for run in runs
    ]
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    store = open_store(path)
    assert len(store.artifacts()) == 2
    assert len(store.contexts(PIPELINE)) == 1
    for run in runs[1:]:
        assert by_label(store, run)["curate"].state == "CACHED"
        assert "cached_execution_id" in by_label(store, run)["curate"].properties
    assert json.loads(json.dumps(from_metadata(store).as_json()))["nodes"]
