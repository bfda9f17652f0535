"""Decide whether a model may be released: weigh everything on record against the policy, sign the verdict, write the page.

    python components/release/decide/step.py --in model=… --in candidate=… (and the other inputs) \
        --out verdict=/tmp/verdict --out page=/tmp/page --set 'rules=[{figure: perplexity/pretrain, must_be: better}]' \
        --setting signing_key=runs/keys/signing.pem --setting public_keys=runs/keys/public

Ends well for a FAIL too, since a component that raises publishes nothing: `release/enforce` stops the line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import read_json
from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.store import Result
from tutelage.contracts.verdicts import VERDICT_NAME, content_digest, subject_of
from tutelage.errors import InvalidInput
from tutelage.step import Context, main


class Config(ReleasePolicy):
    """The run's policy.release."""


def run(config: Config, context: Context) -> Mapping[str, Result]:
    """Write the verdict, whatever it is, and the release page."""
    from tutelage.contracts.ancestry import ancestry_of
    from tutelage.release import checks, rules
    from tutelage.release.decision import verdict_of
    from tutelage.report.release_page import release_page

    inputs = context.inputs
    candidate, comparison = (
        read_json(inputs["candidate"], "scorecard.json"),
        read_json(inputs["comparison"], "comparison.json"),
    )
    ancestry = ancestry_of(inputs.values())
    private_key, public_keys = _setting(context, "signing_key"), _setting(context, "public_keys")
    key = checks.key_check(private_key, public_keys)
    found = [
        *rules.rule_checks(config, rules.figures_by_name(candidate), rules.figures_by_name(comparison)),
        *checks.built_in_checks(inputs, config, ancestry),
        key,
    ]
    subject = subject_of(
        run=context.run,
        model=inputs["model"],
        splits=inputs["splits"],
        scorecard=inputs["candidate"],
        comparison=inputs["comparison"],
        policy=config,
    )
    usable = key.observed not in {"none", "unusable"}
    verdict = verdict_of(found, subject, private_key if usable else None)
    if verdict["verdict"] == "FAIL":
        context.warn(f"the release is refused: {'; '.join(verdict['reasons'])}")
    html = release_page(verdict, candidate, comparison, inputs, ancestry.manifests, config.name)
    return {"verdict": _write_verdict(verdict, context), "page": _write_page(html, verdict, context)}


def _write_verdict(verdict: Mapping[str, Any], context: Context) -> Result:
    text = json.dumps(verdict, indent=1, ensure_ascii=False, allow_nan=False)
    (context.outputs["verdict"].path / VERDICT_NAME).write_text(text, encoding="utf-8")
    failed = sum(not check["passed"] for check in verdict["checks"])
    return Result(
        content_digest=content_digest(verdict),
        metrics={"passed": float(verdict["verdict"] == "PASS"), "checks_failed": float(failed)},
        details={"verdict": verdict["verdict"], "reasons": verdict["reasons"][:20], "key": verdict["key"]},
    )


def _write_page(html: str, verdict: Mapping[str, Any], context: Context) -> Result:
    (context.outputs["page"].path / "page.html").write_text(html, encoding="utf-8")
    # Not of the page's bytes: it shows seconds and memory, which differ between equal runs.
    digests = {name: manifest.content_digest for name, manifest in context.inputs.items()}
    return Result(content_digest=digest_of([content_digest(verdict), digests]), details={"verdict": verdict["verdict"]})


def _setting(context: Context, name: str) -> Path | None:
    try:
        return Path(context.setting(name))
    except InvalidInput:
        return None


if __name__ == "__main__":
    main(run, Config)
