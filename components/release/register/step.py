"""Put a released model on record: a version in the registry, a model card, and checksums of its files.

    python components/release/register/step.py --in verdict=… --in model=… --in splits=… --in candidate=… --in comparison=… \
        --out registration=/tmp/registration --setting registry=runs/registry.sqlite --setting public_keys=runs/keys/public

Verifies the verdict itself. Registering the same model again gives the version it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import read_json
from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.store import Result
from tutelage.contracts.verdicts import require_model, require_pass
from tutelage.step import Context, main

REGISTRATION_NAME = "registration.json"
CARD_NAME = "MODEL_CARD.md"
CHECKSUMS_NAME = "SHA256SUMS"


class Config(ReleasePolicy):
    """The run's policy.release; another policy than the one decided on is refused."""


def run(config: Config, context: Context) -> Mapping[str, Result]:
    """Verify → card and checksums → registry. Raises GateRefused before anything is written."""
    from tutelage.release.object_registry import registry_at

    verdict = require_pass(context.inputs, config, Path(context.setting("public_keys")))
    require_model(context.input_path("model"), context.inputs["model"])
    model = context.inputs["model"]
    card = _card(config.name, verdict, context)
    checksums = "".join(
        f"{entry.sha256}  {entry.path}\n" for entry in sorted(model.files, key=lambda entry: entry.path)
    )
    properties = {
        "model": model.content_digest,
        "data": verdict["subject"]["data"],
        "policy": verdict["subject"]["policy"],
        "verdict_run": verdict["subject"]["run"],
        "verdict_key": verdict["key"],
        "licences": sorted(model.licences),
        **{f"metric_{name}": value for name, value in sorted(context.inputs["candidate"].metrics.items())},
    }
    registered = registry_at(context.setting("registry")).register(
        config.name, model.content_digest, model.location, format_version="transformers", properties=properties
    )
    folder = context.outputs["registration"].path
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    (folder / CHECKSUMS_NAME).write_text(checksums, encoding="utf-8")
    record = json.dumps({**asdict(registered), "model": model.content_digest}, indent=1)
    (folder / REGISTRATION_NAME).write_text(record, encoding="utf-8")
    content = {"name": config.name, "model": model.content_digest, "card": card, "checksums": checksums}
    return {
        "registration": Result(
            content_digest=digest_of(content),
            licences=dict(model.licences),
            details={"name": registered.name, "version": registered.version, "model": model.content_digest},
        )
    }


def _card(name: str, verdict: Mapping[str, Any], context: Context) -> str:
    from tutelage.contracts.ancestry import ancestry_of
    from tutelage.release.languages import languages_of
    from tutelage.release.model_card import model_card

    inputs = context.inputs
    ancestry = ancestry_of([inputs["model"], inputs["splits"]])
    candidate, comparison = (
        read_json(inputs["candidate"], "scorecard.json"),
        read_json(inputs["comparison"], "comparison.json"),
    )
    languages = languages_of(inputs["splits"])
    return model_card(
        name, inputs["model"], inputs["splits"], candidate, comparison, verdict, ancestry.manifests, languages
    )


if __name__ == "__main__":
    main(run, Config)
