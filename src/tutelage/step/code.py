"""The code version of a step: what must change for finished work to be done again.

Digest of the step's component folder (without tests, prose, and what component.yaml says of resources and owners), of the
packages of `tutelage` that its step.py imports, directly or not (its own stage, report), of level 0, and of its image's lock.
Not of the image's digest: it changes with every line of code that this step never runs, and an image cannot know its own, so
laptop and cluster would never agree.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import yaml

from tutelage.contracts.digests import digest_of
from tutelage.step.description import describe, repository_root

LEVEL_0 = ("errors.py", "config.py", "step", "contracts")


@cache
def code_version(step: str) -> str:
    """Hex digest (32 characters) of everything that decides what `step` does with its inputs."""
    root = repository_root()
    package = Path(__file__).parents[1]
    component = root / "components" / step
    parts = {"component": _tree(component)}
    for name in (*LEVEL_0, *sorted(_needed_packages(component / "step.py"))):
        parts[name] = _tree(package / name)
    parts["image"] = _image(root, describe(step).image)
    return digest_of(parts)[:32]


def _needed_packages(step_file: Path) -> set[str]:
    """Packages below `tutelage` that a step imports, and those that these import in turn."""
    needed: set[str] = set()
    waiting = set(_imported_packages(step_file.read_text()))
    while waiting:
        name = waiting.pop()
        needed.add(name)
        for file in (Path(__file__).parents[1] / name).rglob("*.py"):
            waiting |= _imported_packages(file.read_text()) - needed
    return needed


@cache
def _imported_packages(code: str) -> frozenset[str]:
    """Top-level packages below `tutelage` that `code` imports, wherever in it, level 0 left out."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("tutelage.")}
    return frozenset(name for name in found if name not in LEVEL_0 and (Path(__file__).parents[1] / name).is_dir())


def _tree(path: Path) -> str:
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if _counts(item, path))
    return digest_of([(file.relative_to(path.parent).as_posix(), _content(file)) for file in files])


def _counts(file: Path, root: Path) -> bool:
    parts = file.relative_to(root).parts
    return file.is_file() and "tests" not in parts and "__pycache__" not in parts and file.suffix not in {".md", ".pyc"}


def _content(file: Path) -> str:
    """Digest of a file; of a component.yaml without what decides only where and for whom the step runs."""
    if file.name != "component.yaml":
        return _sha256(file)
    described = yaml.safe_load(file.read_text())
    return digest_of(
        {name: value for name, value in described.items() if name not in ("resources", "owners", "stability")}
    )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _image(root: Path, image: str) -> str:
    lock = root / "images" / image / "requirements.lock"
    return _sha256(lock) if lock.is_file() else "no lock"
