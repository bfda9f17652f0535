"""Imports run one way. import-linter holds it inside the package (`make check`); here for components and pipelines,
which are namespace packages that it cannot see."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVEL_0 = ("tutelage.errors", "tutelage.config", "tutelage.contracts", "tutelage.step")
STEPS = sorted((ROOT / "components").glob("*/*/step.py"))
COMPONENTS = sorted((ROOT / "components").glob("*/*/component.py"))
PIPELINES = sorted((ROOT / "pipelines").glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported in `node`; `from a import b` counts as a.b."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        if isinstance(part, ast.ImportFrom):
            assert part.level == 0, "imports are absolute"
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def is_ours(name: str) -> bool:
    return within(name, ("tutelage", "components", "pipelines", "tests"))


@pytest.mark.parametrize("path", STEPS, ids=name_of)
def test_a_step_imports_level_0_its_own_stage_and_report(path: Path):
    stage = path.parts[-3]
    allowed = (*LEVEL_0, f"tutelage.{stage}", "tutelage.report")
    ours = [name for name in imports(ast.parse(path.read_text())) if is_ours(name)]
    assert [name for name in ours if not within(name, allowed)] == []


@pytest.mark.parametrize("path", STEPS, ids=name_of)
def test_a_step_knows_no_kfp(path: Path):
    assert [name for name in imports(ast.parse(path.read_text())) if within(name, ("kfp", "kfp_kubernetes"))] == []


@pytest.mark.parametrize("path", COMPONENTS, ids=name_of)
def test_component_py_imports_kfp_and_the_image_name_and_launches(path: Path):
    tree = ast.parse(path.read_text())
    outside = [
        name for statement in tree.body if not isinstance(statement, ast.FunctionDef) for name in imports(statement)
    ]
    assert [
        name for name in outside if not within(name, ("kfp", "tutelage.step.image_of", "__future__", "typing"))
    ] == []
    inside = [name for statement in tree.body if isinstance(statement, ast.FunctionDef) for name in imports(statement)]
    assert inside == ["tutelage.runtimes.launch"], "kfp ships the body alone: it imports launch and nothing else"


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_pipelines_are_wiring(path: Path):
    allowed = ("kfp", "yaml", "pipelines", *LEVEL_0)
    for name in imports(ast.parse(path.read_text())):
        is_component = name.startswith("components.") and name.split(".")[3:4] == ["component"]
        is_standard = name.split(".")[0] in sys.stdlib_module_names
        assert is_component or is_standard or within(name, allowed), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=name_of)
def test_the_package_does_not_name_components_or_pipelines(path: Path):
    names = [
        name for name in imports(ast.parse(path.read_text())) if within(name, ("components", "pipelines", "tests"))
    ]
    assert names == [], "the package finds them from the repository root by name, so that a fork is a workspace"
