"""One try of a step in this process: inputs verified, run called, Results turned into manifests, an outcome always left."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from tutelage.config import Config, build
from tutelage.contracts import locations, store
from tutelage.contracts.manifest import OBSERVATIONS_NAME, Manifest, read, verify
from tutelage.contracts.store import Result
from tutelage.errors import TutelageError
from tutelage.step.context import Context, Request
from tutelage.step.description import describe
from tutelage.step.measured import cpu_seconds, peak_memory_bytes

log = logging.getLogger("tutelage")
RunFunction = Callable[[Any, Context], Mapping[str, Result]]


def execute(run: RunFunction, config_type: type[Config], request: Request) -> dict[str, Manifest]:
    """One try of a step in this process: verify inputs, run, write manifests. Always leaves outcome.json.

    Under torchrun every rank runs this; rank 0 alone writes manifests, and a rank that fails leaves an outcome of its own.
    """
    rank = int(os.environ.get("RANK", "0"))
    started = time.monotonic()
    try:
        manifests = _attempt(run, config_type, request, rank, started)
    except BaseException as error:
        _write_outcome(request, rank, started, error)
        raise
    if rank == 0:
        _write_outcome(request, rank, started, None)
    return manifests


def _attempt(
    run: RunFunction, config_type: type[Config], request: Request, rank: int, started: float
) -> dict[str, Manifest]:
    config = build(config_type, dict(request.config), where=request.step)
    inputs = {name: read(uri) for name, uri in request.inputs.items()}
    if rank == 0:
        for manifest in inputs.values():
            verify(manifest)
    context = Context(request, inputs)
    try:
        return _results(run, config, context, request, rank, started)
    finally:
        for output in context.outputs.values():
            output.discard_copy()


def _results(
    run: RunFunction, config: Config, context: Context, request: Request, rank: int, started: float
) -> dict[str, Manifest]:
    results = run(config, context)
    if rank != 0:
        return {}
    kinds = describe(request.step).writes
    if set(results) != set(kinds):
        raise TutelageError(f"{request.step} gave {sorted(results)}, its component.yaml promises {sorted(kinds)}")
    context.observe(seconds=round(time.monotonic() - started, 3), cpu_seconds=round(cpu_seconds(), 3))
    context.observe(peak_memory_bytes=peak_memory_bytes())
    return {name: _finish(name, kinds[name], results[name], config, context, request) for name in kinds}


def _finish(name: str, kind: str, result: Result, config: Config, context: Context, request: Request) -> Manifest:
    output = context.outputs[name]
    output.settle()
    values = config.values()
    manifest = Manifest(
        kind=kind,
        location=locations.normalise(output.location),
        content_digest=result.content_digest,
        files=result.files if result.files is not None else store.payload_files(output.location),
        step=request.step,
        step_key=request.step_key,
        attempt=request.attempt,
        config=values,
        seed=values.get("seed"),
        code_version=request.code_version,
        inputs={key: manifest.content_digest for key, manifest in context.inputs.items()},
        input_manifests={key: manifest.uri for key, manifest in context.inputs.items()},
        run=request.run,
        output=name,
        rows=result.rows,
        rows_in=result.rows_in,
        dropped=result.dropped,
        licences=result.licences,
        metrics=result.metrics,
        details=result.details,
    )
    observations = json.dumps(context.observations, indent=1).encode()
    locations.write_bytes(locations.join(output.location, OBSERVATIONS_NAME), observations)
    return store.finish(manifest)


def _write_outcome(request: Request, rank: int, started: float, error: BaseException | None) -> None:
    outcome: dict[str, Any] = {"outcome": "done", "cause": None, "hint": None}
    if isinstance(error, TutelageError):
        outcome = {"outcome": error.outcome, "cause": error.message, "hint": error.hint}
    elif error is not None:
        outcome = {"outcome": "failed", "cause": f"{type(error).__name__}: {error}", "hint": None}
    outcome |= {"step": request.step, "label": request.label, "rank": rank}
    outcome["seconds"] = round(time.monotonic() - started, 3)
    location = request.outcome if rank == 0 else f"{request.outcome}.rank{rank}"
    try:
        locations.write_bytes(location, json.dumps(outcome, indent=1, ensure_ascii=False).encode())
    except TutelageError:
        # A full disk must not hide the error that brought us here.
        log.exception("outcome not written")
