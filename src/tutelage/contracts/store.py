"""The store: `<root>/<kind>/<step key>/<attempt>/`, one folder per try of a step, never written twice.

The step key is known before work starts, so finished work is found again by anyone who would do the same work. Each try
writes into an attempt of its own, so two writers never touch each other's files; the manifest comes last, so a torn attempt
is no attempt. Readers take the first complete attempt by name.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.digests import canonical_json, digest_of
from tutelage.contracts.manifest import (
    BOOKKEEPING,
    KINDS,
    MANIFEST_NAME,
    Manifest,
    PayloadFile,
    read,
    verify,
)
from tutelage.errors import CorruptPayload, InvalidInput, StoreError

log = logging.getLogger("tutelage")


def step_key(step: str, code_version: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Digest (hex, 32 characters) of everything that decides what a step makes.

    `inputs` maps input names to content digests: how an input was made does not matter, only what is in it.
    """
    return digest_of({"step": step, "code": code_version, "config": config, "inputs": dict(inputs)})[:32]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a step says of one output when it is done; the manifest is made of it."""

    content_digest: str
    rows: int | None = None
    rows_in: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    licences: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[PayloadFile, ...] | None = None
    """Given by steps whose tasks hashed their own files; otherwise every file of the payload is read once more."""


@dataclass(frozen=True)
class Store:
    """Payloads below one root location."""

    root: str

    def attempt(self, kind: str, key: str, attempt: str) -> str:
        """Location of an attempt's folder. Raises InvalidInput for an unknown kind."""
        if kind not in KINDS:
            raise InvalidInput(f"unknown kind {kind!r}", hint=f"accepted: {', '.join(KINDS)}")
        return locations.join(self.root, kind, key, attempt)

    def find(self, outputs: Mapping[str, str], key: str, *, content: bool = True) -> dict[str, Manifest] | None:
        """The finished, verified outputs of step key `key`, or None.

        `outputs` maps output names to kinds; all must be complete in one attempt. Torn, foreign or altered attempts are
        passed over with a warning: to the caller they do not exist.
        """
        kinds = sorted(set(outputs.values()))
        if not kinds:
            return None
        for attempt in locations.list_folders(locations.join(self.root, kinds[0], key)):
            try:
                found = {name: self.read(kind, key, attempt) for name, kind in outputs.items()}
                for name, manifest in found.items():
                    if manifest.output != name:
                        raise CorruptPayload(f"{manifest.uri} is output {manifest.output!r}, not {name!r}")
                    verify(manifest, content=content)
            except CorruptPayload as error:
                _passed_over(error)
                continue
            except FileNotFoundError:
                # No manifest: another writer is at it, or was killed.
                continue
            return found
        return None

    def read(self, kind: str, key: str, attempt: str) -> Manifest:
        """The manifest of an attempt. Raises FileNotFoundError, or CorruptPayload when it belongs elsewhere."""
        location = self.attempt(kind, key, attempt)
        where = locations.join(location, MANIFEST_NAME)
        manifest = read(where)
        if (manifest.kind, manifest.step_key, manifest.attempt) != (kind, key, attempt):
            raise CorruptPayload(
                f"foreign manifest at {where}: it says {manifest.kind}/{manifest.step_key}/{manifest.attempt}",
                hint="it was copied from another step; remove it",
            )
        if locations.normalise(manifest.location) != locations.normalise(location):
            raise CorruptPayload(f"manifest at {where} points at another payload: {manifest.location}")
        return manifest

    def manifests(self) -> Iterable[Manifest]:
        """Every readable manifest in the store, sorted by kind, key and attempt: what lineage is rebuilt from."""
        for kind in sorted(KINDS):
            for key in locations.list_folders(locations.join(self.root, kind)):
                for attempt in locations.list_folders(locations.join(self.root, kind, key)):
                    try:
                        yield self.read(kind, key, attempt)
                    except CorruptPayload as error:
                        _passed_over(error)
                    except FileNotFoundError:
                        continue


@cache
def _say_once(message: str) -> None:
    log.warning("%s", message)


def _passed_over(error: CorruptPayload) -> None:
    """Say that a payload counts as absent, and why; its message names the place."""
    _say_once(f"passed over: {error.message}")


def new_attempt() -> str:
    """A name no other writer has; names sort by time, to the microsecond."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f") + "-" + uuid.uuid4().hex[:8]


def payload_files(location: str) -> tuple[PayloadFile, ...]:
    """Every payload file below `location` with size and sha256, sorted by path. Reads all of them once."""
    return tuple(
        PayloadFile(path=path, size=size, sha256=locations.sha256_of(locations.join(location, path)))
        for path, size in locations.list_files(location)
        if path not in BOOKKEEPING
    )


def finish(manifest: Manifest) -> Manifest:
    """Write the manifest, last and atomically. Raises StoreError when one is there already, or rows do not add up."""
    check_conservation(manifest)
    data = _serialise(manifest)
    if locations.exists(manifest.uri):
        raise StoreError(f"attempt is finished already: {manifest.uri}", hint="every try needs an attempt of its own")
    locations.write_bytes(manifest.uri, data)
    return manifest


def _serialise(manifest: Manifest) -> bytes:
    """The manifest's JSON. Raises StoreError naming the part that JSON cannot hold."""
    for name in ("config", "rows", "rows_in", "dropped", "licences", "metrics", "details"):
        try:
            canonical_json(getattr(manifest, name))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"{manifest.step}: {name} of output {manifest.output!r} cannot stand in a manifest: {error}",
                hint="only finite numbers, texts, lists and mappings can; this is a bug in the step",
            ) from error
    return manifest.to_json()


def check_conservation(manifest: Manifest) -> None:
    """Rows in = rows kept + rows dropped by reason, where rows came in. Raises StoreError with the difference."""
    if manifest.rows_in is None:
        return
    accounted = (manifest.rows or 0) + sum(manifest.dropped.values())
    if accounted != manifest.rows_in:
        raise StoreError(
            f"{manifest.step} lost rows: {manifest.rows_in} in, {manifest.rows} kept, "
            f"{sum(manifest.dropped.values())} dropped with a reason, {manifest.rows_in - accounted} unaccounted for",
            hint="this is a bug in the step: every dropped row needs a reason",
        )
