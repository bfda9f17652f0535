"""`python -m tutelage.step.cluster`: what a pod of a job runs, as a process of its own."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tests.contracts import payloads
from tests.contracts.workspace import Workspace
from tutelage.contracts.store import Store
from tutelage.errors import InvalidInput, NotFinite, StepFailed
from tutelage.runtimes.kubernetes import causes
from tutelage.step import Request, cluster, request_json


def start(
    folder: Path, *, rank: int = 0, by_path: bool = False, **config: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """A pod's process for demo/ranks, and its termination message."""
    workspace = Workspace(folder / "workspace")
    store = Store(str(folder / "store"))
    request = Request(
        step="demo/ranks", config=config, inputs={}, outputs={"made": store.attempt("documents", payloads.KEY, "a1")},
        scratch=str(folder / "scratch"), cache=str(folder / "cache"), outcome=str(folder / "outcome.json"),
        step_key=payloads.KEY, attempt="a1", code_version="c0de", run="run-1", label="ranks", leashed=True,
    )  # fmt: skip
    (folder / "request.json").write_bytes(request_json(request))
    entry = (
        [str(Path(tutelage.__file__).parent / "step" / "cluster.py")] if by_path else ["-m", "tutelage.step.cluster"]
    )
    message = folder / "termination-log"
    done = subprocess.run(
        [sys.executable, *entry, str(folder / "request.json")], cwd=folder, text=True, capture_output=True, timeout=60,
        env={**workspace.variables(), "RANK": str(rank), "TUTELAGE_TERMINATION_LOG": str(message)},
    )  # fmt: skip
    return done, json.loads(message.read_text()) if message.is_file() else {}


@pytest.mark.parametrize("by_path", [False, True])
def test_a_step_that_ends_well_leaves_manifest_outcome_and_events(tmp_path: Path, by_path: bool) -> None:
    done, message = start(tmp_path, by_path=by_path, text="hello")
    assert done.returncode == 0, done.stderr
    assert Store(str(tmp_path / "store")).read("documents", payloads.KEY, "a1").rows == 1
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["outcome"], outcome["attempt"], message["outcome"]) == ("done", "a1", "done")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["progress"]


def test_the_folder_of_the_entry_point_hides_no_module_of_python(tmp_path: Path) -> None:
    # A code.py stands beside it, and Python has a module of that name that debuggers and torch import.
    entry = Path(tutelage.__file__).parent / "step" / "cluster.py"
    script = f"import runpy, sys; sys.path.insert(0, {str(entry.parent)!r}); runpy.run_path({str(entry)!r}); "
    script += "import code; print(code.__file__)"
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0 and "tutelage" not in done.stdout, done


@pytest.mark.parametrize(
    ("fail", "code", "outcome", "kind"),
    [
        ("InvalidInput", 2, "invalid", "data"),
        ("GateRefused", 3, "refused", "data"),
        ("BudgetSpent", 4, "budget", "budget"),
        ("crash", 1, "failed", None),
    ],
)
def test_an_error_is_left_typed_in_the_store_and_on_the_container(
    tmp_path: Path, fail: str, code: int, outcome: str, kind: str | None
) -> None:
    done, message = start(tmp_path, fail=fail)
    written = json.loads((tmp_path / "outcome.json").read_text())
    assert done.returncode == code, done.stderr
    assert (written["outcome"], written["kind"]) == (message["outcome"], message["kind"]) == (outcome, kind)
    assert written["cause"] == message["cause"]
    assert not (tmp_path / "store" / "documents" / payloads.KEY / "a1" / "manifest.json").exists()
    read, ours = causes.of_termination_message(json.dumps(message))
    assert ours and read is not None and read.kind == (kind or "unknown")


def test_another_rank_leaves_an_error_of_its_own_and_never_a_success(tmp_path: Path) -> None:
    (tmp_path / "well").mkdir()
    done, _ = start(tmp_path / "well", rank=1)
    assert done.returncode == 0
    assert not (tmp_path / "well" / "outcome.json").exists() and not (tmp_path / "well" / "outcome.json.rank1").exists()
    (tmp_path / "ill").mkdir()
    start(tmp_path / "ill", rank=1, fail="crash")
    assert json.loads((tmp_path / "ill" / "outcome.json.rank1").read_text())["rank"] == 1
    assert not (tmp_path / "ill" / "outcome.json").exists()


def test_a_request_that_is_not_there_is_said_on_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))
    with pytest.raises(SystemExit) as told:
        cluster.main([str(tmp_path / "nothing.json")])
    assert told.value.code == 1
    assert "nothing.json" in json.loads((tmp_path / "termination-log").read_text())["cause"]


def test_a_long_cause_is_cut_to_what_the_kubelet_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))
    cluster.leave(None, ValueError("ж\n" * 9000))
    data = (tmp_path / "termination-log").read_bytes()
    assert len(data) <= 4096 and json.loads(data)["cause"].startswith("ValueError: ж")


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.ENOENT, "out of memory.txt"), None),
        (ValueError("OutOfMemoryError in column name"), None),
        (KeyError("OutOfMemoryError"), None),
        (raised_from(StepFailed("rank 1 lost its peers: CUDA"), MemoryError()), "out_of_memory"),
        (raised_from(InvalidInput("too long"), MemoryError()), "data"),
        (NotFinite("weights are not finite after step 2"), "nan"),
        (cluster.TutelageError("rank 1 lost its peers: closed"), None),
        (RuntimeError("banana is nan"), None),
    ],
)
def test_errors_are_typed_by_what_they_are(error: BaseException, kind: str | None) -> None:
    assert cluster.kind_of(error) == kind


@pytest.mark.skipif(shutil.which("java") is None, reason="no java")
def test_an_error_that_comes_from_java_is_typed_by_its_class_and_not_by_its_words() -> None:
    from py4j.java_gateway import JavaGateway
    from py4j.protocol import Py4JJavaError

    gateway = JavaGateway.launch_gateway(die_on_exit=True, javaopts=["-Xmx32m"])
    try:
        with pytest.raises(Py4JJavaError) as full:
            gateway.jvm.java.nio.ByteBuffer.allocate(2_000_000_000)
        with pytest.raises(Py4JJavaError) as quoted:
            gateway.jvm.java.lang.Integer.parseInt("java.lang.OutOfMemoryError")
        assert "OutOfMemoryError" in str(quoted.value)
        assert (cluster.kind_of(full.value), cluster.kind_of(quoted.value)) == ("out_of_memory", None)
    finally:
        gateway.shutdown()
    assert cluster.kind_of(full.value) is None, "its JVM is gone, and nothing is raised"
