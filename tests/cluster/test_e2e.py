"""`make e2e` as a whole, against a Kubeflow of this machine (stand_in.py) with its store in a real S3 server.

What it cannot show: a real API server, the real operators and KFP's own server. For those, `make e2e` with their KUBECONFIG.
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


def test_the_tiny_recipe_runs_on_the_cluster_and_a_cancelled_run_leaves_nothing(s3_location: str, tmp_path: Path) -> None:
    with StandIn(tmp_path / "kubeflow", s3_location) as kubeflow:
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
