"""Parameters with a few allowed values: kfp's SDK cannot say them, KFP servers from 2.16 on check them and draw drop-downs.

`typing.Literal` raises in the SDK (2.17), but the IR has a place for them, so they are put there after compiling. What is
allowed stands in pipelines/choices.py:

    CHOICES = {"train": {"objective": ("pretrain", "sft", "dpo")}}      # component, or pipeline → parameter → values

A component's values are checked by KFP's driver before its pod starts; a pipeline's by the server before a run starts, and the
run form (2.17) shows them as a drop-down. Before 2.16 a server refuses the field: `tutelage compile --no-literals`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tutelage.errors import InvalidInput

#: Component or pipeline → parameter → its values, as they appear in a drop-down.
Table = Mapping[str, Mapping[str, Sequence[str | int | float | bool]]]
#: KFP's parameter type → what a value of it is. Structs and lists cannot be chosen from a drop-down.
TYPES: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,), "NUMBER_INTEGER": (int,), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,),
}  # fmt: skip


def declared_choices() -> Table:
    """What pipelines/choices.py declares."""
    table: Table = importlib.import_module("pipelines.choices").CHOICES
    return table


def inject(ir: dict[str, Any], table: Table) -> None:
    """Put `literals` at every parameter of `ir` that `table` declares, in place.

    Components that a pipeline lacks are passed over. Raises InvalidInput for a parameter that a component lacks, for values of
    another type than the parameter's, and for a default or constant in the pipeline that is not among them.
    """
    for name, parameters in sorted(table.items()):
        for where, definitions in _definitions(ir, name):
            for parameter, values in sorted(parameters.items()):
                if parameter not in definitions:
                    raise InvalidInput(
                        f"pipelines/choices.py: {name} has no parameter {parameter!r}",
                        hint=f"accepted: {', '.join(sorted(definitions)) or 'none'}",
                    )
                _check(f"{name}.{parameter}", definitions[parameter], values, _given(ir, where, parameter))
                definitions[parameter]["literals"] = list(values)


def _definitions(ir: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Components called `name` (kfp numbers the second and later ones: comp-train-2), or the pipeline itself."""
    if ir["pipelineInfo"]["name"].replace("-", "_") == name:
        yield "", ir["root"].get("inputDefinitions", {}).get("parameters", {})
    component = f"comp-{name.replace('_', '-')}"
    for key, body in sorted(ir["components"].items()):
        stem, _, number = key.rpartition("-")
        if key == component or (stem == component and number.isdigit()):
            yield key, body.get("inputDefinitions", {}).get("parameters", {})


def _given(ir: Mapping[str, Any], component: str, parameter: str) -> list[Any]:
    """Constants that the pipeline's tasks give to a component's parameter."""
    dags = [ir["root"], *ir["components"].values()]
    tasks = [task for body in dags for task in body.get("dag", {}).get("tasks", {}).values()]
    inputs = [
        task.get("inputs", {}).get("parameters", {}).get(parameter, {})
        for task in tasks
        if task["componentRef"]["name"] == component
    ]
    return [item["runtimeValue"]["constant"] for item in inputs if "constant" in item.get("runtimeValue", {})]


def _check(where: str, definition: Mapping[str, Any], values: Sequence[Any], given: Sequence[Any]) -> None:
    kind = definition["parameterType"]
    accepted = TYPES.get(kind)
    if accepted is None:
        raise InvalidInput(
            f"pipelines/choices.py: {where} is a {kind}", hint=f"accepted: parameters of type {', '.join(TYPES)}"
        )
    if not values or len(set(values)) != len(values):
        raise InvalidInput(f"pipelines/choices.py: {where}: {list(values)}", hint="give each value once, at least one")
    for value in values:
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise InvalidInput(f"pipelines/choices.py: {where}: {value!r} is no {kind}", hint="write it as that type")
    for value in [*given, *([definition["defaultValue"]] if "defaultValue" in definition else [])]:
        if value not in values:
            raise InvalidInput(
                f"{where} is given {value!r}", hint=f"accepted by pipelines/choices.py: {', '.join(map(str, values))}"
            )
