"""A workspace of its own for tests of launch(): a repository root with three tiny components, found through PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tutelage

YAML = """
name: {name}
image: python
runtime: {runtime}
resources: {{requests: {{cpu: "1", memory: 1Gi}}, limits: {{cpu: "1", memory: 1Gi}}}}
reads: {reads}
writes: {writes}
reuse: {reuse}
settings: []
owners: [tests]
stability: alpha
"""

STEP = '''
"""Writes a document, slowly or not at all: components/{name}/step.py."""

import logging, os, signal, sys, time
from pathlib import Path

from tutelage import errors
from tutelage.config import Config as BaseConfig
from tutelage.contracts.digests import digest_of
from tutelage.contracts.store import Result
from tutelage.step import main


class Config(BaseConfig):
    """What to do."""

    text: str = "text"
    """Content."""
    seconds: float = 0.0
    """How long it takes, between payload and manifest."""
    fail: str | None = None
    """How it fails."""
    diary: str | None = None
    """File that gets a line for each time this runs."""
    rows_in: int | None = None
    """Rows that came in; one is kept."""


def run(config, context):
    if config.diary:
        with open(config.diary, "a") as file:
            file.write(f"{{os.getpid()}}\\n")
    results = {{}}
    for name, output in context.outputs.items():
        (output.path / "page.html").write_text(config.text)
        (output.path / "rows.txt").write_text(config.text + str(sorted(context.inputs)))
        results[name] = Result(content_digest=digest_of(config.text), rows=1, rows_in=config.rows_in,
                               licences={{"MIT": 1}}, metrics={{"words": 3}})
    logging.getLogger("demo").warning("make says %s", config.text)
    context.progress(1, 1, "rows")
    time.sleep(config.seconds)
    fail(config.fail)
    return results if config.fail != "outputs" else {{"another": results.popitem()[1]}}


def fail(how):
    if how == "crash":
        raise ValueError("a value was wrong")
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    for name in ("InvalidInput", "MissingTool", "GateRefused", "BudgetSpent", "StepFailed", "CorruptPayload"):
        if how == name:
            raise getattr(errors, name)(f"cause of {{name}}", hint=f"hint for {{name}}")


if __name__ == "__main__":
    main(run, Config)
'''

DRIVER = '''
"""launch() for each request on the command line, as a KFP task calls it; prints a JSON list of what came of them."""

import json, sys
from types import SimpleNamespace
from tutelage.errors import TutelageError
from tutelage.runtimes import launch

results = []
for request in json.loads(sys.argv[1]):
    def artifact(path):
        return SimpleNamespace(path=path, metadata={})
    inputs = {name: artifact(path) for name, path in request.get("inputs", {}).items()}
    outputs = {name: artifact(path) for name, path in request["outputs"].items()}
    metrics = artifact(request["metrics"]) if request.get("metrics") else None
    result = {"error": None, "cause": None, "hint": None, "exit_code": 0}
    try:
        launch(request["step"], inputs=inputs, outputs=outputs, config=request.get("config", {}),
               label=request.get("label"), metrics=metrics)
    except TutelageError as error:
        result = {"error": type(error).__name__, "cause": error.message, "hint": error.hint, "exit_code": error.exit_code}
    result["metadata"] = {name: item.metadata for name, item in outputs.items()}
    results.append(result)
print(json.dumps(results))
'''

COMPONENTS: dict[str, dict[str, Any]] = {
    "demo/make": {"runtime": "process", "reads": {}, "writes": {"made": "documents"}, "reuse": True},
    "demo/child": {"runtime": "spark", "reads": {}, "writes": {"made": "documents"}, "reuse": True},
    "demo/ranks": {"runtime": "torch", "reads": {}, "writes": {"made": "documents"}, "reuse": True},
    "demo/join": {"runtime": "process", "reads": {"left": "documents"}, "writes": {"verdict": "verdict", "page": "page"},
                  "reuse": True},
    "demo/always": {"runtime": "process", "reads": {}, "writes": {"made": "documents"}, "reuse": False},
    "demo/nothing": {"runtime": "process", "reads": {}, "writes": {}, "reuse": False},
}  # fmt: skip


@dataclass
class Workspace:
    """A root with components, a folder for runs, and the environment that both are found by."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, description in COMPONENTS.items():
            component = self.folder / "components" / name
            component.mkdir(parents=True)
            (component / "component.yaml").write_text(YAML.format(name=name, **json_values(description)))
            (component / "step.py").write_text(STEP.format(name=name))
        (self.folder / "driver.py").write_text(DRIVER)

    @property
    def runs(self) -> Path:
        return Path(self.settings.get("runs", self.folder / "runs"))

    def variables(self, run: str = "run-1") -> dict[str, str]:
        """The environment of a task of run `run`."""
        settings = self.folder / "settings.json"
        settings.write_text(json.dumps({"runs": str(self.runs), **self.settings}))
        return {
            **os.environ,
            # The package of this checkout, whichever is installed.
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(Path(tutelage.__file__).parents[1])]),
            "TUTELAGE_SETTINGS": str(settings),
            "TUTELAGE_RUN": run,
            "TUTELAGE_RUN_FOLDER": str(self.runs / run),
            **self.environment,
        }

    def request(self, step: str, config: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A launch of `step` with the outputs that component.yaml names, below kfp/."""
        label = more.get("label", step.split("/")[1])
        outputs = {name: str(self.folder / "kfp" / f"{label}-{name}") for name in COMPONENTS[step]["writes"]}
        return {"step": step, "config": dict(config or {}), "outputs": outputs, **more}

    def start(self, *requests: Mapping[str, Any], run: str = "run-1") -> subprocess.Popen[str]:
        """A process that launches each request, one after another."""
        command = [sys.executable, str(self.folder / "driver.py"), json.dumps(requests)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.variables(run), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def launch(self, *requests: Mapping[str, Any], run: str = "run-1") -> list[dict[str, Any]]:
        """What came of each request. Fails when the process did not get through them."""
        process = self.start(*requests, run=run)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        results: list[dict[str, Any]] = json.loads(output)
        return results

    def events(self, run: str = "run-1", name: str | None = None) -> list[dict[str, Any]]:
        """The run's events, all or those of one name."""
        file = self.runs / run / "events.jsonl"
        events = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return [event for event in events if name in (None, event["event"])]

    def diary(self) -> list[str]:
        """A line for each time a step with `diary` ran."""
        file = self.folder / "diary"
        return file.read_text().splitlines() if file.is_file() else []


def json_values(description: Mapping[str, Any]) -> dict[str, str]:
    """Values as YAML takes them."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in description.items()}
