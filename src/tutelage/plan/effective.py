"""The effective plan: every value of every step, defaults included, which of them were chosen, and how large it will be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from tutelage.config import Config, build
from tutelage.step import describe, load

if TYPE_CHECKING:
    from tutelage.plan.recipe import Planned


@dataclass(frozen=True)
class Setting:
    """One value of one step."""

    path: str
    """Where it stands in a recipe."""
    value: Any
    default: Any
    """None where there is no default."""
    required: bool
    """Has no default."""
    changed: bool
    """Differs from its default, or has none."""
    documentation: str


def settings_of(task: Planned) -> list[Setting]:
    """Every setting of a task, in the order of its Config's fields."""
    config = build(load(task.step).Config, task.values, where=task.label)
    return [Setting(task.place(path), *rest) for path, *rest in _flat(config, "")]


def _flat(config: Config, prefix: str) -> Iterator[tuple[str, Any, Any, bool, bool, str]]:
    values = config.values()
    for name, field in type(config).model_fields.items():
        nested, default = getattr(config, name), field.get_default(call_default_factory=True)
        path = f"{prefix}{name}"
        if isinstance(nested, Config):
            yield from _flat(nested, f"{path}.")
            continue
        if isinstance(nested, tuple) and nested and all(isinstance(entry, Config) for entry in nested):
            for index, entry in enumerate(nested):
                yield from _flat(entry, f"{path}[{index}].")
            continue
        required = default is PydanticUndefined
        plain = None if required else _plain(default)
        yield path, values[name], plain, required, required or plain != values[name], field.description or ""


def _plain(value: Any) -> Any:
    """A default as the JSON value it would be dumped to."""
    return json.loads(json.dumps(value, default=lambda item: item.values() if isinstance(item, Config) else list(item)))


def plan_of(pipeline: str, tasks: Sequence[Planned]) -> dict[str, Any]:
    """The plan as JSON: each task with its step, image, runtime and settings, in running order."""
    return {
        "pipeline": pipeline,
        "tasks": [
            {
                "label": task.label,
                "step": task.step,
                "image": describe(task.step).image,
                "runtime": describe(task.step).runtime,
                "settings": [asdict(setting) for setting in settings_of(task)],
            }
            for task in tasks
        ],
    }
