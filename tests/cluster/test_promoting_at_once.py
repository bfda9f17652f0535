"""Promotions beside others: two runs at a time, an operator that reports, answers that are lost, people who delete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import rollouts
from tests.cluster.api_server import Fault
from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.objects import INFERENCESERVICE, Object, Refused
from tests.cluster.promotions import NEW, OLD, SMOKE, STABLE, THIRD, Stage, refuse, written
from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes.replacing import release_of

SERVES_AGAIN = f"{STABLE} serves its earlier spec again"


@pytest.fixture
def stage(site: Site, tmp_path: Path) -> Stage:
    return Stage(site, tmp_path)


# Two at a time.


@pytest.mark.parametrize("good", [True, False])
def test_of_two_runs_that_promote_at_once_the_last_counts_and_the_first_touches_nothing(
    stage: Stage, good: bool
) -> None:
    before = stage.serve(OLD)

    def meanwhile(address: str) -> None:
        if good:
            stage.promote(THIRD, run="run-2")
        else:
            with pytest.raises(StepFailed, match="required probes failed"):
                stage.promote(THIRD, refuse(STABLE), run="run-2")

    with pytest.raises(StepFailed, match="by somebody else") as caught:
        stage.promote(NEW, meanwhile)
    assert "the last one counts" in str(caught.value.hint)
    assert stage.behind(STABLE) == (["c"] if good else ["a"])
    if not good:
        assert written(stage.stable()) == written(before)
    assert stage.recorded() == []


def test_one_that_still_waits_sees_at_once_that_another_took_over(stage: Stage) -> None:
    stage.serve(OLD)
    stage.kserve.life = lambda service: rollouts.HANGS
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(stage.site.time.now())
        if len(looks) == 2:
            stage.half(THIRD, run="run-2")
        stage.site.time.sleep(seconds)

    stage.patience = replace(stage.patience, sleep=sleep)
    with pytest.raises(StepFailed, match="by somebody else"):
        stage.promote(NEW)
    assert len(looks) == 2 and release_of(stage.stable()) == stage.release(THIRD)
    # And what was last known to serve is in the hands of the one that took over.
    (record,) = stage.recorded()
    assert record.run == "run-2" and record.before is not None and release_of(record.before) == stage.release(OLD)


def test_two_runs_that_promote_the_same_release_both_succeed(stage: Stage) -> None:
    stage.serve(OLD)
    stage.promote(NEW, lambda address: print(stage.promote(NEW, run="run-2")))
    assert stage.behind(STABLE) == ["b"] and stage.recorded() == []


@pytest.mark.parametrize("part", ["status", "annotations"])
def test_what_kserve_reports_in_between_is_no_change_by_somebody_else(
    stage: Stage, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.serve(OLD)
    api, read, times = stage.site.api, stage.site.api.get, [2]

    def get(resource: Any, name: str) -> Object | None:
        found = read(resource, name)
        if name == STABLE and times[0]:
            times[0] -= 1
            text = f"{times[0]}"
            if part == "status":
                report = lambda item: item["status"].update(url=f"http://{text}")
                stage.site.cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, report, status=True)
            else:
                change = lambda item: item["metadata"]["annotations"].update(seen=text)
                stage.site.cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, change)
        return found

    monkeypatch.setattr(api, "get", get)
    if part == "status":
        stage.promote(NEW)
        assert stage.behind(STABLE) == ["b"]
    else:
        with pytest.raises(StepFailed, match="changed by somebody else") as caught:
            stage.promote(NEW)
        assert "run the same command again" in str(caught.value.hint)
        assert stage.behind(STABLE) == ["a"]
    assert stage.recorded() == [] and times == [0]


def test_an_answer_that_was_lost_is_no_change_by_somebody_else(stage: Stage) -> None:
    stage.serve(OLD)
    fault = Fault("lose", verb="patch", plural="inferenceservices")
    stage.site.server.faults.append(fault)
    stage.promote(NEW)
    assert fault.seen == 1 and 409 in stage.site.server.statuses
    assert stage.behind(STABLE) == ["b"] and stage.recorded() == []


def test_an_answer_that_was_lost_while_giving_back_is_none_either(stage: Stage) -> None:
    before = stage.serve(OLD)

    def probe(address: str) -> None:
        stage.site.server.faults.append(Fault("lose", verb="patch", plural="inferenceservices"))
        raise StepFailed("required probes failed")

    with pytest.raises(StepFailed, match="required probes failed"):
        stage.promote(NEW, probe)
    assert written(stage.stable()) == written(before) and stage.told[-1] == SERVES_AGAIN


# Somebody deletes the service.


@pytest.mark.parametrize("was_there", [True, False])
def test_a_service_deleted_in_mid_promotion_is_made_again_as_it_was(stage: Stage, was_there: bool) -> None:
    def held(body: Object) -> None:
        uid = stage.site.workflow["metadata"]["uid"]
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "wf", "uid": uid}
        body["metadata"]["ownerReferences"] = [owner]

    before = stage.serve(OLD, held) if was_there else None
    delete = lambda address: stage.site.cluster.delete(INFERENCESERVICE, STABLE, NAMESPACE) and None
    with pytest.raises(StepFailed, match="somebody deleted it"):
        stage.promote(NEW, delete)
    assert stage.recorded() == []
    if before is None:
        assert stage.left() == []
        return
    after = stage.stable()
    assert written(after) == written(before) and after["metadata"]["uid"] != before["metadata"]["uid"]
    assert "ownerReferences" not in after["metadata"]
    assert stage.behind(STABLE) == ["a"] and stage.told[-1] == SERVES_AGAIN


def test_a_service_that_is_being_deleted_does_not_serve_and_is_waited_for(stage: Stage) -> None:
    before = stage.serve(OLD)

    def delete(address: str) -> None:
        hold = lambda item: item["metadata"].update(finalizers=["example.com/held"])
        free = lambda item: item["metadata"].update(finalizers=[])
        stage.site.cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, hold)
        stage.site.cluster.delete(INFERENCESERVICE, STABLE, NAMESPACE)
        cluster = stage.site.cluster
        stage.site.time.after(30, lambda: cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, free))

    with pytest.raises(StepFailed, match="somebody deleted it"):
        stage.promote(NEW, delete)
    assert written(stage.stable()) == written(before)
    assert "finalizers" not in stage.stable()["metadata"]
    assert stage.told[-1] == SERVES_AGAIN and stage.behind(STABLE) == ["a"]


def test_an_api_server_that_stays_away_hides_neither_the_cause_nor_the_earlier_spec(stage: Stage) -> None:
    stage.serve(OLD)

    def probe(address: str) -> None:
        refused = Refused(403, "Forbidden", "inferenceservices is forbidden")
        stage.site.server.faults.append(Fault("refuse", verb="patch", answer=refused))
        raise StepFailed("required probes failed")

    with pytest.raises(StepFailed, match="required probes failed"):
        stage.deploy(NEW, lambda address: None if SMOKE in address else probe(address))
    assert stage.told == [
        f"{STABLE}: not given back, which the run's exit handler tries again: inferenceservices is forbidden"
    ]
    stage.recover()
    assert stage.behind(STABLE) == ["a"] and stage.recorded() == []
