"""The task's log: which lines come again when a stream is opened anew, and what the file itself says was written."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.logs import OVERLAP, Position, TaskLog, _moment, _Source

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
            if known[item] > 0:
                known[item] -= 1
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
    new = [item for item in served(lines, position.since()) if not known[item]]
    assert new == lines[1:]


def test_only_lines_near_the_end_are_remembered() -> None:
    position = Position()
    for second in range(3000):
        position.note(line(second, "x"))
    assert len(position.written()) == OVERLAP.seconds + 1


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
    assert position.written() == {line(1, "same words"): 1, line(2, "same words"): 2, line(3, "same words"): 1}
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
