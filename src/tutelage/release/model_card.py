"""The model card: Markdown with the front matter of Hugging Face model cards, made of manifests and nothing else.

Specification: https://huggingface.co/docs/hub/model-cards. No time stamps and no run names, so equal models have equal cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from tutelage.contracts.manifest import Manifest

#: Words of the Hub for licences, which are SPDX identifiers in lower case where both know a licence.
HUB_LICENCES = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "isc", "zlib", "unlicense", "cc0-1.0", "cc-by-4.0",
        "cc-by-sa-4.0", "cc-by-nc-4.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "artistic-2.0",
    }
)  # fmt: skip
LANGUAGE = re.compile(r"^[a-z]{2,3}$")


def model_card(
    name: str,
    model: Manifest,
    splits: Manifest,
    candidate: Mapping[str, Any],
    comparison: Mapping[str, Any],
    verdict: Mapping[str, Any],
    ancestry: Sequence[Manifest],
    languages: Iterable[str],
) -> str:
    """The card of a released model. `ancestry` is what model and splits came from, oldest first."""
    sources = sources_of(ancestry)
    front = _front_matter(name, model, candidate, ancestry, sources, sorted(set(languages)))
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n\n" + "\n".join(
        [
            f"# {name}",
            "",
            "Trained, evaluated and released by Tutelage. Every figure below is on record with its digest.",
            "",
            *_training(model, ancestry),
            *_data(splits, sources),
            *_figures(comparison),
            *_provenance(verdict),
        ]
    )


def _front_matter(
    name: str, model: Manifest, candidate: Mapping[str, Any], ancestry: Sequence[Manifest], sources: Sequence[str],
    languages: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    front: dict[str, Any] = _licence(model)
    base = base_of(ancestry)
    if base is not None and base.startswith("hf://"):
        front["base_model"] = base.removeprefix("hf://").split("@")[0]
    hub = [
        source.removeprefix("hf://datasets/").split("@")[0] for source in sources if source.startswith("hf://datasets/")
    ]
    if hub:
        front["datasets"] = hub
    spoken = [language for language in languages if LANGUAGE.match(language)]
    if spoken:
        front["language"] = spoken
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tutelage"]}
    figures = candidate.get("figures", [])
    front["metrics"] = sorted({str(figure["name"]).split("/", maxsplit=1)[0] for figure in figures})
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": str(figure["name"]).split("/", maxsplit=1)[-1], "type": "tutelage-suite"},
            "metrics": [{"type": str(figure["name"]).split("/", maxsplit=1)[0], "value": figure["value"]}],
        }
        for figure in figures
    ]
    front["model-index"] = [{"name": name, "results": results}]
    return front


def _licence(model: Manifest) -> dict[str, Any]:
    names = sorted(model.licences)
    if len(names) == 1 and names[0].lower() in HUB_LICENCES:
        return {"license": names[0].lower()}
    return {"license": "other", "license_name": " AND ".join(names) if names else "not-recorded"}


def base_of(ancestry: Sequence[Manifest]) -> str | None:
    """Where the first model came from: a URI, or `initialised`; None where nobody recorded it."""
    origins = [manifest.details.get("origin") for manifest in ancestry if manifest.kind == "model"]
    first = next((str(origin) for origin in origins if origin), None)
    return first if first in {None, "initialised"} else public_uri(str(first), "a local model")


def sources_of(ancestry: Sequence[Manifest]) -> list[str]:
    """The sources that documents were read from, sorted: their URIs, and only names for files of somebody's machine."""
    found = set()
    for manifest in ancestry:
        for source in manifest.config.get("sources") or [] if manifest.kind == "documents" else []:
            if isinstance(source, Mapping) and source.get("uri"):
                found.add(public_uri(str(source["uri"]), str(source.get("name") or "a local source")))
    return sorted(found)


def public_uri(uri: str, local_name: str) -> str:
    """A URI without user, password, query and fragment; `local_name` for a path of the machine it was made on."""
    if "://" not in uri or uri.startswith("file://"):
        return local_name
    return re.sub(r"//[^/@]*@", "//", uri).split("#")[0].split("?")[0]


def _training(model: Manifest, ancestry: Sequence[Manifest]) -> list[str]:
    lines = ["## Training", "", f"- Base model: {_code(base_of(ancestry) or 'not recorded')}"]
    if (parameters := model.details.get("parameters")) is not None:
        lines.append(f"- Parameters: {int(parameters):,}")
    for manifest in ancestry:
        if manifest.kind == "model" and (objective := manifest.details.get("objective")):
            tokens = manifest.details.get("tokens_trained")
            spent = f" on {int(tokens):,} tokens" if tokens is not None else ""
            stopped = f", stopped early: {manifest.details['stopped']}" if manifest.details.get("stopped") else ""
            lines.append(f"- Trained: {objective}{spent}, seed {manifest.seed}{stopped}")
    return [*lines, ""]


def _data(splits: Manifest, sources: Sequence[str]) -> list[str]:
    lines = [
        "## Data",
        "",
        f"{splits.rows or 0:,} rows, after licence, quality, personal-data, duplicate and leak checks.",
        "",
    ]
    lines += ["| licence | rows |", "| --- | ---: |"]
    lines += [f"| {_cell(name)} | {count:,} |" for name, count in sorted(splits.licences.items())]
    if sources:
        lines += ["", "Sources:", "", *(f"- {_code(source)}" for source in sources)]
    return [*lines, ""]


def _figures(comparison: Mapping[str, Any]) -> list[str]:
    confidence = f"{100 * float(comparison.get('confidence', 0.95)):g}%"
    lines = ["## Evaluation", "", f"Candidate against the baseline, {confidence} intervals of the difference.", ""]
    lines += ["| figure | baseline | candidate | interval | verdict |", "| --- | ---: | ---: | ---: | --- |"]
    for figure in comparison.get("figures", []):
        numbers = [f"{figure[key]:.4g}" for key in ("baseline", "candidate")]
        interval = f"{figure['low']:.4g} to {figure['high']:.4g}"
        words = str(figure["verdict"]).replace("_", " ")
        lines.append(f"| {_cell(str(figure['name']))} | {numbers[0]} | {numbers[1]} | {interval} | {words} |")
    return [*lines, ""]


def _provenance(verdict: Mapping[str, Any]) -> list[str]:
    subject = verdict["subject"]
    lines = ["## Provenance", "", f"Verdict: {verdict['verdict']}, signed with key `{verdict['key']}`.", ""]
    names = ("model", "data", "policy", "scorecard", "comparison")
    return [*lines, *(f"- {name}: `{subject[name]}`" for name in names), ""]


def _code(text: str) -> str:
    return "`" + text.replace("`", "'") + "`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
