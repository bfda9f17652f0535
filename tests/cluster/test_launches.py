"""Launches of one task: never two at once, counted whoever dies when, and no launcher spoils what another one wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.launchers import KEY, Killed, Launcher, Watch, left_in_store, made, read, trains
from tests.cluster.objects import PYTORCHJOB, Object
from tests.cluster.operators import Life, evict, finish, schedule, start
from tests.contracts import payloads
from tutelage.contracts import locations
from tutelage.runtimes.kubernetes import launching
from tutelage.runtimes.kubernetes.attempts import Attempts
from tutelage.runtimes.kubernetes.jobs import Job
from tutelage.runtimes.kubernetes.launches import NameTaken, latest
from tutelage.runtimes.kubernetes.surroundings import Surroundings

HOLD = ["example.com/hold"]


@pytest.fixture(autouse=True)
def _no_pod_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))


def job_of(launcher: Launcher) -> Job:
    """The job of a launcher's task, as it renders it."""
    site, request, here = launcher.site, launcher.request(), Surroundings(launcher.run, None)
    requests = locations.join(site.store.root, "scratch", "jobs", launcher.run)
    needs = launching.needs_of(request.step)
    return launching.job_of(request, site.settings, needs, here, NAMESPACE, requests, 1)


def evicted_first(site: Site, seconds: float = 9) -> object:
    """Worker 0 of the first launch is evicted while worker 1 works on; the second launch trains."""

    def life(job: Object, index: int) -> Life:
        if job["metadata"]["labels"]["tutelage.dev/relaunch"] == "0":
            return [(1, schedule), (2, start), *([(seconds, evict)] if index == 0 else [])]
        return trains(site)(job, index)

    return site.train(life)


@pytest.mark.parametrize(
    "moment", [("delete", "before"), ("delete", "after"), ("note", "before"), ("note", "after"), ("second", "before")]
)
def test_the_count_of_launches_outlives_a_launcher_that_dies_between_two(
    site: Site, moment: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, first = Watch(site), Launcher(site)
    evicted_first(site)
    if moment[0] == "note":
        note = Attempts.note

        def dies(self: Attempts, job: Job, ordinal: int) -> None:
            if moment[1] == "after":
                note(self, job, ordinal)
            raise Killed

        monkeypatch.setattr(Attempts, "note", dies)
    elif moment[0] == "second":
        create = first.api.create
        refuses = lambda resource, body: (_ for _ in ()).throw(Killed) if made(site) else create(resource, body)
        monkeypatch.setattr(first.api, "create", refuses)
    else:
        first.api.die_at = moment
    first.start().join()
    assert isinstance(first.error, Killed)
    monkeypatch.undo()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    second = Launcher(site, name="second").start().join()
    assert (second.error, second.code) == (None, 0)
    name = job_of(second).name
    assert made(site) == [name, f"{name}-r1"], "the first launch is never made again"
    assert watch.together == set() and left_in_store(site) == []
    site.check_left()


def test_a_launch_that_is_being_deleted_counts_and_no_other_works_beside_it(site: Site) -> None:
    watch, launcher = Watch(site), Launcher(site)
    site.train(trains(site, until=60))
    again = job_of(launcher).relaunched(1)
    site.api.create(again.resource, again.body)
    site.time.sleep(10)
    site.cluster.update(PYTORCHJOB, again.name, NAMESPACE, lambda item: item["metadata"].update(finalizers=HOLD))
    site.api.delete(again.resource, again.name)
    assert latest(site.api, job_of(launcher)) == 1
    free = lambda item: item["metadata"].update(finalizers=[])
    site.time.after(20, lambda: site.cluster.update(PYTORCHJOB, again.name, NAMESPACE, free))
    launcher.start().join()
    assert (launcher.error, launcher.code) == (None, 0)
    assert made(site) == [again.name] * 2 and watch.together == set()


def test_pods_of_an_earlier_launch_that_do_not_go_are_a_cause_and_no_second_job(site: Site) -> None:
    launcher = Launcher(site)
    site.train(lambda job, index: [(1, schedule), (2, start)])
    first = job_of(launcher)
    site.api.create(first.resource, first.body)
    site.time.sleep(10)
    # What a launcher leaves that noted the next launch and died: here behind a finalizer that nobody removes.
    site.cluster.update(PYTORCHJOB, first.name, NAMESPACE, lambda item: item["metadata"].update(finalizers=HOLD))
    record = Path(site.store.root) / "scratch" / "jobs" / "run-1" / f"{first.name}.relaunch.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"relaunch": 1}))
    began = site.time.seconds
    launcher.start().join()
    assert isinstance(launcher.error, NameTaken)
    assert f"pod/{first.name}-worker-0" in launcher.error.message and "finalizer" in str(launcher.error.hint)
    assert made(site) == [first.name] and site.time.seconds - began < 200


def test_an_earlier_launch_that_a_finalizer_holds_stops_nobody_once_its_pods_have_ended(site: Site) -> None:
    launcher = Launcher(site)

    def life(job: Object, index: int) -> Life:
        over = job["metadata"]["labels"]["tutelage.dev/relaunch"] == "0"
        return [(1, schedule), (2, start), (5, finish(1))] if over else trains(site)(job, index)

    site.train(life)
    first = job_of(launcher)
    site.api.create(first.resource, first.body)
    site.time.sleep(10)
    site.cluster.update(PYTORCHJOB, first.name, NAMESPACE, lambda item: item["metadata"].update(finalizers=HOLD))
    Attempts(launcher.request(), site.store, str(Path(site.store.root) / "scratch/jobs/run-1"), "").note(first, 1)
    launcher.start().join()
    assert (launcher.error, launcher.code) == (None, 0)
    assert made(site) == [first.name, f"{first.name}-r1"]


def test_a_launcher_that_finds_a_later_launch_goes_on_with_that(site: Site) -> None:
    watch, late = Watch(site), Launcher(site)
    site.train(trains(site, until=60))
    again = job_of(late).relaunched(1)
    looked = late.api.list

    def slow(*arguments: object) -> object:
        # It looks for launches, and is then away for so long that another launcher has made the next one.
        answer = looked(*arguments)  # type: ignore[arg-type]
        if not made(site):
            put = launching._Work(late.request(), site.store, Surroundings("run-1", None)).prepare(again)
            site.api.create(again.resource, put)
            site.time.sleep(10)
        return answer

    late.api.list = slow  # type: ignore[method-assign, assignment]
    late.start().join()
    assert (late.error, late.code) == (None, 0)
    assert made(site) == [again.name] and watch.together == set()


# --- two launchers of one task ---


def test_a_launcher_that_was_away_between_look_and_create_spoils_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by: list[str] = []
    site.train(trains(site, until=30, writes=lambda request: read_by.append(request.attempt)))
    zombie, retried = Launcher(site, name="zombie"), Launcher(site, name="retried")
    write, own = Attempts._write, []

    def slow(self: Attempts, name: str, attempt: str) -> None:
        if self.request.outcome == zombie.request().outcome and not own:
            own.append(attempt)
            retried.start()
            # The other one makes the job, its ranks read their request, rank 0 leaves model and outcome.
            while not site.store.find({"trained": "model"}, KEY):
                site.time.sleep(0.2)
        write(self, name, attempt)

    monkeypatch.setattr(Attempts, "_write", slow)
    zombie.start().join()
    retried.join()
    assert (zombie.error, zombie.code, retried.error, retried.code) == (None, 0, None, 0)
    assert zombie.outcome["attempt"] == retried.outcome["attempt"] == read_by[0] != own[0]
    assert left_in_store(site) == []
    site.check_left()


def test_a_job_that_another_launcher_of_the_task_ended_is_followed_by_its_next_launch(site: Site) -> None:
    def life(job: Object, index: int) -> Life:
        over = job["metadata"]["labels"]["tutelage.dev/relaunch"] == "0"
        return [(1, schedule), (2, start)] if over else trains(site)(job, index)

    site.train(life)
    launcher = Launcher(site).start()
    first = job_of(launcher)
    while not site.nodes.runs:
        site.time.sleep(0.5)
    # What the other one does that saw an eviction: it notes the next launch, then it deletes this one.
    Attempts(launcher.request(), site.store, str(Path(site.store.root) / "scratch/jobs/run-1"), "").note(first, 1)
    site.api.delete(first.resource, first.name)
    launcher.join()
    assert (launcher.error, launcher.code) == (None, 0)
    assert made(site) == [first.name, f"{first.name}-r1"]


def test_adopting_a_job_touches_neither_request_nor_outcome(site: Site) -> None:
    site.train(trains(site, until=60))
    first = Launcher(site).start()
    while not site.cluster.all(PYTORCHJOB, NAMESPACE):
        site.time.sleep(0.5)
    before = {path: (Path(site.store.root) / "scratch" / path).stat().st_mtime_ns for path in left_in_store(site)}
    assert before
    second = Launcher(site, name="second").start()
    site.time.sleep(20)
    after = {path: (Path(site.store.root) / "scratch" / path).stat().st_mtime_ns for path in left_in_store(site)}
    assert after == before
    assert (first.join().code, second.join().code) == (0, 0) and len(made(site)) == 1


def test_a_job_whose_outcome_is_lost_is_done_when_its_attempt_is_complete(site: Site) -> None:
    def silent(nodes: object, pod: Object) -> None:
        payloads.finished(site.store.root, attempt=read(pod).attempt, kind="model", output="trained", rows=None)

    first: Life = [(1, schedule), (2, start), (5, silent), (6, finish(137))]
    site.train(lambda job, index: first if index == 0 else [(1, schedule), (2, start), (6, finish(1))])
    launcher = Launcher(site).start().join()
    assert (launcher.error, launcher.code) == (None, 0)
    assert site.store.read("model", KEY, launcher.outcome["attempt"]).output == "trained"


def test_what_an_earlier_job_of_the_name_left_is_no_outcome_of_this_one(site: Site) -> None:
    launcher, folder = Launcher(site), Path(site.store.root) / "scratch" / "jobs" / "run-1"
    folder.mkdir(parents=True)
    stale = json.dumps({"outcome": "invalid", "cause": "an earlier job's", "hint": None, "attempt": "old", "rank": 0})
    for name in (".outcome.json", ".20260101T000000000000-00000000.outcome.json", ".outcome.json.rank1"):
        (folder / f"{job_of(launcher).name}{name}").write_text(stale)
    site.train(lambda job, index: [(1, schedule), (2, start), (20, finish(0))])
    launcher.start().join()
    assert (launcher.error, launcher.code) == (None, 1)
    assert "no outcome.json" in launcher.outcome["cause"] and left_in_store(site) == []


def test_another_attempts_manifest_is_no_outcome_of_this_job(site: Site) -> None:
    payloads.finished(site.store.root, kind="model", output="trained", rows=None)
    site.train(lambda job, index: [(1, schedule), (2, start), (5, finish(1))])
    launcher = Launcher(site).start().join()
    assert (launcher.error, launcher.code, launcher.outcome["outcome"]) == (None, 1, "failed")
