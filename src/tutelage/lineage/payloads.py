"""Runs and payloads as KFP 2.17 writes them to ML Metadata (backend/src/v2/metadata/client.go, driver/, launcher).

    context    system.Pipeline ← system.PipelineRun {namespace, resource_name, pipeline_root, store_session_info}
    execution  system.DAGExecution `run/<run>`; system.ContainerExecution {task_name, display_name, parent_dag_id, image, …}
    artifact   system.Dataset, Model, Artifact, HTML {display_name, store_session_info, metadata…}; events keyed by port name

Types have no schema and all properties are custom ones. An artifact is one payload: a run that reuses it gets the same
artifact, as KFP's cache does, so lineage crosses runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import KINDS, Manifest, read
from tutelage.contracts.masking import mask_values
from tutelage.errors import CorruptPayload, InvalidInput
from tutelage.lineage.store import MetadataStore, Value
from tutelage.step import image_of

PIPELINE = "system.Pipeline"
PIPELINE_RUN = "system.PipelineRun"
DAG = "system.DAGExecution"
CONTAINER = "system.ContainerExecution"
METRICS = "system.Metrics"

#: Kinds whose steps also have a `metrics: Output[Metrics]`.
KINDS_WITH_METRICS = frozenset({"scorecard", "comparison"})


def put_run(
    store: MetadataStore,
    run: str,
    pipeline: str | None,
    *,
    state: str = "RUNNING",
    root: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> tuple[tuple[int, ...], int]:
    """The run's contexts (the pipeline's first, where it is known) and the id of its DAG execution; made where absent."""
    parents = () if pipeline is None else (store.put_context(PIPELINE, pipeline, {}),)
    properties = {"namespace": "", "resource_name": "run-resource", "pipeline_root": root, "store_session_info": ""}
    context = store.put_context(PIPELINE_RUN, run, properties, *parents)
    contexts = (*(parents or store.parents_of(context)), context)
    dag = store.find_execution(DAG, f"run/{run}")
    if dag is not None:
        return contexts, dag.id
    values: dict[str, Value] = {"display_name": "", "task_name": ""}
    if parameters is not None:
        values["inputs"] = mask_values(parameters)
    return contexts, store.put_execution(DAG, f"run/{run}", state, values, contexts=contexts)


def container_properties(step: str, task_name: str, dag: int) -> dict[str, Value]:
    """What every task's execution carries; pods there are none on a laptop."""
    try:
        image = image_of(step)
    except InvalidInput:
        image = ""  # a run of a step that this checkout has no longer
    return {
        "display_name": task_name,
        "task_name": task_name,
        "parent_dag_id": dag,
        "pod_name": "",
        "pod_uid": "",
        "namespace": "",
        "image": image,
        "step": step,
    }


def attempt_properties(manifest: Manifest) -> dict[str, Value]:
    """What an execution carries once its outputs are known: the Config, and the step key as KFP's cache fingerprint."""
    return {"inputs": mask_values(manifest.config), "outputs": {}, "cache_fingerprint": manifest.step_key}


def identity_of(uri: str) -> str:
    """What makes a payload one artifact: where its manifest stands."""
    return locations.normalise(uri)


def put_payload(store: MetadataStore, manifest: Manifest) -> int:
    """The id of a payload's artifact; made where there is none. Custom properties are those a KFP artifact gets."""
    properties: dict[str, Value] = {"display_name": manifest.output, "store_session_info": ""}
    for key, value in manifest.artifact_metadata().items():
        # KFP passes metadata on as JSON numbers, which ML Metadata then holds as doubles.
        properties[key] = float(value) if isinstance(value, int | float) else str(value)
    return store.put_artifact(KINDS[manifest.kind], manifest.location, identity_of(manifest.uri), properties)


def put_metrics(store: MetadataStore, manifest: Manifest) -> dict[str, int]:
    """Port → id of the `system.Metrics` artifact beside a scorecard or comparison; empty for other kinds."""
    if manifest.kind not in KINDS_WITH_METRICS or not manifest.metrics:
        return {}
    uri = f"{manifest.location}#metrics"
    properties: dict[str, Value] = {"display_name": "metrics", "store_session_info": ""}
    properties |= {key: float(value) for key, value in sorted(manifest.metrics.items())}
    return {"metrics": store.put_artifact(METRICS, uri, identity_of(uri), properties)}


def put_located(store: MetadataStore, uri: str) -> tuple[int, Manifest | None]:
    """The artifact of the payload whose manifest stands at `uri`, and the manifest; None where it can no longer be read."""
    try:
        manifest = read(uri)
    except (CorruptPayload, FileNotFoundError):
        folder = uri.rsplit("/", 1)[0]
        known = store.find_artifact(identity_of(uri))
        properties = {"display_name": "gone", "manifest": uri, "payload": folder}
        return known or store.put_artifact("system.Artifact", folder, identity_of(uri), properties), None
    return put_payload(store, manifest), manifest


def producer_of(store: MetadataStore, manifest: Manifest) -> int | None:
    """The id of the execution that made a payload (not of one that reused it), if it is recorded."""
    artifact = store.find_artifact(identity_of(manifest.uri))
    if artifact is None:
        return None
    return next((made.id for made in store.producers_of(artifact) if made.state != "CACHED"), None)


def put_producer(store: MetadataStore, manifest: Manifest, pipelines: Mapping[str, str] | None = None) -> int:
    """The execution that made a payload, and all that came before it, recorded from manifests where they are not yet."""
    known = producer_of(store, manifest)
    if known is not None:
        return known
    inputs = {}
    for name, uri in sorted(manifest.input_manifests.items()):
        inputs[name], source = put_located(store, uri)
        if source is not None:
            put_producer(store, source, pipelines)
    # A manifest knows that its run was, not how it ended.
    contexts, dag = put_run(store, manifest.run, (pipelines or {}).get(manifest.run), state="UNKNOWN")
    return store.put_execution(
        CONTAINER,
        f"run/{manifest.run}/{manifest.step_key}/{manifest.attempt}",
        "COMPLETE",
        container_properties(manifest.step, manifest.step.rsplit("/", 1)[-1], dag) | attempt_properties(manifest),
        contexts=contexts,
        inputs=inputs,
        outputs={manifest.output: put_payload(store, manifest)} | put_metrics(store, manifest),
    )


def rebuild(store: MetadataStore, manifests: Iterable[Manifest], pipelines: Mapping[str, str] | None = None) -> int:
    """Record everything that manifests know and the store does not; returns the number of payloads gone through.

    Runs, steps, payloads and the edges between them come back. Failed tasks, times and reuse are in no manifest: they come
    back by reading the runs' event files again. `pipelines` maps run ids to pipeline names where they are known.
    """
    count = 0
    for count, manifest in enumerate(manifests, start=1):  # noqa: B007
        put_producer(store, manifest, pipelines)
    return count
