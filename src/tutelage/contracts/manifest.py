"""The manifest: the last file a step writes, and the only thing that makes its payload exist.

Everything a later step, an auditor or a cache needs to trust a payload stands here: what it is, every file with size and
sha256, a content digest independent of layout, rows kept and dropped by reason, licences, and how it came about (step,
Config, seed, code version, input digests). What was measured and differs between equal runs (seconds, memory) does not: that
is `observations.json` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.digests import digest_of
from tutelage.errors import CorruptPayload

SCHEMA = "tutelage.manifest/1"
MANIFEST_NAME = "manifest.json"
OBSERVATIONS_NAME = "observations.json"
OUTCOME_NAME = "outcome.json"
#: Files beside a payload that are no part of it.
BOOKKEEPING = frozenset({MANIFEST_NAME, OBSERVATIONS_NAME, OUTCOME_NAME})

MAXIMUM_METADATA_BYTES = 4000

#: Nouns on disk → KFP artifact type.
KINDS: Mapping[str, str] = {
    "documents": "system.Dataset",
    "splits": "system.Dataset",
    "tokens": "system.Dataset",
    "suite": "system.Dataset",
    "model": "system.Model",
    "scorecard": "system.Artifact",
    "comparison": "system.Artifact",
    "verdict": "system.Artifact",
    "registration": "system.Artifact",
    "deployment": "system.Artifact",
    "plan": "system.HTML",
    "page": "system.HTML",
}


@dataclass(frozen=True, kw_only=True)
class PayloadFile:
    """A file of a payload: path relative to its location, size in bytes, hex sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a payload is and how it came about. Field order is the order in the file."""

    kind: str
    location: str
    content_digest: str
    files: tuple[PayloadFile, ...]
    step: str
    step_key: str
    attempt: str
    config: Mapping[str, Any]
    seed: int | None
    code_version: str
    inputs: Mapping[str, str]
    """Input name → content digest."""
    input_manifests: Mapping[str, str]
    """Input name → location of the input's manifest: the edges that lineage can be rebuilt from."""
    run: str
    """The run that made it; runs that reuse it do not stand here."""
    output: str
    """The name of the step's output."""
    rows: int | None = None
    rows_in: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason → rows dropped for it. For a data step, rows_in = rows + sum(dropped)."""
    licences: Mapping[str, int] = field(default_factory=dict)
    """SPDX expression → rows (or models) under it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    """Small facts of this kind: objective, stopped, languages, examples of what was masked (masked)."""

    @property
    def uri(self) -> str:
        """Where this manifest itself stands."""
        return locations.join(self.location, MANIFEST_NAME)

    def file(self, path: str) -> str:
        """Location of a payload file. Raises CorruptPayload when the manifest does not list it."""
        if all(entry.path != path for entry in self.files):
            raise CorruptPayload(f"{self.uri} lists no file {path!r}", hint="another kind of payload was given")
        return locations.join(self.location, path)

    def to_json(self) -> bytes:
        """The manifest as it stands on disk, with a digest over its own content."""
        body = {"schema": SCHEMA, **asdict(self)}
        return json.dumps({**body, "digest": digest_of(body)}, indent=1, ensure_ascii=False, allow_nan=False).encode()

    def artifact_metadata(self) -> dict[str, Any]:
        """What a KFP artifact carries: kind, digest, payload URI, manifest URI, rows and licences; under 4 KB."""
        metadata: dict[str, Any] = {
            "kind": self.kind,
            "digest": self.content_digest,
            "payload": self.location,
            "manifest": self.uri,
            "step_key": self.step_key,
        }
        if self.rows is not None:
            metadata["rows"] = self.rows
        if self.licences:
            names = sorted(self.licences)
            metadata["licences"] = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        # KFP stores it as JSON with everything but ASCII escaped.
        while len(json.dumps(metadata)) > MAXIMUM_METADATA_BYTES:
            longest = max(metadata, key=lambda key: len(json.dumps(metadata[key])))
            text = str(metadata[longest])
            metadata[longest] = text[: len(text) * 3 // 4] + "…"
        return metadata


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in `data`, read from `where`. Raises CorruptPayload when torn, altered or of another schema."""
    hint = "the payload counts as absent; run the step again"
    try:
        body = json.loads(data)
        digest = body.pop("digest")
        schema = body.get("schema")
        # NaN and lone surrogates parse, but no manifest of ours holds them.
        actual = digest_of(body)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptPayload(f"torn manifest at {where}", hint=hint) from error
    if schema != SCHEMA:
        raise CorruptPayload(f"manifest at {where} has schema {schema!r}, accepted: {SCHEMA!r}", hint=hint)
    if actual != digest:
        raise CorruptPayload(f"manifest at {where} was altered: its digest does not match", hint=hint)
    body.pop("schema")
    try:
        files = tuple(PayloadFile(**entry) for entry in body.pop("files"))
        return Manifest(files=files, **body)
    except (TypeError, KeyError) as error:
        raise CorruptPayload(f"manifest at {where} has other fields than {SCHEMA}: {error}", hint=hint) from error


def read(uri: str) -> Manifest:
    """The manifest at `uri`, wherever the file stands (KFP copies manifests). Raises CorruptPayload, FileNotFoundError.

    A manifest that stands in its own attempt's folder describes what stands there, also when the store was moved.
    """
    return _rebased(parse(locations.read_bytes(uri), uri), uri)


def _rebased(manifest: Manifest, uri: str) -> Manifest:
    """`manifest` with locations below its old store taken to lie below the store that `uri` is in, where that is another."""
    own = f"/{manifest.kind}/{manifest.step_key}/{manifest.attempt}"
    old, new = locations.normalise(manifest.location), locations.normalise(uri.removesuffix(f"/{MANIFEST_NAME}"))
    if old == new or not (uri.endswith(f"{own}/{MANIFEST_NAME}") and old.endswith(own)):
        return manifest
    before, after = old.removesuffix(own), new.removesuffix(own)
    moved = {
        name: after + place.removeprefix(before) if place.startswith(f"{before}/") else place
        for name, place in manifest.input_manifests.items()
    }
    return replace(manifest, location=new, input_manifests=moved)


def verify(manifest: Manifest, *, content: bool = True) -> None:
    """Check that the payload is all there: every file with its size and, with `content`, its sha256; none besides.

    Raises CorruptPayload naming the first file that differs.
    """
    hint = "remove the attempt's folder and run the step again"
    found = {path: size for path, size in locations.list_files(manifest.location) if path not in BOOKKEEPING}
    listed = {entry.path: entry for entry in manifest.files}
    for path in sorted(listed.keys() | found.keys()):
        where = locations.join(manifest.location, path)
        if path not in found:
            raise CorruptPayload(f"payload file is missing: {where}", hint=hint)
        if path not in listed:
            raise CorruptPayload(f"file that no manifest lists: {where}", hint=hint)
        if found[path] != listed[path].size:
            raise CorruptPayload(f"{where} has {found[path]} bytes, its manifest says {listed[path].size}", hint=hint)
        if content and locations.sha256_of(where) != listed[path].sha256:
            raise CorruptPayload(f"{where} differs from its sha256 in the manifest", hint=hint)


def read_json(manifest: Manifest, path: str) -> dict[str, Any]:
    """The JSON object in a payload's file. Raises CorruptPayload, FileNotFoundError, ValueError."""
    return dict(json.loads(locations.read_bytes(manifest.file(path))))
