"""Configs: frozen, keyword-only, documented field by field, validated when built.

Kubeflow hands STRUCT parameters over as JSON with every number a float, YAML hands over whatever was typed, the command
line hands over strings. `build()` takes all three: integral floats become ints, everything else is checked strictly
(3.5 is no int, "3" is no int, True is no int), unknown keys are refused with the nearest known one as the hint, and all
mistakes come back in one error.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
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


class Entries(dict[int, Any]):
    """Changes to entries of a list that stands elsewhere, by index: what `sources[0].limit=5` asks for."""


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=[x, y]"]` → `{"a": {"b": 1}, "c": ["x", "y"]}`; values are YAML. Raises InvalidInput.

    `d[0].e=2` becomes Entries, for `merge` to lay over the list that `d` is; in `c` of the same call it changes the entry.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        steps = _steps(key) if separator else []
        if not steps:
            raise InvalidInput(f"not an assignment: {assignment!r}", hint="write key=value, for example seed=7")
        target: Any = result
        for step, following in itertools.pairwise(steps):
            target = _inner(target, step, key, is_list=isinstance(following, int))
        if isinstance(target, list):
            _require_entry(target, steps[-1], key)
        try:
            target[steps[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidInput(f"{key}: not YAML: {text!r}", hint="quote the value") from error
    return result


def _steps(key: str) -> list[str | int]:
    """`a.b[0].c` → a, b, 0, c; nothing for what is no key. Raises InvalidInput for an entry counted with a dot."""
    if not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[\d+\])*", key):
        return []
    if counted := re.search(r"\.(\d+)(?=[.\[]|$)", key):
        form = f"{key[: counted.start()]}[{counted[1]}]{key[counted.end() :]}"
        raise InvalidInput(f"{key!r} counts an entry of a list with a dot", hint=f"write {form}=…")
    return [int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)]


def _inner(target: Any, step: str | int, key: str, *, is_list: bool) -> Any:
    """What stands at `step` of `target`, made where nothing does: entries of a list, or fields."""
    if isinstance(target, list):
        _require_entry(target, step, key)
    elif step not in target:
        target[step] = Entries() if is_list else {}
    inner = target[step]
    is_entries = isinstance(inner, list | Entries)
    if is_entries != is_list or not isinstance(inner, list | dict):
        raise InvalidInput(f"{key!r} sets a field of a plain value", hint="set one or the other")
    return inner


def _require_entry(listed: Sequence[Any], index: Any, where: str) -> None:
    if not isinstance(index, int) or index >= len(listed):
        count = f"{len(listed)} {'entry' if len(listed) == 1 else 'entries'}"
        last = f"the first is [0], the last [{len(listed) - 1}]" if listed else "set the list whole: key=[…]"
        raise InvalidInput(f"{where}: there is no entry [{index}], the list has {count}", hint=last)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping; lists and plain values are replaced, Entries change their list's.

    Raises InvalidInput for Entries where `base` has no list, or no such entry; `where` is the path shown before each.
    """
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _laid_over(merged.get(key), value, f"{where}.{key}" if where else str(key))
    return merged


def _laid_over(base: Any, change: Any, where: str) -> Any:
    if isinstance(change, Entries):
        if not isinstance(base, list):
            kind = "a mapping" if isinstance(base, Mapping) else "not set" if base is None else "a plain value"
            hint = f"name a field of it, such as {where}.{next(iter(base))}" if base and kind == "a mapping" else ""
            raise InvalidInput(f"{where} is {kind} and has no entries", hint=hint or f"set the list whole: {where}=[…]")
        merged = list(base)
        for index, value in sorted(change.items()):
            _require_entry(base, index, where)
            merged[index] = _laid_over(base[index], value, f"{where}[{index}]")
        return merged
    if isinstance(change, Mapping):
        return merge(base if isinstance(base, Mapping) else {}, change, where)
    return change
