"""`tutelage lineage`: from a run or a digest, all hops both ways, as the manifests have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.errors import InvalidInput
from tutelage.lineage.graph import trace
from tutelage.lineage.tree import render
from tutelage.orchestrate.records import find_run
from tutelage.runtimes.settings import Settings


def walk(settings: Settings, name: str) -> tuple[dict[str, Any], str]:
    """The lineage of run or digest `name` as JSON and as a tree of text. Raises InvalidInput when nothing matches."""
    runs = Path(settings.runs).absolute()
    try:
        graph = trace(find_run(settings, name).name, runs, settings.store_root)
    except InvalidInput as no_run:
        try:
            graph = trace(name, runs, settings.store_root)
        except InvalidInput as no_digest:
            hint = f"{no_run.hint}; digests: {no_digest.hint}"
            raise InvalidInput(f"{no_run.message}, and {no_digest.message}", hint=hint) from no_digest
    return graph.as_json(), render(graph)
