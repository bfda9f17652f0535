"""Confidence intervals as inline SVG: for each figure its name and verdict, and below them its interval across the line at no
change, better to the right. Narrow enough for a phone to show whole.

Each row has a scale of its own, since figures have different units. What a row says stands in words above it, and the
marker's shape says it again: ▲ better, ▼ worse, ○ cannot be told. Colours are those of the page, in both its schemes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH = 360
MARGIN = 8
ROW_HEIGHT = 46
TOP = 22
#: Below a row's top: where its words and its interval are drawn.
WORDS_AT, INTERVAL_AT = 15, 30
#: How far an interval reaches at most to either side of the line.
REACH = WIDTH / 2 - MARGIN
COLOURS = {"better": "var(--good)", "worse": "var(--bad)"}


def interval_plot(figures: Sequence[Mapping[str, Any]]) -> str:
    """The plot as an `<svg>` element, "" where no figure has an interval. Reads name, difference, low, high, verdict,
    words and lower_is_better of each."""
    drawn = [figure for figure in figures if _finite(figure)]
    if not drawn:
        return ""
    height, centre = TOP + ROW_HEIGHT * len(drawn), WIDTH / 2
    summary = escape("; ".join(f"{figure['name']}: {figure['words']}" for figure in drawn))
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
    parts = [
        (
            f'<svg class="intervals" role="img" {size} aria-label="Intervals: {summary}" font-size="13" '
            'fill="currentColor">'
        ),
        f'<text x="{centre - 8}" y="14" text-anchor="end" fill="var(--soft)">← worse</text>',
        f'<text x="{centre + 8}" y="14" fill="var(--soft)">better →</text>',
    ]
    parts += [_row(figure, TOP + ROW_HEIGHT * index, centre) for index, figure in enumerate(drawn)]
    return "\n".join([*parts, "</svg>"])


def _finite(figure: Mapping[str, Any]) -> bool:
    values = [figure.get(key) for key in ("difference", "low", "high")]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _row(figure: Mapping[str, Any], top: float, centre: float) -> str:
    sign = -1.0 if figure["lower_is_better"] else 1.0
    low, middle, high = (sign * figure[key] for key in ("low", "difference", "high"))
    extent = 1.15 * max(abs(low), abs(high), abs(middle)) or 1.0
    left, x, right = (centre + value / extent * REACH for value in (min(low, high), middle, max(low, high)))
    colour = COLOURS.get(str(figure["verdict"]), "var(--note)")
    name, words = escape(_cut(str(figure["name"]))), escape(str(figure["words"]))
    y, baseline = top + INTERVAL_AT, top + WORDS_AT
    return (
        f'<text x="{MARGIN}" y="{baseline}">{name}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{baseline}" text-anchor="end" fill="var(--soft)">{words}</text>'
        f'<line x1="{centre}" y1="{y - 10}" x2="{centre}" y2="{y + 10}" stroke="var(--soft)" stroke-dasharray="3 3"/>'
        f'<g stroke="{colour}" stroke-width="2"><line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{left:.1f}" y1="{y - 5:.1f}" x2="{left:.1f}" y2="{y + 5:.1f}"/>'
        f'<line x1="{right:.1f}" y1="{y - 5:.1f}" x2="{right:.1f}" y2="{y + 5:.1f}"/>{_marker(figure, x, y, colour)}</g>'
    )


def _marker(figure: Mapping[str, Any], x: float, y: float, colour: str) -> str:
    if figure["verdict"] == "better":
        return f'<path d="M{x:.1f} {y - 6:.1f} l6 11 h-12 z" fill="{colour}"/>'
    if figure["verdict"] == "worse":
        return f'<path d="M{x:.1f} {y + 6:.1f} l6 -11 h-12 z" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--ground)"/>'


def _cut(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"
