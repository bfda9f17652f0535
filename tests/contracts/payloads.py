"""Small payloads and their manifests, written as a step writes them."""

from __future__ import annotations

from typing import Any

from tutelage.contracts import locations, store
from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.store import Store, new_attempt

KEY = "0123456789abcdef0123456789abcdef"
FILES = {"rows-00000.parquet": b"row " * 40, "nested/dropped-00000.parquet": b"dropped", "empty.txt": b""}


def write_files(location: str, files: dict[str, bytes] | None = None) -> None:
    """Payload files alone: what a step that was killed before its manifest leaves."""
    for name, content in (FILES if files is None else files).items():
        locations.write_bytes(locations.join(location, name), content)


def manifest_for(location: str, key: str, attempt: str, **changes: Any) -> Manifest:
    """The manifest of what stands at `location`, not yet written."""
    fields: dict[str, Any] = {
        "kind": "documents",
        "location": locations.normalise(location),
        "content_digest": digest_of("content"),
        "files": store.payload_files(location),
        "step": "data/ingest",
        "step_key": key,
        "attempt": attempt,
        "config": {"minimum_words": 5},
        "seed": None,
        "code_version": "c0de",
        "inputs": {},
        "input_manifests": {},
        "run": "run-1",
        "output": "documents",
        "rows": 40,
        "licences": {"MIT": 40},
    }
    return Manifest(**(fields | changes))


def finished(root: str, key: str = KEY, attempt: str | None = None, **changes: Any) -> Manifest:
    """A finished attempt below the store root `root`."""
    attempt = attempt or new_attempt()
    kind = changes.get("kind", "documents")
    location = Store(root).attempt(kind, key, attempt)
    write_files(location)
    return store.finish(manifest_for(location, key, attempt, **changes))
