"""What a payload came from, as far back as manifests tell: for the release page, the model card and its licences."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tutelage.contracts.manifest import Manifest, read
from tutelage.errors import CorruptPayload, StoreError


@dataclass(frozen=True)
class Ancestry:
    """Manifests, oldest first, and the locations of those that are gone, torn, or of other content than was used."""

    manifests: tuple[Manifest, ...]
    unreadable: tuple[str, ...]

    def of_kind(self, kind: str) -> list[Manifest]:
        """Every manifest of one kind, oldest first."""
        return [manifest for manifest in self.manifests if manifest.kind == kind]


def ancestry_of(manifests: Iterable[Manifest]) -> Ancestry:
    """The given manifests and everything they were made from, each once, oldest (farthest from the given) first."""
    waiting = deque((manifest, 0) for manifest in manifests)
    found: dict[str, Manifest] = {}
    depth: dict[str, int] = {}
    unreadable = set()
    while waiting:
        manifest, distance = waiting.popleft()
        if depth.get(manifest.uri, -1) >= distance:
            continue
        found[manifest.uri], depth[manifest.uri] = manifest, distance
        for name, uri in manifest.input_manifests.items():
            parent = found.get(uri) or _read(uri)
            if parent is None or parent.content_digest != manifest.inputs.get(name):
                unreadable.add(uri)
            else:
                waiting.append((parent, distance + 1))
    order = sorted(found, key=lambda uri: (-depth[uri], found[uri].step, found[uri].output, found[uri].content_digest))
    return Ancestry(tuple(found[uri] for uri in order), tuple(sorted(unreadable)))


def _read(uri: str) -> Manifest | None:
    try:
        return read(uri)
    except (CorruptPayload, FileNotFoundError, StoreError):
        return None
