"""The model registry in an object store: what a cluster uses, where a SQLite file would be gone with its pod.

    <location>/<model name>/<content digest>.json      one object a version, the same nouns as in registry.py

A version's name follows from the model's digest, not from a count: object stores have no transactions, and so two that
register at once need none. Registering the same model again writes the same object; its first time stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from tutelage.contracts import locations
from tutelage.errors import StepFailed
from tutelage.release.registry import Registered, Registry

DIGEST_CHARACTERS = 12


def registry_at(location: str) -> Registry | ObjectRegistry:
    """The registry at a path (SQLite), or at s3:// or minio:// (objects). Raises InvalidInput for anything else."""
    return ObjectRegistry(location) if location.startswith(locations.OBJECTS) else Registry(location)


class ObjectRegistry:
    """Versions as JSON objects below one location. Raises StoreError when the store does not answer."""

    def __init__(self, location: str) -> None:
        self.location = location

    def register(
        self, name: str, digest: str, uri: str, *, format_version: str, properties: Mapping[str, Any]
    ) -> Registered:
        """The version of model `digest` under `name`, its artifact now at `uri`."""
        place = locations.join(self.location, name, f"{digest}.json")
        before = self._read(place)
        now = int(time.time() * 1000)
        version = f"sha-{digest[:DIGEST_CHARACTERS]}"
        record = {
            "id": digest, "name": version, "external_id": digest, "state": "LIVE",
            "custom_properties": before["custom_properties"] if before else dict(properties),
            "create_time_since_epoch": before["create_time_since_epoch"] if before else now,
            "last_update_time_since_epoch": now,
            "registered_model": {"id": name, "name": name, "state": "LIVE"},
            "artifacts": [
                {"artifact_type": "model-artifact", "name": f"{name}-{version}", "uri": uri, "state": "LIVE",
                 "model_format_name": "safetensors", "model_format_version": format_version}
            ],
        }  # fmt: skip
        locations.write_bytes(place, json.dumps(record, indent=1, sort_keys=True).encode())
        return Registered(name, version, name, digest, f"{digest}/{name}-{version}", created=before is None)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Versions of model `name` with their artifact's uri, oldest first; empty for a name nobody registered."""
        folder = locations.join(self.location, name)
        found = [self._read(locations.join(folder, path)) for path, _ in locations.list_files(folder)]
        records = sorted(
            (record for record in found if record), key=lambda item: (item["create_time_since_epoch"], item["id"])
        )
        return [
            {"id": item["id"], "version": item["name"], "digest": item["external_id"], "state": item["state"],
             "custom_properties": item["custom_properties"], "uri": item["artifacts"][0]["uri"]}
            for item in records
        ]  # fmt: skip

    def _read(self, place: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(locations.read_bytes(place)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StepFailed(f"registry: {place} is no JSON: {error}", hint="remove it, and register again") from error
