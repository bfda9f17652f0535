"""The task's log: which lines come again when a stream is opened anew, and what the file itself says was written."""

from __future__ import annotations

import logging
import time
import tracemalloc
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.runtimes.kubernetes import log_position
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.log_position import OVERLAP, Position, _moment, digest
from tutelage.runtimes.kubernetes.logs import TaskLog, _Source

WHERE = "train-worker-0/pytorch/3f9a1c20"


def line(second: float, text: str) -> bytes:
    whole = int(second)
    return f"2026-11-23T02:{whole // 60:02d}:{whole % 60:02d}.{round((second - whole) * 1e9):09d}Z {text}".encode()


def served(lines: list[bytes], since: str | None) -> list[bytes]:
    """What a kubelet sends: every line from `since` on."""
    return [item for item in lines if since is None or _moment(item.split(b" ", 1)[0].decode()) >= _moment(since)]


@given(
    steps=st.lists(st.tuples(st.floats(0, 2), st.sampled_from(["a", "b", ""])), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_streams_cut_anywhere_lose_and_double_no_line(steps: list[tuple[float, str]], cuts: list[int]) -> None:
    second, lines = 0.0, []
    for wait, text in steps:
        second += wait
        lines.append(line(second, text))
    position, written = Position(), []
    for cut in [*sorted(cuts), len(lines)]:
        # The stream sends all that is due from `since` on, and breaks after the line number `cut`.
        known = position.written()
        for item in served(lines[:cut], position.since()):
            if known[digest(item)] > 0:
                known[digest(item)] -= 1
            else:
                position.note(item)
                written.append(item)
    assert written == lines


def test_lines_that_two_streams_of_a_container_stamp_out_of_order_are_not_lost() -> None:
    lines = [line(5.000002, "stdout"), line(5.000001, "stderr"), line(5.000003, "stdout")]
    position = Position()
    for item in lines[:1]:
        position.note(item)
    known = position.written()
    new = [item for item in served(lines, position.since()) if not known[digest(item)]]
    assert new == lines[1:]


def test_only_lines_near_the_end_are_remembered() -> None:
    position = Position()
    for second in range(3000):
        position.note(line(second, "x"))
    assert len(position.written()) == OVERLAP.seconds + 1


def test_what_is_remembered_of_a_line_does_not_grow_with_it() -> None:
    position = Position()
    tracemalloc.start()
    try:
        for number in range(50):
            position.note(line(number, "x" * 200_000))
        kept, _ = tracemalloc.get_traced_memory()
        for number in range(20_000):
            position.note(line(100 + number / 100, f"{number} of a chatty step"))
        many, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    assert many < 2_000_000


def test_opening_a_stream_again_costs_little_after_many_lines() -> None:
    position = Position()
    for number in range(100_000):
        position.note(line(number / 200, f"{number}"))
    began = time.process_time()
    written = position.written()
    assert 400 <= len(written) <= 600
    # Parsing the time stamp of every remembered line took three times as long.
    assert time.process_time() - began < 0.2


def test_of_a_flood_the_latest_lines_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_position, "MOST_LINES", 100)
    monkeypatch.setattr(log_position, "FEWEST_LINES", 50)
    position = Position()
    for number in range(5000):
        position.note(line(number / 1000, f"{number}"))
    assert len(position._moments) <= 200
    assert position.written()[digest(line(4.999, "4999"))] == 1


@pytest.mark.parametrize(
    "stamp", ["2026-13-45T99:99:99Z", "0001-01-01T00:00:00Z", "2026-11-23T02:00:00", "2026-\ufffd"]
)
def test_a_time_stamp_that_is_none_counts_as_of_the_line_before(stamp: str) -> None:
    position = Position()
    position.note(line(7, "good"))
    position.note(f"{stamp} odd".encode())
    assert position.since() == "2026-11-23T02:00:05Z"
    assert position.written()[digest(f"{stamp} odd".encode())] == 1


def test_a_file_that_is_there_already_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "train.log"
    first = TaskLog(file)
    for second in (1, 2, 2, 3):
        first.write(WHERE, line(second, "same words"))
    first.write("another/pytorch/00000000", line(9, "later, elsewhere"))
    first.close()
    again = TaskLog(file)
    position = again.position(WHERE)
    assert position.last == line(3, "").split()[0].decode()
    times = {digest(line(second, "same words")): count for second, count in ((1, 1), (2, 2), (3, 1))}
    assert position.written() == times
    again.close()
    assert len(file.read_text().splitlines()) == 5


def test_what_was_read_earlier_and_comes_later_changes_nothing(tmp_path: Path) -> None:
    api = cast("Api", None)
    task_log = TaskLog(tmp_path / "train.log")
    task_log.close()
    source = _Source(api, task_log, "pod", "3f9a1c20", "pytorch", lambda seconds: None)
    running: dict[str, object] = {"state": {"running": {}}}
    ended: dict[str, object] = {"state": {"terminated": {}}}
    source.note(ended)
    source.note(running)
    assert source.ended
    source.note({"restartCount": 1, **running})
    source.note({"restartCount": 0, **ended})
    assert not source.ended


def test_events_among_the_lines_are_passed_on_and_kept_in_the_log(tmp_path: Path) -> None:
    passed: list[dict[str, object]] = []
    log = TaskLog(tmp_path / "train.log", passed.append)
    log.write(WHERE, line(1, '{"time": "t", "event": "progress", "done": 1}'))
    log.write(WHERE, line(2, '{"time": "t", "event": "cut off'))
    log.write(WHERE, line(3, '{"loss": 2.31}'))
    log.close()
    assert [event["done"] for event in passed] == [1]
    assert len((tmp_path / "train.log").read_text().splitlines()) == 3


ODD = [
    '{"time": 1, "fields": {"event": 2}}',
    '{"time": 1, "event": {"nested": 1}}',
    '{"time":' + "[" * 100_000 + ' "event":',
    '{"time": 1, "event":}',
]


@pytest.mark.parametrize("text", ODD, ids=["no-event", "event-is-no-name", "deep", "no-json"])
def test_a_line_that_only_looks_like_an_event_is_a_line(tmp_path: Path, text: str) -> None:
    passed: list[dict[str, Any]] = []
    log = TaskLog(tmp_path / "train.log", passed.append)
    log.write(WHERE, line(1, text))
    log.close()
    assert passed == []
    assert (tmp_path / "train.log").read_text().endswith(f"{text}\n")


def test_an_event_that_nobody_takes_ends_no_log_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(event: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    log = TaskLog(tmp_path / "train.log", full)
    with caplog.at_level(logging.WARNING, "tutelage"):
        for second in range(3):
            log.write(WHERE, line(second, '{"time": "t", "event": "progress", "done": 1}'))
    log.close()
    assert len((tmp_path / "train.log").read_text().splitlines()) == 3
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_line_that_the_disk_has_no_room_for_is_not_taken_for_written() -> None:
    log = TaskLog(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        log.write(WHERE, line(1, "x"))
    assert log.position(WHERE).last == ""
    log.close()
