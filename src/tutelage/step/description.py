"""What `component.yaml` says of a step, and where steps are found."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from tutelage.config import Config, build, problems_of
from tutelage.contracts.manifest import KINDS
from tutelage.errors import InvalidInput
from tutelage.step.images import reference
from tutelage.step.resources import Resources

RUNTIMES = ("process", "spark", "torch")


def _resources(values: dict[str, Any]) -> dict[str, Any]:
    """`values` if Resources takes them; pydantic lists what it does not."""
    if problems := problems_of(Resources, values):
        raise ValueError("; ".join(str(problem) for problem in problems))
    return values


class Description(Config):
    """What `component.yaml` says of a step."""

    name: str
    """`stage/verb`, as the folder is called."""
    image: str
    """Name of a folder below images/."""
    runtime: str
    """process, spark or torch."""
    resources: Annotated[dict[str, Any], AfterValidator(_resources)]
    """What its pods need, as `Resources` takes it: requests and limits at least."""
    reads: dict[str, str]
    """Input name → kind."""
    writes: dict[str, str]
    """Output name → kind."""
    reuse: bool = True
    """Whether finished work is found again by its step key."""
    settings: tuple[str, ...] = ()
    """Settings of the installation handed to this step: signing_key, public_keys, registry, locks."""
    owners: tuple[str, ...]
    """Who answers for it."""
    stability: str
    """alpha, beta or stable."""

    @property
    def needs(self) -> Resources:
        """`resources` with every default; what a run changes is merged in by `resources.changed`."""
        return build(Resources, self.resources, where=f"components/{self.name}/component.yaml: resources")


@cache
def repository_root() -> Path:
    """The folder that holds components/ and pipelines/: on PYTHONPATH, or above this package. Raises InvalidInput.

    PYTHONPATH comes first, so that a fork's components run with the package of another checkout.
    """
    candidates = [*(Path(entry or ".") for entry in sys.path), Path(__file__).parents[3], Path.cwd()]
    for candidate in candidates:
        if next((candidate / "components").glob("*/*/component.yaml"), None):
            return candidate.absolute()
    raise InvalidInput(
        "components/ not found", hint="install with `pip install -e .` or put the repository on PYTHONPATH"
    )


def step_names() -> list[str]:
    """Every `stage/verb` that has a component.yaml, sorted."""
    root = repository_root() / "components"
    return sorted("/".join(path.parts[-3:-1]) for path in root.glob("*/*/component.yaml"))


@cache
def describe(name: str) -> Description:
    """The description of step `name`. Raises InvalidInput for an unknown step or a description that does not hold."""
    if name not in step_names():
        raise InvalidInput(f"unknown step {name!r}", hint=f"accepted: {', '.join(step_names())}")
    path = repository_root() / "components" / name / "component.yaml"
    description = build(Description, yaml.safe_load(path.read_text()), where=f"components/{name}/component.yaml")
    if description.name != name:
        raise InvalidInput(f"{path} calls itself {description.name!r}", hint="name it as its folder")
    if description.runtime not in RUNTIMES:
        raise InvalidInput(f"{path}: runtime {description.runtime!r}", hint=f"accepted: {', '.join(RUNTIMES)}")
    for kind in (*description.reads.values(), *description.writes.values()):
        if kind not in KINDS:
            raise InvalidInput(f"{path}: unknown kind {kind!r}", hint=f"accepted: {', '.join(KINDS)}")
    if len(set(description.writes.values())) != len(description.writes):
        raise InvalidInput(
            f"{path}: two outputs of one kind share a folder of the store", hint="give each its own kind"
        )
    return description


def image_of(name: str) -> str:
    """The image reference that a step's component.py compiles in."""
    return reference(describe(name).image, repository_root())


@cache
def load(name: str) -> ModuleType:
    """The module of a step's `step.py`, which must offer `Config` and `run`. Light: heavy imports stand inside run."""
    describe(name)
    path = repository_root() / "components" / name / "step.py"
    module_name = "components." + name.replace("/", ".") + ".step"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
