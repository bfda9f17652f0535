"""Which image a step runs in: what images/digests.json says of it, under the registry of this installation.

    {"python": {"content": "3f0c…", "digest": null}}                    not pushed yet: named by what goes into it
    {"python": {"content": "3f0c…", "digest": "sha256:9ab1…"}}          pushed: named by its digest, the same in every registry

images/digests.py writes the file. A name never ends in `:latest`, so what a compiled pipeline starts never changes under it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import tutelage
from tutelage.config import Config, build
from tutelage.errors import InvalidInput

#: Stands before every image's name until `compile --registry` or the settings of a cluster give another.
DEFAULT_REGISTRY = "tutelage"
CONTENT_CHARACTERS = 12
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: Grammar of distribution/reference for what stands before an image's name, lower case throughout: a host that is known for one
#: by its dot, its port or its name, then path components. `tutelage` alone is a path component.
HOST = re.compile(
    r"(?=.{1,253}(:|$))[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?"
)
PATH_COMPONENT = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
MAXIMUM_REGISTRY = 200
MAXIMUM_PORT = 65_535


class Image(Config):
    """What images/digests.json says of one image."""

    content: str
    """Hex sha256 of everything that goes into it."""
    digest: str | None = None
    """Digest of its manifest in a registry; absent until it is pushed."""


def checked_registry(registry: str) -> str:
    """`registry` if images can be named below it. Raises ValueError."""
    first, *path = registry.split("/")
    named = "." in first or ":" in first or first == "localhost"
    fits = (HOST if named else PATH_COMPONENT).fullmatch(first) and all(map(PATH_COMPONENT.fullmatch, path))
    port = int(first.partition(":")[2] or 1) if fits else 0
    if not fits or not 1 <= port <= MAXIMUM_PORT or len(registry) > MAXIMUM_REGISTRY:
        raise ValueError(
            f"not a registry: {registry[:MAXIMUM_REGISTRY]!r}; host, port and path without a scheme are accepted, for example "
            "registry.example.com:5000/tutelage"
        )
    return registry


def reference(image: str, root: Path, registry: str = DEFAULT_REGISTRY) -> str:
    """How to pull `image` from `registry`: by digest once it is pushed, else by version and content. Raises InvalidInput.

    `root` is the repository's folder. Without images/digests.json (a fork that builds its own) the version alone is the tag.
    """
    file = root / "images" / "digests.json"
    name = f"{registry.rstrip('/')}/{image}"
    if not file.is_file():
        return f"{name}:{tutelage.__version__}"
    images = json.loads(file.read_text())
    if image not in images:
        raise InvalidInput(f"images/digests.json has no {image!r}", hint=f"accepted: {', '.join(sorted(images))}")
    entry = build(Image, images[image], where=f"images/digests.json: {image}")
    if entry.digest is None:
        return f"{name}:{tutelage.__version__}-{entry.content[:CONTENT_CHARACTERS]}"
    if not DIGEST.fullmatch(entry.digest):
        raise InvalidInput(
            f"images/digests.json: {image} has digest {entry.digest!r}", hint="accepted: sha256:<64 hex>"
        )
    return f"{name}@{entry.digest}"
