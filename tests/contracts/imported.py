"""Which packages of others a step imports, followed from definition to definition through the modules of ours.

Heavy imports stand inside functions, so whole modules say too much: `contracts.models` imports torch, but not for the step
that only asks it which file endings are pickles.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Modules of runtimes/ that launch() reaches only for steps of that runtime.
RUNTIME_MODULES = {
    "tutelage.runtimes.spark": "spark",
    "tutelage.runtimes.torch": "torch",
    "tutelage.runtimes.appdef": "torch",
    "tutelage.runtimes.kubernetes.pytorchjob": "torch",
    "tutelage.runtimes.kubernetes.torchx_scheduler": "torch",
    "tutelage.runtimes.kubernetes.sparkapplication": "spark",
}
#: Modules that render pods of another image: the program they name is that image's.
OTHER_IMAGES = ("tutelage.runtimes.kubernetes.inferenceservice",)
#: Statements of a module that run when it is imported.
BODY = ""


@dataclass
class Module:
    """A file of ours: its definitions, and what its import statements bind."""

    tree: ast.Module
    definitions: dict[str, ast.stmt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for statement in self.tree.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.definitions[statement.name] = statement

    def nodes(self, name: str) -> list[ast.stmt]:
        """The statements of a definition, or of the module's body."""
        if name != BODY:
            return [self.definitions[name]] if name in self.definitions else []
        return [statement for statement in self.tree.body if statement not in self.definitions.values()]


@cache
def module(name: str) -> Module | None:
    """A module of the package by its dotted name."""
    base = ROOT / "src" / name.replace(".", "/")
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return Module(ast.parse(file.read_text()))
    return None


def bindings(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Name → dotted path of what it is imported as, in any of `nodes`."""
    bound = {}
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return bound


def used(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that are read in `nodes`, and `name.attribute` for attributes of names."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Name):
            yield node.id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def started(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Modules of ours that `nodes` name in strings, as `python -m` takes them."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text.startswith("tutelage.") and module(text):
            yield text


def split(path: str) -> tuple[str, str] | None:
    """The module of ours that a dotted path begins with, and the name in it; BODY where it is the module itself."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        if module(".".join(parts[:count])):
            return ".".join(parts[:count]), ".".join(parts[count : count + 1])
    return None


def targets(found: Module, nodes: list[ast.stmt]) -> Iterator[tuple[str, bool]]:
    """Dotted paths that `nodes` lead to, and whether they are used there or only imported."""
    local = bindings(nodes)
    yield from ((path, False) for path in local.values())
    bound = bindings(found.nodes(BODY)) | local
    for item in used(nodes):
        first, _, attribute = item.partition(".")
        if first in bound:
            yield (f"{bound[first]}.{attribute}" if attribute else bound[first]), True


def third_parties(step_file: Path, runtime: str) -> set[str]:
    """Top-level packages of others that a step needs, launched by launch() in a component's body."""
    step = Module(ast.parse(step_file.read_text()))
    waiting: list[tuple[Module, str, str]] = [(step, "step", name) for name in (BODY, *step.definitions)]
    waiting += [(item, "tutelage.runtimes.launch", name) for name in (BODY, "launch")
                if (item := module("tutelage.runtimes.launch"))]  # fmt: skip
    seen: set[tuple[str, str]] = set()
    found: set[str] = set()
    while waiting:
        where, module_name, name = waiting.pop()
        nodes = where.nodes(name)
        if (module_name, name) in seen or (name != BODY and RUNTIME_MODULES.get(module_name, runtime) != runtime):
            continue
        seen.add((module_name, name))
        waiting += [(where, module_name, other) for other in used(nodes) if other in where.definitions]
        for program in () if module_name in OTHER_IMAGES else started(nodes):
            target = module(program)
            assert target is not None
            waiting += [(target, program, other) for other in (BODY, *target.definitions)]
        for path, is_used in targets(where, nodes):
            top = path.split(".")[0]
            if top != "tutelage":
                found.add(top)
            elif place := split(path):
                target = module(place[0])
                assert target is not None
                waiting.append((target, place[0], BODY))
                if is_used:
                    waiting.append((target, *place))
    return {name for name in found if name not in sys.stdlib_module_names and name != "__future__"}
