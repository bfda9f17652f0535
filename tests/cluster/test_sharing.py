"""Several runs with one step key: the work is done once, and nobody's checkpoints go while somebody is at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.launchers import KEY, Launcher, Watch, left_in_store, made, read, trains
from tests.cluster.objects import PYTORCHJOB, WORKFLOW, Object
from tests.cluster.operators import Life, evict, finish, schedule, start
from tutelage.contracts import locations
from tutelage.runtimes.kubernetes.names import HOLDS_ANNOTATION, Identity, Owner, job_name
from tutelage.runtimes.kubernetes.pytorchjob import PyTorchJob
from tutelage.step import Request

HOLD = ["example.com/hold"]


@pytest.fixture(autouse=True)
def _no_pod_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))


def launcher(site: Site, run: str, **options: Any) -> Launcher:
    return Launcher(site, run=run, name=run, **{"shared": True, **options})


def checkpoint(request: Request) -> None:
    """What training writes now and then."""
    locations.write_bytes(locations.join(request.scratch, "checkpoints", "0000000001", "complete.json"), b"{}")


def checkpoints(site: Site) -> list[str]:
    return [path for path in left_in_store(site) if "checkpoints/0000000001" in path]


def until_made(site: Site, count: int) -> None:
    while len(made(site)) < count:
        site.time.sleep(0.5)


def job_by_hand(site: Site, run: str, *, owner: Owner | None = None) -> Any:
    """A job of another run that works on the step key."""
    identity = Identity(run=run, task="train-sft", iteration=KEY, step="train/train", owner=owner)
    given = {name: getattr(site.job, name) for name in ("namespace", "settings", "needs", "image", "requests")}
    job = PyTorchJob(identity=identity, **given)
    site.api.create(job.resource, job.body)
    return job


def test_a_run_waits_for_anothers_job_and_takes_what_it_made(site: Site) -> None:
    site.train(trains(site, until=60, writes=checkpoint))
    first = launcher(site, "run-1").start()
    until_made(site, 1)
    site.time.sleep(15)
    second = launcher(site, "run-2").start()
    site.time.sleep(20)
    assert len(made(site)) == 1 and checkpoints(site) != []
    assert [event["reason"] for event in second.events("waiting")] == [
        f"run run-1 does the same work (PyTorchJob {made(site)[0]})"
    ]
    assert (first.join().code, second.join().code) == (0, 0)
    assert first.outcome["attempt"] == second.outcome["attempt"]
    assert len(made(site)) == 1 and left_in_store(site) == []
    site.check_left()


@pytest.mark.parametrize("moment", ["together", "mark", "create"])
@pytest.mark.parametrize("smallest_first", [True, False])
def test_of_two_runs_that_look_at_the_same_moment_one_does_the_work(
    site: Site, moment: str, smallest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, runs = Watch(site), ["run-1", "run-2"]
    if (job_name("run-1", "train-sft", KEY) < job_name("run-2", "train-sft", KEY)) != smallest_first:
        runs.reverse()
    first, second = (launcher(site, run) for run in runs)
    site.train(trains(site, until=90, writes=checkpoint))
    arrived: set[str] = set()
    held = lambda: any(HOLDS_ANNOTATION in item["metadata"]["annotations"] for item in site.cluster.all(PYTORCHJOB))

    def until(condition: Callable[[], object]) -> None:
        while not condition():
            site.time.sleep(0.5)

    def create_of(one: Launcher) -> Callable[..., Object]:
        create = one.api.create

        def late(*words: Any) -> Object:
            # Both have looked and seen nobody.
            arrived.add(one.run)
            until(lambda: len(arrived) == 2)
            if one is second and moment != "together":
                until(lambda: made(site))
            if one is second and moment == "create":
                until(held)
            answer = create(*words)
            # Each sees the other when it looks again.
            until(lambda: moment != "together" or len(made(site)) == 2)
            return answer

        return late

    for one in (first, second):
        monkeypatch.setattr(one.api, "create", create_of(one))
    if moment == "mark":
        # It has looked again, and seen nobody; before it can say so the other one makes its job.
        patch = first.api.patch
        monkeypatch.setattr(first.api, "patch", lambda *words: (until(lambda: len(made(site)) == 2), patch(*words))[1])
    first.start()
    second.start()
    assert (first.join().error, second.join().error, first.code, second.code) == (None, None, 0, 0)
    assert first.outcome["attempt"] == second.outcome["attempt"]
    attempts = Path(site.store.root, "model", KEY)
    assert len(list(attempts.iterdir())) == 1, "the work is done once"
    assert len(made(site)) == 2 and left_in_store(site) == []
    assert watch.longest_seconds < 40, "whoever has to give way does so at once"
    site.check_left()


def test_a_job_that_holds_goes_on_whoever_comes_and_a_retried_launcher_holds_on(site: Site) -> None:
    site.train(trains(site, until=120, writes=checkpoint))
    first = launcher(site, "run-1")
    first.api.die_at = ("create", "after")
    assert first.start().join().error is not None
    other = launcher(site, "run-2").start()
    site.time.sleep(20)
    again = Launcher(site, run="run-1", name="again", shared=True).start().join()
    assert (again.error, again.code, other.join().code) == (None, 0, 0)
    assert len(made(site)) == 1


def test_the_other_job_fails_and_the_work_goes_on_from_its_checkpoints(site: Site) -> None:
    seen: list[bool] = []

    def life(job: Object, index: int) -> Life:
        if job["metadata"]["labels"]["tutelage.dev/run"] == "run-1":
            writes = lambda nodes, pod: checkpoint(read(pod))
            return [(1, schedule), (2, start), *([(5, writes)] if index == 0 else []), (30, finish(1))]
        return trains(site, writes=lambda request: seen.append(checkpoints(site) != []))(job, index)

    site.train(life)
    first = launcher(site, "run-1").start()
    until_made(site, 1)
    second = launcher(site, "run-2").start()
    assert (first.join().code, second.join().code) == (1, 0)
    assert seen == [True] and len(made(site)) == 2 and left_in_store(site) == []


def test_a_holder_whose_workflow_is_gone_stops_nobody_and_is_deleted(site: Site) -> None:
    watch = Watch(site)

    def life(job: Object, index: int) -> Life:
        lost = job["metadata"]["labels"]["tutelage.dev/run"] == "run-1"
        return [(1, schedule), (2, start)] if lost else trains(site)(job, index)

    site.train(life)
    workflow = site.cluster.create(
        WORKFLOW,
        {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "gone"}, "spec": {}},
        NAMESPACE,
    )
    owner = Owner(name="gone", uid=workflow["metadata"]["uid"])
    site.cluster.collect = lambda: None  # a garbage collector that is behind
    job_by_hand(site, "run-1", owner=owner)
    site.time.sleep(10)
    site.cluster.delete(WORKFLOW, "gone", NAMESPACE)
    del site.cluster.collect
    second = launcher(site, "run-2").start().join()
    assert (second.error, second.code) == (None, 0)
    assert watch.together == set() and site.time.seconds < 300
    site.check_left()


def test_pods_of_a_deleted_job_that_never_go_stop_nobody_for_ever(site: Site) -> None:
    def life(job: Object, index: int) -> Life:
        lost = job["metadata"]["labels"]["tutelage.dev/run"] == "run-1"
        return [(1, schedule), (2, start)] if lost else trains(site)(job, index)

    site.train(life)
    lost = job_by_hand(site, "run-1")
    site.time.sleep(10)
    site.cluster.update(PYTORCHJOB, lost.name, NAMESPACE, lambda item: item["metadata"].update(finalizers=HOLD))
    site.api.delete(lost.resource, lost.name)
    second = launcher(site, "run-2").start().join()
    assert (second.error, second.code) == (None, 0) and 120 <= site.time.seconds < 400


def test_a_job_that_is_kept_for_a_look_holds_nothing_though_a_rank_of_it_hangs(site: Site) -> None:
    def life(job: Object, index: int) -> Life:
        lost = job["metadata"]["labels"]["tutelage.dev/run"] == "run-1"
        ends = [(5, finish(1))] if index == 0 else []
        return [(1, schedule), (2, start), *ends] if lost else trains(site)(job, index)

    site.train(life)
    site.settings = site.settings.model_copy(update={"keep_failed": True})
    first = launcher(site, "run-1").start().join()
    assert first.code == 1 and f"still on the cluster: {made(site)[0]}" in first.outcome["cause"]
    began = site.time.seconds
    second = launcher(site, "run-2").start().join()
    assert (second.error, second.code) == (None, 0) and site.time.seconds - began < 60
    assert f"PyTorchJob/{made(site)[0]}" in site.cluster.everything(NAMESPACE)


def test_checkpoints_stay_while_another_job_of_the_step_key_is_alive(site: Site) -> None:
    site.train(trains(site, until=40, writes=checkpoint))
    first = launcher(site, "run-1").start()
    until_made(site, 1)
    site.time.sleep(15)
    # A run that shares nothing: it neither waited nor gives way.
    fresh = launcher(site, "run-2", shared=False).start()
    until_made(site, 2)
    assert first.join().code == 0 and not fresh.ended
    kept = checkpoints(site)
    assert f"checkpoints/{NAMESPACE}/{KEY}/checkpoints/0000000001/complete.json" in kept
    assert fresh.join().code == 0


def test_a_run_that_shares_nothing_has_checkpoints_of_its_own_that_its_retries_find(site: Site) -> None:
    places: list[tuple[str, bool]] = []

    def writes(request: Request) -> None:
        there = locations.exists(locations.join(request.scratch, "checkpoints"))
        places.append((request.scratch, there))
        checkpoint(request)

    def life(job: Object, index: int) -> Life:
        if job["metadata"]["labels"]["tutelage.dev/relaunch"] == "0":
            early = lambda nodes, pod: writes(read(pod))
            return [(1, schedule), (2, start), *([(5, early), (9, evict)] if index == 0 else [])]
        return trains(site, writes=writes)(job, index)

    site.train(life)
    fresh = launcher(site, "run-1", shared=False).start().join()
    assert (fresh.error, fresh.code) == (None, 0)
    assert places == [(fresh.request().scratch, False), (fresh.request().scratch, True)]
