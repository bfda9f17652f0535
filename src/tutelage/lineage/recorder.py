"""Writes ML Metadata for a run from its events and manifests; steps never do.

    recorder = Recorder(open_store("runs/lineage.sqlite"), run="2026-…", pipeline="llm-training", tasks={"train-sft": "train-2"})
    while running:
        events, offset = read_events(folder / "events.jsonl", offset)
        recorder.consume(events)
    recorder.close()

An execution is named after run, task and the time its task started, so events may be consumed twice, by this recorder or by
another after a crash: nothing is written twice. A start without an end is FAILED when the run is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.contracts.digests import canonical_json
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.masking import mask
from tutelage.lineage import payloads
from tutelage.lineage.events import Event
from tutelage.lineage.payloads import CONTAINER, DAG, rebuild
from tutelage.lineage.store import Execution, MetadataStore, Value

log = logging.getLogger("tutelage")
LONGEST_ERROR_CHARACTERS = 2000
ENDED_SILENTLY = "ended without a word: it was killed, or the machine stopped"
STARTED_AGAIN = "started again before it ended"


@dataclass(frozen=True)
class _Postponed:
    """A reused task whose maker, a run still going on, has not been recorded yet."""

    name: str
    manifest: Manifest


class Recorder:
    """Records one run. Without a store (None) it takes events and writes nothing: manifests remain."""

    def __init__(
        self,
        store: MetadataStore | None,
        *,
        run: str,
        pipeline: str,
        tasks: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        root: str = "",
    ) -> None:
        """`tasks` maps labels to KFP task names, `parameters` are the run's, `root` is where its outputs go."""
        self._store = store
        self._run = run
        self._tasks = tasks or {}
        self._seen: set[bytes] = set()
        self._open: dict[str, str] = {}
        self._steps: dict[str, str] = {}
        self._postponed: list[_Postponed] = []
        self._contexts: tuple[int, ...] = ()
        self._dag = 0
        if store is not None:
            self._contexts, self._dag = payloads.put_run(store, run, pipeline, root=root, parameters=parameters or {})

    def consume(self, events: Iterable[Event]) -> None:
        """Record what happened. Raises StoreError when the store cannot be written for 30 seconds."""
        if self._store is None:
            return
        handlers = {"started": self._started, "finished": self._finished, "failed": self._failed}
        for event in events:
            handler = handlers.get(event["event"])
            line = canonical_json(event)
            if handler is not None and line not in self._seen:
                self._seen.add(line)
                handler(self._store, event)

    def close(self) -> None:
        """Mark starts without an end as FAILED and the run as COMPLETE or FAILED. May be called more than once."""
        if self._store is None:
            return
        for label in sorted(self._open):
            self._give_up(self._store, label, ENDED_SILENTLY)
        for late in self._postponed:
            self._put(self._store, late.name, "CACHED", self._cached(payloads.put_producer(self._store, late.manifest)))
        self._postponed.clear()
        latest = {task.properties.get("task_name"): task.state for task in self._recorded(self._store)}
        state = "FAILED" if "FAILED" in latest.values() else "COMPLETE"
        self._store.put_execution(DAG, f"run/{self._run}", state, {}, contexts=self._contexts)

    def _started(self, store: MetadataStore, event: Event) -> None:
        label = event["task"]
        if label in self._open:
            self._give_up(store, label, STARTED_AGAIN)
        self._open[label], self._steps[label] = self._name(event), event["step"]
        if store.find_execution(CONTAINER, self._open[label]) is None:
            self._put(store, self._open[label], "RUNNING", self._properties(label, event["step"]))

    def _finished(self, store: MetadataStore, event: Event) -> None:
        inputs, outputs, made = {}, {}, []
        for name, uri in sorted(event.get("inputs", {}).items()):
            inputs[name], _ = payloads.put_located(store, uri)
        for name, uri in sorted(event.get("outputs", {}).items()):
            outputs[name], manifest = payloads.put_located(store, uri)
            if manifest is None:
                log.warning("lineage: %s finished, but its output %r is gone: %s", event["task"], name, uri)
                continue
            made.append(manifest)
            outputs |= payloads.put_metrics(store, manifest)
        name = self._ending(store, event)
        properties = self._properties(event["task"], event["step"])
        properties |= payloads.attempt_properties(made[0]) if made else {"outputs": {}}
        if event.get("seconds") is not None:
            properties["seconds"] = float(event["seconds"])
        if event.get("reused"):
            properties |= self._maker(store, name, made)
        state = "CACHED" if event.get("reused") else "COMPLETE"
        self._put(store, name, state, properties, inputs=inputs, outputs=outputs)

    def _failed(self, store: MetadataStore, event: Event) -> None:
        inputs = {name: payloads.put_located(store, uri)[0] for name, uri in sorted(event.get("inputs", {}).items())}
        properties = self._properties(event["task"], event["step"])
        properties |= _failure(event.get("outcome") or "failed", event.get("cause") or "", event.get("hint"))
        self._put(store, self._ending(store, event), "FAILED", properties, inputs=inputs)

    def _give_up(self, store: MetadataStore, label: str, cause: str) -> None:
        name = self._open.pop(label)
        recorded = store.find_execution(CONTAINER, name)
        if recorded is None or recorded.state == "RUNNING":
            properties = self._properties(label, self._steps[label]) | _failure("failed", cause, None)
            self._put(store, name, "FAILED", properties)

    def _maker(self, store: MetadataStore, name: str, made: list[Manifest]) -> dict[str, Value]:
        """`cached_execution_id` of a reused task; left for close() while the run that made the payload is writing it."""
        if not made:
            return {}
        if payloads.producer_of(store, made[0]) is None and self._being_made(store, made[0]):
            self._postponed.append(_Postponed(name, made[0]))
            return {}
        makers = [payloads.put_producer(store, manifest) for manifest in made]
        return self._cached(makers[0])

    def _being_made(self, store: MetadataStore, manifest: Manifest) -> bool:
        context = store.find_context(payloads.PIPELINE_RUN, manifest.run)
        tasks = [] if context is None else store.executions(context)
        return any(task.state == "RUNNING" and task.properties.get("step") == manifest.step for task in tasks)

    def _ending(self, store: MetadataStore, event: Event) -> str:
        """The name of the execution that an end belongs to: the open one, else the last recorded, else one of its own."""
        label = event["task"]
        if label in self._open:
            return self._open.pop(label)
        earlier = [task for task in self._recorded(store) if task.properties.get("label") == label]
        return earlier[-1].name if earlier else self._name(event)

    def _recorded(self, store: MetadataStore) -> list[Execution]:
        return [task for task in store.executions(self._contexts[-1]) if task.type == CONTAINER]

    def _name(self, event: Event) -> str:
        return f"run/{self._run}/{event['task']}/{event['time']}"

    def _properties(self, label: str, step: str) -> dict[str, Value]:
        return payloads.container_properties(step, self._tasks.get(label, label), self._dag) | {"label": label}

    def _cached(self, execution: int) -> dict[str, Value]:
        return {"cached_execution_id": str(execution)}

    def _put(
        self,
        store: MetadataStore,
        name: str,
        state: str,
        properties: Mapping[str, Value],
        *,
        inputs: Mapping[str, int] | None = None,
        outputs: Mapping[str, int] | None = None,
    ) -> None:
        store.put_execution(CONTAINER, name, state, properties, contexts=self._contexts, inputs=inputs, outputs=outputs)


def _failure(outcome: str, cause: str, hint: str | None) -> dict[str, Value]:
    """Outcome, error and hint as properties, without personal data."""
    properties: dict[str, Value] = {"outcome": outcome, "error": mask(cause)[:LONGEST_ERROR_CHARACTERS]}
    return properties | ({"hint": mask(hint)} if hint else {})


__all__ = ["Recorder", "rebuild"]
