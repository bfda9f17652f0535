"""A run on Kubeflow, followed to its end, and what that end was: outcome, cause and record as `tutelage run` has them.

A run is done only where Kubeflow says so of the run and of every task of ours: it has called runs with an exit handler successful
whose tasks had failed (kubeflow/pipelines#11405). What the tasks themselves told through the store (runtimes/task_ends.py) goes
before what Kubeflow's states say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage.errors import StoreError
from tutelage.orchestrate.kfp_api import KfpApi, KfpError
from tutelage.orchestrate.records import RunRecord, conclude
from tutelage.runtimes import task_ends
from tutelage.runtimes.settings import Settings

POLL_SECONDS = 5.0
#: A line at least this often, so that whoever watches knows that it goes on.
QUIET_SECONDS = 60.0
FINAL = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
#: Not KFP's word: what we say of a run that the server does not know any more.
DELETED = "DELETED"
#: How often in a row the server must say that it knows no such run; a gateway that loses its way says so too, for a while.
DELETED_ANSWERS = 3
UNFINISHED_STATES = ("PENDING", "RUNNING", "PAUSED", "CANCELING")
#: The task whose only work is to refuse.
GATE = "enforce"
NOT_FOUND = 404
Say = Callable[[str], None]


def follow(
    api: KfpApi, run_id: str, labels: Mapping[str, str], say: Say, sleep: Callable[[float], None] = time.sleep
) -> Mapping[str, Any]:
    """Say each task's changes of state until the run has ended. Gives the run; of one that was deleted, what was last seen."""
    states: dict[str, str] = {}
    silent_seconds, missed = 0.0, 0
    run: Mapping[str, Any] = {}
    while True:
        try:
            run, missed = api.run(run_id), 0
        except KfpError as error:
            if error.status != NOT_FOUND:
                raise
            missed += 1
            if missed == DELETED_ANSWERS:
                say(f"{datetime.now(UTC):%H:%M:%S} the run was deleted on the server")
                return {**run, "state": DELETED}
            sleep(POLL_SECONDS)
            continue
        changes = [(label, state) for label, state in task_states(run, labels) if states.get(label) != state]
        for label, state in changes:
            states[label] = state
            say(f"{datetime.now(UTC):%H:%M:%S} {label:<20} {state.lower()}")
        silent_seconds = 0.0 if changes else silent_seconds + POLL_SECONDS
        if silent_seconds >= QUIET_SECONDS:
            silent_seconds = 0.0
            at_work = ", ".join(label for label, state in sorted(states.items()) if state in UNFINISHED_STATES)
            say(f"{datetime.now(UTC):%H:%M:%S} {str(run.get('state', 'unknown')).lower()}: {at_work or 'no task yet'}")
        if run.get("state") in FINAL:
            return run
        sleep(POLL_SECONDS)


def task_states(run: Mapping[str, Any], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Label and state of each task, in the order in which they began. KFP lists its drivers and groups too: those go."""
    details = (run.get("run_details") or {}).get("task_details") or []
    ours = [task for task in details if task.get("display_name") in labels and task.get("state")]
    ours.sort(key=lambda task: (str(task.get("start_time") or task.get("create_time") or ""), task["display_name"]))
    return [(labels[task["display_name"]], str(task["state"])) for task in ours]


def told_ends(settings: Settings, run_id: str, say: Say) -> Sequence[Mapping[str, Any]]:
    """What the run's tasks told of their ends, through the store; says so when it cannot be read."""
    try:
        ends = task_ends.read_all(settings.store_root, run_id)
    except (StoreError, OSError) as error:
        say(f"warning: the run's store cannot be read from here ({str(error).splitlines()[0]})")
        ends = []
    if not ends:
        say(
            f"warning: nothing of this run in {settings.store_root}: outcome and verdict are what Kubeflow's states say; "
            "set `store` in tutelage.toml to the cluster's"
        )
    return ends


def settle(
    record: RunRecord, run: Mapping[str, Any], ends: Sequence[Mapping[str, Any]], labels: Mapping[str, str], link: str
) -> None:
    """Fill in the record's end and write it, with the events it rests on, into its folder."""
    state = str(run.get("state"))
    events = [*ends, *_ends_by_state(run, ends, labels, link)]
    folder = Path(record.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(lines, encoding="utf-8")
    record.seconds = round((datetime.now(UTC) - datetime.fromisoformat(record.started)).total_seconds(), 3)
    conclude(record, events, 0 if state == "SUCCEEDED" else 1)


def _ends_by_state(
    run: Mapping[str, Any], ends: Sequence[Mapping[str, Any]], labels: Mapping[str, str], link: str
) -> Iterator[dict[str, Any]]:
    """A failure as Kubeflow's states tell it, where no task told why the run, or one of its tasks, did not succeed."""
    state = str(run.get("state"))
    told = {str(event["task"]): event["event"] for event in ends}
    states = dict(task_states(run, labels))
    bad = [label for label, seen in states.items() if seen == "FAILED" or (label == GATE and seen == "SKIPPED")]
    if "failed" in told.values() and state in ("SUCCEEDED", "FAILED", DELETED):
        return
    if state == "SUCCEEDED" and not bad:
        return
    label = next((name for name in bad if told.get(name) != "finished"), bad[0] if state == "SUCCEEDED" else "run")
    outcome, hint = "failed", f"its log: {link}"
    message = str((run.get("error") or {}).get("message") or "").strip()
    cause = f"Kubeflow says {state.lower()}" + (f": {message}" if message else "")
    if state == "CANCELED":
        cause, hint = "the run was cancelled", "submit it again: finished steps are reused"
    elif state == DELETED:
        label, cause, hint = "run", "the run was deleted on the server", "submit it again: finished steps are reused"
    elif label == GATE and not told and states[GATE] == "FAILED":
        outcome = "refused"
        cause = "the gate refused, as far as Kubeflow tells; the verdict is in the store"
        hint = f"the release page and the log of {GATE}: {link}"
    elif state == "SUCCEEDED":
        cause = f"Kubeflow says succeeded of the run, and {states[label].lower()} of {label}"
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    yield {
        "time": now, "event": "failed", "task": label, "step": "", "outcome": outcome, "cause": cause, "hint": hint,
    }  # fmt: skip
