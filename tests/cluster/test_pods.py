"""Pod templates: the restricted standard, nothing writable or known that need not be, and what runs may ask for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.cluster import adapters, schemas
from tests.cluster.restricted import violations
from tutelage.config import build
from tutelage.errors import InvalidInput
from tutelage.runtimes.kubernetes import pods
from tutelage.runtimes.kubernetes.settings import ClusterSettings

Template = dict[str, Any]


def templates(needs: dict[str, Any], settings: dict[str, Any]) -> dict[str, Template]:
    """Every pod template that we hand to an operator."""
    job = adapters.training(needs, settings).body["spec"]
    application = adapters.spark(needs, settings).body["spec"]
    found = {
        "training": job["pytorchReplicaSpecs"]["Worker"]["template"],
        "driver": application["driver"]["template"],
        "executor": application["executor"]["template"],
    }
    for name, stable in (("smoke", False), ("stable", True)):
        predictor = dict(adapters.service(needs, settings, stable=stable).body["spec"]["predictor"])
        described = {part: predictor.pop(part) for part in ("labels", "annotations")}
        spec = {key: value for key, value in predictor.items() if key not in ("minReplicas", "maxReplicas")}
        found[name] = {"metadata": described, "spec": spec}
    return found


PLAIN = templates(adapters.NEEDS, adapters.SETTINGS)
FULL = templates(adapters.MANY_NEEDS, adapters.MANY_SETTINGS)
every_template = pytest.mark.parametrize(
    "template", [*PLAIN.values(), *FULL.values()], ids=[*PLAIN, *map("full-{}".format, FULL)]
)


@every_template
def test_a_template_passes_the_restricted_standard(template: Template) -> None:
    assert list(violations(template["spec"])) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("securityContext", "runAsUser"), 0),
        (("hostNetwork",), True),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}),
        (("containers", 0, "securityContext", "runAsNonRoot"), False),
        (("containers", 0, "securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("volumes", 0), {"name": "tmp", "hostPath": {"path": "/tmp"}}),
    ],
)
def test_the_check_sees_what_the_standard_forbids(path: tuple[Any, ...], value: Any) -> None:
    spec = copy.deepcopy(PLAIN["training"]["spec"])
    target: Any = spec
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    assert len(list(violations(spec))) == 1


@every_template
def test_the_root_is_read_only_and_every_mount_is_a_volume_of_the_pods_own(template: Template) -> None:
    spec = template["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert {"/tmp", pods.CACHE} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    assert all("emptyDir" in volume for volume in volumes.values())


def test_only_the_spark_driver_mounts_a_token() -> None:
    for found in (PLAIN, FULL):
        assert {name: template["spec"]["automountServiceAccountToken"] for name, template in found.items()} == {
            "training": False, "driver": True, "executor": False, "smoke": False, "stable": False,
        }  # fmt: skip
        accounts = [template["spec"]["serviceAccountName"] for template in found.values()]
        assert accounts[:3] == ["tutelage-training", "tutelage-spark-driver", "tutelage-spark-executor"]
        assert set(accounts[3:]) == {"tutelage-serving"}


@every_template
def test_a_template_is_a_pod_template_to_kubernetes(template: Template) -> None:
    schema = schemas.schema_of("PyTorchJob")
    if schema is None:
        pytest.skip(f"no official schemas: set {schemas.VARIABLE}")
    replica = schema["properties"]["spec"]["properties"]["pytorchReplicaSpecs"]["additionalProperties"]
    pod = replica["properties"]["template"]["properties"]["spec"]
    assert list(schemas.unknown_fields(pod, template["spec"])) == []
    assert list(schemas.mistakes(pod, template["spec"])) == []


@every_template
def test_no_mesh_sidecar_keeps_a_job_from_ending(template: Template) -> None:
    assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


def test_an_installation_may_ask_for_the_sidecar() -> None:
    asked = adapters.SETTINGS | {"serving": {"labels": {"sidecar.istio.io/inject": "true"}}}
    assert templates(adapters.NEEDS, asked)["stable"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"


def test_credentials_are_referenced_by_name_alone() -> None:
    for name, template in FULL.items():
        (container,) = template["spec"]["containers"]
        secret = [entry for entry in container["env"] if "valueFrom" in entry]
        assert secret == [
            {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "store", "key": "accesskey"}}},
            {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "store", "key": "secretkey"}}},
        ], name
        assert "envFrom" not in container
        names = [entry["name"] for entry in container["env"]]
        assert names == sorted(set(names))
    whole = templates(adapters.NEEDS, adapters.SETTINGS | {"secrets": {"store": "store"}})
    assert all(
        template["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
        for template in whole.values()
    )


def test_what_a_run_asks_for_joins_what_the_installation_says() -> None:
    for name, template in FULL.items():
        spec = template["spec"]
        assert spec["nodeSelector"] == {"pool": "accelerators", "zone": "a"}, name
        assert spec["tolerations"] == [
            {"key": "spot", "operator": "Exists"},
            {
                "key": "dedicated",
                "operator": "Equal",
                "value": "training",
                "effect": "NoExecute",
                "tolerationSeconds": 60,
            },
        ]
        assert spec["priorityClassName"] == "batch"
        assert spec["imagePullSecrets"] == [{"name": "pull-images"}]
        shared = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
        assert shared in spec["volumes"]
        limits = spec["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "2" and limits["example.com/fabric"] == "1", name
    assert all("nodeSelector" not in template["spec"] for template in PLAIN.values())
    assert all(
        "shared-memory" not in {volume["name"] for volume in template["spec"]["volumes"]} for template in PLAIN.values()
    )


def test_an_installation_may_pin_the_images_of_its_jobs() -> None:
    digest = f"sha256:{'ab' * 32}"
    settings = build(
        ClusterSettings, {"images": {"registry": "registry.example.com/t/", "digests": {"python-torch": digest}}}
    )
    assert settings.image("python-torch") == f"registry.example.com/t/python-torch@{digest}"
    assert settings.image("python-spark").startswith("registry.example.com/t/python-spark:")
    with pytest.raises(InvalidInput, match="digests"):
        build(ClusterSettings, {"images": {"digests": {"python-torch": "latest"}}})


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"namespace": "Team_A"}, "namespace"),
        ({"queue": "team queue"}, "queue"),
        ({"queue": "q" * 64}, "queue"),
        ({"service_accounts": {"training": "training_account"}}, "service_accounts.training"),
        ({"images": {"registry": "reg..io/x"}}, "images.registry"),
        ({"images": {"pull_secrets": ["Pull"]}}, "images.pull_secrets[0]"),
        ({"secrets": {"store": "my/store"}}, "secrets.store"),
        ({"secrets": {"store_keys": {"1KEY": "key"}}}, "secrets.store_keys.1KEY"),
        ({"secrets": {"store_keys": {"KEY": "a key"}}}, "secrets.store_keys.KEY"),
        ({"training": {"node_selector": {"zone": "a b"}}}, "training.node_selector.zone"),
        ({"training": {"node_selector": {"-zone": "a"}}}, "training.node_selector.-zone"),
        ({"spark": {"labels": {"Example.com/team": "x"}}}, "spark.labels.Example.com/team"),
        ({"spark": {"labels": {"team": "x" * 64}}}, "spark.labels.team"),
        ({"serving": {"annotations": {"a key": "x"}}}, "serving.annotations.a key"),
        ({"serving": {"environment": {"A=B": "x"}}}, "serving.environment.A=B"),
        ({"serving": {"priority_class": "High"}}, "serving.priority_class"),
        ({"training": {"shared_memory": "lots"}}, "training.shared_memory"),
        ({"training": {"tolerations": [{"operator": "Exists", "value": "x"}]}}, "training.tolerations[0]"),
        ({"training": {"tolerations": [{"key": "x", "effect": "NoSchedul"}]}}, "training.tolerations[0]"),
        ({"training": {"tolerations": [{"key": "x", "toleration_seconds": 5}]}}, "training.tolerations[0]"),
        ({"settings_config_map": "tutelage-settings"}, "settings_config_map"),
    ],
)
def test_what_no_api_server_takes_is_refused_when_the_settings_are_read(section: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        build(ClusterSettings, section, where="cluster")
    assert f"cluster.{place}" in str(refused.value)


def test_what_kubernetes_takes_is_taken() -> None:
    given: dict[str, Any] = {
        "queue": "team-a.queue",
        "training": {
            "node_selector": {"topology.kubernetes.io/zone": "eu-1a", "pool": "", "a_B.c": "V_1.x"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
            "annotations": {"sidecar.istio.io/inject": "any text, even this"},
            "environment": {"_A.b-C1": "x"},
            "priority_class": "system.high-1",
            "shared_memory": "8Gi",
        },
    }
    taken = build(ClusterSettings, given).training.values()
    assert {name: taken[name] for name in given["training"]} == given["training"]


def test_nothing_is_taken_over_unless_the_installation_says_so() -> None:
    assert ClusterSettings().deployment.take_over is False
    assert build(ClusterSettings, {"deployment": {"take_over": True}}).deployment.take_over
