"""The official schemas of the custom resources, applied as an API server applies them: unknown fields, defaults, types, enums.

They are read from the folder that TUTELAGE_CRDS names (by default `shared/crds` beside the repository's folder) and never kept
here. Without them the server takes any body, and tests that need them skip.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

VARIABLE = "TUTELAGE_CRDS"
ROOT = Path(__file__).resolve().parents[2]
#: Kind → how its file's name starts.
FILES = {
    "PyTorchJob": "pytorchjob.training-operator-v1",
    "SparkApplication": "sparkapplication.spark-operator-v2",
    "InferenceService": "inferenceservice.kserve-v0",
    "Workflow": "workflow.argo-v4",
    "Pipeline": "pipeline.kfp-2",
    "PipelineVersion": "pipelineversion.kfp-2",
}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float),
}  # fmt: skip


def folder() -> Path | None:
    """The folder of schemas; None where there is none."""
    named = os.environ.get(VARIABLE)
    for place in [Path(named)] if named else [ROOT.parent / "shared" / "crds"]:
        if place.is_dir():
            return place
    return None


@functools.cache
def schema_of(kind: str) -> dict[str, Any] | None:
    """The structural schema of the stored version of `kind`, or None."""
    place = folder()
    files = sorted(place.glob(f"{FILES[kind]}*.yaml")) if place and kind in FILES else []
    if not files:
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(files[-1].read_text(), loader)
    version = next(version for version in definition["spec"]["versions"] if version["storage"])
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    # The server itself knows these.
    for name in ("apiVersion", "kind", "metadata"):
        schema["properties"].pop(name, None)
    schema["required"] = [name for name in schema.get("required", []) if name in schema["properties"]]
    return schema


def unknown_fields(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Paths in `value` that the schema does not know."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(schema.get("items", {}), item, f"{path}[{index}]")
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name in known:
            yield from unknown_fields(known[name], item, where)
        elif isinstance(others, dict):
            yield from unknown_fields(others, item, where)
        elif not others:
            yield where


def pruned(schema: dict[str, Any], value: Any) -> Any:
    """`value` without the fields that the schema does not know, as a server stores it."""
    if isinstance(value, list):
        return [pruned(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    value = {name: item for name, item in value.items() if item is not None or _may_be_null(schema, name)}
    kept = {name: pruned(known[name], item) for name, item in value.items() if name in known}
    if isinstance(others, dict):
        kept |= {name: pruned(others, item) for name, item in value.items() if name not in known}
    elif others is True:
        kept |= {name: item for name, item in value.items() if name not in known}
    return {name: kept[name] for name in value if name in kept}


def _may_be_null(schema: dict[str, Any], name: str) -> bool:
    """Whether a null under this name is kept, to be stored or to be replaced by a default."""
    others = schema.get("additionalProperties")
    part = schema.get("properties", {}).get(name, others if isinstance(others, dict) else {"nullable": True})
    return bool(part.get("nullable")) or "default" in part


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """`value` with the schema's defaults filled in, as a server stores it."""
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    result = dict(value)
    for name, part in known.items():
        if "default" in part and result.get(name) is None:
            result[name] = copy.deepcopy(part["default"])
    for name, item in result.items():
        part = known.get(name, others if isinstance(others, dict) else {})
        result[name] = defaulted(part, item)
    return result


def mistakes(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """What the server answers 422 for, in its words."""
    if value is None:
        if not schema.get("nullable"):
            yield f'{path}: Invalid value: "null": {path} in body must be of type {schema.get("type")}: "null"'
        return
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield f"{path}: Invalid value: must be of type integer or string"
        elif isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: Invalid value: {value!r}: should match {schema['pattern']!r}"
        return
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{path}: Invalid value: {type(value).__name__!r}: {path} in body must be of type {kind}"
        return
    yield from _bounds(schema, value, path)
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield f"{path}.{name}: Required value".lstrip(".")
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            part = known.get(name, others if isinstance(others, dict) else {})
            yield from mistakes(part, item, f"{path}.{name}" if path else name)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from mistakes(schema.get("items", {}), item, f"{path}[{index}]")


def _bounds(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        accepted = ", ".join(f'"{choice}"' for choice in schema["enum"])
        yield f'{path}: Unsupported value: "{value}": supported values: {accepted}'
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: Invalid value: {value!r}: should match {schema['pattern']!r}"
    size = len(value) if isinstance(value, (str, list)) else value
    if isinstance(size, (int, float)):
        for least, most in (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems")):
            if size < schema.get(least, size) or size > schema.get(most, size):
                yield f"{path}: Invalid value: {value!r}: out of bounds"
    for name in schema.get("x-kubernetes-list-map-keys", []):
        seen = [item.get(name) for item in value if isinstance(item, dict)]
        keys = schema["x-kubernetes-list-map-keys"]
        if name == keys[0] and len(keys) == 1 and len(set(seen)) < len(seen):
            yield f"{path}: Duplicate value"
