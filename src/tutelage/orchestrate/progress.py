"""What a person sees while a run runs: a line an event where output is a file or a CI log, a live table in a terminal.

Colours are none of it, so NO_COLOR changes nothing. A terminal shorter than the table gets the part around the running step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

LINE_INTERVAL_SECONDS = 10.0
#: Shorter than this, a rate is no rate.
RATE_SECONDS = 1.0
#: A terminal narrower than this gets the figures that matter most, and no counts.
NARROW_COLUMNS = 100
#: Lines of a terminal that are not rows: the header, what was left out at both ends, the cursor's.
OTHER_LINES = 4
SIGNS = {"waiting": "…", "running": "▶", "done": "✓", "reused": "=", "failed": "✗", "": " "}


@dataclass
class Pace:
    """How fast a step goes, from the progress events of one piece of its work."""

    unit: str
    total: float | None
    first: tuple[float, float]
    """(seconds, done) of the first event."""
    last: tuple[float, float]

    @property
    def rate(self) -> float | None:
        """Units a second since the first event; None before there is anything to go by."""
        seconds, done = self.last[0] - self.first[0], self.last[1] - self.first[1]
        return done / seconds if seconds >= RATE_SECONDS and done > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time until `total` at this rate."""
        return (self.total - self.last[1]) / self.rate if self.total and self.rate else None


def paced(pace: Pace | None, event: Mapping[str, Any]) -> Pace | None:
    """The pace after a progress event: another one where other work began; None for an event without a count."""
    done, unit, total = event.get("done"), str(event.get("unit", "")), event.get("total")
    if not isinstance(done, int | float) or not event.get("time"):
        return None
    now = datetime.fromisoformat(event["time"]).timestamp()
    if pace is None or (pace.unit, pace.total) != (unit, total) or done < pace.last[1]:
        return Pace(unit, total, (now, done), (now, done))
    return Pace(unit, total, pace.first, (now, done))


def figures_of(event: Mapping[str, Any], pace: Pace | None = None, *, narrow: bool = False) -> str:
    """A progress event in words: `1,200 of 5,000 tokens (24%), 42 s left, loss 3.21`; `narrow`: `24%, 42 s left, loss 3.21`."""
    done, total, unit = event.get("done"), event.get("total"), str(event.get("unit", ""))
    count = f"{done:,.0f}" if isinstance(done, int | float) else "?"
    percent = f"{100 * done / total:.0f}%" if total and done is not None else ""
    named = _unit(unit, total if percent else done)
    counted = f"{count} of {total:,.0f} {named} ({percent})" if percent else f"{count} {named}"
    if event.get("doing") and not percent:
        # What it does now says more than how many things it has done of nobody knows how many.
        return str(event["doing"])
    parts = [percent if narrow and percent else counted]
    if pace and pace.seconds_left:
        parts.append(f"{_duration(pace.seconds_left)} left")
    known = {"time", "event", "task", "step", "done", "total", "unit"}
    figures = {name: value for name, value in event.items() if name not in known and isinstance(value, int | float)}
    if pace and pace.rate and f"{unit}_per_second" not in figures and not narrow:
        rate = f"{pace.rate:,.3g}" if pace.rate < 1000 else f"{pace.rate:,.0f}"
        parts.append(f"{rate} {unit.partition(' of ')[0]} a second")
    return ", ".join([*parts, *(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in figures.items())])


def _unit(unit: str, count: Any) -> str:
    """The unit as it is said of so many: 2 parts curated, 1 part curated."""
    first, space, rest = unit.partition(" ")
    return f"{first.removesuffix('s')}{space}{rest}" if count == 1 else unit


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def is_live(console: Console) -> bool:
    """Whether a table may be drawn over itself: on a terminal that can, outside CI. FORCE_COLOR alone makes no terminal."""
    is_terminal = getattr(console.file, "isatty", lambda: False)()
    return bool(is_terminal and console.is_interactive and not os.environ.get("CI"))


class Progress:
    """Follows events and shows them on `stream` (stderr by default)."""

    def __init__(self, labels: Sequence[str], stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._rows: dict[str, dict[str, Any]] = {label: {"state": ""} for label in labels}
        self._last_line: dict[str, float] = {}
        self._is_over = False
        self._live = (
            Live(get_renderable=self._table, console=self._console, refresh_per_second=4)
            if is_live(self._console)
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over = True
        if self._live:
            self._live.__exit__(None, None, None)

    def show(self, event: Mapping[str, Any]) -> None:
        """Take one event in."""
        row = self._rows.setdefault(event["task"], {"state": ""}) if event["event"] != "warning" else {}
        name = event["event"]
        if name == "started":
            row.update(state="running", began=time.monotonic())
        elif name == "progress":
            row.update(event=event, pace=paced(row.get("pace"), event))
        elif name == "waiting":
            row.update(event=None, note=f"waiting: {event.get('reason', '')}")
        elif name == "finished":
            row.update(state="reused" if event.get("reused") else "done", seconds=event.get("seconds"), pace=None)
            if event.get("rows"):
                row.update(event=None, note=f"{event['rows']:,} rows")
        elif name == "failed":
            row.update(state="failed", event=None, note=str(event.get("cause") or "").partition("\n")[0])
        if self._live is None or name == "warning":
            self._line(event, row)

    def _line(self, event: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if event["event"] == "progress":
            if now - self._last_line.get(event["task"], 0.0) < LINE_INTERVAL_SECONDS:
                return
            self._last_line[event["task"]] = now
        text = {
            "started": "started",
            "progress": self._figures(row),
            "waiting": f"waiting: {event.get('reason')}",
            "warning": f"warning: {event.get('message')}",
            "finished": ("reused, " if event.get("reused") else "done, ") + f"{event.get('seconds') or 0:.1f} s"
            + (f", {self._figures(row)}" if self._figures(row) else ""),
            "failed": f"FAILED: {event.get('cause')}",
        }.get(event["event"])  # fmt: skip
        if text:
            self._console.print(
                f"{(event['time'] or '')[11:19]:>8} {event['task'] or 'events':<20} {text}",
                markup=False,
                soft_wrap=True,
            )

    @staticmethod
    def _figures(row: Mapping[str, Any], *, narrow: bool = False) -> str:
        return figures_of(row["event"], row.get("pace"), narrow=narrow) if row.get("event") else row.get("note", "")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("", "step", "seconds", "progress"):
            # Where the terminal is narrow, Rich takes from the columns that may wrap: from the progress alone.
            table.add_column(column, justify="right" if column == "seconds" else "left", no_wrap=column != "progress")
        names = list(self._rows)
        first, last = (0, len(names)) if self._is_over else self._window(names)
        if first:
            table.add_row("", f"({first} before)")
        for label in names[first:last]:
            row = self._rows[label]
            seconds = row.get("seconds")
            if seconds is None and row["state"] == "running":
                seconds = time.monotonic() - row["began"]
            shown = f"{seconds:.1f}" if seconds is not None else ""
            figures = self._figures(row, narrow=self._console.width < NARROW_COLUMNS)
            table.add_row(SIGNS[row["state"]], Text(label), shown, Text(figures, no_wrap=True, overflow="ellipsis"))
        if last < len(names):
            table.add_row("", f"({len(names) - last} to come)")
        return table

    def _window(self, names: Sequence[str]) -> tuple[int, int]:
        """Which rows fit on the screen: those around the step that started last."""
        room = max(1, self._console.height - OTHER_LINES)
        if len(names) <= room:
            return 0, len(names)
        begun = [index for index, name in enumerate(names) if self._rows[name]["state"]]
        first = max(0, min((begun[-1] if begun else 0) - room // 2, len(names) - room))
        return first, first + room
