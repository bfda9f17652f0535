"""What compiled tasks mount, what settings say, what Argo CD may apply: the names that several parts must agree on."""

from __future__ import annotations

from itertools import pairwise

import pytest
import yaml

from tests.cluster.manifests import (
    ALL,
    CLUSTER_SCOPED,
    MANIFESTS,
    MOUNTS,
    ROOT,
    TEAMS,
    Built,
    Object,
    overlay,
    settings_of,
)
from tutelage.config import build
from tutelage.orchestrate.native import FOLDER
from tutelage.runtimes.settings import Settings
from tutelage.step import describe, step_names


def mounts() -> dict[str, Object]:
    return {mount["name"]: mount for mount in [*MOUNTS["mounts"], *MOUNTS["environment_from"]]}


def test_the_signing_key_is_mounted_in_decide_alone():
    wanting = [step for step in step_names() if "signing_key" in describe(step).settings]
    assert mounts()["tutelage-signing-key"]["tasks"] == wanting == ["release/decide"]
    assert mounts()["tutelage-signing-key"]["kind"] == "Secret"


def test_public_keys_are_mounted_where_a_step_asks_for_them():
    wanting = [step for step in step_names() if "public_keys" in describe(step).settings]
    assert sorted(mounts()["tutelage-public-keys"]["tasks"]) == sorted(wanting)


@pytest.mark.parametrize("name", ALL)
def test_config_maps_that_tasks_mount_are_made_by_the_overlay_and_secrets_are_not(name: str):
    made = {(kind, item) for kind, item in overlay(name).objects if kind in ("ConfigMap", "Secret")}
    for mount in mounts().values():
        assert ((mount["kind"], mount["name"]) in made) == (mount["made_by"] == "manifests")
        if mount["made_by"] == "manifests":
            data = overlay(name).one("ConfigMap", mount["name"])["data"]
            assert set(mount.get("keys", ())) <= set(data)
    assert not [kind for kind, _ in made if kind == "Secret"]


def test_tasks_named_in_mounts_are_components():
    named_tasks = [mount["tasks"] for mount in mounts().values()] + [
        label["tasks"] for label in MOUNTS["labels"].values()
    ]
    assert {task for tasks in named_tasks if tasks != "all" for task in tasks} <= set(step_names())


@pytest.mark.parametrize("name", ALL)
def test_settings_are_accepted_and_point_at_what_is_mounted(name: str):
    values = settings_of(overlay(name))
    cluster = pytest.importorskip("tutelage.runtimes.kubernetes.settings")
    section = build(cluster.ClusterSettings, values.pop("cluster"), where=name)
    settings = build(Settings, values, where=name)
    where = {mount["name"]: mount["mount_path"] for mount in MOUNTS["mounts"]}
    assert settings.signing_key == f"{where['tutelage-signing-key']}/signing.pem"
    assert settings.public_keys == where["tutelage-public-keys"]
    assert MOUNTS["environment"]["TUTELAGE_SETTINGS"] == f"{where['tutelage-settings']}/settings.toml"
    assert section.secrets.store == "tutelage-store"
    assert settings.store_root.startswith("s3://")
    if name in TEAMS:
        assert section.namespace == f"tutelage-{name}"
        # KFP's store gives a profile this prefix and no other of its own.
        assert settings.store_root.startswith(f"s3://mlpipeline/private/tutelage-{name}/")


def test_the_key_guard_knows_the_names_it_guards():
    policy = overlay("prod").one("ValidatingAdmissionPolicy", "tutelage-key-guard")
    binding = overlay("prod").one("ValidatingAdmissionPolicyBinding", "tutelage-key-guard")
    text = yaml.safe_dump(policy)
    assert text.count("'tutelage-signing-key'".replace("'", "''")) + text.count("'tutelage-signing-key'") >= 4
    assert MOUNTS["run_account"] in text
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"]["validationActions"] == ["Deny"]
    labels = overlay("prod").one("Namespace", "tutelage-prod")["metadata"]["labels"]
    selected = binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
    assert selected.items() <= labels.items()


@pytest.mark.parametrize("name", TEAMS)
def test_argo_cd_may_apply_exactly_what_the_overlay_and_its_pipelines_hold(name: str):
    built = Built((MANIFESTS / "overlays" / name / "gitops").resolve())
    (project,), (application,) = built.of("AppProject"), built.of("Application")
    spec = application["spec"]
    manifests, pipelines = spec["sources"]
    assert (ROOT / manifests["path"]).resolve() == (MANIFESTS / "overlays" / name).resolve()
    assert pipelines["path"] == f"compiled/{FOLDER}"
    assert manifests["targetRevision"] == pipelines["targetRevision"] == {"dev": "main", "prod": "release"}[name]
    assert spec["project"] == project["metadata"]["name"]
    assert {source["repoURL"] for source in spec["sources"]} == set(project["spec"]["sourceRepos"])
    assert spec["destination"] in project["spec"]["destinations"]
    assert spec["destination"]["namespace"] == f"tutelage-{name}"
    applied = {
        (made["apiVersion"].rpartition("/")[0], made["kind"]) for made in overlay(name).objects.values()
    } | {("pipelines.kubeflow.org", "Pipeline"), ("pipelines.kubeflow.org", "PipelineVersion")}  # fmt: skip
    for scope, kinds in (("clusterResourceWhitelist", True), ("namespaceResourceWhitelist", False)):
        granted = {(item["group"], item["kind"]) for item in project["spec"][scope]}
        wanted = {item for item in applied if (item[1] in CLUSTER_SCOPED) is kinds}
        guard = {item for item in granted if item[1].startswith("ValidatingAdmission")}
        assert granted - guard == wanted - guard


@pytest.mark.parametrize("name", TEAMS)
def test_sync_waves_bring_what_others_need_first(name: str):
    waves: dict[str, set[int]] = {}
    for made in overlay(name).objects.values():
        wave = int(made["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        waves.setdefault(made["kind"], set()).add(wave)
    order = ("Namespace", "Profile", "ServiceAccount", "Role", "NetworkPolicy", "CronJob")
    assert all(max(waves[first]) < min(waves[then]) for first, then in pairwise(order))
    assert max(waves["Role"]) == max(waves["RoleBinding"])


def test_the_installation_page_lists_every_mount():
    page = (ROOT / "docs" / "install-on-kubeflow.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for mount in mounts().values():
        where = mount.get("mount_path", "environment")
        assert any(f"`{mount['name']}`" in row and where in row for row in rows), mount["name"]
    for variable in MOUNTS["environment_from"][0]["keys"]:
        assert variable in page
