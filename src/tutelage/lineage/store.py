"""ML Metadata behind one narrow interface: the only module that knows ml_metadata.

    store = open_store("runs/lineage.sqlite")      # None, with a notice, where ml_metadata has no wheel

Contexts, executions and artifacts go in and out as plain values, each written once however often it is put: an execution is
known by its type and name, an artifact by its payload. KFP 2.17 still writes ML Metadata and will replace it by an API of its
own, so everything else in Tutelage talks to this class only.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from tutelage.contracts import locations
from tutelage.errors import InvalidInput, StoreError

log = logging.getLogger("tutelage")
Value = str | int | float | Mapping[str, Any]
Returned = TypeVar("Returned")

RETRY_SECONDS = 30.0
#: Messages of SQLite and of servers that mean: another writer was faster, try again.
_TRANSIENT = ("database is locked", "database table is locked", "SQLITE_BUSY", "Concurrent writes aborted")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A payload as ML Metadata knows it."""

    id: int
    type: str
    uri: str
    properties: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """A task or a run as ML Metadata knows it; ports map to artifact ids."""

    id: int
    type: str
    name: str
    state: str
    properties: Mapping[str, Value]
    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)


@cache
def why_unavailable() -> str | None:
    """Why ml_metadata cannot be used here, in one sentence with what that means; None when it can."""
    try:
        importlib.import_module("ml_metadata.metadata_store.metadata_store")
    except ImportError as error:
        return (
            f"lineage from manifests only: ml_metadata cannot be imported ({error}); nothing is lost, "
            "since ML Metadata can be rebuilt from manifests on a platform that has its wheel"
        )
    return None


def open_store(location: str) -> MetadataStore | None:
    """The store in the SQLite file at `location`, created where absent; None, with a notice, without ml_metadata.

    Raises InvalidInput for a location that is no local file.
    """
    if not locations.is_local(location):
        raise InvalidInput(f"not a lineage store: {location}", hint="give the path of a SQLite file")
    if reason := why_unavailable():
        log.warning("%s", reason)
        return None
    return MetadataStore(locations.local_path(location))


class MetadataStore:
    """Contexts, executions, artifacts and events in one SQLite file. Several processes may write at once."""

    def __init__(self, path: Path) -> None:
        from ml_metadata import errors
        from ml_metadata.metadata_store import metadata_store
        from ml_metadata.proto import metadata_store_pb2

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._turn = path.with_name(f"{path.name}.lock")
        self._errors: Any = errors
        self._proto: Any = metadata_store_pb2
        config = self._proto.ConnectionConfig()
        config.sqlite.filename_uri = str(path)
        config.sqlite.connection_mode = self._proto.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self._type_ids: dict[tuple[str, str], int] = {}
        self._type_names: dict[tuple[str, int], str] = {}
        self._store: Any = self._patiently(lambda: metadata_store.MetadataStore(config))

    # Contexts

    def put_context(self, type_name: str, name: str, properties: Mapping[str, Value], parent: int | None = None) -> int:
        """The id of the context of that type and name, below `parent`; made where there is none."""
        context = self._context(type_name, name)
        if context is None:
            context = self._proto.Context(type_id=self._type("context", type_name), name=name)
            self._set(context.custom_properties, properties)
            try:
                context.id = self._patiently(lambda: self._store.put_contexts([context]))[0]
            except self._errors.AlreadyExistsError:
                context = self._context(type_name, name)
        if parent is not None and not self.parents_of(context.id):
            link = self._proto.ParentContext(child_id=context.id, parent_id=parent)
            self._once(lambda: self._store.put_parent_contexts([link]))
        return int(context.id)

    def find_context(self, type_name: str, name: str) -> int | None:
        """The id of the context of that type and name, if there is one."""
        found = self._context(type_name, name)
        return None if found is None else int(found.id)

    def _context(self, type_name: str, name: str) -> Any:
        return self._patiently(lambda: self._store.get_context_by_type_and_name(type_name, name))

    def contexts(self, type_name: str) -> dict[str, int]:
        """Name → id of every context of a type, sorted by name."""
        found = self._patiently(lambda: self._store.get_contexts_by_type(type_name))
        return {context.name: int(context.id) for context in sorted(found, key=lambda context: context.name)}

    def parents_of(self, context: int) -> list[int]:
        """Ids of a context's parents."""
        return [int(p.id) for p in self._patiently(lambda: self._store.get_parent_contexts_by_context(context))]

    # Artifacts

    def put_artifact(self, type_name: str, uri: str, identity: str, properties: Mapping[str, Value]) -> int:
        """The id of the artifact known as `identity` (unique in the store); made where there is none."""
        known = self.find_artifact(identity)
        if known is not None:
            return known
        artifact = self._proto.Artifact(
            type_id=self._type("artifact", type_name), uri=uri, external_id=identity, state=self._proto.Artifact.LIVE
        )
        self._set(artifact.custom_properties, properties)
        try:
            return int(self._patiently(lambda: self._store.put_artifacts([artifact]))[0])
        except self._errors.AlreadyExistsError:
            return self.put_artifact(type_name, uri, identity, properties)

    def find_artifact(self, identity: str) -> int | None:
        """The id of the artifact known as `identity`, if there is one."""
        try:
            known = self._patiently(lambda: self._store.get_artifacts_by_external_ids([identity]))
        except self._errors.NotFoundError:
            return None
        return int(known[0].id) if known else None

    def artifacts(self) -> list[Artifact]:
        """Every artifact, sorted by id."""
        return self._artifacts(self._patiently(self._store.get_artifacts))

    def producers_of(self, artifact: int) -> list[Execution]:
        """Executions that have the artifact as an output, the first first; those that reused it among them."""
        events = self._patiently(lambda: self._store.get_events_by_artifact_ids([artifact]))
        ids = sorted({event.execution_id for event in events if event.type == self._proto.Event.OUTPUT})
        return self._executions(self._patiently(lambda: self._store.get_executions_by_id(ids))) if ids else []

    # Executions

    def put_execution(
        self,
        type_name: str,
        name: str,
        state: str,
        properties: Mapping[str, Value],
        *,
        contexts: Iterable[int] = (),
        inputs: Mapping[str, int] | None = None,
        outputs: Mapping[str, int] | None = None,
    ) -> int:
        """Make or complete the execution of that type and name, with its events, in one transaction; returns its id.

        Nothing is written where nothing changes. Artifacts of its events are attributed to `contexts`.
        """
        execution = self._patiently(lambda: self._store.get_execution_by_type_and_name(type_name, name))
        if execution is None:
            execution = self._proto.Execution(type_id=self._type("execution", type_name), name=name)
        before = execution.SerializeToString(deterministic=True)
        execution.last_known_state = self._proto.Execution.State.Value(state)
        self._set(execution.custom_properties, properties)
        known = self._events_of([execution.id]) if execution.id else []
        pairs = [
            *self._pairs(inputs or {}, self._proto.Event.INPUT, known),
            *self._pairs(outputs or {}, self._proto.Event.OUTPUT, known),
        ]
        if execution.id and not pairs and execution.SerializeToString(deterministic=True) == before:
            return int(execution.id)
        linked = self._patiently(lambda: self._store.get_contexts_by_id(sorted(contexts)))
        try:
            return int(self._patiently(lambda: self._store.put_execution(execution, pairs, linked))[0])
        except self._errors.AlreadyExistsError:
            # Another writer made it between our look and our write: now it is there to be completed.
            return self.put_execution(
                type_name, name, state, properties, contexts=contexts, inputs=inputs, outputs=outputs
            )

    def find_execution(self, type_name: str, name: str) -> Execution | None:
        """The execution of that type and name with its events, if there is one."""
        found = self._patiently(lambda: self._store.get_execution_by_type_and_name(type_name, name))
        return None if found is None else self._executions([found])[0]

    def executions(self, context: int | None = None) -> list[Execution]:
        """Every execution, or those of a context, with their events, sorted by id."""
        if context is None:
            return self._executions(self._patiently(self._store.get_executions))
        return self._executions(self._patiently(lambda: self._store.get_executions_by_context(context)))

    # How values travel

    def _pairs(self, ports: Mapping[str, int], kind: int, known: list[Any]) -> list[tuple[None, Any]]:
        """An event per artifact; one artifact at two ports is one event with both keys, as ML Metadata allows no second."""
        have = {event.artifact_id for event in known if event.type == kind}
        events: dict[int, Any] = {}
        for port, artifact in sorted(ports.items()):
            if artifact not in have:
                event = events.setdefault(artifact, self._proto.Event(artifact_id=artifact, type=kind))
                event.path.steps.add().key = port
        return [(None, event) for event in events.values()]

    def _events_of(self, executions: list[int]) -> list[Any]:
        return list(self._patiently(lambda: self._store.get_events_by_execution_ids(executions))) if executions else []

    def _executions(self, found: Iterable[Any]) -> list[Execution]:
        found = sorted(found, key=lambda execution: execution.id)
        ports: dict[tuple[int, int], dict[str, int]] = {}
        for event in self._events_of([execution.id for execution in found]):
            for step in event.path.steps:
                ports.setdefault((event.execution_id, event.type), {})[step.key] = int(event.artifact_id)
        return [
            Execution(
                id=int(execution.id),
                type=self._type_name("execution", execution.type_id),
                name=execution.name,
                state=self._proto.Execution.State.Name(execution.last_known_state),
                properties=_values(execution.custom_properties),
                inputs=dict(sorted(ports.get((execution.id, self._proto.Event.INPUT), {}).items())),
                outputs=dict(sorted(ports.get((execution.id, self._proto.Event.OUTPUT), {}).items())),
            )
            for execution in found
        ]

    def _artifacts(self, found: Iterable[Any]) -> list[Artifact]:
        return [
            Artifact(
                id=int(artifact.id),
                type=self._type_name("artifact", artifact.type_id),
                uri=artifact.uri,
                properties=_values(artifact.custom_properties),
            )
            for artifact in sorted(found, key=lambda artifact: artifact.id)
        ]

    def _set(self, target: Any, properties: Mapping[str, Value]) -> None:
        for key, value in properties.items():
            if isinstance(value, Mapping):
                target[key].Clear()
                # An empty Struct must still be marked as set: ml_metadata aborts the process on a value that is nothing.
                target[key].struct_value.SetInParent()
                target[key].struct_value.update(dict(value))
            elif isinstance(value, str):
                target[key].string_value = value
            elif isinstance(value, int):
                target[key].int_value = value
            else:
                target[key].double_value = value

    def _type(self, noun: str, name: str) -> int:
        """The id of a type without schema, as KFP declares its types; made where there is none."""
        if (noun, name) not in self._type_ids:
            proto = {"context": "ContextType", "execution": "ExecutionType", "artifact": "ArtifactType"}[noun]
            declared = getattr(self._proto, proto)(name=name)
            put = getattr(self._store, f"put_{noun}_type")
            try:
                self._type_ids[noun, name] = int(self._patiently(lambda: put(declared)))
            except self._errors.AlreadyExistsError:
                self._type_ids[noun, name] = int(self._patiently(lambda: put(declared)))
        return self._type_ids[noun, name]

    def _type_name(self, noun: str, type_id: int) -> str:
        if (noun, type_id) not in self._type_names:
            listed = self._patiently(getattr(self._store, f"get_{noun}_types"))
            self._type_names.update({(noun, int(item.id)): item.name for item in listed})
        return self._type_names[noun, type_id]

    def _once(self, write: Callable[[], object]) -> None:
        try:
            self._patiently(write)
        except self._errors.AlreadyExistsError:
            return

    def _patiently(self, call: Callable[[], Returned]) -> Returned:
        """The call's result, tried again while another writer holds the file. Raises StoreError after 30 s."""
        deadline = time.monotonic() + RETRY_SECONDS
        pause_seconds = 0.01
        while True:
            try:
                # Writers take turns: with eight at once ml_metadata's own retries gave up ("Concurrent writes aborted").
                with self._turn.open("ab") as turn:
                    fcntl.flock(turn, fcntl.LOCK_EX)
                    return call()
            except (self._errors.AlreadyExistsError, self._errors.NotFoundError):
                raise
            except (self._errors.StatusError, RuntimeError) as error:  # opening raises RuntimeError for the same causes
                busy = isinstance(error, self._errors.AbortedError) or any(part in str(error) for part in _TRANSIENT)
                if not busy or time.monotonic() > deadline:
                    hint = f"remove {self.path}: it is rebuilt from manifests" if hasattr(self, "_store") else None
                    raise StoreError(f"lineage store {self.path}: {error}", hint=hint) from error
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, 0.5)


def _values(properties: Any) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key in sorted(properties):
        value = properties[key]
        which = value.WhichOneof("value")
        if which == "struct_value":
            from google.protobuf.json_format import MessageToDict

            values[key] = MessageToDict(value.struct_value)
        elif which is not None:
            values[key] = getattr(value, which)
    return values
