"""Locks hold what images need: no more than their extra asks for, and everything that their components import."""

from __future__ import annotations

from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from images import lock
from tests.contracts.imported import third_parties
from tutelage.step import describe

ROOT = Path(__file__).parents[2]
STEPS = sorted("/".join(path.parts[-3:-1]) for path in (ROOT / "components").glob("*/*/component.yaml"))
LAPTOP = ROOT / "requirements" / "laptop.lock"


def pins(file: Path) -> dict[str, str]:
    """Name → version of a lock, hashes left out."""
    lines = [line.removesuffix(" \\") for line in file.read_text().splitlines() if line and line[0] not in "# "]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def image_lock(image: str) -> Path:
    return ROOT / "images" / image / "requirements.lock"


@pytest.mark.parametrize("image", lock.IMAGES)
def test_the_laptop_holds_every_image(image: str):
    assert pins(image_lock(image)).items() <= pins(LAPTOP).items()


@pytest.mark.parametrize("file", [LAPTOP, ROOT / "requirements" / "ml-metadata.lock"], ids=lambda file: file.name)
def test_what_is_installed_is_what_is_locked(file: Path):
    installed = {name: Version(distribution(name).version).public for name in pins(file)}
    assert installed == pins(file), "run `make setup`; after a wanted change, `make lock`"


def test_locks_are_what_the_extras_need_and_nothing_besides():
    files = lock.lock_files(ask=False)
    assert {file: file.read_text() for file in files} == files, "run `make lock`"


def test_no_lock_names_a_build_of_one_machine():
    for file in lock.lock_files(ask=False):
        assert "+" not in file.read_text(), f"{file} pins a local version, which other machines cannot install"


@pytest.mark.parametrize("step", STEPS)
def test_the_image_lock_holds_what_the_component_imports(step: str):
    image = describe(step).image
    locked = pins(image_lock(image))
    distributions = packages_distributions()
    needed = third_parties(ROOT / "components" / step / "step.py", describe(step).runtime)
    missing = [
        package
        for package in sorted(needed)
        if not any(canonicalize_name(name) in locked for name in distributions.get(package, []))
    ]
    assert missing == [], f"add them to the extra {image!r} in pyproject.toml, then `make setup lock`"


def test_the_scan_finds_what_stands_inside_functions_and_behind_modules():
    train = third_parties(ROOT / "components" / "train" / "train" / "step.py", "torch")
    assert {"torch", "transformers", "torchx", "pyarrow", "pydantic", "psutil"} <= train
    curate = third_parties(ROOT / "components" / "data" / "curate" / "step.py", "spark")
    assert "pyspark" in curate
    assert not {"torch", "torchx", "kfp"} & curate
    deploy = third_parties(ROOT / "components" / "serve" / "deploy" / "step.py", "process")
    assert {"fastapi", "kserve", "cryptography"} <= deploy, "its server is a program of its own"
