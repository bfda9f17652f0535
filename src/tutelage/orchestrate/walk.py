"""`tutelage lineage`: from a run or a digest, all hops both ways, as the manifests have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.errors import InvalidInput
from tutelage.lineage.graph import trace
from tutelage.lineage.tree import render
from tutelage.orchestrate.run_locally import find_run
from tutelage.runtimes.settings import Settings


def walk(settings: Settings, name: str) -> tuple[dict[str, Any], str]:
    """The lineage of run or digest `name` as JSON and as a tree of text. Raises InvalidInput when nothing matches."""
    try:
        target = find_run(settings, name).name
    except InvalidInput:
        target = name
    graph = trace(target, Path(settings.runs).absolute(), settings.store_root)
    return graph.as_json(), render(graph)
