"""Confidence intervals as inline SVG: a row for each figure, the line at no change, better to the right.

Each row has a scale of its own, since figures have different units. What a row says stands in words beside it, and the
marker's shape says it again: ▲ better, ▼ worse, ○ cannot be told. Colours are those of the page, in both its schemes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LABEL_WIDTH = 230
PLOT_WIDTH = 340
WORDS_WIDTH = 150
ROW_HEIGHT = 30
TOP = 26
COLOURS = {"better": "var(--good)", "worse": "var(--bad)"}


def interval_plot(figures: Sequence[Mapping[str, Any]]) -> str:
    """The plot as an `<svg>` element, "" where no figure has an interval. Reads name, difference, low, high, verdict,
    words and lower_is_better of each."""
    drawn = [figure for figure in figures if _finite(figure)]
    if not drawn:
        return ""
    width, height = LABEL_WIDTH + PLOT_WIDTH + WORDS_WIDTH, TOP + ROW_HEIGHT * len(drawn) + 8
    centre = LABEL_WIDTH + PLOT_WIDTH / 2
    summary = escape("; ".join(f"{figure['name']}: {figure['words']}" for figure in drawn))
    size = f'viewBox="0 0 {width} {height}" width="{width}"'
    parts = [
        f'<svg role="img" {size} aria-label="Intervals: {summary}" font-size="13" fill="currentColor">',
        f'<text x="{centre - 8}" y="14" text-anchor="end" fill="var(--soft)">← worse</text>',
        f'<text x="{centre + 8}" y="14" fill="var(--soft)">better →</text>',
        f'<line x1="{centre}" y1="20" x2="{centre}" y2="{height - 4}" stroke="var(--soft)" stroke-dasharray="3 3"/>',
    ]
    parts += [_row(figure, TOP + ROW_HEIGHT * index + ROW_HEIGHT / 2, centre) for index, figure in enumerate(drawn)]
    return "\n".join([*parts, "</svg>"])


def _finite(figure: Mapping[str, Any]) -> bool:
    values = [figure.get(key) for key in ("difference", "low", "high")]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _row(figure: Mapping[str, Any], y: float, centre: float) -> str:
    sign = -1.0 if figure["lower_is_better"] else 1.0
    low, middle, high = (sign * figure[key] for key in ("low", "difference", "high"))
    extent = 1.15 * max(abs(low), abs(high), abs(middle)) or 1.0
    left, x, right = (centre + value / extent * PLOT_WIDTH / 2 for value in (min(low, high), middle, max(low, high)))
    colour = COLOURS.get(str(figure["verdict"]), "var(--note)")
    name, words = escape(_cut(str(figure["name"]))), escape(str(figure["words"]))
    return (
        f'<text x="{LABEL_WIDTH - 10}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        f'<g stroke="{colour}" stroke-width="2"><line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{left:.1f}" y1="{y - 5:.1f}" x2="{left:.1f}" y2="{y + 5:.1f}"/>'
        f'<line x1="{right:.1f}" y1="{y - 5:.1f}" x2="{right:.1f}" y2="{y + 5:.1f}"/>{_marker(figure, x, y, colour)}</g>'
        f'<text x="{LABEL_WIDTH + PLOT_WIDTH + 10}" y="{y + 4:.1f}">{words}</text>'
    )


def _marker(figure: Mapping[str, Any], x: float, y: float, colour: str) -> str:
    if figure["verdict"] == "better":
        return f'<path d="M{x:.1f} {y - 6:.1f} l6 11 h-12 z" fill="{colour}"/>'
    if figure["verdict"] == "worse":
        return f'<path d="M{x:.1f} {y + 6:.1f} l6 -11 h-12 z" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--ground)"/>'


def _cut(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"
