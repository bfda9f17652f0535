"""Pipelines → compiled/*.yaml, byte for byte the same whoever compiles them. `tutelage compile --check` is what CI runs.

    compiled/<pipeline>.yaml                KFP's IR, and below `---` what its task pods mount and need (platform config)
    compiled/kubernetes/<pipeline>.yaml     the same as Kubernetes-native Pipeline and PipelineVersion objects, for GitOps
    compiled/kubernetes/kustomization.yaml  what manifests and Argo CD take in

    tutelage compile --registry registry.example.com/tutelage     # from then on; `tutelage compile` alone keeps it
    tutelage compile --no-literals                                # for KFP servers before 2.16; --literals turns them on again

Both choices stand in the block of images at the top of each compiled file, so `--check` knows them without being told.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate.image_block import Choices, choices_in, with_images
from tutelage.orchestrate.literals import declared_choices, inject
from tutelage.orchestrate.native import FOLDER, documents_of, kustomization, native_objects
from tutelage.orchestrate.recipes import pipeline_names
from tutelage.step import repository_root


def compiled_file(name: str) -> Path:
    """Where the golden file of pipeline `name` stands."""
    return repository_root() / "compiled" / f"{name}.yaml"


def native_file(name: str) -> Path:
    """Where the Kubernetes-native objects of pipeline `name` stand."""
    return repository_root() / "compiled" / FOLDER / f"{name}.yaml"


def compile_pipeline(name: str, choices: Choices | None = None) -> str:
    """The IR of pipeline `name` as YAML. Raises InvalidInput for an unknown one.

    `choices` are those of the file that stands in compiled/ when absent, so that compiling again gives the same bytes.
    """
    from kfp import compiler

    if name not in pipeline_names():
        raise InvalidInput(f"unknown pipeline {name!r}", hint=f"accepted: {', '.join(pipeline_names())}")
    chosen = choices or choices_in(_text(compiled_file(name)))
    if str(repository_root()) not in sys.path:
        sys.path.insert(0, str(repository_root()))
    pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        text = _stable(file.read_text(encoding="utf-8"))
    comment, documents = _apart(text)
    if chosen.literals:
        inject(documents[0], declared_choices())
    block = with_images(documents[0], chosen)
    return comment + block + str(yaml.dump_all(documents, sort_keys=True))


def _stable(text: str) -> str:
    """`text` without the defaults of structs in kfp's header comment: protobuf prints them in another order each time.

    They stand below, as `defaultValue`, in sorted order.
    """
    return re.sub(r"^(#    \w+: (?:dict|list)) \[Default: .*\]$", r"\1", text, flags=re.MULTILINE)


def _apart(text: str) -> tuple[str, list[dict[str, Any]]]:
    """kfp's header comment, and the documents below it: the IR and, where there is one, the platform config."""
    body = next(index for index, line in enumerate(text.splitlines(keepends=True)) if not line.startswith("#"))
    lines = text.splitlines(keepends=True)
    return "".join(lines[:body]), documents_of("".join(lines[body:]))


def compiled_texts(choices: Choices | None = None) -> dict[Path, str]:
    """Every file of compiled/ and what should stand in it."""
    texts: dict[Path, str] = {}
    natives: dict[Path, str] = {}
    for name in pipeline_names():
        texts[compiled_file(name)] = compile_pipeline(name, choices)
        natives[native_file(name)] = native_objects(texts[compiled_file(name)])
    natives[native_file("kustomization")] = kustomization(pipeline_names())
    return texts | natives


def write_all(registry: str | None = None, literals: bool | None = None) -> list[Path]:
    """Compile every pipeline into compiled/; files without a pipeline go. Gives the files that changed.

    `registry` and `literals` are kept as they are when absent.
    """
    before = _choices()
    choices = Choices(
        before.registry if registry is None else registry, before.literals if literals is None else literals
    )
    texts = compiled_texts(choices)
    changed = [file for file in _present() if file not in texts]
    for file in changed:
        file.unlink()
    for file, text in texts.items():
        if _text(file) != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def check_fresh() -> None:
    """Raise StepFailed, with the difference, when a golden file is not what its pipeline compiles to."""
    root, texts, stale = repository_root(), compiled_texts(_choices()), []
    for file, text in texts.items():
        before, name = (_text(file) or "").splitlines(), file.relative_to(root).as_posix()
        stale += list(difflib.unified_diff(before, text.splitlines(), name, f"{name}, compiled now", lineterm="", n=1))
    extra = [file.relative_to(root).as_posix() for file in _present() if file not in texts]
    stale += [f"{name} has no pipeline" for name in extra]
    if stale:
        raise StepFailed(
            "compiled files are stale:\n" + "\n".join(stale[:60]), hint="run `make compile` and commit the result"
        )


def _choices() -> Choices:
    """What the compiled files were compiled with; the first that says it speaks for all, so they cannot drift apart."""
    texts = (_text(compiled_file(name)) for name in pipeline_names())
    return next((choices_in(text) for text in texts if text), Choices())


def _present() -> Iterator[Path]:
    folder = repository_root() / "compiled"
    return iter(sorted([*folder.glob("*.yaml"), *(folder / FOLDER).glob("*.yaml")]))


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
