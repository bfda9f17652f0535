"""The release page: may this model be released, and everything that answer rests on. Written by `decide`, PASS or FAIL.

Verdict first, in plain words; then why, figure by figure against the baseline, what became of the data, licences, cost and
provenance. No script, no network, no text of a row, no personal data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import OBSERVATIONS_NAME, Manifest
from tutelage.errors import StoreError
from tutelage.report.intervals import interval_plot
from tutelage.report.style import environment, page

WORDS = {"better": "better", "worse": "worse", "cannot_be_told": "cannot be told"}
MAXIMUM_MASKED_EXAMPLES = 12
MAXIMUM_EXAMPLE_CHARACTERS = 200
#: (title, input): the data steps whose rows the funnel follows.
FUNNEL = (
    ("Read from the sources", "documents"),
    ("After licence, quality and personal-data policy", "curated"),
    ("After removal of duplicates", "unique"),
    ("Split, without leaks", "splits"),
)


def release_page(
    verdict: Mapping[str, Any],
    candidate: Mapping[str, Any],
    comparison: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    ancestry: Sequence[Manifest],
) -> str:
    """The page as one HTML file. `inputs` are those of release/decide, `ancestry` they and all they came from, oldest first."""
    from markupsafe import Markup

    figures = [_figure(figure) for figure in comparison.get("figures", [])]
    passed = verdict["verdict"] == "PASS"
    heading = "This model may be released" if passed else "This model must not be released"
    names = {manifest.uri: name for name, manifest in inputs.items()}
    cost = _cost(ancestry, names)
    template = environment().overlay()
    template.filters = {**environment().filters, "shown": _shown, "words": _words}
    body = template.from_string(Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8")).render(
        heading=heading,
        passed=passed,
        reasons=verdict["reasons"],
        checks=verdict["checks"],
        moved=_moved(figures),
        figures=figures,
        confidence=f"{100 * float(comparison.get('confidence', 0.95)):g}%",
        plot=Markup(interval_plot(figures)),  # noqa: S704  (built of escaped parts)
        not_measured=candidate.get("not_measured", []),
        funnel=[_stage(title, inputs[name]) for title, name in FUNNEL],
        masked=_masked(inputs["curated"].details.get("masked")),
        personal=_counts(inputs["curated"].details.get("personal_data")),
        licences=_licences(inputs["splits"], inputs["model"]),
        cost=cost,
        seconds=sum(row["seconds"] or 0 for row in cost),
        subject=verdict["subject"],
        key=verdict["key"],
        provenance=[(names.get(manifest.uri, manifest.output), manifest) for manifest in ancestry],
    )
    return page(heading, body)


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    verdict = figure["verdict"] if figure.get("verdict") in WORDS else "cannot_be_told"
    still = (
        verdict == "cannot_be_told" and figure.get("difference") == 0 and figure.get("low") == figure.get("high") == 0
    )
    defaults: dict[str, Any] = {"minimum_detectable": None, "notes": [], "items": None, "unit": None, "ratio": None}
    return {**defaults, **figure, "verdict": verdict, "words": WORDS[verdict], "still": still}


def _moved(figures: Sequence[Mapping[str, Any]]) -> str:
    """What moved and what did not, in one sentence for people who read no tables."""
    if not figures:
        return "Nothing was compared with the baseline."
    sentences = (
        ("the candidate is better than the baseline on", "better", False),
        ("the candidate is worse than the baseline on", "worse", False),
        ("no difference can be told on", "cannot_be_told", False),
        ("nothing moved on", "cannot_be_told", True),
    )
    parts = []
    for words, verdict, still in sentences:
        names = [str(figure["name"]) for figure in figures if (figure["verdict"], figure["still"]) == (verdict, still)]
        if names:
            parts.append(f"{words} {_listed(names)}")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def _stage(title: str, manifest: Manifest) -> dict[str, Any]:
    dropped = sorted(manifest.dropped.items(), key=lambda item: (-item[1], item[0]))
    return {"title": title, "rows_in": manifest.rows_in, "rows": manifest.rows, "dropped": dropped}


def _masked(examples: Any) -> list[tuple[str, str]]:
    """(kind, masked example) pairs, a few, cut short; whatever has another shape is left out."""
    pairs: list[tuple[str, str]] = []
    if isinstance(examples, Mapping):
        for kind, values in sorted(examples.items()):
            listed = values if isinstance(values, list | tuple) else [values]
            pairs += [(str(kind), str(value)) for value in listed]
    elif isinstance(examples, list | tuple):
        for entry in examples:
            values = entry if isinstance(entry, Mapping) else {"example": entry}
            kind = values.get("kind") or values.get("type") or values.get("entity") or "masked"
            text = values.get("example") or values.get("text") or values.get("masked")
            if text:
                pairs.append((str(kind), str(text)))
    return [(kind, text[:MAXIMUM_EXAMPLE_CHARACTERS]) for kind, text in pairs[:MAXIMUM_MASKED_EXAMPLES]]


def _counts(values: Any) -> list[tuple[str, int]]:
    """(type, how many) pairs, most first; empty where nobody counted."""
    counted = values if isinstance(values, Mapping) else {}
    pairs = [(str(name), int(count)) for name, count in counted.items() if isinstance(count, int | float)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _licences(splits: Manifest, model: Manifest) -> list[tuple[str, int, bool]]:
    names = sorted(set(splits.licences) | set(model.licences), key=lambda name: (-splits.licences.get(name, 0), name))
    return [(name, splits.licences.get(name, 0), name in model.licences) for name in names]


def _cost(ancestry: Iterable[Manifest], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Measured figures of every payload that left some. A step with two outputs is counted once."""
    rows, seen = [], set()
    for manifest in ancestry:
        observed = _observations(manifest)
        if not observed or (manifest.step_key, manifest.attempt) in seen:
            continue
        seen.add((manifest.step_key, manifest.attempt))
        objective = manifest.details.get("objective")
        memory = observed.get("peak_memory_bytes")
        name = names.get(manifest.uri, manifest.output)
        rows.append(
            {
                "name": f"{name} ({objective})" if objective else name,
                "step": manifest.step,
                "seconds": observed.get("seconds"),
                "memory": round(memory / 2**20) if memory else None,
                "tokens": manifest.details.get("tokens_trained"),
            }
        )
    return rows


def _observations(manifest: Manifest) -> dict[str, float]:
    """What was measured while the payload was made; empty where nothing is on record."""
    try:
        values = json.loads(locations.read_bytes(locations.join(manifest.location, OBSERVATIONS_NAME)))
    except (FileNotFoundError, StoreError, ValueError):
        return {}
    numbers = values if isinstance(values, dict) else {}
    return {key: value for key, value in numbers.items() if isinstance(value, int | float)}


def _shown(value: Any) -> str:
    """A number as readers want it, a word as it is, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)[:64]
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
