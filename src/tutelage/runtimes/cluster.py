"""How launch() starts a step on a cluster: `[cluster]` in the settings, this process being the task's pod of a Kubeflow run.

spark, torch    a job of their own (kubernetes/launching.py), which this pod follows
process         here, in the pod that Kubeflow started
serve/deploy    here too, but what it asks is an InferenceService that is started, promoted and, if need be, put back around it
plan/clean      here, and then what the run left on the cluster is deleted, and a promotion that it left half-way is given back
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.config import build
from tutelage.contracts import locations
from tutelage.contracts.manifest import read
from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.store import Store, new_attempt
from tutelage.contracts.verdicts import require_pass
from tutelage.errors import InvalidInput
from tutelage.runtimes import process
from tutelage.runtimes.kubernetes import launching, promotion, promotion_records, reaping
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.inferenceservice import InferenceService
from tutelage.runtimes.kubernetes.names import Identity
from tutelage.runtimes.kubernetes.readiness import Patience
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.runtimes.kubernetes.surroundings import surroundings
from tutelage.runtimes.settings import Settings
from tutelage.step import Request, append_event, describe

log = logging.getLogger("tutelage")
#: The setting by which a step is told that what it asks is served elsewhere.
ENDPOINT = "endpoint"


def start(
    request: Request, log_file: Path, lock: Path, settings: Settings, resources: Mapping[str, Any]
) -> tuple[int, str]:
    """Run the step. Gives its exit code, and the attempt that its outputs are in: that of a job is the job's own.

    Raises ApiError where the API server stays away, NameTaken, and what a step in this pod raises.
    """
    cluster = settings.cluster
    assert cluster is not None
    if request.step == "serve/deploy":
        return deploy(request, log_file, lock, settings, cluster)
    if request.step == "plan/clean":
        return clean(request, log_file, lock, settings, cluster)
    if describe(request.step).runtime == "process":
        return process.run(request, log_file, lock, settings), request.attempt
    store = Store(settings.store_root)
    exit_code = launching.run(
        request, log_file, store, cluster, processes=settings.processes, resources=resources,
        shared=settings.reuse and describe(request.step).reuse,
    )  # fmt: skip
    outcome = json.loads(locations.read_bytes(request.outcome))
    return exit_code, str(outcome.get("attempt") or request.attempt)


def clean(
    request: Request,
    log_file: Path,
    lock: Path,
    settings: Settings,
    cluster: ClusterSettings,
    *,
    api: Api | None = None,
    patience: Patience | None = None,
) -> tuple[int, str]:
    """End what the run left in this pod and on the cluster, and jobs of other runs that lost their Workflow.

    A promotion left half-way is given back first, since users talk to it, and its earlier spec is waited for last of all.
    """
    exit_code = process.run(request, log_file, lock, settings)
    api = api or Api.connect(cluster.namespace)
    run = surroundings(api, request.run).run
    tell, records = partial(_warn, request), _records(settings, cluster, api)
    waits = promotion.recover(api, cluster.deployment.name, records, run=run, tell=tell)
    found, left = reaping.cancel_run(api, run)
    smoke, stuck = reaping.cancel_smoke(api, run, stable=cluster.deployment.name)
    orphans, kept = reaping.reap(api)
    for what, names in (("left by this run", found + smoke), ("of a run that is gone", orphans)):
        if names:
            tell(f"deleted, {what}: {', '.join(sorted(names))}")
    if still := sorted({*left, *stuck, *kept}):
        tell(f"deleted, but still there (a finalizer?): {', '.join(still)}")
    for wait in waits:
        wait(patience or _patience(cluster))
    return exit_code, request.attempt


def deploy(
    request: Request,
    log_file: Path,
    lock: Path,
    settings: Settings,
    cluster: ClusterSettings,
    *,
    api: Api | None = None,
    patience: Patience | None = None,
) -> tuple[int, str]:
    """Smoke deployment, the step's probes, promotion, the step's probes again. The second answers are the outputs.

    The verdict is verified before anything is made, and by the step each time. Raises StepFailed, GateRefused, ApiError.
    """
    service, api = _service(request, cluster, api or Api.connect(cluster.namespace))
    attempts: list[str] = []

    def probe(address: str) -> None:
        attempt = new_attempt()
        _event(request, "progress", phase="probing", job=service.name, message=address)
        process.run(_asking(request, settings, address, attempt), log_file, lock, settings)
        attempts.append(attempt)

    records = _records(settings, cluster, api)
    patience = patience or _patience(cluster, service.needs.timeouts.start_seconds)
    with _signals_raised():
        promotion.deploy(api, service, probe, records=records, patience=patience, tell=partial(_warn, request))
    return 0, attempts[-1]


def _records(settings: Settings, cluster: ClusterSettings, api: Api) -> str:
    return promotion_records.folder_of(settings.store_root, api.namespace, cluster.deployment.name)


def _patience(cluster: ClusterSettings, start_seconds: int | None = None) -> Patience:
    """The step's own limit, else the installation's."""
    clocks = cluster.clocks
    return Patience(start_seconds=start_seconds or clocks.start_seconds, grace_seconds=clocks.grace_seconds)


def _service(request: Request, cluster: ClusterSettings, api: Api) -> tuple[InferenceService, Api]:
    """The release as an InferenceService. Raises GateRefused where no signed PASS says that it may be served."""
    if "public_keys" not in request.settings:
        raise InvalidInput(f"setting 'public_keys' is not set for {request.step}", hint="set it in the settings file")
    inputs = {name: read(uri) for name, uri in request.inputs.items()}
    policy = build(ReleasePolicy, dict(request.config["release"]), where=f"{request.label}.release")
    require_pass(inputs, policy, Path(request.settings["public_keys"]))
    here, model = surroundings(api, request.run), inputs["model"]
    identity = Identity(
        run=here.run, task=request.label, iteration=request.step_key, step=request.step, owner=here.owner
    )
    image = cluster.image(describe(request.step).image)
    service = InferenceService(
        identity=identity, namespace=api.namespace, settings=cluster, needs=launching.needs_of(request.step), image=image,
        model=model.uri, digest=model.content_digest, model_name=policy.name,
    )  # fmt: skip
    return service, api


def _asking(request: Request, settings: Settings, address: str, attempt: str) -> Request:
    """The request of one round of probes: an attempt of its own, and whom to ask."""
    store, writes = Store(settings.store_root), describe(request.step).writes
    outputs = {name: store.attempt(kind, request.step_key, attempt) for name, kind in writes.items()}
    return replace(request, attempt=attempt, outputs=outputs, settings={**request.settings, ENDPOINT: address})


def _warn(request: Request, message: str) -> None:
    log.warning("%s: %s", request.label, message)
    _event(request, "warning", message=message)


def _event(request: Request, name: str, **fields: Any) -> None:
    if request.events is not None:
        append_event(request.events, name, request.label, request.step, **fields)


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that a promotion half-way is taken back and the smoke deployment goes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)
