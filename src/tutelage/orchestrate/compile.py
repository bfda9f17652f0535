"""Pipelines → compiled/*.yaml, byte for byte the same whoever compiles them. `tutelage compile --check` is what CI runs."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import tempfile
from pathlib import Path

from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate.recipes import pipeline_names
from tutelage.step import repository_root


def compiled_file(name: str) -> Path:
    """Where the golden file of pipeline `name` stands."""
    return repository_root() / "compiled" / f"{name}.yaml"


def compile_pipeline(name: str) -> str:
    """The IR of pipeline `name` as YAML. Raises InvalidInput for an unknown one."""
    from kfp import compiler

    if name not in pipeline_names():
        raise InvalidInput(f"unknown pipeline {name!r}", hint=f"accepted: {', '.join(pipeline_names())}")
    if str(repository_root()) not in sys.path:
        sys.path.insert(0, str(repository_root()))
    pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        return _stable(file.read_text(encoding="utf-8"))


def _stable(text: str) -> str:
    """`text` without the defaults of structs in kfp's header comment: protobuf prints them in another order each time.

    They stand below, as `defaultValue`, in sorted order.
    """
    return re.sub(r"^(#    \w+: (?:dict|list)) \[Default: .*\]$", r"\1", text, flags=re.MULTILINE)


def write_all() -> list[Path]:
    """Compile every pipeline into compiled/; files without a pipeline go. Gives the files that changed."""
    changed = [file for file in (repository_root() / "compiled").glob("*.yaml") if file.stem not in pipeline_names()]
    for file in changed:
        file.unlink()
    for name in pipeline_names():
        file, text = compiled_file(name), compile_pipeline(name)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def check_fresh() -> None:
    """Raise StepFailed, with the difference, when a golden file is not what its pipeline compiles to."""
    stale = []
    for name in pipeline_names():
        file = compiled_file(name)
        before = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        after = compile_pipeline(name).splitlines()
        stale += list(
            difflib.unified_diff(before, after, f"compiled/{name}.yaml", f"pipelines/{name}.py", lineterm="", n=1)
        )
    extra = {file.stem for file in (repository_root() / "compiled").glob("*.yaml")} - set(pipeline_names())
    stale += [f"compiled/{name}.yaml has no pipeline" for name in sorted(extra)]
    if stale:
        raise StepFailed(
            "compiled files are stale:\n" + "\n".join(stale[:60]), hint="run `make compile` and commit the result"
        )
