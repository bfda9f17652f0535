"""Promotions that do not end well: launchers that are killed or told to end, and what is put back after them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import adapters
from tests.cluster.api_server import Fault
from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.objects import INFERENCESERVICE, WORKFLOW, Object, Refused
from tests.cluster.promotions import NEW, OLD, STABLE, THIRD, Stage, crashing, refuse, written
from tutelage.errors import StepFailed
from tutelage.runtimes.cluster import _signals_raised
from tutelage.runtimes.kubernetes import promotion
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.promotion_records import location_of
from tutelage.runtimes.kubernetes.readiness import Earlier
from tutelage.runtimes.kubernetes.replacing import release_of

SERVES_AGAIN = f"{STABLE} serves its earlier spec again"


@pytest.fixture
def stage(site: Site, tmp_path: Path) -> Stage:
    return Stage(site, tmp_path)


def patches(stage: Stage) -> list[Any]:
    return [call.body for call in stage.site.server.calls if call.verb == "patch"]


# A launcher that is killed.

LAUNCHER = """
import sys
from kubernetes import client
from tests.cluster import adapters
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.promotion import promote
from tutelage.runtimes.kubernetes.readiness import Patience

def load():
    configuration = client.Configuration(host=sys.argv[1])
    configuration.api_key["authorization"] = "first"
    configuration.api_key_prefix["authorization"] = "Bearer"
    return client.ApiClient(configuration)

def probe(address):
    print("probing", flush=True)
    sys.stdin.read()

promote(Api(load, "team"), adapters.service(digest=sys.argv[3]), probe, records=sys.argv[2], patience=Patience(poll_seconds=0.05))
"""


def test_what_a_launcher_killed_by_the_kernel_leaves_is_given_back_by_its_runs_exit_handler(stage: Stage) -> None:
    before = stage.serve(OLD)
    arguments = [sys.executable, "-c", LAUNCHER, stage.site.server.url, stage.records, NEW]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[2]) as launcher:
        assert launcher.stdout is not None
        while not select.select([launcher.stdout], [], [], 0)[0]:
            stage.site.time.sleep(1)
        assert launcher.stdout.readline() == b"probing\n"
        launcher.kill()
    assert launcher.returncode == -signal.SIGKILL
    assert release_of(stage.stable()) == stage.release(NEW) and stage.behind(STABLE) == ["b"]
    (record,) = stage.recorded()
    assert (record.run, record.release, record.owner) == ("run-1", stage.release(NEW), adapters.OWNER)
    stage.recover()
    assert written(stage.stable()) == written(before) and stage.behind(STABLE) == ["a"]
    assert stage.told == [
        f"{STABLE} has its earlier spec again (run run-1 left its promotion unfinished)",
        SERVES_AGAIN,
    ]
    assert stage.recorded() == []


@pytest.mark.parametrize("good", [True, False])
def test_a_retry_of_a_killed_launcher_finds_what_was_there_before(stage: Stage, good: bool) -> None:
    before = stage.serve(OLD)
    stage.half(NEW)
    if good:
        stage.promote(NEW)
        assert stage.behind(STABLE) == ["b"]
    else:
        with pytest.raises(StepFailed, match="required probes failed"):
            stage.promote(NEW, refuse(STABLE))
        assert written(stage.stable()) == written(before) and stage.behind(STABLE) == ["a"]
    assert stage.recorded() == []


def test_where_nothing_was_before_the_exit_handler_deletes_what_a_killed_launcher_made(stage: Stage) -> None:
    stage.half(NEW)
    stage.recover()
    assert stage.left() == [] and stage.recorded() == []
    assert stage.told == [f"{STABLE} is deleted: nothing was there before (run run-1 left its promotion unfinished)"]


@pytest.mark.parametrize("workflow", ["there", "gone", "another of its name", "never one"])
def test_another_runs_record_is_left_alone_until_its_workflow_is_gone(stage: Stage, workflow: str) -> None:
    before = stage.serve(OLD)
    stage.half(NEW, run="run-2", owned=workflow != "never one")
    half = stage.stable()
    if workflow in ("gone", "another of its name"):
        stage.site.cluster.delete(WORKFLOW, "wf", NAMESPACE)
    if workflow == "another of its name":
        body = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "wf"}, "spec": {}}
        stage.site.cluster.create(WORKFLOW, body, NAMESPACE)
    stage.recover("run-1")
    if workflow in ("there", "never one"):
        assert written(stage.stable()) == written(half) and [one.run for one in stage.recorded()] == ["run-2"]
        assert stage.told == []
    else:
        assert written(stage.stable()) == written(before) and stage.recorded() == []
        assert "run run-2 left its promotion unfinished" in stage.told[0] and stage.told[1] == SERVES_AGAIN


def test_the_exit_handler_leaves_what_another_run_put_there_since(stage: Stage) -> None:
    stage.serve(OLD)
    stage.half(NEW)
    stage.promote(THIRD, run="run-2")
    done = len(patches(stage))
    stage.recover("run-1")
    assert stage.behind(STABLE) == ["c"] and len(patches(stage)) == done
    assert stage.told == [] and stage.recorded() == []


def test_the_exit_handler_does_not_make_again_what_somebody_deleted_after_the_launcher_was_killed(stage: Stage) -> None:
    stage.serve(OLD)
    stage.half(NEW)
    stage.site.cluster.delete(INFERENCESERVICE, STABLE, NAMESPACE)
    stage.recover()
    assert stage.left() == [] and stage.recorded() == []
    assert stage.told == [f"{STABLE} was deleted after run run-1 had left its promotion unfinished; not made again"]


# Whoever promotes next.


@pytest.mark.parametrize("killed", [1, 2])
def test_the_next_promotion_goes_back_to_what_was_known_to_serve_never_to_a_half_promoted_spec(
    stage: Stage, killed: int
) -> None:
    before = stage.serve(OLD)
    for number, digest in enumerate((NEW, "d" * 64)[:killed]):
        stage.half(digest, run=f"killed-{number}")
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote(THIRD, refuse(STABLE), run="run-9")
    assert written(stage.stable()) == written(before) and stage.behind(STABLE) == ["a"]
    # Theirs are about nothing any more, and their runs' exit handlers touch nothing.
    for number in range(killed):
        stage.recover(f"killed-{number}")
    assert written(stage.stable()) == written(before) and stage.recorded() == []


def test_a_release_that_another_run_found_to_serve_is_gone_back_to(stage: Stage) -> None:
    stage.serve(OLD)
    stage.half(NEW, run="killed")
    stage.promote(NEW, run="run-2")
    assert stage.recorded() == [], "the record of the killed run says that NEW is not known to serve"
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote(THIRD, refuse(STABLE), run="run-3")
    assert stage.behind(STABLE) == ["b"]


def test_a_record_of_long_ago_is_not_taken_for_one_of_the_same_release_today(stage: Stage) -> None:
    stage.serve(OLD)
    stage.half(NEW, run="killed-long-ago")
    stage.promote(THIRD, run="run-2")
    stage.half(NEW, run="killed-today")
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote("d" * 64, refuse(STABLE), run="run-4")
    assert stage.behind(STABLE) == ["c"], "THIRD was the last known to serve, not OLD"


@pytest.mark.parametrize("torn", [b"", b'{"run": "run-2", "bef', b"[]", b'{"run": "run-2"}', b"\xff\xfe"])
def test_a_torn_record_is_said_and_stops_nothing(stage: Stage, torn: bytes) -> None:
    stage.serve(OLD)
    stage.half(NEW, run="run-2")
    half = stage.stable()
    Path(location_of(stage.records, "run-2")).write_bytes(torn)
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote(THIRD, refuse(STABLE), run="run-3")
    assert "run-2.json is no record of a promotion" in stage.told[0]
    # What it kept is not known: what was there is all there is to go back to.
    assert written(stage.stable()) == written(half)
    stage.told.clear()
    stage.recover("run-2")
    assert len(stage.told) == 1 and "run-2.json is no record" in stage.told[0]
    assert not Path(location_of(stage.records, "run-2")).exists()
    assert written(stage.stable()) == written(half)


def test_a_store_that_does_not_answer_is_said_by_the_exit_handler_and_stops_a_promotion_before_anything(
    stage: Stage,
) -> None:
    before = stage.serve(OLD)
    stage.records = "nowhere://bucket/records"
    stage.recover()
    assert len(stage.told) == 1 and "cannot be read from nowhere://bucket/records" in stage.told[0]
    with pytest.raises(StepFailed, match="nowhere"):
        stage.promote(NEW)
    assert stage.stable() == before


def test_an_api_server_that_refuses_keeps_the_record_for_the_next_one(stage: Stage) -> None:
    before = stage.serve(OLD)
    stage.half(NEW)
    refused = Refused(403, "Forbidden", "inferenceservices is forbidden")
    stage.site.server.faults.append(Fault("refuse", verb="patch", answer=refused))
    stage.recover()
    assert stage.told == [
        f"{STABLE}: the promotion that run run-1 left unfinished is not given back: inferenceservices is forbidden"
    ]
    assert len(stage.recorded()) == 1
    stage.recover()
    assert written(stage.stable()) == written(before) and stage.recorded() == []


# What is put back, and whether it serves.


def test_an_earlier_spec_that_does_not_serve_any_more_is_said_in_bounded_time(stage: Stage) -> None:
    stage.serve(OLD)

    def probe(address: str) -> None:
        stage.kserve.life = crashing(OLD, STABLE)
        raise StepFailed("required probes failed: generate")

    began = stage.site.time.now()
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote(NEW, probe)
    assert stage.told[0] == f"{STABLE} has its earlier spec again (required probes failed: generate)"
    assert stage.told[1].startswith(f"{STABLE} has its earlier spec, but is not seen to serve it: ")
    assert "digest differs" in stage.told[1] and len(stage.told) == 2
    assert stage.site.time.now() - began < stage.patience.start_seconds


def test_a_service_that_is_not_ours_is_put_back_and_judged_by_its_own_pods(stage: Stage) -> None:
    def foreign(body: Object) -> None:
        body["spec"]["predictor"].pop("labels")
        body["metadata"] |= {"labels": {"team": "language"}, "annotations": {}}

    before = stage.serve(OLD, foreign)
    seen: list[list[str]] = []

    def tell(message: str) -> None:
        stage.told.append(message)
        seen.append(stage.behind(STABLE))

    with pytest.raises(StepFailed, match="required probes failed"):
        promotion.promote(
            stage.site.api,
            stage.service(NEW, take_over=True),
            refuse(STABLE),
            records=stage.records,
            patience=stage.patience,
            tell=tell,
        )
    # At first pods of ours stand there alone, and Ready is True all the time.
    assert stage.told[-1] == SERVES_AGAIN and seen == [["b"], ["a"]]
    assert written(stage.stable()) == written(before)


@pytest.mark.parametrize(
    ("ready", "minimum", "release", "phase"),
    [
        ("True", 0, None, Phase.SUCCEEDED),
        ("False", 0, None, Phase.PENDING),
        ("True", 1, None, Phase.PENDING),
        ("True", 0, "left over", Phase.PENDING),
    ],
)
def test_a_service_that_rests_is_ready_without_pods(
    ready: str, minimum: int, release: str | None, phase: Phase
) -> None:
    status = {"conditions": [adapters.condition("Ready", ready)]}
    found = {"metadata": {"name": STABLE}, "spec": {"predictor": {"minReplicas": minimum}}, "status": status}
    pods = [adapters.pod("p", labels={"tutelage.dev/release": release})] if release else []
    assert Earlier(name=STABLE, namespace=NAMESPACE, release=None).observe(found, pods, []).phase is phase


def test_finalizers_owners_and_status_are_neither_kept_nor_written(stage: Stage) -> None:
    uid = stage.site.workflow["metadata"]["uid"]
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "wf", "uid": uid}

    def held(body: Object) -> None:
        body["metadata"] |= {"finalizers": ["example.com/held"], "ownerReferences": [owner]}

    before = stage.serve(OLD, held)
    records: list[Object] = []

    def probe(address: str) -> None:
        records.extend(json.loads(path.read_text()) for path in Path(stage.records).iterdir())
        free = lambda item: item["metadata"].update(finalizers=[], ownerReferences=[])
        stage.site.cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, free)
        raise StepFailed("required probes failed")

    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote(NEW, probe)
    assert before["metadata"]["finalizers"] and before["status"]
    assert [set(record["before"]) for record in records] == [{"metadata", "spec"}]
    assert set(records[0]["before"]["metadata"]) == {"labels", "annotations"}
    for body in patches(stage):
        assert set(body) == {"metadata", "spec"}
        assert set(body["metadata"]) == {"resourceVersion", "labels", "annotations"}
    # Somebody took them off meanwhile: they stay off.
    assert stage.stable()["metadata"]["finalizers"] == [] == stage.stable()["metadata"]["ownerReferences"]


def terminated_when(stage: Stage, moment: Any) -> None:
    """Let SIGTERM come, a real one, at the first look at which `moment()` holds."""
    left = [True]

    def sleep(seconds: float) -> None:
        if left and moment():
            left.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        stage.site.time.sleep(seconds)

    stage.patience = replace(stage.patience, sleep=sleep)


def test_sigterm_while_the_earlier_spec_is_waited_for_loses_nothing(stage: Stage) -> None:
    before = stage.serve(OLD)
    terminated_when(stage, lambda: len(stage.told) == 1)
    with pytest.raises(SystemExit), _signals_raised():
        stage.deploy(NEW, refuse(STABLE))
    assert stage.told == [f"{STABLE} has its earlier spec again (required probes failed: generate)"]
    assert written(stage.stable()) == written(before) and stage.recorded() == []
    assert stage.left() == [f"InferenceService/{STABLE}"] and stage.behind(STABLE) == ["a"]


def test_sigterm_in_mid_promotion_puts_the_earlier_spec_back_and_waits_for_nothing(stage: Stage) -> None:
    before = stage.serve(OLD)
    terminated_when(stage, lambda: release_of(stage.stable()) == stage.release(NEW))
    with pytest.raises(SystemExit), _signals_raised():
        stage.promote(NEW)
    assert written(stage.stable()) == written(before) and stage.recorded() == []
    assert stage.told == [
        f"{STABLE} has its earlier spec again (SystemExit: 143)", f"{STABLE}: not waited for, since this pod is to end",
    ]  # fmt: skip
