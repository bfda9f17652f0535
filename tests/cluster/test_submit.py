"""Submitting over real HTTP: checked first, started once, followed through trouble, ended with the exit code of `run`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.kfp_server import Fault, KfpServer
from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate import following
from tutelage.orchestrate import submit as submitting
from tutelage.orchestrate.kfp_api import KfpError
from tutelage.orchestrate.recipes import Recipe, read_recipe
from tutelage.orchestrate.submit import Target, cancel, submit
from tutelage.orchestrate.tasks import tasks_of
from tutelage.orchestrate.upload import upload
from tutelage.runtimes import task_ends
from tutelage.runtimes.settings import Settings

#: Reading the compiled file takes a second, and every test submits.
tasks_read_once = cache(tasks_of)
DONE = {"state": "SUCCEEDED", "tasks": {"check": "SUCCEEDED", "enforce": "SUCCEEDED"}}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_recipe("tiny")


@pytest.fixture
def server(monkeypatch: Any) -> Iterator[KfpServer]:
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with KfpServer(script=[DONE]) as server:
        yield server


class Shell:
    """Somebody who submits, and what is said to them."""

    def __init__(self, server: KfpServer, recipe: Recipe, folder: Path) -> None:
        self.server, self.recipe = server, recipe
        self.settings = Settings(runs=str(folder / "runs"), store=str(folder / "store"))
        self.said: list[str] = []
        self.slept = 0.0

    def submit(self, **options: Any) -> Any:
        record, self.started = submit(
            self.recipe, self.settings, Target(host=self.server.url, **options.pop("target", {})), say=self.said.append,
            command="tutelage submit", sleep=self.sleep, **{"upload_missing": True, **options},
        )  # fmt: skip
        return record

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def told(self, *events: dict[str, Any]) -> dict[str, Any]:
        """A step of the script in which the cluster's tasks tell their ends through the store."""

        def tell() -> None:
            (run_id,) = self.server.runs
            for event in events:
                task_ends.tell(self.settings.store_root, run_id, event)

        return {"state": "RUNNING", "tasks": {"check": "RUNNING"}, "do": tell}


@pytest.fixture
def shell(server: KfpServer, recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> Shell:
    # What check says of a recipe has tests of its own.
    monkeypatch.setattr(submitting, "check_recipe", lambda recipe, settings, here: [])
    monkeypatch.setattr(submitting, "tasks_of", tasks_read_once)
    return Shell(server, recipe, tmp_path)


def finished(task: str, **fields: Any) -> dict[str, Any]:
    return {
        "time": "2026-03-01T00:00:01",
        "event": "finished",
        "task": task,
        "step": "",
        "outputs": {},
        "inputs": {},
        **fields,
    }


def failed(task: str, outcome: str, cause: str) -> dict[str, Any]:
    return {
        "time": "2026-03-01T00:00:02", "event": "failed", "task": task, "step": "", "outcome": outcome, "cause": cause,
        "hint": "do something",
    }  # fmt: skip


def test_a_run_gets_the_recipes_parameters_the_account_and_an_experiment(shell: Shell) -> None:
    record = shell.submit()
    (run,) = shell.server.runs.values()
    assert run["runtime_config"]["parameters"] == shell.recipe.parameters
    assert isinstance(run["runtime_config"]["parameters"]["policy"], dict)
    assert run["service_account"] == "tutelage-run"
    (experiment,) = shell.server.experiments.values()
    assert (experiment["display_name"], run["experiment_id"]) == ("tiny", experiment["experiment_id"])
    assert record.exit_code == 0
    shell.submit()
    assert len(shell.server.experiments) == len(shell.server.versions) == 1
    assert len(shell.server.runs) == 2


def test_a_version_that_the_server_lacks_is_refused_before_anything_is_made(shell: Shell) -> None:
    with pytest.raises(InvalidInput, match="has no pipeline llm-training") as refused:
        shell.submit(upload_missing=False)
    assert "tutelage upload llm_training" in str(refused.value.hint)
    assert shell.server.experiments == shell.server.runs == shell.server.pipelines == {}
    upload("llm_training", shell.server.url)
    assert shell.submit(upload_missing=False).exit_code == 0


def test_the_newest_version_runs_where_that_is_asked_for_as_a_schedule_does(shell: Shell) -> None:
    upload("llm_training", shell.server.url)
    (first,) = shell.server.versions.values()
    # Uploaded after the image was built, from compiled files that name its digest.
    newer = {**first, "pipeline_version_id": "newer", "name": "sha-newer", "created_at": "2026-03-02T00:00:00Z"}
    shell.server.versions = {"newer": newer, **shell.server.versions}
    shell.submit(upload_missing=False, target={"version": "latest"})
    assert shell.started.version == "sha-newer"
    shell.submit(upload_missing=False, target={"version": first["name"]})
    assert shell.started.version == first["name"]
    ran = [run["pipeline_version_reference"]["pipeline_version_id"] for run in shell.server.runs.values()]
    assert ran == ["newer", first["pipeline_version_id"]]
    with pytest.raises(InvalidInput, match="has no version sha-gone of llm-training"):
        shell.submit(upload_missing=False, target={"version": "sha-gone"})
    with pytest.raises(InvalidInput, match="--version names another"):
        shell.submit(target={"version": "latest"})


def test_a_recipe_with_mistakes_reaches_no_server(server: KfpServer, tmp_path: Path) -> None:
    wrong = Recipe("wrong", "llm_training", {"seed": "seven"})
    with pytest.raises(InvalidInput, match="seed"):
        Shell(server, wrong, tmp_path).submit()
    assert server.requests == []


def test_files_of_this_machine_are_refused_where_they_stand(shell: Shell, recipe: Recipe, tmp_path: Path) -> None:
    first, *rest = recipe.parameters["sources"]
    sources = [{**first, "uri": str(tmp_path / "rows.jsonl")}, *rest]
    shell.recipe = Recipe("mine", recipe.pipeline, {**recipe.parameters, "sources": sources})
    with pytest.raises(InvalidInput, match=r"sources\[0\]\.uri: .* is a file of this machine"):
        shell.submit()
    assert shell.server.requests == []


@pytest.mark.parametrize("uri", ["../rows.jsonl", "recipes/../../home/rows.jsonl", "../../../etc/passwd"])
def test_a_path_that_leads_out_of_the_repository_is_refused(shell: Shell, recipe: Recipe, uri: str) -> None:
    first, *rest = recipe.parameters["sources"]
    shell.recipe = Recipe("out", recipe.pipeline, {**recipe.parameters, "sources": [{**first, "uri": uri}, *rest]})
    with pytest.raises(InvalidInput, match=r"sources\[0\]\.uri: .* is a file of this machine"):
        shell.submit()
    assert shell.server.requests == []


def test_a_link_that_leads_out_of_the_repository_is_refused_and_one_within_is_not(
    tmp_path: Path, monkeypatch: Any
) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    (root / "own.jsonl").write_text("{}")
    (root / "out").symlink_to(tmp_path / "rows.jsonl")
    (root / "in").symlink_to(root / "own.jsonl")
    monkeypatch.setattr(submitting, "repository_root", lambda: root)
    check = submitting.refuse_places_of_this_machine
    check(Recipe("own", "llm_training", {"sources": [{"uri": "in"}, {"uri": "s3://bucket/../rows.jsonl"}]}))
    with pytest.raises(InvalidInput, match=r"sources\[0\]\.uri"):
        check(Recipe("own", "llm_training", {"sources": [{"uri": "out"}]}))


@pytest.mark.parametrize("options", [{}, {"upload_missing": False}], ids=["with --upload", "without"])
def test_a_version_that_holds_something_else_than_its_name_says_is_not_run(
    shell: Shell, options: dict[str, Any]
) -> None:
    upload("llm_training", shell.server.url)
    (version,) = shell.server.versions.values()
    executors = version["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    executors["exec-check"]["container"]["image"] = "registry.example.com/other:1"
    with pytest.raises(StepFailed, match="with another content"):
        shell.submit(**options)
    assert shell.server.runs == {}


def test_each_change_of_a_task_is_said_once_and_kfps_own_tasks_are_not(shell: Shell) -> None:
    shell.server.script = [
        {"state": "PENDING", "tasks": {}},
        {"state": "RUNNING", "tasks": {"check": "RUNNING"}},
        {"state": "RUNNING", "tasks": {"check": "RUNNING"}},
        {"state": "RUNNING", "tasks": {"check": "SUCCEEDED", "train-2": "RUNNING"}},
        DONE,
    ]
    shell.submit()
    said = [line.split()[1:] for line in shell.said if line[2] == ":"]
    assert said == [
        ["check", "running"], ["check", "succeeded"], ["train-sft", "running"], ["enforce", "succeeded"],
    ]  # fmt: skip


def test_a_long_step_is_reported_every_minute(shell: Shell) -> None:
    running = {"state": "RUNNING", "tasks": {"train": "RUNNING"}}
    shell.server.script = [*[running] * 40, DONE]
    shell.submit()
    assert sum("running: train-pretrain" in line for line in shell.said) == 3
    assert shell.slept == 40 * following.POLL_SECONDS


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_server_that_goes_away_while_we_follow_is_waited_for(shell: Shell, status: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(submitting, "connect", quick(submitting.connect))

    def go_away() -> None:
        shell.server.faults.append(Fault(status, times=6))

    shell.server.script = [{"state": "RUNNING", "tasks": {}, "do": go_away}, {"state": "RUNNING", "tasks": {}}, DONE]
    assert shell.submit().exit_code == 0


def quick(connect: Any) -> Any:
    """`connect` with waits that cost nothing."""

    def connected(*arguments: Any) -> Any:
        api = connect(*arguments)
        api._sleep = lambda seconds: None
        return api

    return connected


@pytest.mark.parametrize("status", [0, 503, 504])
def test_a_lost_answer_starts_no_second_run(shell: Shell, status: int, monkeypatch: Any) -> None:
    upload("llm_training", shell.server.url)
    shell.submit(upload_missing=False)
    shell.server.faults.append(Fault(status, method="POST", after=True))
    assert shell.submit(upload_missing=False).exit_code == 0
    assert len(shell.server.runs) == 2
    assert shell.started.run_id in shell.server.runs


def test_a_run_that_was_not_started_is_told_and_not_started_twice(shell: Shell) -> None:
    shell.submit()
    shell.server.faults.append(Fault(500, method="POST"))
    with pytest.raises(KfpError, match="500"):
        shell.submit()
    assert len(shell.server.runs) == 1


REFUSED = {"state": "FAILED", "tasks": {"decide": "SUCCEEDED", "enforce": "FAILED", "line": "FAILED"}}


@pytest.mark.parametrize(
    ("told", "end", "outcome", "exit_code"),
    [
        ([finished("check"), finished("train-sft")], DONE, "done", 0),
        ([finished("check"), finished("train-sft", stopped="budget")], DONE, "budget", 4),
        ([finished("decide"), failed("enforce", "refused", "leak found")], REFUSED, "refused", 3),
        ([failed("enforce", "failed", "the store is full")], REFUSED, "failed", 1),
        (
            [failed("check", "invalid", "no such licence")],
            {"state": "FAILED", "tasks": {"check": "FAILED"}},
            "invalid",
            2,
        ),
        ([failed("acquire", "budget", "too dear")], {"state": "FAILED", "tasks": {"acquire": "FAILED"}}, "budget", 4),
        ([finished("check")], {"state": "FAILED", "tasks": {"check": "SUCCEEDED", "train": "FAILED"}}, "failed", 1),
        ([finished("check")], REFUSED, "failed", 1),
        ([], REFUSED, "refused", 3),
        ([], {"state": "FAILED", "tasks": {"ingest": "FAILED"}}, "failed", 1),
        ([], {"state": "CANCELED", "tasks": {"ingest": "FAILED"}}, "failed", 1),
        ([], {"state": "FAILED", "tasks": {}, "error": "image pull"}, "failed", 1),
        ([], {"state": "SKIPPED", "tasks": {}}, "failed", 1),
        ([], DONE, "done", 0),
        # Kubeflow calls the run successful, and not its tasks.
        ([], {"state": "SUCCEEDED", "tasks": {"enforce": "FAILED"}}, "refused", 3),
        ([], {"state": "SUCCEEDED", "tasks": {"enforce": "SKIPPED"}}, "failed", 1),
        ([], {"state": "SUCCEEDED", "tasks": {"train": "FAILED", "enforce": "SKIPPED"}}, "failed", 1),
        ([finished("enforce")], {"state": "SUCCEEDED", "tasks": {"enforce": "FAILED"}}, "failed", 1),
        ([finished("check")], {"state": "SUCCEEDED", "tasks": {"check": "FAILED"}}, "failed", 1),
        (
            [failed("enforce", "refused", "leak found")],
            {"state": "SUCCEEDED", "tasks": {"enforce": "FAILED"}},
            "refused",
            3,
        ),
        # A task that is skipped on purpose, and one of KFP's own.
        (
            [finished("check")],
            {"state": "SUCCEEDED", "tasks": {"enforce": "SUCCEEDED", "deploy": "SKIPPED"}},
            "done",
            0,
        ),
        ([], {"state": "SUCCEEDED", "tasks": {"enforce": "SUCCEEDED", "condition-1": "FAILED"}}, "done", 0),
    ],
)
def test_the_exit_code_is_that_of_run(
    shell: Shell, told: list[Any], end: dict[str, Any], outcome: str, exit_code: int
) -> None:
    shell.server.script = [shell.told(*told), end]
    record = shell.submit()
    assert (record.outcome, record.exit_code) == (outcome, exit_code)
    if exit_code in (1, 2, 3):
        assert record.cause
        assert record.hint
    if not told:
        assert any("nothing of this run in" in line for line in shell.said)


def test_the_cause_is_the_steps_own_where_the_store_tells_it_and_kubeflows_where_not(shell: Shell) -> None:
    shell.server.script = [shell.told(failed("enforce", "refused", "leak found")), REFUSED]
    record = shell.submit()
    assert (record.failed_task, record.cause, record.hint) == ("enforce", "leak found", "do something")
    shell.server.script = [{"state": "FAILED", "tasks": {"train": "FAILED"}, "error": "child failed"}]
    record = shell.submit()
    assert (record.failed_task, record.cause) == ("train-pretrain", "Kubeflow says failed: child failed")
    assert shell.started.run_id in str(record.hint)


def test_a_successful_run_with_a_failed_task_says_which(shell: Shell) -> None:
    shell.server.script = [{"state": "SUCCEEDED", "tasks": {"check": "SUCCEEDED", "train": "FAILED"}}]
    record = shell.submit()
    assert record.failed_task == "train-pretrain"
    assert record.cause == "Kubeflow says succeeded of the run, and failed of train-pretrain"


def test_a_run_that_is_deleted_while_it_is_followed_ends_as_failed_with_its_record(shell: Shell) -> None:
    from tutelage.orchestrate.records import find_run, read_record

    deleted = {"state": "RUNNING", "tasks": {"check": "SUCCEEDED"}, "do": shell.server.runs.clear}
    shell.server.script = [shell.told(finished("check")), deleted]
    record = shell.submit()
    assert (record.outcome, record.exit_code) == ("failed", 1)
    assert record.cause == "the run was deleted on the server" and record.hint
    found = read_record(find_run(shell.settings, "latest"))
    assert (found.run, found.cause, found.failed_task) == (record.run, record.cause, "run")
    lines = [json.loads(line) for line in (Path(record.folder) / "events.jsonl").read_text().splitlines()]
    assert [(event["task"], event["event"]) for event in lines] == [("check", "finished"), ("run", "failed")]


def test_what_a_task_told_before_its_run_was_deleted_stays_the_cause(shell: Shell) -> None:
    told = shell.told(failed("enforce", "refused", "leak found"))
    shell.server.script = [told, {"state": "RUNNING", "tasks": {}, "do": shell.server.runs.clear}]
    record = shell.submit()
    assert (record.outcome, record.exit_code, record.cause) == ("refused", 3, "leak found")


def test_a_run_that_the_server_does_not_find_for_a_moment_is_followed_on(shell: Shell) -> None:
    lost = lambda: shell.server.faults.append(Fault(404, times=following.DELETED_ANSWERS - 1, method="GET"))
    running = {"state": "RUNNING", "tasks": {"check": "RUNNING"}}
    shell.server.script = [{**running, "do": lost}, {**running, "do": lost}, running, DONE]
    assert shell.submit().exit_code == 0


def test_the_run_stands_in_the_runs_folder_like_one_of_this_machine(shell: Shell) -> None:
    from tutelage.orchestrate.records import find_run, read_record

    shell.server.script = [shell.told(finished("check")), DONE]
    record = shell.submit()
    found = read_record(find_run(shell.settings, "latest"))
    assert (found.run, found.outcome, found.recipe) == (record.run, "done", "tiny")
    events = (Path(record.folder) / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in events] == ["check"]
    assert read_recipe(str(Path(record.folder) / "recipe.yaml")).parameters == shell.recipe.parameters


def interrupted(shell: Shell, times: int = 1) -> Any:
    """Ctrl-C at the next `times` waits."""
    left = itertools.count()

    def sleep(seconds: float) -> None:
        if next(left) < times:
            raise KeyboardInterrupt

    return sleep


def test_an_interrupt_leaves_the_run_going_and_says_how_to_cancel_it(shell: Shell) -> None:
    shell.server.script = [{"state": "RUNNING", "tasks": {"check": "RUNNING"}}, DONE]
    shell.sleep = interrupted(shell)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        shell.submit()
    (run_id,) = shell.server.runs
    assert shell.said[-1] == f"to cancel it: tutelage cancel {run_id} --host {shell.server.url}"
    assert shell.server.made("POST", f"/runs/{run_id}:terminate") == 0
    assert not Path(shell.settings.runs).exists()
    cancel(run_id, shell.server.url)
    assert shell.server.made("POST", f"/runs/{run_id}:terminate") == 1


def test_an_interrupt_cancels_where_that_was_asked_for_and_waits_for_the_end(shell: Shell) -> None:
    shell.server.script = [{"state": "RUNNING", "tasks": {"check": "RUNNING"}}, DONE]
    shell.sleep = interrupted(shell)  # type: ignore[method-assign]
    record = shell.submit(cancel_on_interrupt=True)
    assert (record.outcome, record.cause, record.exit_code) == ("failed", "the run was cancelled", 1)
    assert shell.server.made("POST", "/runs/") == 1


def test_ends_of_another_run_and_events_that_are_no_ends_are_not_read(tmp_path: Path) -> None:
    store = str(tmp_path)
    task_ends.tell(store, "one", finished("check"))
    task_ends.tell(store, "one", {"event": "progress", "task": "check"})
    task_ends.tell(store, "two", failed("check", "failed", "x"))
    task_ends.tell(store, "one", failed("ingest", "failed", "y"))
    assert [(event["task"], event["event"]) for event in task_ends.read_all(store, "one")] == [
        ("check", "finished"), ("ingest", "failed"),
    ]  # fmt: skip
    assert task_ends.read_all(store, "three") == []


@pytest.mark.parametrize("run", ["../one", "a/b", "", ".."])
def test_a_run_that_leads_out_of_its_folder_is_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(Exception, match="not a name of a run"):
        task_ends.read_all(str(tmp_path), run)
