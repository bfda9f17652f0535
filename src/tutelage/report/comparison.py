"""The candidate against the baseline, for readers: every figure with its verdict in words, and what it comes to in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.report import words

VERDICTS: Mapping[str, str] = {"better": "better", "worse": "worse", "cannot_be_told": "cannot be told"}
SIGNS: Mapping[str, str] = {"better": "▲", "worse": "▼", "cannot_be_told": "○"}
_ABSENT = ("baseline", "candidate", "difference", "low", "high", "minimum_detectable", "items", "unit", "ratio")


def figures(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparison's figures, complete: what a figure lacks is None, and what nobody can tell cannot be told."""
    return [_figure(figure) for figure in comparison.get("figures", [])]


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    verdict = figure["verdict"] if figure.get("verdict") in VERDICTS else "cannot_be_told"
    unmoved = figure.get("difference") == 0 and figure.get("low") == figure.get("high") == 0
    absent: dict[str, Any] = dict.fromkeys(_ABSENT) | {"notes": [], "lower_is_better": False}
    return {
        **absent, **figure, "verdict": verdict, "words": VERDICTS[verdict], "sign": SIGNS[verdict],
        "still": verdict == "cannot_be_told" and unmoved,
    }  # fmt: skip


def confidence(comparison: Mapping[str, Any]) -> str:
    """The intervals' confidence: "95%"."""
    return f"{100 * float(comparison.get('confidence', 0.95)):g}%"


def sentences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What got better, worse, and what nobody can tell, each as sign, words and text for people who read no tables."""
    if not rows:
        return [{"sign": "○", "words": "Not compared", "text": "nothing was compared with the model it started from"}]
    told = [row for row in rows if not _said_by_another(row, rows)]
    found = []
    for verdict, said in (("worse", "Got worse"), ("better", "Got better")):
        parts = [_told(row) for row in told if row["verdict"] == verdict]
        text = "; ".join(parts) or "nothing that was measured"
        found.append({"sign": SIGNS[verdict] if parts else "–", "words": said, "text": text})
    doubtful = [_told(row) for row in told if row["verdict"] == "cannot_be_told" and not row["still"]]
    still = [_named(row) for row in told if row["still"]]
    if doubtful:
        text = f"{'; '.join(doubtful)} (the change could be chance)"
        found.append({"sign": "○", "words": "Cannot be told", "text": text})
    if still:
        found.append({"sign": "○", "words": "Did not move", "text": "; ".join(still)})
    return found


def _told(row: Mapping[str, Any]) -> str:
    """One figure: its words, its name, and from what to what."""
    change = words.change(row)
    return f"{_named(row)}, {change}" if change else _named(row)


def _named(row: Mapping[str, Any]) -> str:
    """One figure: its words and its name."""
    means = words.figure(str(row["name"]))
    return f"{means} ({row['name']})" if means else str(row["name"])


def _said_by_another(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Bits per byte say what the perplexity of the same rows says, in another unit."""
    kind, _, rest = str(row["name"]).partition("/")
    return kind == "bits_per_byte" and any(other["name"] == f"perplexity/{rest}" for other in rows)
