"""What the API server and the operators' own Python models say of an object: the same things for every adapter."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from tests.cluster import schemas


def refused(body: dict[str, Any]) -> list[str]:
    """Unknown fields and mistakes by the official schema. Skips the test where there is none."""
    schema = schemas.schema_of(body["kind"])
    if schema is None:
        pytest.skip(f"no official schemas: set {schemas.VARIABLE} to the folder that holds them")
    given = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    return [*schemas.unknown_fields(schema, given), *schemas.mistakes(schema, given)]


def through_models(body: dict[str, Any], package: str, model: str) -> dict[str, Any]:
    """`body` read into the models that swagger generated for `package`, and written again. Skips without the package."""
    pytest.importorskip(package, reason=f"{package} is not installed")
    from kubernetes import client

    models = importlib.import_module(f"{package}.models")
    # Generated code looks nested models up by name in the client's own.
    for name in dir(models):
        if isinstance(getattr(models, name), type) and not hasattr(client.models, name):
            setattr(client.models, name, getattr(models, name))

    class Response:
        data = json.dumps(body)

    api = client.ApiClient()
    written: dict[str, Any] = api.sanitize_for_serialization(api.deserialize(Response(), getattr(models, model)))
    return written


def lost(body: Any, again: Any, path: str = "") -> list[str]:
    """Where `again` lacks what `body` says."""
    if isinstance(body, dict):
        given = again if isinstance(again, dict) else {}
        return [place for name, value in body.items() for place in lost(value, given.get(name), f"{path}.{name}")]
    if isinstance(body, list) and isinstance(again, list) and len(body) == len(again):
        return [place for index, value in enumerate(body) for place in lost(value, again[index], f"{path}[{index}]")]
    return [] if body == again else [f"{path}: {body!r} became {again!r}"]
