"""Configs: frozen, keyword-only, documented field by field, validated when built.

Kubeflow hands STRUCT parameters over as JSON with every number a float, YAML hands over whatever was typed, the command
line hands over strings. `build()` takes all three: integral floats become ints, everything else is checked strictly
(3.5 is no int, "3" is no int, True is no int), unknown keys are refused with the nearest known one as the hint, and all
mistakes come back in one error.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tutelage.errors import InvalidInput, Problem

#: Largest integer a STRUCT parameter carries without loss (a float's mantissa has 53 bits).
MAXIMUM_EXACT_INTEGER = 2**53 - 1

Seed = Annotated[int, Field(ge=0, le=MAXIMUM_EXACT_INTEGER)]
ConfigType = TypeVar("ConfigType", bound="Config")


class Config(BaseModel):
    """Base of every step's Config. The string under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def values(self) -> dict[str, Any]:
        """Plain JSON values, defaults included: what goes into manifests and step keys."""
        return self.model_dump(mode="json")


def integral_floats_to_ints(value: Any) -> Any:
    """`value` with every float that is a whole number as an int, recursively (STRUCT parameters arrive as floats)."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: integral_floats_to_ints(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [integral_floats_to_ints(item) for item in value]
    return value


def problems_of(config: type[Config], values: Any, where: str = "") -> list[Problem]:
    """Every mistake in `values` as input for `config`; empty when `build` would succeed. Raises nothing."""
    foreign: dict[str, Any] = {}
    values = _json_values(values, where, foreign)
    found = [_foreign_problem(place, value) for place, value in foreign.items()]
    if where in foreign:
        return found
    try:
        _validate(config, values)
    except ValidationError as error:
        told = [_problem(config, details, where) for details in error.errors(include_url=False)]
        return found + [item for item in told if item.where not in foreign]
    except (TypeError, ValueError) as error:
        return [Problem(where, f"not usable as a config: {error}", "give a mapping of field names to values")]
    return found


def _json_values(value: Any, where: str, foreign: dict[str, Any]) -> Any:
    """`value` with None for what JSON has no word for (YAML makes dates, sets and bytes), noted in `foreign` by its place.

    So one such value hides no other mistake of its section.
    """
    if isinstance(value, Mapping):
        inner = {key: f"{where}.{key}" if where else str(key) for key in value}
        foreign.update({inner[key]: key for key in value if not isinstance(key, str | int | float | None)})
        return {str(key): _json_values(item, inner[key], foreign) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item, f"{where}[{index}]", foreign) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    foreign[where] = value
    return None


def _foreign_problem(where: str, value: Any) -> Problem:
    named = {"date": "a date", "datetime": "a time", "set": "a set", "bytes": "bytes"}
    kind = named.get(type(value).__name__, f"a {type(value).__name__}")
    hint = "write a list: [a, b]" if isinstance(value, set) else f'put it in quotes if the text is meant: "{value}"'
    return Problem(where, f"takes no {kind.removeprefix('a ')}; got {_shown(value)}, which YAML read as {kind}", hint)


def _shown(value: Any) -> str:
    text = repr(sorted(value, key=str)) if isinstance(value, set) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def build(config: type[ConfigType], values: Any, where: str = "") -> ConfigType:
    """A validated `config`. Raises InvalidInput listing every mistake; `where` is the path shown before each."""
    problems = problems_of(config, values, where)
    if problems:
        raise InvalidInput.from_problems(where or config.__name__, problems)
    return _validate(config, values)


def _validate(config: type[ConfigType], values: Any) -> ConfigType:
    # Through JSON, since strict mode then still takes lists for tuples and strings for enums, as YAML and KFP give them.
    return config.model_validate_json(json.dumps(integral_floats_to_ints(values)), strict=True)


def _problem(config: type[Config], details: Any, where: str) -> Problem:
    path = where
    for part in details["loc"]:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    if details["type"] == "extra_forbidden":
        key = str(details["loc"][-1])
        known = _fields_at(config, details["loc"][:-1])
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(known) or 'nothing here'}"
        return Problem(path, f"unknown key {key!r}", hint)
    if details["type"] == "missing":
        return Problem(path, "is missing and has no default", "add it")
    message = details["msg"].removeprefix("Value error, ")
    shown = repr(details.get("input"))
    return Problem(path, f"{message}; got {shown if len(shown) <= 80 else shown[:77] + '...'}")


def _fields_at(config: type[Config], location: Iterable[Any]) -> list[str]:
    """Field names of the nested config that `location` leads to; empty where the path leaves configs."""
    current: Any = config
    for part in location:
        if isinstance(part, int) or not hasattr(current, "model_fields"):
            continue
        annotation = current.model_fields[part].annotation if part in current.model_fields else current
        nested = [annotation, *getattr(annotation, "__args__", ())]
        nested += [inner for item in nested for inner in getattr(item, "__args__", ())]
        current = next((item for item in nested if hasattr(item, "model_fields")), current)
    return list(getattr(current, "model_fields", {}))


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=[x, y]"]` → `{"a": {"b": 1}, "c": ["x", "y"]}`; values are YAML. Raises InvalidInput."""
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not all(key.split(".")):
            raise InvalidInput(f"not an assignment: {assignment!r}", hint="write key=value, for example seed=7")
        target = result
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise InvalidInput(f"{key!r} sets a field of a plain value", hint="set one or the other")
        try:
            target[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidInput(f"{key}: not YAML: {text!r}", hint="quote the value") from error
    return result


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping; lists and plain values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
