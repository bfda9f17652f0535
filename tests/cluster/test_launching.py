"""A step launched as a job: the request it reads, the attempt it writes, the exit code that comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.nodes import Nodes
from tests.cluster.objects import PYTORCHJOB, Object
from tests.cluster.operators import Action, Life, finish, schedule, start
from tests.contracts import payloads
from tutelage.contracts import locations
from tutelage.errors import InvalidInput, NotFinite
from tutelage.runtimes.kubernetes import launching
from tutelage.runtimes.kubernetes.names import HASH_ANNOTATION
from tutelage.runtimes.kubernetes.surroundings import Surroundings
from tutelage.step import Request
from tutelage.step.cluster import fetch, leave

EVENT = {
    "time": "2020-01-01T00:00:00+00:00",
    "event": "progress",
    "task": "x",
    "step": "x",
    "done": 5,
    "total": 10,
    "unit": "tokens",
}
LINE = json.dumps(EVENT)


@pytest.fixture(autouse=True)
def _no_pod_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))


def request_of(site: Site, attempt: str = "of-the-launcher") -> Request:
    (site.folder / "events.jsonl").touch()
    return Request(
        step="train/train", config={"seed": 1}, inputs={}, outputs={"trained": "set by launching"}, scratch="", cache="",
        outcome=str(site.folder / "outcome.json"), step_key=payloads.KEY, attempt=attempt, code_version="c0de", run="run-1",
        label="train-sft", events=str(site.folder / "events.jsonl"),
    )  # fmt: skip


def read(pod: Object) -> Request:
    """The request that the pod's command names, as the entry point fetches it."""
    return fetch(pod["spec"]["containers"][0]["command"][-1])


def makes(site: Site, *, manifest: bool = True) -> Action:
    """Rank 0 writes the model of its request's attempt and says so."""

    def act(nodes: Nodes, pod: Object) -> None:
        request = read(pod)
        if manifest:
            payloads.finished(
                site.store.root, attempt=request.attempt, kind="model", output="trained", step="train/train", rows=None
            )
        leave(request, None)

    return act


def breaks(error: BaseException) -> Action:
    return lambda nodes, pod: leave(read(pod), error)


def working(site: Site, *, manifest: bool = True) -> Callable[[Object, int], Life]:
    def life(job: Object, index: int) -> Life:
        if index:
            return [(1, schedule), (2, start), (19, finish(0))]
        says: Action = lambda nodes, pod: nodes.say(pod, LINE)
        return [(1, schedule), (2, start), (5, says), (20, makes(site, manifest=manifest)), (21, finish(0))]

    return life


def launch(site: Site, **options: Any) -> tuple[int, dict[str, Any]]:
    """Exit code and outcome.json of a launch."""
    code = launching.run(
        request_of(site), site.log_file, site.store, site.settings, api=site.api, clocks=site.clocks(), **options
    )
    return code, json.loads((site.folder / "outcome.json").read_text())


def left_in_store(site: Site) -> list[str]:
    return [path for path, _ in locations.list_files(locations.join(site.store.root, "scratch"))]


def test_a_finished_job_gives_zero_and_names_the_attempt_that_is_complete(site: Site) -> None:
    site.train(working(site))
    code, outcome = launch(site)
    assert (code, outcome["outcome"]) == (0, "done")
    manifest = site.store.read("model", payloads.KEY, outcome["attempt"])
    assert manifest.output == "trained" and outcome["attempt"] != "of-the-launcher"
    assert left_in_store(site) == []
    assert site.cluster.everything(NAMESPACE) == ["Workflow/wf"]


def test_what_the_step_says_in_its_pod_stands_in_the_runs_events_under_its_own_label(site: Site) -> None:
    site.train(working(site))
    launch(site)
    events = [json.loads(line) for line in (site.folder / "events.jsonl").read_text().splitlines()]
    (said,) = [event for event in events if event.get("unit") == "tokens"]
    assert (said["task"], said["step"], said["done"], said["total"]) == ("train-sft", "train/train", 5, 10)
    assert not said["time"].startswith("2020")


def test_a_retried_launcher_adopts_the_job_and_learns_the_attempt_from_it(site: Site) -> None:
    site.train(working(site))
    work = launching._Work(request_of(site, "of-the-first-launcher"), site.store, Surroundings("run-1", None))
    job = launching.job_of(
        work.request,
        site.settings,
        launching.needs_of("train/train"),
        Surroundings("run-1", None),
        NAMESPACE,
        work.requests,
        1,
    )
    body = work.prepare(job)
    first = fetch(
        body["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["command"][-1]
    ).attempt
    assert body["metadata"]["annotations"][HASH_ANNOTATION] == job.body["metadata"]["annotations"][HASH_ANNOTATION]
    site.api.create(job.resource, body)
    code, outcome = launch(site)
    assert (code, outcome["attempt"]) == (0, first)
    assert len(site.store.find({"trained": "model"}, payloads.KEY) or {}) == 1


def test_a_relaunch_writes_an_attempt_of_its_own(site: Site) -> None:
    attempts: list[str] = []

    def life(job: Object, index: int) -> Life:
        if job["metadata"]["name"].endswith("-r1"):
            return working(site)(job, index)
        note: Action = lambda nodes, pod: attempts.append(read(pod).attempt)
        taken: Action = lambda nodes, pod: nodes.evict(pod)
        return [(1, schedule), (2, start), (5, note), (9, taken)] if index == 0 else [(1, schedule), (2, start)]

    site.train(life)
    code, outcome = launch(site)
    assert code == 0 and outcome["outcome"] == "done"
    assert attempts and outcome["attempt"] not in attempts
    assert left_in_store(site) == []


def test_a_refused_input_comes_back_as_the_step_said_it(site: Site) -> None:
    wrong = InvalidInput("no training rows for objective 'sft'", hint="give a source with phase sft")
    site.train(
        lambda job, index: (
            [(1, schedule), (2, start), (5, breaks(wrong)), (6, finish(2))]
            if index == 0
            else [(1, schedule), (2, start), (7, finish(1))]
        )
    )
    code, outcome = launch(site)
    assert (code, outcome["outcome"], outcome["kind"]) == (2, "invalid", "data")
    assert (outcome["cause"], outcome["hint"]) == (wrong.message, wrong.hint)


def test_a_loss_that_is_no_number_is_typed_and_not_tried_again(site: Site) -> None:
    nan = NotFinite("loss is nan at step 3 of 9; nothing was saved after it", hint="lower it")
    site.train(lambda job, index: [(1, schedule), (2, start), (5, breaks(nan)), (6, finish(1))])
    code, outcome = launch(site)
    assert (code, outcome["outcome"], outcome["kind"]) == (1, "failed", "nan")
    jobs = [call for call in site.server.calls if call.verb == "create" and call.kind.plural == "pytorchjobs"]
    assert len(jobs) == 1


def test_done_without_a_manifest_is_a_failure(site: Site) -> None:
    site.train(working(site, manifest=False))
    code, outcome = launch(site)
    assert (code, outcome["outcome"]) == (1, "failed")
    assert "no manifest for 'trained'" in outcome["cause"]


def test_a_manifest_whose_files_are_not_all_there_is_a_failure(site: Site) -> None:
    def torn(nodes: Nodes, pod: Object) -> None:
        request = read(pod)
        payloads.finished(site.store.root, attempt=request.attempt, kind="model", output="trained", rows=None)
        place = site.store.attempt("model", payloads.KEY, request.attempt)
        locations.remove(locations.join(place, "nested/dropped-00000.parquet"))
        leave(request, None)

    first: Life = [(1, schedule), (2, start), (5, torn), (6, finish(0))]
    site.train(lambda job, index: [(1, schedule), (2, start), (5, finish(0))] if index else first)
    code, outcome = launch(site)
    assert code == 1 and "dropped-00000.parquet" in outcome["cause"]


def test_what_the_cluster_did_is_told_with_its_hint(site: Site) -> None:
    killed = finish(137, "OOMKilled")
    site.train(lambda job, index: [(1, schedule), (2, start), (5, killed)])
    code, outcome = launch(site)
    assert (code, outcome["kind"]) == (1, "out_of_memory")
    assert "OOMKilled" in outcome["cause"] and "memory" in outcome["hint"]
    assert left_in_store(site) == []


def test_resources_of_a_run_reach_the_job_and_its_step_key(site: Site) -> None:
    made: list[Object] = []
    site.train(lambda job, index: made.append(job) or working(site)(job, index))  # type: ignore[func-returns-value]
    changes = {"replicas": 3, "limits": {"memory": "80Gi"}}
    assert launch(site, resources=changes)[0] == 0
    worker = made[0]["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert worker["replicas"] == 3
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "80Gi"
    assert launching.world_size("train/train", site.settings, 2, changes) == 6
    assert launching.world_size("train/train", site.settings, 2) == 2 * site.settings.training_workers


def test_a_launcher_in_a_pipelines_pod_gives_its_jobs_run_and_workflow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "name": "wf",
        "uid": site.workflow["metadata"]["uid"],
    }
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_POD_NAME", "wf-task-1")
    here = pod_here(site, owner)
    assert (here.run, here.owner and here.owner.name) == ("0b1c-run", "wf")
    monkeypatch.setenv("KFP_POD_NAME", "another")
    assert launching.surroundings(site.api, "by-hand") == Surroundings("by-hand", None)


def pod_here(site: Site, owner: Object) -> Surroundings:
    from tests.cluster.objects import POD

    metadata = {"name": "wf-task-1", "labels": {"pipeline/runid": "0b1c-run"}, "ownerReferences": [owner]}
    container = {"name": "main", "image": "i"}
    site.cluster.create(
        POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}, NAMESPACE
    )
    return launching.surroundings(site.api, "by-hand")


def test_the_job_is_a_pytorchjob_of_the_tasks_name(site: Site) -> None:
    site.train(working(site))
    launch(site)
    (created,) = [call for call in site.server.calls if call.verb == "create" and call.kind.plural == PYTORCHJOB.plural]
    assert created.body["metadata"]["labels"]["tutelage.dev/task"] == "train-sft"
    assert "of-the-launcher" not in json.dumps(created.body)
