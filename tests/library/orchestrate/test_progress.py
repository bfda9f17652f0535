"""Progress: a line an event where there is no terminal, with numbers and not too many; a table that fits where there is one."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tutelage.orchestrate.progress import Progress, figures_of, paced

LABELS = ["check", "ingest", "curate", "deduplicate", "split", "tokenize", "train-sft", "evaluate-candidate", "compare",
          "decide", "enforce", "register", "deploy", "clean"]  # fmt: skip
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def event(name: str, second: float = 0, task: str = "train-sft", **fields: Any) -> dict[str, Any]:
    time = f"2026-01-01T10:20:{30 + second:06.3f}+00:00"
    return {"time": time, "event": name, "task": task, "step": "train/train", **fields}


def test_figures_say_how_far_and_how_well() -> None:
    shown = figures_of(event("progress", done=1200, total=5000, unit="tokens", loss=3.21))
    assert shown == "1,200 of 5,000 tokens (24%), loss 3.21"
    assert figures_of(event("progress", done=7, total=None, unit="files")) == "7 files"
    assert figures_of(event("progress", done=1, total=None, unit="files")) == "1 file"
    assert figures_of(event("progress", done=0, total=1, unit="parts curated")) == "0 of 1 part curated (0%)"
    assert figures_of(event("progress", done=1, total=8, unit="probes")) == "1 of 8 probes (12%)"


def test_a_step_that_cannot_count_says_what_it_does_and_no_rate() -> None:
    pace = None
    for second in (0, 20):
        told = event("progress", second, done=second, total=None, unit="parts", doing="fetching wheel://model==1")
        pace = paced(pace, told)
    assert figures_of(told, pace) == "fetching wheel://model==1"


def test_a_rate_is_of_the_unit_alone_where_the_unit_says_what_is_measured() -> None:
    unit = "sequences of held-out pretrain"
    pace = paced(None, event("progress", 0, done=0, total=8, unit=unit))
    told = event("progress", 10, done=4, total=8, unit=unit)
    assert figures_of(told, paced(pace, told)) == f"4 of 8 {unit} (50%), 10 s left, 0.4 sequences a second"


def test_a_second_event_gives_the_rate_and_the_time_left() -> None:
    first = event("progress", 0, done=1000, total=5000, unit="rows")
    second = event("progress", 10, done=2000, total=5000, unit="rows", loss=3.21)
    pace = paced(None, first)
    assert "left" not in figures_of(first, pace)
    pace = paced(pace, second)
    assert figures_of(second, pace) == "2,000 of 5,000 rows (40%), 30 s left, 100 rows a second, loss 3.21"
    assert figures_of(second, pace, narrow=True) == "40%, 30 s left, loss 3.21"


def test_other_work_within_a_step_has_a_pace_of_its_own() -> None:
    pace = paced(None, event("progress", 0, done=0, total=10, unit="parts counted"))
    pace = paced(pace, event("progress", 10, done=10, total=10, unit="parts counted"))
    pace = paced(pace, event("progress", 20, done=1, total=10, unit="parts written"))
    assert pace is not None and pace.rate is None
    again = paced(pace, event("progress", 21, done=0, total=10, unit="parts written"))
    assert again is not None and again.first == again.last


def test_a_step_that_says_its_own_rate_gets_no_second_one() -> None:
    pace = paced(None, event("progress", 0, done=0, total=5000, unit="tokens"))
    told = event("progress", 10, done=1000, total=5000, unit="tokens", tokens_per_second=98)
    assert figures_of(told, paced(pace, told)) == "1,000 of 5,000 tokens (20%), 40 s left, tokens per second 98"


def test_a_step_gives_a_line_when_it_starts_when_it_ends_and_every_ten_seconds() -> None:
    stream = io.StringIO()
    with Progress(["train-sft"], stream) as progress:
        progress.show(event("started"))
        for done in range(50):
            progress.show(event("progress", done=done, total=50, unit="tokens"))
        progress.show(event("finished", seconds=12.3, reused=False))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("10:20:30 train-sft")
    assert "12.3 s" in lines[2]


def test_a_torn_event_line_does_not_stop_progress() -> None:
    stream = io.StringIO()
    with Progress([], stream) as progress:
        progress.show({"time": None, "event": "warning", "task": None, "step": None, "message": "torn event line"})
    assert "torn event line" in stream.getvalue()


def a_run() -> list[dict[str, Any]]:
    """Events of a run that is training: long figures, a warning, text that looks like markup."""
    events = [
        item
        for label in LABELS[:6]
        for item in (event("started", task=label), event("finished", task=label, seconds=1.5, rows=9))
    ]
    events.append(event("started"))
    for second in range(5):
        events.append(event("progress", second, done=1000 * second, total=5000, unit="tokens", loss=2.5,
                            tokens_per_second=981, learning_rate=0.0005, steps_planned=14))  # fmt: skip
    events.append(
        event("warning", message="[bold]resumed at step 3 of 14 from a checkpoint of the attempt before[/bold]")
    )
    return [*events, event("failed", outcome="failed", cause="[red] is no colour\nmore", hint=None)]


PROGRAM = """
import json, sys
from tutelage.orchestrate.progress import Progress
labels, events = json.load(open(sys.argv[1]))
with Progress(labels) as progress:
    for event in events:
        progress.show(event)
        progress._live and progress._live.refresh()
"""


def in_a_terminal(folder: Path, columns: int, rows: int, **environment: str) -> str:
    """What a run writes to a terminal of that size."""
    (folder / "events.json").write_text(json.dumps([LABELS, a_run()]))
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = [sys.executable, "-c", PROGRAM, str(folder / "events.json")]
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**kept, "TERM": "xterm", **environment})
    os.close(theirs)
    written = b""
    try:
        while data := os.read(ours, 65536):
            written += data
    except OSError:
        pass  # how a pseudo-terminal says that the other side has closed
    finally:
        os.close(ours)
    assert child.wait() == 0, written.decode()
    return written.decode()


def frames(written: str) -> list[list[str]]:
    """Every state of the table: the cursor goes up before each is drawn over the last."""
    drawn = re.split(r"(?:\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)+)", written)
    return [ESCAPES.sub("", frame).replace("\r", "").split("\n") for frame in drawn]


def test_the_live_table_fits_a_terminal_of_sixty_columns_and_twelve_rows(tmp_path: Path) -> None:
    states = frames(in_a_terminal(tmp_path, 60, 12))
    assert len(states) > 10
    training = next(state for state in states if any("left" in line for line in state))
    table = [line for line in training if "warning" not in line and "checkpoint" not in line]
    assert len(table) <= 12 and max(map(len, table)) <= 60
    assert any(line.startswith("▶  train-sft") and "20%, 4 s left, loss 2.5" in line for line in table)
    assert any("before)" in line for line in table) and any("to come)" in line for line in table)


def test_at_its_end_the_live_table_holds_every_step_and_warnings_stay_above_it(tmp_path: Path) -> None:
    written = in_a_terminal(tmp_path, 60, 12)
    last = frames(written)[-1]
    assert [line[3:].split()[0] for line in last if line.strip()][-len(LABELS) :] == LABELS
    assert any(line.startswith("✗  train-sft") and line.rstrip().endswith("[red] is no colour") for line in last)
    assert "[bold]resumed at step 3 of 14 from a checkpoint of the attempt before[/bold]" in ESCAPES.sub("", written)


def test_no_color_leaves_no_colour(tmp_path: Path) -> None:
    written = in_a_terminal(tmp_path, 100, 40, NO_COLOR="1")
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", written) for code in found.split(";")}
    assert codes <= {"", "0", "1"}


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}])
def test_ci_and_dumb_terminals_get_lines(tmp_path: Path, environment: dict[str, str]) -> None:
    written = in_a_terminal(tmp_path, 80, 24, **environment)
    assert "\x1b" not in written
    assert "10:20:30 check                started\r\n" in written


def test_force_color_makes_no_terminal_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Progress(LABELS, stream) as progress:
        progress.show(event("started"))
    assert stream.getvalue() == "10:20:30 train-sft            started\n"
