"""Jobs as the adapters render them, for tests of the adapters: nothing runs."""

from __future__ import annotations

from typing import Any

from tutelage.runtimes.kubernetes.inferenceservice import InferenceService
from tutelage.runtimes.kubernetes.names import Identity, Owner
from tutelage.runtimes.kubernetes.pytorchjob import PyTorchJob
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.runtimes.kubernetes.sparkapplication import SparkApplication
from tutelage.step.resources import Resources

NAMESPACE = "team"
REQUESTS = "s3://bucket/scratch/requests"
OWNER = Owner(name="llm-training-x7k2p", uid="0b3c1c3e-33f7-4c0a-9a54-5a8b7bb6f1d2")
NEEDS: dict[str, Any] = {
    "requests": {"cpu": "2", "memory": "4Gi"},
    "limits": {"cpu": "4", "memory": "8Gi"},
}
#: Everything that a component or a run may ask for at once.
MANY_NEEDS: dict[str, Any] = NEEDS | {
    "accelerators": {"nvidia.com/gpu": 2, "example.com/fabric": 1},
    "shared_memory": "2Gi",
    "node_selector": {"pool": "accelerators"},
    "tolerations": [{"key": "dedicated", "value": "training", "effect": "NoExecute", "toleration_seconds": 60}],
    "timeouts": {"start_seconds": 900, "run_seconds": 7200},
    "replicas": 3,
}
SETTINGS: dict[str, Any] = {"namespace": NAMESPACE, "images": {"registry": "registry.example.com/tutelage"}}
#: An installation that sets everything.
MANY_SETTINGS: dict[str, Any] = {
    "namespace": NAMESPACE,
    "queue": "team-queue",
    "images": {"registry": "registry.example.com/tutelage", "pull_secrets": ["pull-images"], "pull_policy": "Always"},
    "secrets": {
        "store": "store",
        "store_keys": {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"},
    },
    **{
        runtime: {
            "node_selector": {"zone": "a"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "labels": {"cost-centre": "42"},
            "annotations": {"example.com/team": "language"},
            "environment": {"AWS_ENDPOINT_URL": "http://store:8333"},
            "priority_class": "batch",
        }
        for runtime in ("training", "spark", "serving")
    },
}


def settings_of(values: dict[str, Any]) -> ClusterSettings:
    from tutelage.config import build

    return build(ClusterSettings, values)


def needs_of(values: dict[str, Any]) -> Resources:
    from tutelage.config import build

    return build(Resources, values)


def identity(task: str, step: str) -> Identity:
    return Identity(run="run-1", task=task, iteration="5f0c", step=step, owner=OWNER)


def training(needs: dict[str, Any] = NEEDS, settings: dict[str, Any] = SETTINGS, **more: Any) -> PyTorchJob:
    chosen = settings_of(settings)
    return PyTorchJob(
        identity=identity("train-sft", "train/train"), namespace=NAMESPACE, settings=chosen, needs=needs_of(needs),
        image="registry.example.com/tutelage/python-torch:1", requests=REQUESTS, **more,
    )  # fmt: skip


def spark(needs: dict[str, Any] = NEEDS, settings: dict[str, Any] = SETTINGS) -> SparkApplication:
    chosen = settings_of(settings)
    return SparkApplication(
        identity=identity("deduplicate", "data/deduplicate"), namespace=NAMESPACE, settings=chosen, needs=needs_of(needs),
        image="registry.example.com/tutelage/python-spark:1", requests=REQUESTS,
    )  # fmt: skip


def service(
    needs: dict[str, Any] = NEEDS, settings: dict[str, Any] = SETTINGS, *, digest: str = "a" * 64, **more: Any
) -> InferenceService:
    chosen = settings_of(settings)
    return InferenceService(
        identity=identity("deploy", "serve/deploy"), namespace=NAMESPACE, settings=chosen, needs=needs_of(needs),
        image="registry.example.com/tutelage/python-serve:1", digest=digest,
        model=f"s3://bucket/store/model/{digest[:8]}/1/manifest.json", model_name="tiny", **more,
    )  # fmt: skip


def condition(type_: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, str]:
    times = dict.fromkeys(("lastTransitionTime", "lastUpdateTime"), "2026-03-01T12:00:00Z")
    return {"type": type_, "status": status, "reason": reason, "message": message, **times}


def pod(name: str, phase: str = "Running", *, labels: dict[str, str] | None = None, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels or {}},
        "status": {"phase": phase, **status},
    }


def container(name: str, state: dict[str, Any], *, ready: bool = False) -> list[dict[str, Any]]:
    return [
        {"name": name, "image": "registry.example.com/tutelage/x:1", "state": state, "ready": ready, "restartCount": 0}
    ]
