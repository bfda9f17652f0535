"""plan/clean kills what nobody holds any more, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.contracts.locks import kill_abandoned, record_child, step_lock

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_a_process_whose_lock_nobody_holds_is_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    lock = tmp_path / "key.lock"
    lock.touch()
    record_child(lock, sleeper.pid)
    assert kill_abandoned(tmp_path) == 1
    assert sleeper.poll() is not None
    assert kill_abandoned(tmp_path) == 0


def test_a_process_of_a_living_run_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with step_lock(tmp_path, "key", lambda: None) as lock:
        record_child(lock, sleeper.pid)
        assert kill_abandoned(tmp_path) == 0
        assert sleeper.poll() is None


def test_a_process_id_used_again_by_another_program_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "key.lock").write_text(f'{{"pid": {sleeper.pid}, "started": 12345.0}}\n')
    assert kill_abandoned(tmp_path) == 0
    assert sleeper.poll() is None
