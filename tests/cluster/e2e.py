"""The tiny recipe on the cluster that KUBECONFIG points at, held against a run here. Nothing is faked.

    export KUBECONFIG=…  KF_PIPELINES_ENDPOINT=https://kubeflow.example.com/pipeline
    export TUTELAGE_E2E_NAMESPACE=tutelage-dev  TUTELAGE_E2E_REGISTRY=registry.example.com/tutelage
    export TUTELAGE_E2E_STORE=s3://mlpipeline/private/tutelage-dev/store
    export AWS_ENDPOINT_URL=…  AWS_ACCESS_KEY_ID=…  AWS_SECRET_ACCESS_KEY=…
    make e2e

Needs what docs/install-on-kubeflow.md sets up, the images in the registry, and compiled files that name it
(`tutelage compile --registry`), uploaded already where the token may not upload (tutelage-submit). The account of KUBECONFIG
must read our kinds of job, InferenceServices and pods there. Optional: TUTELAGE_E2E_TOKEN_FILE (a token for KFP),
TUTELAGE_E2E_SERVICE_ACCOUNT, TUTELAGE_E2E_STABLE (name of the InferenceService, default tutelage-model), TUTELAGE_E2E_HOURS
(longest time for a run, default 2). Exit code 0: everything held; 1: something did not; 2: not set up.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.end_to_end.command_line import ROOT, tutelage
from tutelage.contracts import manifest
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.jobs import INFERENCESERVICE, JOB_KINDS, POD
from tutelage.runtimes.kubernetes.names import MANAGED_BY, MANAGED_LABEL, RUN_LABEL, label_value, selector

RECIPE = "recipes/tiny.yaml"
DATASETS = ("documents", "splits", "tokens", "suite")
RUN_ID = re.compile(r"/runs/details/([0-9a-zA-Z-]+)")
CLEANED_SECONDS = 900
JOB_SECONDS = 3600
POLL_SECONDS = 5.0
Artifacts = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Setup:
    """Where to run."""

    host: str
    namespace: str
    registry: str
    store: str
    stable: str = "tutelage-model"
    token_file: str | None = None
    service_account: str | None = None
    hours: float = 2.0


def setup_from(environment: Mapping[str, str]) -> Setup:
    """From the environment. Raises SystemExit(2) that names every variable that is missing."""
    needed = {
        "host": "KF_PIPELINES_ENDPOINT", "namespace": "TUTELAGE_E2E_NAMESPACE", "registry": "TUTELAGE_E2E_REGISTRY",
        "store": "TUTELAGE_E2E_STORE",
    }  # fmt: skip
    missing = [name for name in ("KUBECONFIG", *needed.values()) if not environment.get(name)]
    if missing:
        _not_set_up(f"not set: {', '.join(missing)}")
    given = {field: environment[name] for field, name in needed.items()}
    optional = {
        "stable": "TUTELAGE_E2E_STABLE", "token_file": "TUTELAGE_E2E_TOKEN_FILE",
        "service_account": "TUTELAGE_E2E_SERVICE_ACCOUNT",
    }  # fmt: skip
    given |= {field: environment[name] for field, name in optional.items() if environment.get(name)}
    return Setup(**given, hours=float(environment.get("TUTELAGE_E2E_HOURS") or 2))


def _not_set_up(why: str) -> NoReturn:
    print(
        f"error: {why}\n\nhint: tests/cluster/e2e.py says what it reads; docs/install-on-kubeflow.md how to get it",
        file=sys.stderr,
    )
    sys.exit(2)


def require_registry(compiled: str, registry: str) -> None:
    """Raise SystemExit(2) unless every image of a compiled file comes from `registry`."""
    images = set(re.findall(r"^\s+image: ['\"]?([^\s'\"]+)", compiled, flags=re.MULTILINE))
    foreign = sorted(image for image in images if not image.startswith(f"{registry}/"))
    if foreign or not images:
        _not_set_up(f"compiled files name {foreign or 'no image'}: run `tutelage compile --registry {registry}`")


def different_datasets(here: Artifacts, there: Artifacts) -> list[str]:
    """Data artifacts whose content digest differs, or that only one run has."""
    names = {name for run in (here, there) for name, item in run.items() if item["kind"] in DATASETS}
    return sorted(
        name for name in names if (here.get(name) or {}).get("digest") != (there.get(name) or {}).get("digest")
    )


def lineage(artifacts: Artifacts) -> dict[str, tuple[str, dict[str, str]]]:
    """Artifact → what made it, and input name → artifact it came from: read from the manifests alone."""
    read = {name: manifest.read(item["manifest"]) for name, item in artifacts.items()}
    by_place = {made.uri: name for name, made in read.items()}
    return {
        name: (made.step, {key: by_place.get(uri, "unknown") for key, uri in sorted(made.input_manifests.items())})
        for name, made in read.items()
    }


def left_behind(api: Api, run_id: str, stable: str) -> list[str]:
    """Names of jobs, smoke deployments and their pods that carry the label of the run; the stable service is no leftover."""
    labels = selector({RUN_LABEL: label_value(run_id), MANAGED_LABEL: MANAGED_BY})
    found = []
    for kind in (*JOB_KINDS, INFERENCESERVICE, POD):
        for item in api.list(kind, labels):
            owned = (item["metadata"].get("labels") or {}).get("serving.kserve.io/inferenceservice")
            if stable not in (item["metadata"]["name"], owned):
                found.append(f"{kind.kind}/{item['metadata']['name']}")
    return sorted(found)


def wait_for(
    what: str, condition: Callable[[], Any], seconds: float, sleep: Callable[[float], None] = time.sleep
) -> Any:
    """The first true value of `condition`. Raises AssertionError when it takes longer than `seconds`."""
    waited = 0.0
    while not (value := condition()):
        assert waited < seconds, f"{what}: not within {seconds:.0f} s"
        sleep(POLL_SECONDS)
        waited += POLL_SECONDS
    return value


class Submission:
    """`tutelage submit` as a child, its words passed on and its run's id read from them."""

    def __init__(self, setup: Setup, settings: Path, *more: str) -> None:
        words = [
            sys.executable,
            "-m",
            "tutelage",
            "submit",
            RECIPE,
            "--host",
            setup.host,
            "--namespace",
            setup.namespace,
        ]
        words += ["--upload", "--json", *more]
        words += ["--token-file", setup.token_file] if setup.token_file else []
        words += ["--service-account", setup.service_account] if setup.service_account else []
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "TUTELAGE_SETTINGS": str(settings)}
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.run_id: str | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            for line in said:
                print(line, end="", file=sys.stderr, flush=True)
                if self.run_id is None and (found := RUN_ID.search(line)):
                    self.run_id = found[1]

    def end(self, seconds: float) -> tuple[int, dict[str, Any]]:
        """Exit code and the JSON object."""
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            killer = threading.Timer(seconds, self.process.kill)
            killer.start()
            out = printed.read()
            code = self.process.wait()
            killer.cancel()
        self._listener.join(10)
        return code, json.loads(out) if out.strip() else {}


def settings_file(setup: Setup, folder: Path) -> Path:
    """Settings under which the command line reads the cluster's store."""
    file = folder / "settings.json"
    values = {"runs": str(folder / "runs"), "store": setup.store, "cluster": {"namespace": setup.namespace}}
    file.write_text(json.dumps(values))
    return file


def a_whole_run(setup: Setup, settings: Path, folder: Path, api: Api) -> None:
    """Here and there: equal data, a PASS, a probed endpoint, an equal lineage graph, nothing left."""
    ended = tutelage("run", RECIPE, "--runs", str(folder / "here"), "--json", timeout=setup.hours * 3600)
    assert ended.exit_code == 0, ended.err
    here = ended.json["artifacts"]
    submission = Submission(setup, settings)
    code, record = submission.end(setup.hours * 3600)
    assert code == 0, record.get("cause")
    assert (record["outcome"], record["verdict"]) == ("done", "PASS")
    there = record["artifacts"]
    assert different_datasets(here, there) == []
    assert lineage(here) == lineage(there)
    require_probed(there)
    stable = api.get(INFERENCESERVICE, setup.stable)
    assert stable is not None, f"no InferenceService {setup.stable}"
    ready = {item["type"]: item["status"] for item in (stable.get("status") or {}).get("conditions", [])}
    assert ready.get("Ready") == "True", ready
    assert submission.run_id is not None
    run_id = submission.run_id
    wait_for("namespace without jobs of the run", lambda: not left_behind(api, run_id, setup.stable), CLEANED_SECONDS)


def require_probed(artifacts: Artifacts) -> None:
    """Raise AssertionError unless every required probe of the deployment passed, of the model that was released."""
    made = manifest.read(artifacts["deploy/deployment"]["manifest"])
    report = manifest.read_json(made, "deployment.json")
    failed = [probe["name"] for probe in report["probes"] if probe["required"] and not probe["passed"]]
    assert report["probes"] and not failed, failed
    assert report["model"] in {item["digest"] for item in artifacts.values() if item["kind"] == "model"}
    assert report["address"] != "127.0.0.1", "the cluster's endpoint was not asked"


def a_cancelled_run(setup: Setup, settings: Path, api: Api, seed: int) -> None:
    """Cancel while a job runs; nothing of the run is left."""
    # Another seed: nothing of the first run is found, so there is something to cancel.
    submission = Submission(setup, settings, "--set", f"seed={seed}")
    run_id = wait_for("a run id", lambda: submission.run_id or submission.process.poll() is not None, 600)
    assert isinstance(run_id, str), "the second run was not started"
    wait_for("a job of the run", lambda: left_behind(api, run_id, setup.stable), JOB_SECONDS)
    token = ("--token-file", setup.token_file) if setup.token_file else ()
    ended = tutelage("cancel", run_id, "--host", setup.host, *token)
    assert ended.exit_code == 0, ended.err
    code, record = submission.end(CLEANED_SECONDS)
    assert code == 1 and "cancel" in str(record.get("cause")), record
    wait_for("an empty namespace", lambda: not left_behind(api, run_id, setup.stable), CLEANED_SECONDS)


def main() -> None:
    """Run both, say how it went."""
    setup = setup_from(os.environ)
    for file in sorted((ROOT / "compiled").glob("llm_training.yaml")):
        require_registry(file.read_text(encoding="utf-8"), setup.registry)
    api = Api.connect(setup.namespace)
    with tempfile.TemporaryDirectory(prefix="tutelage-e2e-") as place:
        folder = Path(place)
        settings = settings_file(setup, folder)
        for name, part in (
            ("a whole run", lambda: a_whole_run(setup, settings, folder, api)),
            ("a cancelled run", lambda: a_cancelled_run(setup, settings, api, int(time.time()))),
        ):
            started = time.monotonic()
            part()
            print(f"{name}: held, {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
