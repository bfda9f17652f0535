"""images/digests.json: what goes into each image, and the digest of each that was pushed.

    .venv/bin/python images/digests.py                        # after any change of code or locks (or: make compile)
    .venv/bin/python images/digests.py --check                # only say whether the file is fresh
    .venv/bin/python images/digests.py --pushed python sha256:…

A changed image has no digest until it is pushed again: compiled pipelines name it by version and content meanwhile, which is
the tag that images/build.py pushes it under.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from images.lock import IMAGES, ROOT
from tutelage.step.images import DIGEST

FILE = ROOT / "images" / "digests.json"
#: What the Dockerfile copies or reads, beside the image's own folder; not compiled/, which names images by their content.
EVERYWHERE = (
    "Dockerfile", ".dockerignore", "LICENSE", "pyproject.toml", "src/tutelage", "components", "pipelines", "recipes",
    "manifests/mounts.yaml", "images/build.lock", "images/cuda.lock", "images/install.sh", "images/layout.py",
)  # fmt: skip


def files_of(image: str) -> list[Path]:
    """Every file that decides what is in an image, as .dockerignore lets them through."""
    found: set[Path] = set()
    for name in (*EVERYWHERE, f"images/{image}"):
        place = ROOT / name
        found |= set(_counted(place)) if place.is_dir() else {place}
    return sorted(found)


def _counted(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        left_out = {"tests", "__pycache__", "conftest.py"} & set(parts) or file.suffix in {".md", ".pyc"}
        if file.is_file() and not left_out:
            yield file


def content_of(image: str) -> str:
    """Hex sha256 over names and bytes of everything that goes into an image."""
    digest = hashlib.sha256()
    for file in files_of(image):
        digest.update(
            f"{file.relative_to(ROOT).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


def fresh(recorded: dict[str, Any]) -> dict[str, Any]:
    """What the file should hold: digests recorded for other content are dropped."""
    images: dict[str, Any] = {}
    for image in IMAGES:
        before, content = recorded.get(image, {}), content_of(image)
        images[image] = {
            "content": content,
            "digest": before.get("digest") if before.get("content") == content else None,
        }
    return images


def record(image: str, digest: str) -> None:
    """Note that the image as it stands was pushed. Raises SystemExit for what is no digest."""
    if not DIGEST.fullmatch(digest):
        sys.exit(f"error: {digest!r} is no digest\n\nhint: sha256:<64 hex digits>, as the registry gave it")
    images = fresh(_recorded())
    images[image]["digest"] = digest
    _write(images)


def _recorded() -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return recorded


def _write(images: dict[str, Any]) -> None:
    FILE.write_text(json.dumps(images, indent=2, sort_keys=True) + "\n")


def main() -> int:
    """Write, check, or record a push."""
    parser = argparse.ArgumentParser(description="Write images/digests.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    parser.add_argument("--pushed", nargs=2, metavar=("IMAGE", "DIGEST"), help="record the digest of a pushed image")
    arguments = parser.parse_args()
    if arguments.pushed:
        image, digest = arguments.pushed
        if image not in IMAGES:
            sys.exit(f"error: unknown image {image!r}\n\nhint: accepted: {', '.join(IMAGES)}")
        record(image, digest)
        return 0
    before = _recorded()
    after = fresh(before)
    if before == after:
        return 0
    stale = ", ".join(image for image in IMAGES if before.get(image) != after[image])
    if arguments.check:
        print(
            f"error: images/digests.json is stale: {stale}\n\nhint: run images/digests.py, then make compile",
            file=sys.stderr,
        )
        return 1
    print(f"changed: {stale}")
    _write(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
