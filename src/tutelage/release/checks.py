"""What stands between a model and its PASS, whatever its policy says; `tutelage.release.rules` has the policy's own demands.

A check never raises. What it cannot see it does not pass: a manifest without counts or a key that cannot be read is a failure
with a reason in plain words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.contracts.ancestry import Ancestry
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.verdicts import fingerprint, load_private_key, trusted_keys
from tutelage.errors import InvalidInput

#: SPDX's words for a licence that nobody stated, and what stands where nothing was said.
UNKNOWN_LICENCES = frozenset({"", "None", "NONE", "NOASSERTION"})
#: (what, made from which input): how the line hangs together, by content digest.
LINKS = (
    ("curated", "documents"),
    ("unique", "curated"),
    ("splits", "unique"),
    ("splits", "suite"),
    ("tokens", "splits"),
    ("model", "tokens"),
    ("candidate", "model"),
    ("candidate", "splits"),
    ("baseline", "splits"),
    ("comparison", "baseline"),
    ("comparison", "candidate"),
)
#: Data steps in order: each takes in all rows that the one before kept.
FLOW = ("documents", "curated", "unique", "splits")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One demand, what was found, and whether that is enough."""

    id: str
    """Its name for programs, which stays: `budget`, `licences`, `rule:perplexity/pretrain:must_be`."""
    rule: str
    observed: float | str | None
    bound: float | str | None
    passed: bool
    why: str

    def values(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def built_in_checks(inputs: Mapping[str, Manifest], policy: ReleasePolicy, ancestry: Ancestry) -> list[Check]:
    """The checks that no policy can switch off."""
    chain = ancestry.models_behind(inputs["model"])
    return [
        _unlicensed_rows(inputs["documents"], inputs["curated"], policy),
        _unlicensed_kept(inputs["splits"]),
        _model_licence(inputs["model"]),
        _tokenizer_licences(chain),
        _suite_licences(inputs["suite"]),
        _conservation(inputs),
        _links(inputs, chain, ancestry),
        _baseline(inputs["baseline"], chain),
        _same_suite(inputs),
        _stopped(ancestry.of_kind("model"), policy),
    ]


def _unlicensed_rows(documents: Manifest, curated: Manifest, policy: ReleasePolicy) -> Check:
    count = sum(number for reason, number in curated.dropped.items() if reason.startswith("licence_unknown"))
    passed = count == 0 or policy.unlicensed_sources == "drop"
    if count == 0:
        why = "every source row has a known licence"
    elif passed:
        why = f"{_rows(count)} without a known licence dropped{_named(documents)}, as the policy allows"
    else:
        why = f"{_rows(count)} came from sources without a known licence{_named(documents)}; the policy refuses such sources"
    bound = "drop" if policy.unlicensed_sources == "drop" else 0
    return Check(
        id="unlicensed_sources", rule="sources without a licence", observed=count, bound=bound, passed=passed, why=why
    )


def _named(documents: Manifest) -> str:
    """Sources that say no licence, in brackets; nothing where it was single rows that said none."""
    sources = [source for source in documents.details.get("sources") or () if isinstance(source, Mapping)]
    names = sorted(str(source.get("name")) for source in sources if str(source.get("licence")) in UNKNOWN_LICENCES)
    return f" ({', '.join(names)})" if names else ""


def _unlicensed_kept(splits: Manifest) -> Check:
    kept = sum(number for name, number in splits.licences.items() if name in UNKNOWN_LICENCES)
    recorded = sum(splits.licences.values())
    passed = kept == 0 and recorded > 0 and recorded == (splits.rows or 0)
    if passed:
        why = f"a licence is on record for all {_rows(recorded)} used"
    elif kept:
        why = f"no licence is known for {_rows(kept)} that training or evaluation used"
    else:
        why = f"a licence is on record for {recorded:,} of {_rows(splits.rows or 0)} used"
    return Check(
        id="licences",
        rule="licences of the data",
        observed=recorded - kept,
        bound=splits.rows or 0,
        passed=passed,
        why=why,
    )


def _model_licence(model: Manifest) -> Check:
    unknown = sorted(name for name in model.licences if name in UNKNOWN_LICENCES)
    names = ", ".join(sorted(set(model.licences) - set(unknown))) or "none"
    passed = bool(model.licences) and not unknown
    why = f"licences of the model: {names}" if passed else "nobody says under which licence the base model may be used"
    return Check(id="model_licence", rule="licence of the model", observed=names, bound="known", passed=passed, why=why)


def _tokenizer_licences(chain: Sequence[Manifest]) -> Check:
    """A tokenizer is made of its corpus: text nobody licensed is used, not dropped, so no policy lets it pass."""
    listed = [part for model in chain for part in model.details.get("tokenizer_corpus") or ()]
    parts = [part if isinstance(part, Mapping) else {} for part in listed]
    unknown = [part for part in parts if str(part.get("licence", "")) in UNKNOWN_LICENCES]
    names = ", ".join(sorted({str(part["licence"]) for part in parts if part not in unknown})) or "none"
    if unknown:
        why = f"the tokenizer was trained on {len(unknown)} of {len(parts)} sources without a known licence"
    else:
        why = (
            f"licences of what the tokenizer was trained on: {names}" if parts else "the tokenizer came with the model"
        )
    return Check(
        id="tokenizer_licences", rule="licences of the tokenizer corpus", observed=len(unknown), bound=0,
        passed=not unknown, why=why,
    )  # fmt: skip


def _suite_licences(suite: Manifest) -> Check:
    """Items are asked and never trained on, so an unknown licence is said and refuses nothing."""
    unknown = sum(count for name, count in suite.licences.items() if name in UNKNOWN_LICENCES)
    names = ", ".join(sorted(set(suite.licences) - UNKNOWN_LICENCES)) or "none on record"
    why = f"licences of the suite: {names}"
    if unknown:
        why += f"; none is known for {unknown:,} items, which were asked and never trained on"
    return Check(
        id="suite_licences", rule="licences of the suite", observed=unknown, bound="reported", passed=True, why=why
    )


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _conservation(inputs: Mapping[str, Manifest]) -> Check:
    problems = []
    for name in FLOW[1:]:
        former, manifest = inputs[FLOW[FLOW.index(name) - 1]], inputs[name]
        kept, dropped = manifest.rows or 0, sum(manifest.dropped.values())
        if manifest.rows_in is None or former.rows is None:
            problems.append(f"{name} does not say how many rows came in")
        elif manifest.rows_in != former.rows:
            problems.append(f"{name} took in {manifest.rows_in:,} of {_rows(former.rows)}")
        elif kept + dropped != manifest.rows_in:
            problems.append(f"{name} lost {_rows(manifest.rows_in - kept - dropped)} without a reason")
    why = "; ".join(problems) or "every row is either kept or dropped with a reason, from source to split"
    return Check(id="no_row_lost", rule="no row lost", observed=len(problems), bound=0, passed=not problems, why=why)


def _links(inputs: Mapping[str, Manifest], chain: Sequence[Manifest], ancestry: Ancestry) -> Check:
    broken = [
        f"{name} was made from another {source}"
        for name, source in LINKS
        if inputs[name].inputs.get(source) != inputs[source].content_digest
    ]
    # Of the last phase LINKS knows; what an earlier one was trained on must have passed the same data checks.
    for model in chain[1:]:
        if "base" in model.inputs and model.inputs.get("tokens") != inputs["tokens"].content_digest:
            broken.append(f"{model.details.get('objective') or 'an earlier phase'} was trained on other tokens")
    if "base" not in chain[-1].inputs and inputs["tokens"].inputs.get("model") != chain[-1].content_digest:
        broken.append("tokens were made with the tokenizer of another model")
    if ancestry.unreadable:
        broken.append(f"{len(ancestry.unreadable)} manifests it came from are gone or changed")
    why = "; ".join(broken) or "every payload was made from the ones before it, digest by digest"
    return Check(id="provenance", rule="unbroken provenance", observed=len(broken), bound=0, passed=not broken, why=why)


def _baseline(baseline: Manifest, chain: Sequence[Manifest]) -> Check:
    """To be better than some weaker model is easy: the baseline is what training started from, and nothing else."""
    first = chain[-1]
    measured = str(baseline.inputs.get("model", "none"))
    whole = "base" not in first.inputs
    passed = whole and measured == first.content_digest
    if passed:
        why = "the baseline is the model that training started from"
    elif whole:
        why = f"the baseline is a scorecard of model {measured[:12]!r}; training started from {first.content_digest[:12]!r}"
    else:
        why = "what training started from cannot be read, so nothing is known of the baseline"
    return Check(
        id="baseline", rule="baseline is where training started", observed=measured[:12],
        bound=first.content_digest[:12], passed=passed, why=why,
    )  # fmt: skip


def _same_suite(inputs: Mapping[str, Manifest]) -> Check:
    suite = inputs["suite"].content_digest
    other = [name for name in ("baseline", "candidate") if inputs[name].inputs.get("suite") != suite]
    why = f"{' and '.join(other)} met another suite" if other else "baseline and candidate met the same suite"
    return Check(id="suite", rule="same suite", observed=2 - len(other), bound=2, passed=not other, why=why)


def _stopped(models: Sequence[Manifest], policy: ReleasePolicy) -> Check:
    """Every phase counts: a later one does not mend what an earlier one did not finish."""
    stopped = {str(model.details.get("objective")): str(model.details["stopped"]) for model in models
               if model.details.get("stopped")}  # fmt: skip
    passed = not stopped or (policy.accept_budget_stop and set(stopped.values()) == {"budget"})
    why = "training ran to its end"
    if stopped:
        listed = ", ".join(f"{objective}: {reason}" for objective, reason in stopped.items())
        said = "which the policy accepts" if passed else "and the policy wants training that ran to its end"
        why = f"training was stopped early ({listed}), {said}"
    bound = "budget" if policy.accept_budget_stop else "not stopped"
    observed = "stopped" if stopped else "finished"
    identity = "budget" if set(stopped.values()) <= {"budget"} else "stopped"
    return Check(id=identity, rule="training finished", observed=observed, bound=bound, passed=passed, why=why)


def key_check(private_key: Path | None, public_keys: Path | None) -> Check:
    """Whether there is a key to sign with whose signature the installation's verifiers will accept."""
    identity, rule, bound = "signing_key", "signing key", "usable and trusted"
    if private_key is None:
        return Check(
            id=identity,
            rule=rule,
            observed="none",
            bound=bound,
            passed=False,
            why="there is no signing key: no key, no PASS",
        )
    try:
        name = fingerprint(load_private_key(private_key).public_key())
        trusted = trusted_keys(public_keys) if public_keys is not None else {}
    except InvalidInput as error:
        return Check(id=identity, rule=rule, observed="unusable", bound=bound, passed=False, why=error.message)
    if name not in trusted:
        why = f"the signing key {name[:16]} is not among the {len(trusted)} public keys of this installation"
        return Check(id=identity, rule=rule, observed=name, bound=bound, passed=False, why=why)
    return Check(
        id=identity, rule=rule, observed=name, bound=bound, passed=True, why="the verdict is signed with a trusted key"
    )


def reasons_of(checks: Sequence[Check]) -> list[str]:
    """Why a verdict is FAIL, in plain words; empty for a PASS."""
    return [check.why for check in checks if not check.passed]
