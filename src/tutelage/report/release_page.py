"""The release page: may this model be released, and everything that answer rests on. Written by `decide`, PASS or FAIL.

Verdict first, in words for people who are no engineers, with what to do about a refusal; then figures against the baseline, what
became of the data, licences, cost, every check and provenance. No script, no network, no text of a row, no personal data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.contracts.manifest import Manifest
from tutelage.contracts.masking import mask
from tutelage.report import comparison as compared
from tutelage.report import words
from tutelage.report.cost import Bill, bill
from tutelage.report.funnel import BySource, by_source, masked_examples, stages
from tutelage.report.intervals import interval_plot
from tutelage.report.style import environment, page

_UNKNOWN_LICENCE = "licence_unknown"


def release_page(
    verdict: Mapping[str, Any],
    candidate: Mapping[str, Any],
    comparison: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    ancestry: Sequence[Manifest],
    name: str = "model",
) -> str:
    """The page as one HTML file. `inputs` are those of release/decide, `ancestry` they and all they came from, oldest first;
    `name` is the model's in the policy."""
    from markupsafe import Markup

    figures = compared.figures(comparison)
    passed = verdict["verdict"] == "PASS"
    heading = f"{'Released' if passed else 'Refused'}: {name}"
    names = {manifest.uri: label for label, manifest in inputs.items()}
    sources = by_source(inputs)
    cost = bill((names.get(manifest.uri, manifest.output), manifest) for manifest in ancestry)
    body = environment().get_template("release_page.jinja").render(
        heading=heading,
        passed=passed,
        checks=sorted(verdict["checks"], key=lambda check: bool(check["passed"])),
        failed=_failed(verdict["checks"], sources),
        unproven=_unproven(verdict["checks"]),
        moved=compared.sentences(figures),
        tiles=_tiles(verdict["checks"], inputs, cost),
        figures=figures,
        confidence=compared.confidence(comparison),
        plot=Markup(interval_plot(figures)),  # noqa: S704  (built of escaped parts)
        not_measured=candidate.get("not_measured", []),
        stages=stages(inputs),
        by_source=sources,
        masked=masked_examples(inputs["curated"].details.get("masked")),
        personal=_counts(inputs["curated"].details.get("personal_data")),
        licences=licences_of(inputs["splits"], inputs["model"]),
        cost=cost,
        subject=verdict["subject"],
        key=verdict["key"],
        provenance=[(names.get(manifest.uri, manifest.output), manifest) for manifest in ancestry],
    )  # fmt: skip
    return page(heading, mask(body))


def licences_of(splits: Manifest, model: Manifest) -> list[tuple[str, int, bool]]:
    """(SPDX expression, rows used, whether the base model is under it), most rows first."""
    names = sorted(set(splits.licences) | set(model.licences), key=lambda name: (-splits.licences.get(name, 0), name))
    return [(name, splits.licences.get(name, 0), name in model.licences) for name in names]


def _failed(checks: Sequence[Mapping[str, Any]], sources: BySource) -> list[dict[str, str]]:
    """What did not pass, in words, and what to do about it; sources without a licence by name."""
    found = []
    for check in checks:
        if check["passed"]:
            continue
        why = str(check["why"])
        unknown = [row.name for row in sources.rows if row.dropped[_UNKNOWN_LICENCE] and row.name not in why]
        if check.get("id") == "unlicensed_sources" and unknown:
            why += f" ({words.listed(unknown)})"
        figure = str(check.get("id", "")).partition("rule:")[2].rpartition(":")[0]
        found.append({"why": why, "measures": words.figure(figure), "remedy": words.remedy(check)})
    return found


def _unproven(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Guards that passed because no loss was proven, which is no proof that nothing was lost."""
    return [
        str(check["why"])
        for check in checks
        if check["passed"] and check.get("bound") == "not worse" and check.get("observed") == "cannot be told"
    ]


def _tiles(
    checks: Sequence[Mapping[str, Any]], inputs: Mapping[str, Manifest], cost: Bill
) -> list[tuple[str, str, str]]:
    """(title, figure, what it is of): what to take in at a glance."""
    documents, tokens = inputs["documents"], inputs.get("tokens", inputs["splits"])
    read = documents.rows_in if documents.rows_in is not None else documents.rows
    passed = sum(1 for check in checks if check["passed"])
    tiles = [
        ("Checks passed", f"{passed}", f"of {len(checks)}"),
        ("Rows trained on", words.shown(tokens.rows), f"of {words.shown(read)} read"),
    ]
    if cost.total.tokens is not None:
        tiles.append(("Tokens trained", words.shown(cost.total.tokens), ""))
    if cost.total.seconds is not None:
        tiles.append(("Work measured", words.shown(round(cost.total.seconds)), "seconds"))
    parameters = inputs["model"].details.get("parameters")
    if isinstance(parameters, int):
        tiles.append(("Parameters", f"{parameters / 1e6:,.1f}", "million"))
    return tiles


def _counts(values: Any) -> list[tuple[str, int]]:
    """(type, how many) pairs, most first; empty where nobody counted."""
    counted = values if isinstance(values, Mapping) else {}
    pairs = [(str(name), int(count)) for name, count in counted.items() if isinstance(count, int | float)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
