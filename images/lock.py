"""Write the locks: what each image, and a laptop, holds to the exact version.

    .venv/bin/python images/lock.py            # or: make lock
    .venv/bin/python images/lock.py --check    # only say whether the locks are what the environment gives; asks no index
    .venv/bin/python images/lock.py --wheels FOLDER     # also accept the wheels in FOLDER (the CPU build of torch)

An extra of pyproject.toml is named like its image. Its lock is the closure of its requirements over the metadata of what is
installed, so a lock holds versions that ran together and passed the tests, and nothing that its image does not need.

An image's lock is the list that its build installs, hash by hash (hashes.py); images/cuda.lock is what the CUDA build of torch
needs on top, and images/build.lock what builds. A laptop's lock serves as constraints only (`pip install -c`): the build of
torch that another machine takes requires libraries that ours does not.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

sys.path.insert(0, str(Path(__file__).parents[1]))

from images.hashes import Hashes, closure_on_linux, from_index, pinned_line, read_lock, wheels_in

ROOT = Path(__file__).parents[1]
IMAGES = ("python", "python-spark", "python-torch", "python-serve")
#: The pip that builds an image and stays out of it.
PIP_VERSION = "26.3"
LAPTOP_HEADER = "# Written by `make lock` from what is installed; constraints for pip, not a list to install.\n"
IMAGE_HEADER = "# Written by `make lock` from what is installed; installed with --require-hashes and --no-deps.\n"
CUDA_HEADER = (
    "# Written by `make lock`: what the CUDA build of torch=={torch} needs on Linux and its CPU build does not.\n"
)


def lock_files(*, ask: bool, wheels: Path | None = None) -> dict[Path, str]:
    """Every lock file and what should stand in it; new versions get hashes when `ask`, else stay without."""
    pins = {image_lock(image): closure([image]) for image in IMAGES}
    # Source distributions (pyspark, kfp-server-api) are built with setuptools.
    pins[ROOT / "images" / "build.lock"] = {"pip": PIP_VERSION, "setuptools": _installed_version("setuptools")}
    known: Hashes = {}
    for file in pins:
        known |= read_lock(file)
    wanted = {pin for versions in pins.values() for pin in versions.items()}
    if ask:
        known |= from_index(dict(wanted - known.keys()))
    for pin, found in (wheels_in(wheels) if wheels else {}).items():
        if pin in wanted:
            known[pin] = known.get(pin, set()) | found
    files = {file: IMAGE_HEADER + _lines(versions, known) for file, versions in pins.items()}
    files[ROOT / "images" / "cuda.lock"] = _cuda_lock(pins[image_lock("python-torch")], ask=ask)
    files[ROOT / "requirements" / "laptop.lock"] = LAPTOP_HEADER + _lines(closure(["laptop", "test"]), {})
    return files


def image_lock(image: str) -> Path:
    """The lock of an image."""
    return ROOT / "images" / image / "requirements.lock"


def _lines(versions: dict[str, str], hashes: Hashes) -> str:
    return "".join(pinned_line(*pin, hashes.get(pin, ())) for pin in sorted(versions.items()))


def _cuda_lock(pins: dict[str, str], *, ask: bool) -> str:
    """images/cuda.lock: as it stands while it is for this torch, else resolved anew."""
    file, header = ROOT / "images" / "cuda.lock", CUDA_HEADER.format(torch=pins["torch"])
    text = file.read_text() if file.is_file() else ""
    if text.startswith(header) or not ask:
        return text if text.startswith(header) else header
    found = closure_on_linux(f"torch=={pins['torch']}", ROOT / "requirements" / "laptop.lock")
    extra = {pin: hashes for pin, hashes in found.items() if pin[0] not in pins}
    return header + "".join(pinned_line(*pin, hashes) for pin, hashes in sorted(extra.items()))


def closure(extras: list[str]) -> dict[str, str]:
    """Canonical name → version of every distribution that the project with `extras` needs. Raises SystemExit."""
    project = _project()
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str, str]] = [(project["name"], extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if name != project["name"]:
            found[name] = _installed_version(name)
        for requirement in _requirements(project, name, extra):
            needed = canonicalize_name(requirement.name)
            waiting += [(needed, wanted) for wanted in ("", *sorted(requirement.extras))]
    return found


def _project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def _requirements(project: dict[str, Any], name: str, extra: str) -> list[Requirement]:
    if name == project["name"]:
        # From the file: the installed metadata is as old as the last installation.
        lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
        return [Requirement(line) for line in lines]
    return [item for item in _all_requirements(name) if item.marker is None or item.marker.evaluate({"extra": extra})]


@cache
def _all_requirements(name: str) -> tuple[Requirement, ...]:
    return tuple(Requirement(line) for line in distribution(name).requires or [])


@cache
def _installed_version(name: str) -> str:
    try:
        # Without the local part: `2.13.0+cpu` is this machine's build of 2.13.0.
        return Version(distribution(name).version).public
    except PackageNotFoundError:
        sys.exit(f"error: {name} is not installed\n\nhint: run `make setup` first")


def main() -> int:
    """Write or check all locks."""
    parser = argparse.ArgumentParser(description="Write the locks of all images and of a laptop.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a lock is not up to date")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that an image may also be built from")
    arguments = parser.parse_args()
    check: bool = arguments.check
    stale = False
    for file, text in lock_files(ask=not check, wheels=arguments.wheels).items():
        before = file.read_text() if file.is_file() else ""
        if before == text:
            continue
        stale = True
        name = str(file.relative_to(ROOT))
        print(*difflib.unified_diff(before.splitlines(), text.splitlines(), name, name, lineterm="", n=0), sep="\n")
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    if check and stale:
        print("error: locks are stale\n\nhint: run `make setup && make lock` and commit the result", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
