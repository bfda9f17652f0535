"""Recipes: a pipeline's name and values for its parameters, in one YAML file.

pipeline: llm_training
parameters:
  seed: 7
  sources: [...]
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tutelage.config import integral_floats_to_ints, merge
from tutelage.errors import InvalidInput, Problem
from tutelage.step import repository_root

KEYS = ("pipeline", "parameters", "description")


@dataclass(frozen=True)
class Recipe:
    """A pipeline and the values of one run."""

    name: str
    pipeline: str
    parameters: Mapping[str, Any]
    description: str = ""

    def to_yaml(self) -> str:
        """The recipe as a file, with every change applied: what a run keeps."""
        body = {"pipeline": self.pipeline, "description": self.description, "parameters": dict(self.parameters)}
        return str(yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120))


class _RecipeLoader(yaml.SafeLoader):
    """Safe YAML in which a key stands once: the last of two would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises ConstructorError for a key that stands twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def pipeline_names() -> list[str]:
    """Every pipeline that can be compiled, sorted: the files of pipelines/ that define a function of their own name."""
    folder = repository_root() / "pipelines"
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if path.stem != "line" and f"def {path.stem}(" in path.read_text(encoding="utf-8")
    )


def read_recipe(path: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe at `path`, or of that name in recipes/, with `changes` laid over its parameters. Raises InvalidInput."""
    file = _find(path)
    try:
        body = yaml.load(file.read_text(encoding="utf-8"), Loader=_RecipeLoader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{file} is not YAML: {error}", hint="see recipes/tiny.yaml") from error
    if not isinstance(body, dict) or not isinstance(body.get("parameters", {}), dict):
        raise InvalidInput(f"{file} holds no mapping with pipeline and parameters", hint="see recipes/tiny.yaml")
    problems = []
    for key in sorted(set(map(str, body)) - set(KEYS)):
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(KEYS)}"
        problems.append(Problem("", f"unknown key {key!r}", hint))
    pipeline = str(body.get("pipeline"))
    if pipeline not in pipeline_names():
        problems.append(Problem("pipeline", f"unknown: {pipeline!r}", f"accepted: {', '.join(pipeline_names())}"))
    if problems:
        raise InvalidInput.from_problems(str(file), problems)
    parameters = merge(body.get("parameters", {}), changes or {})
    parameters = integral_floats_to_ints(
        _with_paths_from_root(parameters, (file.absolute().parent, repository_root(), Path.cwd()))
    )
    return Recipe(
        file.stem,
        pipeline,
        {**defaults_of(pipeline), **integral_floats_to_ints(parameters)},
        str(body.get("description") or ""),
    )


def defaults_of(pipeline: str) -> dict[str, Any]:
    """What the compiled pipeline fills in for parameters that a recipe leaves out."""
    compiled = repository_root() / "compiled" / f"{pipeline}.yaml"
    if not compiled.is_file():
        return {}
    inputs = next(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))["root"].get("inputDefinitions", {})
    found = {
        name: item["defaultValue"] for name, item in inputs.get("parameters", {}).items() if "defaultValue" in item
    }
    return dict(integral_floats_to_ints(found))


def _with_paths_from_root(value: Any, bases: tuple[Path, ...]) -> Any:
    """`value` with every relative `uri` as seen from the repository root, which steps run in.

    Paths inside the repository stay relative, so that step keys are the same in every clone; others become absolute.
    """
    if isinstance(value, list):
        return [_with_paths_from_root(item, bases) for item in value]
    if not isinstance(value, dict):
        return value
    resolved = {key: _with_paths_from_root(item, bases) for key, item in value.items()}
    uri = resolved.get("uri")
    if isinstance(uri, str) and uri.strip() and "://" not in uri and not uri.startswith("/") and "#" not in uri:
        root = repository_root()
        found = next((base / uri for base in bases if (base / uri).exists()), None)
        if found is not None:
            path = found.resolve()
            resolved["uri"] = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return resolved


def _find(path: str) -> Path:
    folder = repository_root() / "recipes"
    for candidate in (Path(path), folder / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    near = difflib.get_close_matches(Path(path).stem, known, n=1)
    raise InvalidInput(
        f"recipe not found: {path}", hint=f"did you mean {near[0]!r}?" if near else f"in recipes/: {', '.join(known)}"
    )
