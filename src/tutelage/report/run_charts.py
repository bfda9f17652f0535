"""The drawings of the run page as inline SVG: pipeline graph, timeline, loss curves.

Colours are the page's own (`currentColor` and its CSS variables), so they follow light, dark and print. A state is told by sign
and outline too: done solid, reused thin, failed thick, not run dashed. Each drawing has a text alternative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape

from tutelage.report.run_record import FAILED, Task
from tutelage.report.style import duration, number

NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y = 172, 44, 20, 26
TIMELINE_WIDTH, LABEL_WIDTH, ROW_HEIGHT = 720, 150, 24
CURVE_WIDTH, CURVE_HEIGHT = 340, 210
SWEEPS = 6
LOOSE_IN_A_ROW = 3


def graph(tasks: Mapping[str, Task]) -> str:
    """The pipeline from top to bottom; an arrow only where no longer way says the same. "" without tasks."""
    if not tasks:
        return ""
    edges = reduced({label: task.needs for label, task in tasks.items()})
    rows = _layers(tasks, edges)
    places, chains = _places(rows, edges)
    width = max(len(row) for row in _with_bends(rows, edges)[0]) * (NODE_WIDTH + GAP_X) + GAP_X
    height = len(rows) * (NODE_HEIGHT + GAP_Y) + GAP_Y
    words = "; ".join(f"{task.label}: {task.words} {duration(task.seconds)}".strip() for task in tasks.values())
    parts = [
        (
            f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" role="group" '
            f'aria-label="Pipeline graph. {escape(words)}" font-size="14" fill="currentColor">'
        )
    ]
    parts += [_arrow([places[key] for key in chain]) for chain in chains]
    parts += [_node(task, *places[task.label]) for task in tasks.values()]
    return "\n".join([*parts, "</svg>"])


def reduced(needs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """`needs` without those that follow from others (transitive reduction), and without circles."""
    behind: dict[str, set[str]] = {}

    def all_behind(label: str, path: tuple[str, ...]) -> set[str]:
        if label not in behind:
            direct = [need for need in needs.get(label, set()) if need not in path]
            behind[label] = {*direct, *(far for need in direct for far in all_behind(need, (*path, need)))}
        return behind[label]

    for label in needs:
        all_behind(label, (label,))
    return {
        label: {need for need in direct if not any(need in behind[other] for other in direct - {need})}
        for label, direct in needs.items()
    }


def _layers(tasks: Mapping[str, Task], edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Labels by their longest way from a beginning; tasks tied to nothing stand last, unless they started first."""
    depth: dict[str, int] = {}

    def of(label: str) -> int:
        if label not in depth:
            depth[label] = 0
            depth[label] = 1 + max((of(need) for need in edges[label]), default=-1)
        return depth[label]

    for label in tasks:
        of(label)
    rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    needed = {need for direct in edges.values() for need in direct}
    first = min(tasks.values(), key=lambda task: math.inf if task.started is None else task.started).label
    loose = [label for label in tasks if not edges[label] and label not in needed and label != first]
    for label in tasks:
        if label not in loose:
            rows[depth[label]].append(label)
    rows += [loose[index : index + LOOSE_IN_A_ROW] for index in range(0, len(loose), LOOSE_IN_A_ROW)]
    return [row for row in rows if row]


Bend = tuple[str, str, int]


def _with_bends(
    rows: Sequence[Sequence[str]], edges: Mapping[str, set[str]]
) -> tuple[list[list[str | Bend]], list[list[str | Bend]]]:
    """Rows with a place kept for every arrow that passes through, and the arrows as chains of places."""
    level = {label: index for index, row in enumerate(rows) for label in row}
    filled: list[list[str | Bend]] = [list(row) for row in rows]
    chains: list[list[str | Bend]] = []
    for target, depth in level.items():
        for source in sorted(edges[target]):
            bends: list[Bend] = [(source, target, index) for index in range(level[source] + 1, depth)]
            for bend in bends:
                filled[bend[2]].append(bend)
            chains.append([source, *bends, target])
    return filled, chains


def _places(
    rows: Sequence[Sequence[str]], edges: Mapping[str, set[str]]
) -> tuple[dict[str | Bend, tuple[float, float]], list[list[str | Bend]]]:
    """Centre of every task and bend: rows sorted by the mean place of their neighbours (Sugiyama et al., 1981)."""
    filled, chains = _with_bends(rows, edges)
    width = max(len(row) for row in filled)
    place = {key: _slot(index, len(row), width) for row in filled for index, key in enumerate(row)}
    neighbours: dict[str | Bend, list[str | Bend]] = {key: [] for key in place}
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            neighbours[upper].append(lower)
            neighbours[lower].append(upper)
    for _ in range(SWEEPS):
        for row in filled:
            row.sort(key=lambda key: _mean([place[near] for near in neighbours[key]], place[key]))
            place |= {key: _slot(index, len(row), width) for index, key in enumerate(row)}
    step_x, step_y = NODE_WIDTH + GAP_X, NODE_HEIGHT + GAP_Y
    centres = {
        key: (GAP_X + place[key] * step_x + NODE_WIDTH / 2, GAP_Y + index * step_y + NODE_HEIGHT / 2)
        for index, row in enumerate(filled)
        for key in row
    }
    return centres, chains


def _slot(index: int, count: int, width: int) -> float:
    return index + (width - count) / 2


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    (x, y), half = points[0], NODE_HEIGHT / 2
    path = [f"M{x:.0f} {y + half:.0f}"]
    for index, (next_x, next_y) in enumerate(points[1:], start=1):
        end = next_y - half
        start = y + half
        middle = (start + end) / 2
        path.append(f"C{x:.0f} {middle:.0f} {next_x:.0f} {middle:.0f} {next_x:.0f} {end:.0f}")
        if index < len(points) - 1:
            path.append(f"V{next_y + half:.0f}")
        x, y = next_x, next_y
    head = f"M{x - 4:.0f} {y - half - 6:.0f} L{x:.0f} {y - half:.0f} L{x + 4:.0f} {y - half - 6:.0f}"
    return f'<path d="{" ".join(path)} {head}" fill="none" stroke="var(--soft)"/>'


def _colour(task: Task) -> str:
    if task.state in FAILED:
        return "var(--bad)"
    return {"done": "var(--good)", "reused": "var(--accent)", "not run": "var(--soft)"}.get(task.state, "var(--note)")


def _node(task: Task, x: float, y: float) -> str:
    stroke = {"not run": '1" stroke-dasharray="5 4', "reused": "1"}.get(task.state, "3" if task.failed else "2")
    time = escape(duration(task.seconds)) if task.state != "not run" else ""
    return (
        f'<a href="#task-{escape(task.label)}" aria-label="{escape(f"{task.label}: {task.words}")} {time}">'
        f'<rect x="{x - NODE_WIDTH / 2:.0f}" y="{y - NODE_HEIGHT / 2:.0f}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="7" '
        f'fill="var(--raised)" stroke="{_colour(task)}" stroke-width="{stroke}"/>'
        f'<text x="{x:.0f}" y="{y - 3:.0f}" text-anchor="middle" font-weight="600">{escape(_cut(task.label, 19))}</text>'
        f'<text x="{x:.0f}" y="{y + 14:.0f}" text-anchor="middle" font-size="12" fill="{_colour(task)}">'
        f"{task.sign} {escape(_cut(task.words, 14))}{f' · {time}' if time else ''}</text></a>"
    )


def timeline(tasks: Mapping[str, Task]) -> str:
    """A bar for each task that started, on one axis of seconds since the first start; "" where none did."""
    ran = sorted((t for t in tasks.values() if t.started is not None), key=lambda t: (t.started or 0.0, t.label))
    if not ran:
        return ""
    origin = ran[0].started or 0.0
    last = max(max(t.ended or t.last_event or origin for t in ran) - origin, 0.001)
    width = TIMELINE_WIDTH - LABEL_WIDTH - 80
    height = ROW_HEIGHT * len(ran) + 30
    parts = [
        (
            f'<svg viewBox="0 0 {TIMELINE_WIDTH} {height}" width="{TIMELINE_WIDTH}" role="img" font-size="13" '
            f'fill="currentColor" aria-label="Timeline over {duration(last)}; the table of tasks has the same figures">'
        )
    ]
    for mark in ticks(0.0, last, 5):
        x = LABEL_WIDTH + mark / last * width
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}" stroke="var(--line)"/>')
        label = f"{mark:g} s" if mark < 10 else duration(mark)
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle" fill="var(--soft)">{label}</text>')
    for index, task in enumerate(ran):
        parts.append(_bar(task, index * ROW_HEIGHT, origin, width / last, origin + last))
    return "\n".join([*parts, "</svg>"])


def _bar(task: Task, top: float, origin: float, scale: float, last: float) -> str:
    started = task.started or origin
    ended = task.ended if task.ended is not None else last
    x, length = LABEL_WIDTH + (started - origin) * scale, max((ended - started) * scale, 3.0)
    fill = "none" if task.state in ("reused", "running", "waiting", "killed") else _colour(task)
    dashes = "" if task.ended is not None else ' stroke-dasharray="3 3"'
    time = escape(duration(task.seconds)) or task.words
    return (
        f'<text x="{LABEL_WIDTH - 8}" y="{top + 16:.0f}" text-anchor="end">{escape(_cut(task.label, 18))}</text>'
        f'<rect x="{x:.1f}" y="{top + 4:.0f}" width="{length:.1f}" height="{ROW_HEIGHT - 9}" rx="2" fill="{fill}" '
        f'stroke="{_colour(task)}"{dashes}/>'
        f'<text x="{x + length + 6:.1f}" y="{top + 16:.0f}" fill="var(--soft)">{task.sign} {time}</text>'
    )


def loss_curve(title: str, points: Sequence[Sequence[float | None]]) -> str:
    """Loss over tokens; "" with fewer than two finite points."""
    drawn = [(float(x), float(y)) for x, y in points if x is not None and y is not None and math.isfinite(y)]
    if len(drawn) < 2:
        return ""
    left, right, top, bottom = 48, 10, 26, 34
    low_x, high_x = min(x for x, _ in drawn), max(x for x, _ in drawn)
    low_y, high_y = min(y for _, y in drawn), max(y for _, y in drawn)
    span_x, span_y = (high_x - low_x) or 1.0, (high_y - low_y) or 1.0
    wide, tall = CURVE_WIDTH - left - right, CURVE_HEIGHT - top - bottom

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - low_x) / span_x * wide, top + (high_y - y) / span_y * tall

    words = (
        f"{title}: loss from {drawn[0][1]:.3f} to {drawn[-1][1]:.3f}, lowest {low_y:.3f}, over {number(high_x)} tokens"
    )
    parts = [
        (
            f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" width="{CURVE_WIDTH}" role="img" aria-label="{escape(words)}" '
            f'font-size="12" fill="currentColor"><text x="{left}" y="15" font-weight="600">{escape(title)}</text>'
        )
    ]
    for mark in ticks(low_y, high_y, 4):
        _, y = at(low_x, mark)
        parts.append(f'<line x1="{left}" x2="{CURVE_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="var(--soft)">{mark:.4g}</text>')
    for mark in ticks(low_x, high_x, 4):
        x, _ = at(mark, low_y)
        middle = f'x="{x:.1f}" y="{CURVE_HEIGHT - bottom + 16}" text-anchor="middle" fill="var(--soft)"'
        parts.append(f"<text {middle}>{number(mark)}</text>")
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in drawn))
    parts.append(f'<polyline points="{line}" fill="none" stroke="var(--accent)" stroke-width="2"/>')
    x, y = at(*drawn[-1])
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--accent)"/>')
    axis = f'x="{CURVE_WIDTH - right}" y="{CURVE_HEIGHT - 3}" text-anchor="end" fill="var(--soft)"'
    return "\n".join([*parts, f"<text {axis}>tokens</text>", "</svg>"])


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
