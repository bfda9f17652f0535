"""The manifests: that every overlay builds, what their roles grant, and what their pods and files must not hold.

Everything is read by `Built`; where kubectl is installed, its build must hold the same objects. Schemas of custom resources come
from TUTELAGE_CRDS (../shared/crds by default) and are skipped without.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import tutelage
from tests.cluster.access import RUN_RULES
from tests.cluster.manifests import (
    ALL,
    CLUSTER_SCOPED,
    CRDS,
    KUSTOMIZATIONS,
    MANIFESTS,
    MOUNTS,
    OVERLAYS,
    ROOT,
    TEAMS,
    Built,
    Object,
    containers_of,
    documents,
    named,
    overlay,
    pods_of,
    rules_of,
    settings_of,
)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=named)
def test_every_kustomization_reads_files_that_exist(folder: Path):
    Built(folder.parent.resolve())


def test_every_manifest_is_reached_from_an_overlay_or_is_an_optional_component():
    optional = (MANIFESTS / "components").glob("*")
    reached = set().union(*(Built(folder.resolve()).files for folder in [*OVERLAYS, *optional]))
    assert set(MANIFESTS.resolve().rglob("*.*")) - reached == {(MANIFESTS / "mounts.yaml").resolve()}


@pytest.mark.parametrize("folder", OVERLAYS, ids=named)
def test_kubectl_builds_every_overlay_to_the_objects_we_checked(folder: Path):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl 1.27 or later is not installed: https://kubernetes.io/docs/tasks/tools")
    result = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    objects = list(yaml.safe_load_all(result.stdout))
    expected = Built(folder.resolve()).objects
    assert sorted((made["kind"], made["metadata"]["name"]) for made in objects) == sorted(expected)
    for made in objects:
        ours = expected[made["kind"], made["metadata"]["name"]]
        assert made["metadata"].get("namespace") == ours["metadata"].get("namespace")
        for part in ("labels", "annotations"):
            assert made["metadata"].get(part, {}) == ours["metadata"].get(part, {})
        for part in set(made) & {"rules", "roleRef", "automountServiceAccountToken", "spec"}:
            assert made[part] == ours[part], (made["kind"], made["metadata"]["name"], part)
        assert made.get("data", {}) == ours.get("data", {})
        for subject in made.get("subjects", []):
            assert subject["namespace"] == made["metadata"]["namespace"]


@pytest.mark.parametrize("name", ALL)
def test_objects_have_no_field_that_kubernetes_does_not_know(name: str):
    client = pytest.importorskip("kubernetes.client")
    unknown: list[str] = []
    for made in overlay(name).objects.values():
        if made["kind"] != "Profile":
            model = "CoreV1Event" if made["kind"] == "Event" else f"V1{made['kind']}"
            unknown += unknown_fields(
                client, made, getattr(client, model), f"{made['kind']}/{made['metadata']['name']}"
            )
    assert unknown == []


def unknown_fields(client: Any, value: Any, model: Any, where: str) -> list[str]:
    """Paths of fields in `value` that the generated model lacks, recursively."""
    names = {alias: attribute for attribute, alias in model.attribute_map.items()}
    found = [f"{where}.{key}" for key in value if key not in names]
    for key in sorted(set(value) & set(names)):
        kind = model.openapi_types[names[key]]
        many = re.fullmatch(r"list\[(.*)\]", kind)
        inner = getattr(client, many[1] if many else kind, None)
        if hasattr(inner, "attribute_map"):
            for index, item in enumerate(value[key] if many else [value[key]]):
                found += unknown_fields(client, item, inner, f"{where}.{key}[{index}]" if many else f"{where}.{key}")
    return found


@pytest.mark.parametrize("name", ALL)
def test_every_namespaced_object_stands_in_the_namespace_of_its_overlay(name: str):
    expected = {"standalone": "kubeflow"}.get(name, f"tutelage-{name}")
    for made in overlay(name).objects.values():
        namespace = made["metadata"].get("namespace")
        assert namespace == (None if made["kind"] in CLUSTER_SCOPED else expected), made["metadata"]["name"]


OUR_JOBS = ("create", "delete", "get", "list", "patch", "watch")


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("*.yaml")), ids=named)
def test_no_wildcard_stands_anywhere(path: Path):
    assert [value for document in documents(path) for value in scalars(document) if str(value).strip() == "*"] == []


def scalars(value: Any) -> Iterator[Any]:
    """Every key and every leaf of a document."""
    if isinstance(value, dict | list):
        for item in value:
            yield from scalars(item)
        for item in value.values() if isinstance(value, dict) else ():
            yield from scalars(item)
    else:
        yield value


@pytest.mark.parametrize("name", ALL)
def test_the_run_account_touches_our_job_kinds_and_reads_pods_logs_and_events(name: str):
    rules = rules_of(overlay(name), MOUNTS["run_account"])
    assert rules == [
        ("", "configmaps", ("get",), ("kfp-launcher",)),
        ("", "events", ("get", "list", "watch"), ()),
        ("", "pods", ("get", "list", "watch"), ()),
        ("", "pods/log", ("get",), ()),
        ("", "secrets", ("get",), ("mlpipeline-minio-artifact",)),
        ("argoproj.io", "workflows", ("get",), ()),
        ("argoproj.io", "workflowtaskresults", ("create", "patch"), ()),
        ("kubeflow.org", "pytorchjobs", OUR_JOBS, ()),
        ("serving.kserve.io", "inferenceservices", OUR_JOBS, ()),
        ("sparkoperator.k8s.io", "sparkapplications", OUR_JOBS, ()),
    ]


@pytest.mark.parametrize("name", ALL)
def test_only_the_spark_driver_makes_pods_and_nobody_reads_secrets_at_large(name: str):
    built = overlay(name)
    accounts = [account["metadata"]["name"] for account in built.of("ServiceAccount")]
    changing = {"create", "update", "patch", "delete", "deletecollection"}
    make_pods = {
        account for account in accounts for group, resource, verbs, _ in rules_of(built, account)
        if group == "" and resource.startswith("pods") and changing & set(verbs)
    }  # fmt: skip
    assert make_pods == {"tutelage-spark-driver"}
    for account in accounts:
        for group, resource, verbs, names in rules_of(built, account):
            assert (group, resource) != ("", "secrets") or (verbs == ("get",) and names)
            assert group != "rbac.authorization.k8s.io"
            assert not {"impersonate", "escalate", "bind"} & set(verbs)
            assert resource not in ("pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token")


@pytest.mark.parametrize("name", ALL)
def test_training_serving_and_executors_have_no_token_and_no_role(name: str):
    built = overlay(name)
    mounting = {
        account["metadata"]["name"]: account["automountServiceAccountToken"] for account in built.of("ServiceAccount")
    }
    assert {account for account, mounts in mounting.items() if mounts} == {"tutelage-run", "tutelage-spark-driver"}
    for account in ("tutelage-training", "tutelage-serving", "tutelage-spark-executor"):
        assert mounting[account] is False
        assert rules_of(built, account) == []


@pytest.mark.parametrize("name", ALL)
def test_bindings_name_roles_and_accounts_that_exist(name: str):
    built = overlay(name)
    for binding in built.of("RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        assert ("Role", binding["roleRef"]["name"]) in built.objects
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in built.objects
    bound = {binding["roleRef"]["name"] for binding in built.of("RoleBinding")}
    assert bound == {role["metadata"]["name"] for role in built.of("Role")}


@pytest.mark.parametrize("name", ALL)
def test_every_account_is_used_and_every_account_used_exists(name: str):
    built = overlay(name)
    used = {subject["name"] for binding in built.of("RoleBinding") for subject in binding["subjects"]}
    used |= {pod["serviceAccountName"] for pod in pods_of(built.of("CronJob"))}
    used |= set(settings_of(built)["cluster"]["service_accounts"].values()) | {MOUNTS["run_account"]}
    assert used == {account["metadata"]["name"] for account in built.of("ServiceAccount")}


def test_roles_name_resources_that_the_operators_define():
    if not CRDS.is_dir():
        pytest.skip(f"no schemas of custom resources at {CRDS}: set TUTELAGE_CRDS")
    known = {(spec["group"], spec["names"]["plural"]): spec["scope"] for spec in custom_resources()}
    groups = {group for group, _ in known}
    granted = {
        (group, resource)
        for role in overlay("dev").of("Role")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if group in groups
    }
    # KFP's own resources, which only its API server asks about, and Argo's, whose schema is not at hand.
    virtual = {("pipelines.kubeflow.org", "runs"), ("pipelines.kubeflow.org", "experiments")}
    assert granted - set(known) - virtual == {("argoproj.io", "workflowtaskresults")}
    counted = {
        tuple(reversed(name.removeprefix("count/").split(".", 1)))
        for name in overlay("dev").one("ResourceQuota", "tutelage")["spec"]["hard"]
        if name.startswith("count/")
    }
    assert len(counted) == 3
    assert counted <= set(known)


@cache
def custom_resources() -> list[Object]:
    """`spec` of each definition, read to its names only: the schemas are megabytes."""
    found = []
    for path in sorted(CRDS.glob("*.yaml")):
        head = path.read_text().split("\n  versions:")[0]
        found.append(yaml.safe_load(head)["spec"])
    return found


def test_the_fake_cluster_of_the_engine_grants_no_more_than_the_roles_do():
    granted = {
        (group, resource): set(verbs) for group, resource, verbs, _ in rules_of(overlay("dev"), MOUNTS["run_account"])
    }
    for rule in RUN_RULES:
        for group in rule.groups:
            for resource in rule.resources:
                assert set(rule.verbs) <= granted[group, resource], (group, resource)


@pytest.mark.parametrize("name", TEAMS)
def test_pod_security_and_mesh_labels_stand_on_the_namespace(name: str):
    (namespace,) = overlay(name).of("Namespace")
    (profile,) = overlay(name).of("Profile")
    labels = namespace["metadata"]["labels"]
    level = {"dev": "baseline", "prod": "restricted"}[name]
    assert labels["pod-security.kubernetes.io/enforce"] == level
    assert labels["pod-security.kubernetes.io/warn"] == labels["pod-security.kubernetes.io/audit"] == "restricted"
    assert labels["istio-injection"] == "disabled"
    # Kubeflow's own network policies let in what carries this label.
    assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"
    assert labels["pipelines.kubeflow.org/enabled"] == "true"
    # The profile controller takes over a namespace only from its owner.
    assert namespace["metadata"]["name"] == profile["metadata"]["name"]
    assert namespace["metadata"]["annotations"]["owner"] == profile["spec"]["owner"]["name"]


@pytest.mark.parametrize("name", TEAMS)
def test_the_scheduled_pod_passes_the_restricted_standard_and_mounts_a_token_for_kfp_only(name: str):
    pods = list(pods_of(overlay(name).of("CronJob")))
    assert len(pods) == 1
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == MOUNTS["security_context"]["run_as_user"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert set(container["resources"]) == {"requests", "limits"}
        sources = {volume["name"]: set(volume) - {"name"} for volume in pod["volumes"]}
        assert {kind for kinds in sources.values() for kind in kinds} == {"projected", "configMap", "emptyDir"}
        (token,) = [volume for volume in pod["volumes"] if "projected" in volume]
        (source,) = token["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


@pytest.mark.parametrize("name", ALL)
def test_images_are_ours_at_the_version_of_this_package(name: str):
    images = {container["image"] for container in containers_of(overlay(name).of("CronJob"))}
    expected = set() if name == "standalone" else {f"tutelage/python:{tutelage.__version__}"}
    assert images == expected
    assert all((ROOT / "images" / image.split("/")[1].split(":")[0]).is_dir() for image in images)


@pytest.mark.parametrize("name", TEAMS)
def test_the_pod_that_submits_on_a_schedule_holds_no_key(name: str):
    (pod,) = pods_of(overlay(name).of("CronJob"))
    assert not [container for container in pod["containers"] if "envFrom" in container]
    assert not re.search(r"secret(KeyRef|Ref|Name|:)", yaml.safe_dump(pod))


def test_schedules_are_suspended_until_somebody_turns_them_on():
    for name in TEAMS:
        (job,) = overlay(name).of("CronJob")
        assert job["spec"]["suspend"] is True
        assert job["spec"]["concurrencyPolicy"] == "Forbid"


@pytest.mark.parametrize("name", TEAMS)
def test_the_schedule_submits_the_newest_version_in_its_own_namespace_as_the_command_line_understands_it(name: str):
    from tutelage.cli import submit

    (pod,) = pods_of(overlay(name).of("CronJob"))
    (container,) = pod["containers"]
    assert container["command"][-3:-1] == ["tutelage", "submit"]
    given = submit.make_context("submit", [container["command"][-1], *container["args"]]).params
    assert (given["namespace"], given["version"]) == ("$(NAMESPACE)", "latest")
    named = {item["name"]: item.get("valueFrom") for item in container["env"]}
    assert named["NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def test_the_scheduled_recipe_names_a_pipeline_of_ours():
    from tutelage.orchestrate.recipes import read_recipe

    assert read_recipe(str(MANIFESTS / "base" / "recurring" / "recipe.yaml")).pipeline == "llm_training"


def manifest_files() -> list[Path]:
    return sorted(path for path in MANIFESTS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", manifest_files(), ids=named)
def test_manifests_hold_no_secret_no_latest_image_and_no_host(path: Path):
    text = path.read_text()
    assert "PRIVATE KEY" not in text
    assert ":latest" not in text
    assert not re.search(r"^kind: Secret$", text, flags=re.MULTILINE)
    assert not re.search(
        r"AKIA[0-9A-Z]{16}|(?i:password|secretkey|access_key_id)\s*[:=]\s*['\"]?[A-Za-z0-9+/]{12,}", text
    )
    hosts = {match[1] for match in re.finditer(r"(?:https?|git|ssh)://([^/\s:\"']+)", text)}
    # A service of the cluster, or a name that RFC 2606 keeps for examples.
    assert [host for host in sorted(hosts) if not host.endswith((".svc", ".example"))] == []
    addresses = re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b(?!/)", text)
    assert addresses == []
