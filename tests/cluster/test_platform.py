"""What task pods get on a cluster: mounts, identity, devices and clocks, and that a laptop sees none of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, components, dsl, local
from kfp.kubernetes import kubernetes_executor_config_pb2

from components.data.curate.component import curate
from components.data.ingest.component import ingest
from components.release.decide.component import decide
from pipelines.platform import dress
from tutelage.config import build
from tutelage.errors import InvalidInput
from tutelage.runtimes.kubernetes.settings import ClockLimits
from tutelage.step import Description, describe, repository_root, step_names
from tutelage.step.mounts import mounts

GPU = {
    "requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}, "shared_memory": "2Gi",
    "accelerators": {"nvidia.com/gpu": 2}, "node_selector": {"pool": "gpu"}, "retries": 3,
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 60}],
    "timeouts": {"run_seconds": 3600},
}  # fmt: skip


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def probe() -> str:
    import os

    return f"settings {os.environ.get('TUTELAGE_SETTINGS')}, run {os.environ.get('TUTELAGE_RUN')}"


def described(runtime: str = "process", **resources: Any) -> Description:
    values = describe("data/ingest").values()
    return build(Description, {**values, "runtime": runtime, "resources": {**values["resources"], **resources}})


def compiled(wire: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The IR, and the platform config of each executor."""
    pipeline = dsl.pipeline(name="dressed")(wire)
    compiler.Compiler().compile(pipeline, str(folder / "dressed.yaml"))
    ir, body = yaml.safe_load_all((folder / "dressed.yaml").read_text())
    configs = body["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for config in configs.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    return ir, configs


def config_of(step: str, description: Description, folder: Path) -> dict[str, Any]:
    part = {"data/ingest": lambda: ingest(sources=[]), "probe": probe}[step]

    def wire() -> None:
        dress(part(), description)

    return next(iter(compiled(wire, folder)[1].values()))


def test_every_task_finds_settings_store_run_and_account(tmp_path: Path) -> None:
    config = config_of("data/ingest", describe("data/ingest"), tmp_path)
    assert config["configMapAsVolume"][0]["configMapName"] == "tutelage-settings"
    assert config["configMapAsVolume"][0]["mountPath"] == "/etc/tutelage"
    variables = {item["name"]: item["fieldPath"] for item in config["fieldPathAsEnv"]}
    assert variables["TUTELAGE_RUN"] == "metadata.labels['pipeline/runid']"
    annotation = variables["TUTELAGE_SETTINGS"].removeprefix("metadata.annotations['").removesuffix("']")
    assert config["podMetadata"]["annotations"][annotation] == "/etc/tutelage/settings.toml"
    keys = {item["envVar"]: item["secretKey"] for item in config["secretAsEnv"][0]["keyToEnv"]}
    assert keys["AWS_SECRET_ACCESS_KEY"] == "AWS_SECRET_ACCESS_KEY"
    assert config["securityContext"] == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
    assert config["imagePullPolicy"] == "IfNotPresent"


def secrets_mounted(config: dict[str, Any]) -> list[str]:
    return [item["secretName"] for item in config.get("secretAsVolume", [])]


def test_the_signing_key_is_mounted_by_decide_and_by_nothing_else() -> None:
    keys = [mount for mount in mounts().mounts if mount.kind == "Secret"]
    assert [(mount.name, mount.tasks) for mount in keys] == [("tutelage-signing-key", ("release/decide",))]
    needing = [name for name in step_names() if "signing_key" in describe(name).settings]
    assert needing == ["release/decide"]


def test_decide_gets_the_key_as_a_file_and_ingest_does_not(tmp_path: Path) -> None:
    def wire() -> None:
        rows = dress(ingest(sources=[]), describe("data/ingest")).outputs["documents"]
        same = dict.fromkeys(("documents", "curated", "unique", "splits", "tokens", "suite"), rows)
        made = dsl.importer(artifact_uri="s3://x", artifact_class=dsl.Artifact)
        model = dsl.importer(artifact_uri="s3://x", artifact_class=dsl.Model)
        parts = dict.fromkeys(("baseline", "candidate", "comparison"), made.output)
        dress(decide(**same, **parts, model=model.output, policy={}), describe("release/decide"))

    _, configs = compiled(wire, tmp_path)
    assert {name: secrets_mounted(config) for name, config in configs.items()} == {
        "exec-ingest": [], "exec-decide": ["tutelage-signing-key"],
    }  # fmt: skip


def test_every_step_that_is_handed_public_keys_mounts_them() -> None:
    mounted = next(mount for mount in mounts().mounts if mount.name == "tutelage-public-keys")
    for name in step_names():
        if "public_keys" in describe(name).settings:
            assert mounted.tasks == "all" or name in mounted.tasks


def test_labels_go_to_the_tasks_that_they_are_for(tmp_path: Path) -> None:
    assert config_of("data/ingest", describe("data/ingest"), tmp_path)["podMetadata"]["labels"] == {
        "tutelage.dev/egress": "packages"
    }
    assert "labels" not in config_of("probe", describe("release/enforce"), tmp_path)["podMetadata"]


def test_a_process_step_gets_place_devices_memory_clock_and_retries(tmp_path: Path) -> None:
    def wire() -> None:
        dress(probe(), described(**GPU))

    ir, configs = compiled(wire, tmp_path)
    config = configs["exec-probe"]
    assert config["nodeSelector"] == {"labels": {"pool": "gpu"}}
    assert config["tolerations"] == [
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": "60"}
    ]
    assert config["emptyDirMounts"] == [
        {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "2Gi"}
    ]
    assert config["activeDeadlineSeconds"] == "3600"
    resources = ir["deploymentSpec"]["executors"]["exec-probe"]["container"]["resources"]
    assert (resources["accelerator"]["resourceType"], resources["accelerator"]["resourceCount"]) == (
        "nvidia.com/gpu",
        "2",
    )
    assert ir["root"]["dag"]["tasks"]["probe"]["retryPolicy"]["maxRetryCount"] == 3


def test_a_launcher_of_a_job_gets_none_of_what_the_job_gets(tmp_path: Path) -> None:
    config = config_of("probe", described("torch", **GPU), tmp_path)
    assert not {"nodeSelector", "tolerations", "emptyDirMounts", "activeDeadlineSeconds"} & set(config)
    assert config["configMapAsVolume"]


@pytest.mark.parametrize("step", [name for name in step_names() if describe(name).runtime == "process"])
def test_a_process_step_that_hangs_is_ended_by_its_pods_deadline(step: str, tmp_path: Path) -> None:
    seconds = describe(step).needs.timeouts.run_seconds
    assert seconds is not None and 3600 <= seconds <= 7 * 86_400
    assert config_of("probe", describe(step), tmp_path)["activeDeadlineSeconds"] == str(seconds)


@pytest.mark.parametrize(
    ("step", "waits"),
    # Smoke deployment, promotion, the way back; what other runs left half-promoted.
    [("serve/deploy", 3), ("plan/clean", 2)],
)
def test_no_pod_ends_before_the_deployments_that_it_follows(step: str, waits: int) -> None:
    clocks, needs = ClockLimits(), describe(step).needs
    assert needs.timeouts.start_seconds is None, "the installation's clock holds"
    assert (needs.timeouts.run_seconds or 0) >= 4 * waits * clocks.start_seconds


@pytest.mark.parametrize("step", [name for name in step_names() if describe(name).runtime != "process"])
def test_the_launcher_of_a_job_has_no_deadline_of_its_own(step: str, tmp_path: Path) -> None:
    description = describe(step)
    timed = description.model_copy(update={"resources": {**description.resources, "timeouts": {"run_seconds": 60}}})
    assert "activeDeadlineSeconds" not in config_of("probe", timed, tmp_path)


def test_two_kinds_of_accelerator_are_refused_where_kubeflow_takes_one(tmp_path: Path) -> None:
    two = {**GPU, "accelerators": {"nvidia.com/gpu": 1, "amd.com/gpu": 1}}
    with pytest.raises(InvalidInput, match=r"accelerators amd\.com/gpu, nvidia\.com/gpu"):
        config_of("probe", described(**two), tmp_path)


def test_a_laptop_runs_a_dressed_pipeline_and_sees_nothing_of_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("TUTELAGE_RUN", raising=False)
    monkeypatch.setenv("TUTELAGE_SETTINGS", "mine")

    def wire() -> None:
        dress(probe(), described(**{**GPU, "accelerators": {}}))

    compiled(wire, tmp_path)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"), raise_on_error=True)
    components.load_component_from_file(str(tmp_path / "dressed.yaml"))()
    (written,) = (tmp_path / "root").rglob("executor_output.json")
    assert json.loads(written.read_text())["parameterValues"] == {"Output": "settings mine, run None"}


def test_a_mount_of_an_unknown_kind_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    text = (repository_root() / "manifests" / "mounts.yaml").read_text()
    (folder / "mounts.yaml").write_text(text.replace("- kind: ConfigMap", "- kind: HostPath", 1))
    monkeypatch.setattr("tutelage.step.mounts.repository_root", lambda: tmp_path)
    mounts.cache_clear()
    with pytest.raises(InvalidInput, match="HostPath"):
        mounts()
    mounts.cache_clear()
    shutil.rmtree(folder)


def test_curate_is_dressed_as_a_launcher(tmp_path: Path) -> None:
    def wire() -> None:
        rows = dress(ingest(sources=[]), describe("data/ingest")).outputs["documents"]
        dress(curate(documents=rows, policy={}), describe("data/curate"))

    _, configs = compiled(wire, tmp_path)
    assert configs["exec-curate"]["configMapAsVolume"][0]["configMapName"] == "tutelage-settings"
    assert "emptyDirMounts" not in configs["exec-curate"]


@pytest.mark.parametrize("file", sorted((repository_root() / "compiled").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_task_of_every_compiled_pipeline_is_dressed(file: Path) -> None:
    ir, body = yaml.safe_load_all(file.read_text())
    configs = body["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(ir["deploymentSpec"]["executors"])
    assert all(config["configMapAsVolume"][0]["configMapName"] == "tutelage-settings" for config in configs.values())
    assert [name for name, config in configs.items() if secrets_mounted(config)] == ["exec-decide"]
