"""What compile writes: one block of images, Kubernetes-native objects, and nothing that belongs elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.schemas import mistakes, schema_of, unknown_fields
from tutelage.config import build
from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate import compile as compiling
from tutelage.orchestrate.image_block import TITLE, Choices, choices_in, containers_of
from tutelage.orchestrate.native import documents_of, native_objects, read_compiled, version_object
from tutelage.orchestrate.recipes import pipeline_names
from tutelage.runtimes.kubernetes.settings import Images

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "compiled"
NATIVE = COMPILED / "kubernetes"


def ir_of(text: str) -> dict[str, Any]:
    return documents_of(text)[0]


@pytest.fixture(scope="module")
def golden() -> str:
    return (COMPILED / "llm_training.yaml").read_text()


def objects() -> list[dict[str, Any]]:
    return [body for name in pipeline_names() for body in documents_of((NATIVE / f"{name}.yaml").read_text())]


def test_every_pipeline_stands_as_a_pipeline_and_a_version_named_by_its_content() -> None:
    assert [body["kind"] for body in objects()] == ["Pipeline", "PipelineVersion"] * len(pipeline_names())
    for name in pipeline_names():
        pipeline, version = documents_of((NATIVE / f"{name}.yaml").read_text())
        compiled = read_compiled((COMPILED / f"{name}.yaml").read_text())
        assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == name.replace("_", "-")
        assert version["metadata"]["name"] == f"{pipeline['metadata']['name']}-sha-{compiled.content[:12]}"
        assert version["spec"]["versionName"] == version["spec"]["displayName"] == f"sha-{compiled.content[:12]}"
        assert version["spec"]["pipelineSpec"] == compiled.spec
        assert version["spec"].get("platformSpec") == compiled.platform


def test_objects_hold_to_the_official_schemas() -> None:
    for body in objects():
        schema = schema_of(body["kind"])
        if schema is None:
            pytest.skip("no schemas of custom resources here: set TUTELAGE_CRDS")
        body = {key: value for key, value in body.items() if key not in {"apiVersion", "kind", "metadata"}}
        assert list(unknown_fields(schema, body)) == []
        assert list(mistakes(schema, body)) == []


def test_pipelines_come_a_wave_before_their_versions_and_old_versions_stay() -> None:
    for body in objects():
        annotations = body["metadata"]["annotations"]
        assert annotations["argocd.argoproj.io/sync-wave"] == {"Pipeline": "0", "PipelineVersion": "1"}[body["kind"]]
        assert "Prune=false" in annotations["argocd.argoproj.io/sync-options"]


def test_objects_are_small_enough_for_a_client_side_apply() -> None:
    # kubectl apply keeps the object in an annotation, and annotations end at 256 KiB.
    for name in pipeline_names():
        assert len((NATIVE / f"{name}.yaml").read_bytes()) < 200_000


def test_the_content_hash_sees_what_runs_and_no_comment(golden: str) -> None:
    before = read_compiled(golden)
    assert read_compiled("# another comment\n" + golden).content == before.content
    changed = golden.replace("seed:\n        defaultValue: 7.0", "seed:\n        defaultValue: 8.0")
    assert changed != golden
    assert read_compiled(changed).content != before.content
    platform = {"platforms": {"kubernetes": {}}}
    text = yaml.safe_dump_all([before.spec, platform])
    assert read_compiled(text).content != read_compiled(yaml.safe_dump(before.spec)).content


def test_a_commit_is_added_from_outside_and_leaves_the_version_its_name(golden: str) -> None:
    compiled = read_compiled(golden)
    without, with_commit = version_object(compiled), version_object(compiled, "c" * 40)
    assert without["metadata"]["name"] == with_commit["metadata"]["name"]
    assert (
        with_commit["spec"]["tags"]["commit"]
        == with_commit["metadata"]["annotations"]["tutelage.dev/commit"]
        == "c" * 40
    )
    assert "commit" not in native_objects(golden).replace("tutelage compile", "")


def test_the_block_of_images_names_each_image_that_a_task_runs_and_no_other() -> None:
    for name in pipeline_names():
        text = (COMPILED / f"{name}.yaml").read_text()
        block = text.split(TITLE, 1)[1].split("components:", 1)[0]
        said = dict(re.findall(r"^#    ([a-z-]+): (\S+)$", block, re.MULTILINE))
        registry = said.pop("registry")
        said.pop("literals")
        assert set(said.values()) == {container["image"] for container in containers_of(ir_of(text))}
        assert all(image.startswith(f"{registry}/{image_name}") for image_name, image in said.items())


def test_a_registry_stands_before_every_image_and_compiling_again_keeps_it(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "llm_training.yaml"
    monkeypatch.setattr(compiling, "compiled_file", lambda name: file)
    text = compiling.compile_pipeline("llm_training", Choices(registry="registry.example.com:5000/team"))
    file.write_text(text)
    images = {container["image"] for container in containers_of(ir_of(text))}
    assert {image.rsplit("/", 1)[0] for image in images} == {"registry.example.com:5000/team"}
    assert choices_in(text).registry == "registry.example.com:5000/team"
    assert compiling.compile_pipeline("llm_training") == text


@pytest.mark.parametrize(
    "registry",
    [
        "https://registry.example.com", "a b", "", "UPPER.example.com", "host/", "host//a", "reg..io/x", "reg.io:99999/x",
        "reg.io:0/x", "reg.io:/x", "-reg.io/x", "reg-.io/x", ".io/x", "reg.io./x", "reg.io/a..b", "reg.io/-a", "reg.io/a-",
        "reg.io/a___b", "reg_istry.io/x", "reg.io/x@sha256", "reg.io/x:tag", f"{'a' * 64}.io/x", f"reg.io/{'a' * 300}",
        "reg.io/x\n",
    ],
)  # fmt: skip
def test_what_is_no_registry_is_refused(registry: str) -> None:
    with pytest.raises(InvalidInput, match="not a registry"):
        Choices(registry=registry)
    if not registry.endswith("/"):
        with pytest.raises(InvalidInput, match="not a registry"):
            build(Images, {"registry": registry})


@pytest.mark.parametrize(
    "registry",
    [
        "tutelage", "team/tutelage", "localhost", "localhost:5000/tutelage", "registry.example.com", "10.0.0.1:65535/a/b_c/d__e",
        "xn--bcher-kva.example/x", "ghcr.io/some-one/a.b--c",
    ],
)  # fmt: skip
def test_what_a_registry_may_be_called_is_taken(registry: str) -> None:
    assert Choices(registry=registry).registry == registry
    assert build(Images, {"registry": f"{registry}/"}).registry == f"{registry}/"


@pytest.fixture
def copy_of_the_repository(tmp_path: Path, monkeypatch: Any) -> Path:
    shutil.copytree(COMPILED, tmp_path / "compiled")
    monkeypatch.setattr(compiling, "repository_root", lambda: tmp_path)
    texts = {name: (COMPILED / f"{name}.yaml").read_text() for name in pipeline_names()}
    monkeypatch.setattr(compiling, "compile_pipeline", lambda name, choices=None: texts[name])
    return tmp_path


def test_files_that_nobody_changed_are_fresh_and_are_not_written_again(copy_of_the_repository: Path) -> None:
    compiling.check_fresh()
    assert compiling.write_all() == []


def test_a_stale_object_and_a_file_without_a_pipeline_are_named(copy_of_the_repository: Path) -> None:
    native = copy_of_the_repository / "compiled" / "kubernetes"
    (native / "llm_training.yaml").write_text((NATIVE / "llm_training.yaml").read_text().replace("sha-", "sha-0", 1))
    (native / "gone.yaml").write_text("{}")
    with pytest.raises(StepFailed, match=r"compiled/kubernetes/llm_training.yaml[\s\S]*gone.yaml has no pipeline"):
        compiling.check_fresh()
    changed = {path.name for path in compiling.write_all()}
    assert changed == {"gone.yaml", "llm_training.yaml"}
    assert not (native / "gone.yaml").exists()
    compiling.check_fresh()


FORBIDDEN = {
    "a run-time pip install": r"pip3? install|ensurepip|--index-url",
    "a tag that changes under it": r":latest\b",
    "a private key": r"BEGIN [A-Z ]*PRIVATE KEY",
    "a credential": r"(?i)\b(AKIA[0-9A-Z]{16}|password:|aws_secret_access_key\s*[:=]\s*['\"]?[A-Za-z0-9/+]{16})",
    "a bucket": r"\b(s3|minio|gs|gcs|abfss?)://",
    "the host of a service": r"https?://|\.svc\b|\.amazonaws\.com",
    "a commit": r"\b[0-9a-f]{40}\b",
}


def offences(text: str) -> list[str]:
    """What a compiled file holds that belongs elsewhere. Sources that a recipe names by URI are its parameters' defaults."""
    return [what for what, pattern in FORBIDDEN.items() if re.search(pattern, text)]


@pytest.mark.parametrize(
    "file", sorted(COMPILED.rglob("*.yaml")), ids=lambda path: path.relative_to(COMPILED).as_posix()
)
def test_compiled_files_hold_no_pip_install_no_latest_no_secret_no_endpoint_no_bucket(file: Path) -> None:
    assert offences(file.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "python3 -m pip install kfp==2.17.0", "image: python:latest", "-----BEGIN PRIVATE KEY-----", "uri: s3://bucket/key",
        "endpoint: http://minio-service.kubeflow:9000", "host: store.kubeflow.svc", "a: " + "0123456789" * 4,
        "AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMIK7MDENGbPxRfiCY",
    ],
)  # fmt: skip
def test_each_of_these_would_be_found(line: str) -> None:
    assert offences(f"components:\n  x:\n    {line}\n")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_takes_the_folder_in_and_leaves_the_content_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(NATIVE, tmp_path / "kubernetes")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text("namespace: team-a\nresources: [../kubernetes]\n")
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    built = {body["metadata"]["name"]: body for body in documents_of(done.stdout)}
    for body in objects():
        found = built[body["metadata"]["name"]]
        assert found["metadata"]["namespace"] == "team-a"
        assert found["spec"] == body["spec"]


WORKFLOW = ROOT / ".github" / "workflows" / "pipelines.yml"


def test_the_ci_workflow_pins_every_action_and_uploads_only_what_passed_on_main() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    upload = workflow["jobs"]["upload"]
    assert set(upload["needs"]) == {"check", "compile"}
    assert "refs/heads/main" in upload["if"]
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert "tutelage compile --check" in [step.get("run") for step in workflow["jobs"]["compile"]["steps"]]
    # Values of a pull request's author reach no shell.
    assert not any(
        "${{ github.event" in str(step.get("run")) or "${{ github.head" in str(step.get("run")) for step in steps
    )
