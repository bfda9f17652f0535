"""The plan as files: plan.json for programs, page.html for people. Equal runs give equal files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.config import integral_floats_to_ints
from tutelage.contracts import sources
from tutelage.contracts.digests import digest_of
from tutelage.contracts.licences import FROM_METADATA
from tutelage.contracts.store import Result
from tutelage.plan.effective import plan_of
from tutelage.plan.estimate import estimates
from tutelage.plan.recipe import planned
from tutelage.plan.surroundings import Used, look_around, uses
from tutelage.report.plan_page import plan_page


def write_plan(pipeline: str, parameters: Mapping[str, Any], cache: Path, folder: Path) -> Result:
    """Write the effective plan of a run without problems into `folder`."""
    tasks = planned(pipeline, integral_floats_to_ints(parameters))
    _, fetched = look_around(tasks, (), cache)
    named = [_seen(used, fetched.get(used.where)) for used in uses(tasks)]
    plan = plan_of(pipeline, tasks) | {
        "sources": named,
        "estimates": [asdict(item) for item in estimates(tasks, fetched)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "page.html").write_text(plan_page(plan), encoding="utf-8")
    tasks_and_settings = {task.label: len(entry["settings"]) for task, entry in zip(tasks, plan["tasks"], strict=True)}
    return Result(content_digest=digest_of(plan), details={"pipeline": pipeline, "settings": tasks_and_settings})


def _seen(used: Used, fetched: sources.Fetched | None) -> dict[str, str]:
    """A source with the licence that holds for it, and what the check has seen of it."""
    source = sources.parse(used.uri)
    declared = fetched.licence if fetched is not None else None
    looked_at = {
        "wheel": "sha256",
        "file": "there, and its sha256" if source.sha256 else "there",
        "s3": "there",
        "hf": "at run time; pinned by its commit",
    }[source.scheme]
    licence = declared or used.licence if used.licence == FROM_METADATA else used.licence
    if source.scheme == "wheel":
        looked_at += f"; the wheel says {declared or 'nothing clear of its licence'}"
    return {"where": used.where, "uri": used.uri, "licence": licence, "checked": looked_at}
