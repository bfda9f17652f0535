"""Write the locks: what each image, and a laptop, holds to the exact version.

    .venv/bin/python images/lock.py            # or: make lock
    .venv/bin/python images/lock.py --check    # only say whether the locks are what the environment gives

An extra of pyproject.toml is named like its image. Its lock is the closure of its requirements over the metadata of what is
installed, so a lock holds versions that ran together and passed the tests, and nothing that its image does not need. Locks
serve as constraints (`pip install -c`), never as the list of what to install: the build of torch that another machine takes
requires libraries that ours does not.
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

ROOT = Path(__file__).parents[1]
IMAGES = ("python", "python-spark", "python-torch", "python-serve")
HEADER = "# Written by `make lock` from what is installed; constraints for pip, not a list to install.\n"


def lock_files() -> dict[Path, str]:
    """Every lock file and what should stand in it."""
    files = {ROOT / "images" / image / "requirements.lock": lock([image]) for image in IMAGES}
    files[ROOT / "requirements" / "laptop.lock"] = lock(["laptop", "test"])
    return files


def lock(extras: list[str]) -> str:
    """The lock of some extras: a pinned line for each distribution that they need, directly or not."""
    return HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(closure(extras).items()))


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
    check = parser.parse_args().check
    stale = False
    for file, text in lock_files().items():
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
