"""launch(): finished work is reused, one process at a time does the rest, and whatever dies is said and cleaned up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tutelage
from tests.contracts.workspace import Workspace
from tutelage.contracts import locations
from tutelage.contracts.locks import kill_recorded, record_child, step_lock
from tutelage.contracts.manifest import read, verify
from tutelage.contracts.store import Store
from tutelage.runtimes.launch import _Task
from tutelage.runtimes.settings import Settings
from tutelage.step import append_event


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return Workspace(folder)


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value of `condition`. Fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return value


def alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_step_runs_once_and_is_reused_by_later_runs(workspace):
    request = workspace.request(
        "demo/make", {"diary": str(workspace.folder / "diary")}, metrics=str(workspace.folder / "metrics")
    )
    first = workspace.launch(request, request)
    second = workspace.launch(request, run="run-2")
    assert [result["error"] for result in first + second] == [None] * 3
    assert len(workspace.diary()) == 1
    assert first[0]["metadata"] == first[1]["metadata"] == second[0]["metadata"]
    assert [event["reused"] for event in workspace.events(name="finished")] == [False, True]
    assert [event["reused"] for event in workspace.events("run-2", "finished")] == [True]
    assert json.loads((workspace.folder / "metrics").read_text()) == {"words": 3.0}

    manifest = read(request["outputs"]["made"])
    verify(manifest)
    assert manifest.run == "run-1", "the run that made it"
    metadata = first[0]["metadata"]["made"]
    assert metadata["manifest"] == manifest.uri
    assert metadata["digest"] == manifest.content_digest
    finished = workspace.events("run-2", "finished")[0]
    assert finished["outputs"] == {"made": manifest.uri}
    assert read(manifest.uri) == manifest
    assert json.loads((Path(manifest.location) / "observations.json").read_text())["seconds"] >= 0


def test_other_config_other_inputs_and_never_reused_steps_run_again(workspace):
    diary = {"diary": str(workspace.folder / "diary")}
    make, kfp = workspace.request("demo/make", diary), workspace.folder / "kfp"
    join = workspace.request("demo/join", diary, inputs={"left": str(kfp / "make-made")})
    other = workspace.request("demo/make", diary | {"text": "other"})
    always = workspace.request("demo/always", diary)
    assert all(
        result["error"] is None
        for result in workspace.launch(make, join, join, other, join, make, join, always, always)
    )
    # make, join, other, join on other, always twice; the rest is reused.
    assert len(workspace.diary()) == 6
    verdict = read(str(kfp / "join-verdict"))
    assert verdict.inputs == {"left": read(str(kfp / "make-made")).content_digest}
    assert (kfp / "join-page").read_text() == "text", "a page is handed over as the page itself"


def test_fresh_runs_reuse_nothing(workspace):
    request = workspace.request("demo/make", {"diary": str(workspace.folder / "diary")})
    workspace.settings["reuse"] = False
    workspace.launch(request, request)
    assert len(workspace.diary()) == 2


def test_a_payload_that_was_altered_is_made_again(workspace):
    request = workspace.request("demo/make", {"diary": str(workspace.folder / "diary")})
    workspace.launch(request)
    torn = read(request["outputs"]["made"])
    (Path(torn.location) / "rows.txt").write_text("swapped")
    assert workspace.launch(request)[0]["error"] is None
    again = read(request["outputs"]["made"])
    assert len(workspace.diary()) == 2
    assert again.attempt != torn.attempt
    assert again.content_digest == torn.content_digest
    verify(again)


def test_two_launchers_of_the_same_work_do_it_once(workspace):
    diary = {"diary": str(workspace.folder / "diary"), "seconds": 1.0}
    both = [workspace.start(workspace.request("demo/make", diary), run=run) for run in ("run-1", "run-2")]
    results = [json.loads(process.communicate(timeout=60)[0])[0] for process in both]
    assert [result["error"] for result in results] == [None, None]
    assert len(workspace.diary()) == 1
    assert results[0]["metadata"] == results[1]["metadata"]
    events = workspace.events("run-1") + workspace.events("run-2")
    assert sorted(event["reused"] for event in events if event["event"] == "finished") == [False, True]
    waiting = [event for event in events if event["event"] == "waiting"]
    assert len(waiting) == 1
    assert waiting[0]["reason"]


@pytest.mark.parametrize("step", ["demo/make", "demo/child"])
def test_a_launcher_killed_midway_leaves_nothing_and_the_next_succeeds(workspace, step):
    slow = workspace.request(step, {"diary": str(workspace.folder / "diary"), "seconds": 60.0})
    first = workspace.start(slow)
    worker = int(wait_for(workspace.diary)[0])
    second = workspace.start(slow, run="run-2")
    wait_for(lambda: workspace.events("run-2", "waiting"))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for(lambda: not alive(worker))
    # The second now holds the lock and does the work itself; it is killed too, between payload and manifest.
    wait_for(lambda: len(workspace.diary()) == 2)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    store = Store(str(workspace.runs / "store"))
    assert list(store.manifests()) == []
    # The same key, and a step that is quick now: its duration is changed behind the launcher's back.
    file = workspace.folder / "components" / step / "step.py"
    file.write_text(file.read_text().replace("time.sleep(config.seconds)", "pass"))
    assert workspace.launch(slow, run="run-3")[0]["error"] is None
    assert len(workspace.diary()) == 3
    assert len(list(store.manifests())) == 1


def test_a_finished_step_leaves_no_process_and_no_scratch(workspace):
    workspace.launch(workspace.request("demo/child"))
    assert [path for path in (workspace.runs / "locks").iterdir() if path.read_text()] == []
    assert (
        list((workspace.runs / "store" / "scratch").rglob("*")) == []
        if (workspace.runs / "store" / "scratch").exists()
        else True
    )


@pytest.mark.parametrize("where", ["laptop", "cluster"])
def test_a_fresh_run_finds_no_checkpoints_and_on_a_cluster_removes_nobodys(workspace, where):
    workspace.settings["reuse"] = False
    if where == "cluster":
        workspace.settings["cluster"] = {"namespace": "team"}
    request = workspace.request("demo/make", {"fail": "StepFailed"})
    workspace.launch(request)
    (made,) = (workspace.runs / "store" / "documents").iterdir()
    scratch = workspace.runs / "store" / "scratch"
    own = scratch / made.name if where == "laptop" else scratch / "runs" / "run-1" / "make" / made.name
    others = [scratch / "runs" / "run-2" / "make" / made.name, scratch / "checkpoints" / "team" / made.name]
    for folder in (own, *others):
        folder.mkdir(parents=True)
        (folder / "complete.json").write_text("{}")
    # The task's pod is tried again, while the job that the first one made still works.
    workspace.launch(request)
    assert (own / "complete.json").exists() == (where == "cluster")
    assert all((folder / "complete.json").exists() for folder in others)


TYPED = ("InvalidInput", "MissingTool", "GateRefused", "BudgetSpent", "StepFailed", "CorruptPayload")
OUTCOMES = {"InvalidInput": "invalid", "MissingTool": "invalid", "GateRefused": "refused", "BudgetSpent": "budget"}
EXIT_CODES = {"InvalidInput": 2, "MissingTool": 2, "GateRefused": 3, "BudgetSpent": 4}


@pytest.mark.parametrize("step", ["demo/make", "demo/child"])
def test_a_failing_step_says_cause_and_hint_and_leaves_its_outcome(workspace, step):
    requests = [workspace.request(step, {"fail": name}, label=name) for name in TYPED]
    for name, result in zip(TYPED, workspace.launch(*requests), strict=True):
        assert result["exit_code"] == EXIT_CODES.get(name, 1)
        assert (result["cause"], result["hint"]) == (f"cause of {name}", f"hint for {name}")
        outcome = json.loads((workspace.runs / "run-1" / "outcomes" / f"{name}.json").read_text())
        assert outcome["outcome"] == OUTCOMES.get(name, "failed")
        assert (outcome["cause"], outcome["hint"]) == (f"cause of {name}", f"hint for {name}")
        event = next(event for event in workspace.events(name="failed") if event["task"] == name)
        assert (event["outcome"], event["cause"], event["hint"]) == (
            outcome["outcome"],
            outcome["cause"],
            outcome["hint"],
        )
    assert list(Store(str(workspace.runs / "store")).manifests()) == []


def test_a_child_that_crashes_exits_or_is_killed_is_told_apart(workspace):
    ways = ("crash", "exit", "kill")
    results = workspace.launch(*(workspace.request("demo/child", {"fail": way}, label=way) for way in ways))
    crash, exited, killed = results
    assert {result["error"] for result in results} == {"StepFailed"}
    assert crash["cause"] == "ValueError: a value was wrong"
    assert "exited with code 7" in exited["cause"]
    assert "killed by signal 9" in killed["cause"]
    for way, result in zip(ways, results, strict=True):
        log = workspace.runs / "run-1" / "logs" / f"{way}.log"
        assert str(log) in result["hint"]
    assert "Traceback" in (workspace.runs / "run-1" / "logs" / "crash.log").read_text()


def test_an_outcome_of_an_earlier_try_is_not_taken_for_this_one(workspace):
    first, second = workspace.launch(
        workspace.request("demo/child", {"fail": "GateRefused"}, label="same"),
        workspace.request("demo/child", {"fail": "exit"}, label="same"),
    )
    assert first["error"] == "GateRefused"
    assert second["error"] == "StepFailed"
    assert "exited with code 7" in second["cause"]


def test_inputs_that_cannot_be_used_are_refused_before_work_starts(workspace):
    make = workspace.request("demo/make")
    kfp = workspace.folder / "kfp"
    diary = {"diary": str(workspace.folder / "diary")}
    first = workspace.launch(make, workspace.request("demo/join", inputs={"left": str(kfp / "make-made")}))
    assert [result["error"] for result in first] == [None, None]
    (kfp / "torn").write_bytes((kfp / "make-made").read_bytes()[:-20])
    inputs: dict[str, dict[str, str]] = {
        "kind": {"left": str(kfp / "join-verdict")},
        "name": {"right": str(kfp / "make-made")},
        "none": {},
        "missing": {"left": str(kfp / "missing")},
        "torn": {"left": str(kfp / "torn")},
    }
    requests = [workspace.request("demo/join", diary, inputs=value, label=name) for name, value in inputs.items()]
    kind, name, none, missing, torn = workspace.launch(*requests)
    assert (kind["error"], kind["exit_code"]) == ("InvalidInput", 2)
    assert "'left' is a verdict, accepted: documents" in kind["cause"]
    assert "reads ['left'], got ['right']" in name["cause"]
    assert "reads ['left'], got []" in none["cause"]
    assert missing["error"] == "StoreError"
    assert "no manifest at" in missing["cause"]
    assert missing["hint"]
    assert torn["error"] == "CorruptPayload"
    assert workspace.diary() == []
    assert {event["task"] for event in workspace.events(name="failed")} == set(inputs)


def test_an_input_whose_payload_was_swapped_is_refused_before_work_starts(workspace):
    make = workspace.request("demo/make")
    diary = {"diary": str(workspace.folder / "diary")}
    workspace.launch(make)
    manifest = read(make["outputs"]["made"])
    file = Path(manifest.location) / "rows.txt"
    file.write_bytes(bytes(reversed(file.read_bytes())))
    result = workspace.launch(workspace.request("demo/join", diary, inputs={"left": make["outputs"]["made"]}))[0]
    assert result["error"] == "CorruptPayload"
    assert "rows.txt differs from its sha256" in result["cause"]
    assert workspace.diary() == []


def test_wrong_configs_unknown_steps_wrong_outputs_and_lost_rows_fail_with_what_to_do(workspace):
    unknown = {"step": "demo/mak", "outputs": {}}
    process = workspace.start(unknown)
    assert json.loads(process.communicate()[0])[0]["error"] == "InvalidInput"
    results = workspace.launch(
        workspace.request("demo/make", {"txt": "a", "seconds": "b"}, label="config"),
        workspace.request("demo/make", {"fail": "outputs"}, label="outputs"),
        workspace.request("demo/make", {"rows_in": 3}, label="rows"),
        workspace.request("demo/nothing", label="nothing"),
    )
    config, outputs, rows, nothing = results
    assert config["error"] == "InvalidInput"
    assert "config: 2 problems" in config["cause"]
    assert "did you mean 'text'?" in config["cause"]
    assert "gave ['another'], its component.yaml promises ['made']" in outputs["cause"]
    assert rows["error"] == "StoreError"
    assert "2 unaccounted for" in rows["cause"]
    assert nothing["error"] is None
    assert list(Store(str(workspace.runs / "store")).manifests()) == []


def test_spark_steps_without_java_say_how_to_get_it(workspace):
    for variables in ({"PATH": "/nowhere", "JAVA_HOME": ""}, {"JAVA_HOME": "/nowhere"}):
        workspace.environment = variables
        result = workspace.launch(workspace.request("demo/child"))[0]
        assert (result["error"], result["exit_code"]) == ("MissingTool", 2)
        assert "openjdk-17" in result["hint"]
        assert workspace.events(name="failed")[-1]["outcome"] == "invalid"


def test_a_full_disk_is_the_error_that_is_reported(workspace, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True).returncode
        != 0
    ):
        pytest.skip("mounting a small disk takes root")
    try:
        workspace.settings["runs"] = str(disk)
        step = workspace.folder / "components" / "demo" / "make" / "step.py"
        fill = "(output.path / 'rows.txt').write_text('x' * 1_000_000)"
        step.write_text(
            step.read_text().replace(
                '(output.path / "rows.txt").write_text(config.text + str(sorted(context.inputs)))', fill
            )
        )
        process = workspace.start(workspace.request("demo/make"))
        _, errors = process.communicate(timeout=60)
        assert "No space left" in errors
        assert list(Store(str(disk / "store")).manifests()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_task_ends_with_the_command_line_that_runs_it(workspace):
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        workspace.environment["TUTELAGE_SUPERVISOR"] = str(supervisor.pid)
        task = workspace.start(
            workspace.request("demo/child", {"diary": str(workspace.folder / "diary"), "seconds": 60.0})
        )
        worker = int(wait_for(workspace.diary)[0])
        supervisor.kill()
    task.communicate(timeout=30)
    assert task.returncode == 137
    wait_for(lambda: not alive(worker))


def test_the_store_may_be_an_object_store(workspace, s3_location, tmp_path):
    workspace.settings["store"] = s3_location
    diary = {"diary": str(workspace.folder / "diary")}
    make = workspace.request("demo/make", diary)
    join = workspace.request("demo/join", diary, inputs={"left": make["outputs"]["made"]})
    results = workspace.launch(make, join)
    assert [result["error"] for result in results] == [None, None]
    manifest = read(make["outputs"]["made"])
    assert manifest.location.startswith(s3_location)
    verify(manifest)
    assert locations.read_bytes(manifest.file("page.html")) == b"text"
    # Another machine: other folders, the same store.
    workspace.settings["runs"] = str(tmp_path / "elsewhere")
    assert [result["error"] for result in workspace.launch(make, join)] == [None, None]
    assert len(workspace.diary()) == 2
    assert [event["reused"] for event in workspace.events(name="finished")] == [True, True]


@pytest.mark.slow
def test_a_rank_that_fails_names_the_cause(workspace):
    workspace.settings["processes"] = 2
    done, failed = workspace.launch(
        workspace.request("demo/ranks", {"diary": str(workspace.folder / "diary")}),
        workspace.request("demo/ranks", {"fail": "BudgetSpent"}, label="spent"),
    )
    assert done["error"] is None
    assert len(workspace.diary()) == 2, "each rank ran"
    assert (failed["error"], failed["cause"], failed["hint"]) == (
        "BudgetSpent",
        "cause of BudgetSpent",
        "hint for BudgetSpent",
    )


@pytest.mark.slow
def test_ranks_die_with_their_launcher(workspace):
    request = workspace.request("demo/ranks", {"diary": str(workspace.folder / "diary"), "seconds": 120.0})
    launcher = workspace.start(request)
    ranks = [int(line) for line in wait_for(lambda: len(workspace.diary()) == 2 and workspace.diary(), 90)]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    wait_for(lambda: not any(alive(rank) for rank in ranks))


def test_a_child_dies_with_its_parent(tmp_path):
    program = """
import subprocess, sys
from tutelage.runtimes.leash import leash
child = subprocess.Popen(leash(["sleep", "60"]))
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_for(lambda: psutil.Process(child).name() == "sleep")
        parent.kill()
    wait_for(lambda: not alive(child))


@pytest.fixture
def stray() -> Iterator[subprocess.Popen[bytes]]:
    """A process that its launcher left running, with a child."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as process:
        wait_for(lambda: psutil.Process(process.pid).children())
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_next_holder_of_a_lock_kills_what_a_dead_one_left_running(tmp_path, stray):
    lock = tmp_path / "key.lock"
    record_child(lock, stray.pid)
    grandchild = psutil.Process(stray.pid).children()[0].pid
    with step_lock(tmp_path, "key", lambda: pytest.fail("nobody holds it")):
        assert not alive(stray.pid)
        assert not alive(grandchild)
    assert not lock.exists()


def test_a_process_id_that_was_used_again_is_left_alone(tmp_path, stray):
    lock = tmp_path / "key.lock"
    started = psutil.Process(stray.pid).create_time()
    lock.write_text(json.dumps({"pid": stray.pid, "started": started - 100}) + "\n")
    assert kill_recorded(lock) == 0
    assert stray.poll() is None


@pytest.mark.parametrize(
    "text", ["", "\n", "{", "null\n", "[]\n", '{"pid": 1}\n', '{"pid": "x", "started": 0}\n', "\x00\x01\n"]
)
def test_a_torn_lock_file_stops_nobody(tmp_path, text):
    (tmp_path / "key.lock").write_text(text)
    with step_lock(tmp_path, "key", lambda: pytest.fail("nobody holds it")) as lock:
        assert lock.read_text() == ""


def test_a_lock_passes_from_hand_to_hand_and_leaves_no_file(tmp_path):
    program = """
import sys, time
from pathlib import Path
from tutelage.contracts.locks import step_lock
for _ in range(5):
    with step_lock(Path(sys.argv[1]), "key", lambda: None):
        with open(sys.argv[2], "a") as file:
            file.write("in ")
            file.flush()
            time.sleep(0.01)
            file.write("out ")
"""
    diary = tmp_path / "diary"
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "locks"), str(diary)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert diary.read_text() == "in out " * 15
    assert list((tmp_path / "locks").iterdir()) == []


def test_an_event_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    program = """
import resource, sys
from tutelage.runtimes.launch import _Task
from tutelage.runtimes.settings import Settings
from tutelage.step import append_event
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    append_event(sys.argv[1], "progress", "t", "s", text="x" * 200)
except OSError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "events.jsonl")]).returncode == 7


def test_a_step_in_the_launchers_process_leaves_a_log(workspace):
    workspace.launch(
        workspace.request("demo/make"), workspace.request("demo/make", {"fail": "StepFailed"}, label="failed")
    )
    logs = workspace.runs / "run-1" / "logs"
    assert "make says text" in (logs / "make.log").read_text()
    failed = (logs / "failed.log").read_text()
    assert "make says text" in failed and "StepFailed: cause of StepFailed" in failed and "Traceback" in failed


def digests_of(step: str, settings: Settings) -> dict[str, str]:
    task = _Task(step, "label", settings)
    return task._digests({}, settings.for_step(task.description.settings))


def test_weights_of_another_number_of_ranks_are_other_work(tmp_path):
    one, two = (digests_of("train/train", Settings(runs=str(tmp_path), processes=number)) for number in (1, 2))
    assert one != two
    one, two = (digests_of("data/ingest", Settings(runs=str(tmp_path), processes=number)) for number in (1, 2))
    assert one == two, "other steps do not care"


def test_keys_in_a_mounted_secret_are_digested_as_they_are_read(tmp_path):
    keys = tmp_path / "keys"
    (keys / "..data").mkdir(parents=True)
    (keys / "..data" / "a.pem").write_text("a key")
    (keys / "a.pem").symlink_to(keys / "..data" / "a.pem")
    settings = Settings(runs=str(tmp_path / "runs"), signing_key=str(keys / "a.pem"), public_keys=str(keys))
    before = digests_of("release/decide", settings)
    (keys / "README").write_text("no key")
    assert digests_of("release/decide", settings) == before
    (keys / "b.pem").write_text("another key")
    assert digests_of("release/decide", settings) != before


def test_a_store_that_was_moved_is_found_again_with_its_ancestors(workspace):
    diary = {"diary": str(workspace.folder / "diary")}
    make = workspace.request("demo/make", diary)
    join = workspace.request("demo/join", diary, inputs={"left": make["outputs"]["made"]})
    workspace.launch(make, join)
    moved = workspace.folder / "moved"
    workspace.runs.rename(moved)
    workspace.settings["runs"] = str(moved)
    assert [result["error"] for result in workspace.launch(make, join, run="run-2")] == [None, None]
    assert len(workspace.diary()) == 2, "both are reused"
    for manifest in Store(str(moved / "store")).manifests():
        verify(manifest)
        assert all(uri.startswith(str(moved)) for uri in (manifest.uri, *manifest.input_manifests.values()))
    made = read(make["outputs"]["made"])
    assert made.location.startswith(str(moved)), "what KFP gets tells the new place"
    verify(made)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--run-path", "--start-method", "fork"], []], ids=["fork", "spawn"])
def test_the_ranks_agent_listens_on_loopback_alone(tmp_path, flags):
    program = """
import os, psutil, torch.distributed
torch.distributed.init_process_group("gloo")
family = [psutil.Process(), psutil.Process().parent()]
found = {c.laddr.ip for process in family for c in process.connections() if c.status == "LISTEN"}
open(os.environ["FOUND"], "w").write(" ".join(sorted(found)))
torch.distributed.destroy_process_group()
"""
    (tmp_path / "rank.py").write_text(program)
    agent = str(Path(tutelage.__file__).with_name("runtimes") / "agent.py")
    command = [sys.executable, "-P", agent, *flags, "--nnodes", "1", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    variables = {**os.environ, "FOUND": str(tmp_path / "found"), "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([*command, str(tmp_path / "rank.py")], env=variables, check=True, cwd=tmp_path)
    assert (tmp_path / "found").read_text() == "127.0.0.1"


def test_lines_of_several_processes_never_mix(tmp_path):
    file = str(tmp_path / "events.jsonl")
    program = """
import sys
from tutelage.runtimes.launch import _Task
from tutelage.runtimes.settings import Settings
from tutelage.step import append_event
for index in range(100):
    append_event(sys.argv[1], "progress", sys.argv[2], "s", text=sys.argv[2] * 3000, i=index)
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, file, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    append_event(file, "finished", "d", "s", text="é…")
    events = [json.loads(line) for line in Path(file).read_text().splitlines()]
    assert len(events) == 301
    for name in "abc":
        assert [event["i"] for event in events if event["task"] == name] == list(range(100))
    assert all(set(event["text"]) == {event["task"]} for event in events[:-1])
