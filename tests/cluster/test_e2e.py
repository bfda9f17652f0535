"""`make e2e` as a whole, against a Kubeflow of this machine (stand_in.py) with its store in a real S3 server.

Twice: with our fake API server, and with a real one where KUBEBUILDER_ASSETS names its binaries (control_plane.py). What
neither can show: the real operators and KFP's own server. For those, `make e2e` with their KUBECONFIG.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.local_pods import ROOT
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.slow, pytest.mark.java, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("server", ["played", pytest.param("real", marks=pytest.mark.cluster)])
def test_the_tiny_recipe_runs_on_the_cluster_and_a_cancelled_run_leaves_nothing(
    server: str, s3_location: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plane = request.getfixturevalue("plane") if server == "real" else None
    with StandIn(tmp_path / "kubeflow", s3_location, plane) as kubeflow:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.cluster.e2e"], cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False,
            env={**os.environ, **kubeflow.environment, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )  # fmt: skip
        print(ended.stdout, ended.stderr)
        logs = "".join(file.read_text()[-2000:] for file in sorted(tmp_path.glob("kubeflow/workflows/*/log")))
        assert ended.returncode == 0, f"{ended.stderr}\n{logs}"
        assert "a whole run: held" in ended.stderr and "a cancelled run: held" in ended.stderr
        runs = [workflow.state() for workflow in kubeflow.workflows.runs.values()]
        assert [run["state"] for run in runs] == ["SUCCEEDED", "CANCELED"]
        assert [run["tasks"]["clean"] for run in runs] == ["SUCCEEDED", "SUCCEEDED"], "exit handlers ran to their end"
        # What users talk to, and nothing else.
        left = kubeflow.everything()
        assert [name for name in left if not name.startswith("Pod/")] == ["InferenceService/tutelage-model"]
        pods = [name for name in left if name.startswith("Pod/")]
        assert len(pods) == 1 and pods[0].startswith("Pod/tutelage-model-predictor-")
        assert kubeflow.time.errors == []
