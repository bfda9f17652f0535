"""What pods leave in the store and among the lines of their logs, when it is not what a launcher expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.bench import Site
from tests.cluster.launchers import KEY, Launcher, made, read, trains
from tests.cluster.nodes import Nodes
from tests.cluster.objects import Object
from tests.cluster.operators import Action, Life, finish, say, schedule, start
from tests.contracts import payloads
from tutelage.contracts import locations
from tutelage.runtimes.kubernetes.names import job_name
from tutelage.step.cluster import leave

STARTS: Life = [(1, schedule), (2, start)]


@pytest.fixture(autouse=True)
def _no_pod_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))


def writes(data: bytes) -> Action:
    """Rank 0 leaves `data` for an outcome."""
    return lambda nodes, pod: locations.write_bytes(read(pod).outcome, data)


def launch(site: Site) -> Launcher:
    launcher = Launcher(site).start().join()
    assert launcher.error is None
    return launcher


@pytest.mark.parametrize(
    "data",
    [
        b"null", b"[]", b'"x"', b'{"outcome":null}', b'{"outcome":["done"]}', b"\xff\xfe", b'{"outcome":"done"',
        b'{"outcome":"failed","rank":"zero","cause":["odd"],"hint":{"odd":1}}', b'{"outcome":"done"}',
        b'{"outcome":"done","attempt":"../../x"}', b'{"outcome":"done","attempt":"x\\u0000y"}',
        b'{"outcome":"odd"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_odd_outcome_is_a_failure_of_the_job_and_not_of_its_launcher(site: Site, data: bytes) -> None:
    site.train(lambda job, index: [*STARTS, (6, finish(1))] if index else [*STARTS, (5, writes(data)), (6, finish(1))])
    launcher = launch(site)
    assert (launcher.code, launcher.outcome["kind"]) == (1, "unknown")
    assert isinstance(launcher.outcome["outcome"], str) and isinstance(launcher.outcome["cause"], str)
    assert launcher.outcome["hint"] is None or isinstance(launcher.outcome["hint"], str)


def test_an_odd_outcome_of_one_rank_hides_no_other(site: Site) -> None:
    def act(nodes: Nodes, pod: Object) -> None:
        place = read(pod).outcome
        locations.write_bytes(place, b'{"outcome":"failed","rank":"zero","cause":"SystemExit: 143"}')
        locations.write_bytes(f"{place}.rank1", b'{"outcome":"failed","rank":1,"kind":"nan","cause":"loss is nan"}')

    site.train(lambda job, index: [*STARTS, (6, finish(1))] if index else [*STARTS, (5, act), (6, finish(1))])
    assert launch(site).outcome["cause"] == "loss is nan"


def test_a_manifest_of_another_output_is_not_the_jobs(site: Site) -> None:
    def act(nodes: Nodes, pod: Object) -> None:
        request = read(pod)
        payloads.finished(site.store.root, attempt=request.attempt, kind="model", output="teacher", rows=None)
        leave(request, None)

    site.train(lambda job, index: [*STARTS, (6, finish(0))] if index else [*STARTS, (5, act), (6, finish(0))])
    launcher = launch(site)
    assert launcher.code == 1
    assert "is output 'teacher', not 'trained'" in launcher.outcome["cause"]


@pytest.mark.parametrize("named", ["{job}.outcome.json", "{job}.20200101T000000000000-0a1b2c3d.outcome.json"])
@pytest.mark.parametrize(
    "left", [{"outcome": "failed", "kind": "nan", "cause": "loss is nan"}, {"outcome": "done", "attempt": "earlier"}]
)
def test_what_an_earlier_try_of_the_task_left_is_no_outcome_of_this_one(
    site: Site, named: str, left: dict[str, str]
) -> None:
    folder, name = locations.join(site.store.root, "scratch", "jobs", "run-1"), job_name("run-1", "train-sft", KEY)
    payloads.finished(site.store.root, attempt="earlier", kind="model", output="trained", rows=None)
    locations.write_bytes(locations.join(folder, named.format(job=name)), json.dumps(left).encode())
    site.train(lambda job, index: [*STARTS, (5, finish(1))])
    launcher = launch(site)
    assert (made(site), launcher.code, launcher.outcome["kind"]) == ([name], 1, "unknown")


def test_fields_of_an_event_that_have_names_of_ours_are_no_matter(site: Site) -> None:
    odd = {"time": 1, "event": "progress", "done": 5, "path": "a", "name": "b", "label": "c", "task": "d", "step": "e"}
    forged = {"time": 1, "event": "finished", "outputs": {"trained": "file:///elsewhere"}}
    lines = [json.dumps(odd), json.dumps(forged), '{"time": 1, "event": "failed", "cause": "x"}', "the last line"]
    says: Life = [(3 + 0.1 * number, say(line)) for number, line in enumerate(lines)]
    whole = trains(site)
    site.train(lambda job, index: whole(job, index) if index else [*whole(job, 0)[:2], *says, *whole(job, 0)[2:]])
    launcher = launch(site)
    (event,) = [event for event in launcher.events("progress") if event.get("done") == 5]
    assert (event["task"], event["step"], event["path"], event["name"]) == ("train-sft", "train/train", "a", "b")
    assert launcher.events("finished") == launcher.events("failed") == []
    assert (launcher.folder / "log").read_text().splitlines()[-1].endswith("the last line")
    assert launcher.code == 0
