"""The tasks of a compiled pipeline, as its IR says: what progress, lineage and the run page draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Task:
    """One task of a pipeline."""

    label: str
    """What launch() calls it: the verb, with objective or role where a verb runs more than once."""
    name: str
    """KFP's task name."""
    after: tuple[str, ...]
    """Labels of the tasks it waits for."""


def tasks_of(compiled: Path) -> list[Task]:
    """The tasks of a compiled pipeline in an order in which they can run; the exit handler last."""
    ir = next(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))
    found: dict[str, tuple[str, list[str]]] = {}
    _collect(ir, ir["root"]["dag"]["tasks"], found)
    ordered: list[Task] = []
    waiting = dict(found)
    while waiting:
        done = {task.name for task in ordered}
        ready = [name for name, (_, after) in waiting.items() if done.issuperset(set(after) & set(found))]
        for name in sorted(ready, key=list(found).index):
            label, after = waiting.pop(name)
            ordered.append(Task(label, name, tuple(found[item][0] for item in sorted(after) if item in found)))
    return sorted(ordered, key=lambda task: task.label == "clean")


def _collect(ir: Mapping[str, Any], tasks: Mapping[str, Any], found: dict[str, tuple[str, list[str]]]) -> None:
    for name, task in tasks.items():
        component = ir["components"][task["componentRef"]["name"]]
        if "dag" in component:
            _collect(ir, component["dag"]["tasks"], found)
        else:
            found[name] = (_label(component, task), list(task.get("dependentTasks", [])))


def _label(component: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    verb = str(component["executorLabel"]).removeprefix("exec-").rstrip("0123456789").rstrip("-")
    for parameter in ("objective", "role"):
        value = task.get("inputs", {}).get("parameters", {}).get(parameter, {})
        if "runtimeValue" in value:
            return f"{verb}-{value['runtimeValue']['constant']}"
    return verb
