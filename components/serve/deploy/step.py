"""Deployment: serve the released model on 127.0.0.1, ask it everything an endpoint promises, take it down again.

    python components/serve/deploy/step.py --in verdict=… --in model=… (and the other inputs) --out deployment=/tmp/deployment \
        --set probes.requests=20 --setting public_keys=runs/keys/public

With a setting `endpoint` the model is served there already (on a cluster: by an InferenceService) and only asked. Verifies the
verdict itself, before anything else. A required probe that does not pass fails the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tutelage.config import Config as BaseConfig
from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import Manifest, read_json
from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.store import Result
from tutelage.contracts.verdicts import require_model, require_pass
from tutelage.errors import GateRefused, StepFailed
from tutelage.serve.probes import Deployed, Probe, Probes, run_probes
from tutelage.serve.smoke import Server, elsewhere, served
from tutelage.step import Context, main

DEPLOYMENT_NAME = "deployment.json"


class Config(BaseConfig):
    """What to trust, and what to ask."""

    release: ReleasePolicy = ReleasePolicy()
    """The run's policy.release; another policy than the one decided on is refused."""
    probes: Probes = Probes()
    """The run's policy.deployment."""


def run(config: Config, context: Context) -> Mapping[str, Result]:
    """Verify → serve → probe → take down → report."""
    verdict = require_pass(context.inputs, config.release, Path(context.setting("public_keys")))
    model = context.inputs["model"]
    registration = _registration(context.inputs["registration"], model)
    name = config.release.name
    harmful = _harmful(context.inputs["suite"])
    with _server(config, context) as server:
        deployed = Deployed(
            server=server, name=name, digest=model.content_digest, chat_probe=model.details.get("chat_probe"),
            harmful=harmful, probes=config.probes,
        )  # fmt: skip
        probes = run_probes(deployed, lambda done, total: context.progress(done, total, "probes"))
        _refuse_failures(probes, config.probes, server, context)
    for probe in probes:
        context.observe(**{f"{probe.name}_{key}": value for key, value in probe.measured.items()})
    return {"deployment": _report(probes, verdict, registration, server.host, config, context)}


def _server(config: Config, context: Context) -> AbstractContextManager[Server]:
    """Whom to ask. A server elsewhere has verified the model's files itself, and says by digest what it serves."""
    timeout, endpoint = config.probes.request_timeout_seconds, context.optional_setting("endpoint")
    if endpoint is not None:
        return elsewhere(endpoint, timeout_seconds=timeout)
    folder = context.input_path("model")
    require_model(folder, context.inputs["model"])
    return served(folder, config.release.name, threads=config.probes.threads, timeout_seconds=timeout)


def _registration(manifest: Manifest, model: Manifest) -> dict[str, Any]:
    registration = read_json(manifest, "registration.json")
    if registration.get("model") != model.content_digest:
        found = str(registration.get("model"))[:12]
        raise GateRefused(
            f"the registration is of another model: {found!r}, not {model.content_digest[:12]!r}",
            hint="run release/register on this model",
        )
    return registration


def _harmful(suite: Manifest) -> list[dict[str, Any]]:
    from tutelage.contracts import tables

    items = tables.read(suite, "items", columns=["id", "type", "prompt"])
    return sorted((item for item in items if item["type"] == "harmful"), key=lambda item: str(item["id"]))


def _refuse_failures(probes: Sequence[Probe], config: Probes, server: Server, context: Context) -> None:
    failed = [probe for probe in probes if not probe.passed]
    for probe in failed:
        if probe.name not in config.required:
            context.warn(f"probe {probe.name}: {probe.why}")
    refusing = [f"{probe.name}: {probe.why}" for probe in failed if probe.name in config.required]
    if refusing:
        raise StepFailed(
            f"required probes failed: {'; '.join(refusing)}\n{server.log_tail()}".rstrip(),
            hint="policy.deployment.required says which probes must pass",
        )


def _report(
    probes: Sequence[Probe],
    verdict: Mapping[str, Any],
    registration: Mapping[str, Any],
    address: str,
    config: Config,
    context: Context,
) -> Result:
    model = context.inputs["model"].content_digest
    content = {
        "model": model,
        "name": config.release.name,
        "address": address,
        "probes": [
            {"name": probe.name, "passed": probe.passed, "required": probe.name in config.probes.required,
             "why": probe.why, "figures": dict(probe.figures)}
            for probe in probes
        ],
    }  # fmt: skip
    measured = {probe.name: dict(probe.measured) for probe in probes if probe.measured}
    report = {
        **content,
        "version": registration.get("version"),
        "verdict": {"run": verdict["subject"]["run"], "key": verdict["key"]},
        "measured": measured,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (context.outputs["deployment"].path / DEPLOYMENT_NAME).write_text(text, encoding="utf-8")
    passed = sum(probe.passed for probe in probes)
    return Result(
        content_digest=digest_of(content),
        metrics={"probes": float(len(probes)), "probes_passed": float(passed)},
        details={"model": model, "name": config.release.name, "probes": {probe.name: probe.passed for probe in probes}},
    )


if __name__ == "__main__":
    main(run, Config)
