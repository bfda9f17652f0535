"""What a person sees while a run runs: one line per event where output is a file, a live table where it is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

LINE_INTERVAL_SECONDS = 10.0
SIGNS = {"waiting": "…", "running": "▶", "done": "✓", "reused": "=", "failed": "✗", "": " "}


class Progress:
    """Follows events and shows them on `stream` (stderr by default)."""

    def __init__(self, labels: Sequence[str], stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._rows: dict[str, dict[str, Any]] = {label: {"state": ""} for label in labels}
        self._last_line: dict[str, float] = {}
        self._live = (
            Live(self._table(), console=self._console, refresh_per_second=4) if self._console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.update(self._table())
            self._live.__exit__(None, None, None)

    def show(self, event: Mapping[str, Any]) -> None:
        """Take one event in."""
        row = self._rows.setdefault(event["task"] or "events", {"state": ""})
        name = event["event"]
        if name == "started":
            row.update(state="running", began=time.monotonic())
        elif name == "progress":
            row["figures"] = figures_of(event)
        elif name == "waiting":
            row["figures"] = event.get("reason", "")
        elif name == "finished":
            row.update(state="reused" if event.get("reused") else "done", seconds=event.get("seconds"))
            if event.get("rows"):
                row["figures"] = f"{event['rows']:,} rows"
        elif name == "failed":
            row.update(state="failed", figures=str(event.get("cause", "")).splitlines()[0][:100])
        if self._live:
            self._live.update(self._table())
        else:
            self._line(event, row)

    def _line(self, event: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if event["event"] == "progress":
            if now - self._last_line.get(event["task"], 0.0) < LINE_INTERVAL_SECONDS:
                return
            self._last_line[event["task"]] = now
        text = {
            "started": "started",
            "progress": row.get("figures", ""),
            "waiting": f"waiting: {event.get('reason')}",
            "warning": f"warning: {event.get('message')}",
            "finished": ("reused, " if event.get("reused") else "done, ") + f"{event.get('seconds', 0):.1f} s"
            + (f", {row['figures']}" if row.get("figures") else ""),
            "failed": f"FAILED: {event.get('cause')}",
        }.get(event["event"])  # fmt: skip
        if text:
            self._console.print(
                f"{(event['time'] or '')[11:19]:>8} {event['task'] or 'events':<20} {text}",
                markup=False,
                soft_wrap=True,
            )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("", "step", "seconds", "progress"):
            table.add_column(column, justify="right" if column == "seconds" else "left", no_wrap=column != "progress")
        for label, row in self._rows.items():
            seconds = row.get("seconds")
            if seconds is None and row["state"] == "running":
                seconds = time.monotonic() - row["began"]
            shown = f"{seconds:.1f}" if seconds is not None else ""
            table.add_row(SIGNS[row["state"]], label, shown, str(row.get("figures", "")))
        return table


def figures_of(event: Mapping[str, Any]) -> str:
    """A progress event in words: `1,200 of 5,000 tokens (24%), loss 3.21`."""
    done, total = event.get("done"), event.get("total")
    text = f"{done:,.0f}" if isinstance(done, int | float) else "?"
    if total:
        text += f" of {total:,.0f}"
    text += f" {event.get('unit', '')}"
    if total and done is not None:
        text += f" ({100 * done / total:.0f}%)"
    known = {"time", "event", "task", "step", "done", "total", "unit"}
    extra = [f"{name.replace('_', ' ')} {value:,.4g}" for name, value in event.items()
             if name not in known and isinstance(value, int | float)]  # fmt: skip
    return ", ".join([text, *extra])
