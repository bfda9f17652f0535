"""Progress without a terminal: a line an event, with numbers, not too many."""

from __future__ import annotations

import io
from typing import Any

from tutelage.orchestrate.progress import Progress, figures_of


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "time": "2026-01-01T10:20:30.000+00:00",
        "event": name,
        "task": "train-sft",
        "step": "train/train",
        **fields,
    }


def test_figures_say_how_far_and_how_well() -> None:
    shown = figures_of(event("progress", done=1200, total=5000, unit="tokens", loss=3.21))
    assert shown == "1,200 of 5,000 tokens (24%), loss 3.21"
    assert figures_of(event("progress", done=7, total=None, unit="files")) == "7 files"


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
