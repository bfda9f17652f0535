"""Run a recipe on Kubeflow: check it here, start it there, follow it, end as `tutelage run` would.

    tutelage submit recipes/tiny.yaml --host https://kubeflow.example.com/pipeline --upload

Kubeflow says of a task that it failed, never why. Why stands in the store, where every task of a cluster tells its end
(following.py): with a store that can be read from here, outcome, cause, verdict and artifacts are those of
`tutelage run`, from the same function. Without one, a failed `enforce` is taken for a refusal (3), any other failure is 1, and a
spent budget (4) cannot be told from success: what could not be read is said.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.errors import InvalidInput, Problem
from tutelage.orchestrate.check import check_recipe
from tutelage.orchestrate.compile import compiled_file
from tutelage.orchestrate.following import Say, follow, settle, told_ends
from tutelage.orchestrate.kfp_api import KfpApi, connect
from tutelage.orchestrate.native import read_compiled
from tutelage.orchestrate.recipes import Recipe
from tutelage.orchestrate.records import RunRecord
from tutelage.orchestrate.tasks import tasks_of
from tutelage.orchestrate.upload import (
    compiled_text,
    current_commit,
    find_version,
    refuse_another_content,
    upload_text,
)
from tutelage.runtimes.settings import Settings
from tutelage.step import repository_root

#: How long a server may be away before following ends; the run goes on without us.
FOLLOW_PATIENCE_SECONDS = 900.0
#: What `--version` says for the newest on the server.
LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and as whom a recipe runs."""

    host: str | None = None
    """Address of KFP's API; KF_PIPELINES_ENDPOINT when absent."""
    namespace: str | None = None
    """Namespace of the run, where the server has several users."""
    experiment: str | None = None
    """Experiment that the run is listed under; the recipe's name when absent."""
    service_account: str | None = None
    """Account of the run's pods; the one in manifests/mounts.yaml when absent."""
    token_file: str | None = None
    """File with a token for the server."""
    pipeline_root: str | None = None
    """Where KFP keeps its artifacts; the server's default when absent."""
    version: str | None = None
    """Version of the pipeline: a name, or `latest`; that of compiled/ when absent."""


@dataclass(frozen=True)
class Started:
    """A run on the server."""

    run_id: str
    """KFP's id; steps know the run by it."""
    name: str
    """Its name on the server and in the runs folder."""
    version: str
    """Version of the pipeline that it runs."""
    link: str
    """Its page."""


def submit(
    recipe: Recipe, settings: Settings, target: Target, *, say: Say, command: str, upload_missing: bool = False,
    cancel_on_interrupt: bool = False, sleep: Callable[[float], None] = time.sleep,
) -> tuple[RunRecord, Started]:  # fmt: skip
    """Run `recipe` to its end on a server. Raises InvalidInput before anything is started; a failed run is in the record.

    KeyboardInterrupt leaves the run going, unless `cancel_on_interrupt`.
    """
    check_recipe(recipe, settings, here=False)
    refuse_places_of_this_machine(recipe)
    api = connect(target.host, target.token_file)
    began = datetime.now(UTC)
    started = start(api, recipe, target, upload_missing)
    say(f"run {started.name} of {recipe.pipeline} {started.version}: {started.link}")
    labels = {task.name: task.label for task in tasks_of(compiled_file(recipe.pipeline))}
    api.patience_seconds = FOLLOW_PATIENCE_SECONDS
    run = _follow_or_leave(api, started, labels, say, cancel_on_interrupt, sleep)
    record = _record(recipe, settings, started, began, command)
    ends = told_ends(settings, started.run_id, say)
    settle(record, run, ends, labels, started.link)
    return record, started


def cancel(run_id: str, host: str | None, token_file: str | None = None) -> None:
    """Ask for the end of a run. Its own exit handler then stops what it left running."""
    connect(host, token_file).terminate(run_id)


def refuse_places_of_this_machine(recipe: Recipe) -> None:
    """Raise InvalidInput that lists every file of the recipe that pods cannot see: paths outside the repository."""
    problems = [
        Problem(where, f"{uri!r} is a file of this machine", "put it into the object store and name it s3://…")
        for where, uri in _uris(recipe.parameters, "")
        if locations.is_local(uri) and not _in_the_repository(uri)
    ]
    if problems:
        raise InvalidInput.from_problems(f"recipe {recipe.name}", problems)


def _in_the_repository(path: str) -> bool:
    """Whether pods find `path`: images hold the repository's files, and links that lead out of it lead nowhere there."""
    if path.startswith("file://") or Path(path).is_absolute():
        return False
    root = repository_root().resolve()
    return (root / path).resolve().is_relative_to(root)


def _uris(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            path = f"{where}.{key}" if where else str(key)
            if key == "uri" and isinstance(item, str):
                yield path, item
            yield from _uris(item, path)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _uris(item, f"{where}[{index}]")


def start(api: KfpApi, recipe: Recipe, target: Target, upload_missing: bool) -> Started:
    """Start the recipe's pipeline, in the version asked for. Raises InvalidInput when the server lacks it."""
    if upload_missing and target.version is not None:
        raise InvalidInput("--upload brings the version of compiled/, --version names another", hint="give one of them")
    account = target.service_account or _run_account()
    if upload_missing:
        uploaded = upload_text(api, compiled_text(recipe.pipeline), target.namespace, current_commit())
        pipeline_id, version_id, name_of_version = uploaded.pipeline_id, uploaded.version_id, uploaded.version
    else:
        pipeline_id, version_id, name_of_version = _wanted_version(api, recipe, target)
    name = f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}-{recipe.name}-{secrets.token_hex(3)}"
    runtime: dict[str, Any] = {"parameters": dict(recipe.parameters)}
    if target.pipeline_root:
        runtime["pipeline_root"] = target.pipeline_root
    body = {
        "display_name": name, "experiment_id": _experiment(api, target.experiment or recipe.name, target.namespace),
        "description": recipe.description,
        "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": version_id},
        "runtime_config": runtime, "service_account": account,
    }  # fmt: skip
    run_id = str(api.create_run(body)["run_id"])
    return Started(run_id, name, name_of_version, f"{api.host}/#/runs/details/{run_id}")


def _wanted_version(api: KfpApi, recipe: Recipe, target: Target) -> tuple[str, str, str]:
    """Ids of pipeline and version, and the version's name. Raises InvalidInput when the server lacks it.

    Raises StepFailed where the version of compiled/ has another content there.
    """
    compiled = read_compiled(compiled_text(recipe.pipeline))
    wanted = target.version or compiled.version
    pipeline = api.pipeline(compiled.pipeline, target.namespace)
    found: Mapping[str, Any] | None = None
    if pipeline is not None and wanted == LATEST:
        found = next(iter(api.versions(str(pipeline["pipeline_id"]))), None)
    elif pipeline is not None:
        found = find_version(api, str(pipeline["pipeline_id"]), wanted)
    if pipeline is None or found is None:
        what = f"pipeline {compiled.pipeline}" if pipeline is None else f"version {wanted} of {compiled.pipeline}"
        which = "" if target.version else f", which compiled/{recipe.pipeline}.yaml is"
        raise InvalidInput(
            f"{api.host} has no {what}{which}",
            hint=f"run `tutelage upload {recipe.pipeline}` with the same --host, or add --upload",
        )
    if target.version is None:
        refuse_another_content(api, str(pipeline["pipeline_id"]), found, compiled)
    name = str(found.get("name") or found.get("display_name"))
    return str(pipeline["pipeline_id"]), str(found["pipeline_version_id"]), name


def _run_account() -> str:
    """The account that the manifests make for runs."""
    import yaml

    file = repository_root() / "manifests" / "mounts.yaml"
    if not file.is_file():
        raise InvalidInput(
            "no account named for the run's pods", hint="give --service-account, for example tutelage-run"
        )
    return str(yaml.safe_load(file.read_text(encoding="utf-8"))["run_account"])


def _experiment(api: KfpApi, name: str, namespace: str | None) -> str:
    found = api.experiment(name, namespace) or api.create_experiment(name, namespace)
    return str(found["experiment_id"])


def _follow_or_leave(
    api: KfpApi, started: Started, labels: Mapping[str, str], say: Say, cancel_on_interrupt: bool,
    sleep: Callable[[float], None],
) -> Mapping[str, Any]:  # fmt: skip
    try:
        return follow(api, started.run_id, labels, say, sleep)
    except KeyboardInterrupt:
        if not cancel_on_interrupt:
            say(f"the run goes on: {started.link}")
            say(f"to cancel it: tutelage cancel {started.run_id} --host {api.host}")
            raise
    say("cancelling the run; press Ctrl-C again to leave it to the server")
    api.terminate(started.run_id)
    return follow(api, started.run_id, labels, say, sleep)


def _record(recipe: Recipe, settings: Settings, started: Started, began: datetime, command: str) -> RunRecord:
    import psutil

    folder = Path(settings.runs).absolute() / started.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    return RunRecord(
        run=started.name, recipe=recipe.name, pipeline=recipe.pipeline, folder=str(folder), started=began.isoformat(),
        process=os.getpid(), process_started=psutil.Process().create_time(), command=command,
    )  # fmt: skip
