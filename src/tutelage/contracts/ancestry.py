"""What a payload came from, as far back as manifests tell: for the release gate, pages, the model card and its licences."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tutelage.contracts.manifest import Manifest, read
from tutelage.errors import StoreError


@dataclass(frozen=True)
class Ancestry:
    """Manifests, oldest first, and the locations of those that are gone, torn, or of other content than was used."""

    manifests: tuple[Manifest, ...]
    unreadable: tuple[str, ...]
    parents: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    """(uri of a manifest, name of its input) → what that input was, where it could be read."""

    def of_kind(self, kind: str) -> list[Manifest]:
        """Every manifest of one kind, oldest first."""
        return [manifest for manifest in self.manifests if manifest.kind == kind]

    def models_behind(self, model: Manifest) -> list[Manifest]:
        """The model, the one its training started from, and so on back to the first, as far as they can be read."""
        chain = [model]
        while (base := self.parents.get((chain[-1].uri, "base"))) is not None and base not in chain:
            chain.append(base)
        return chain


def ancestry_of(manifests: Iterable[Manifest]) -> Ancestry:
    """The given manifests and everything they were made from, each once, oldest (farthest from the given) first."""
    waiting = deque((manifest, 0) for manifest in manifests)
    found: dict[str, Manifest] = {}
    depth: dict[str, int] = {}
    parents: dict[tuple[str, str], Manifest] = {}
    unreadable = set()
    while waiting:
        manifest, distance = waiting.popleft()
        if depth.get(manifest.uri, -1) >= distance:
            continue
        found[manifest.uri], depth[manifest.uri] = manifest, distance
        if distance >= len(found):
            # Farther than there are manifests: they were altered to come from each other.
            unreadable.add(manifest.uri)
            continue
        for name, uri in manifest.input_manifests.items():
            parent = found.get(uri) or _read(uri)
            if parent is None or parent.content_digest != manifest.inputs.get(name):
                unreadable.add(uri)
            else:
                parents[manifest.uri, name] = parent
                waiting.append((parent, distance + 1))
    order = sorted(found, key=lambda uri: (-depth[uri], found[uri].step, found[uri].output, found[uri].content_digest))
    return Ancestry(tuple(found[uri] for uri in order), tuple(sorted(unreadable)), parents)


def _read(uri: str) -> Manifest | None:
    try:
        return read(uri)
    except (OSError, StoreError):
        return None
