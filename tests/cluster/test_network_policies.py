"""Network policies, quotas and sizes: who reaches whom, by the labels that operators put on pods."""

from __future__ import annotations

import re

import pytest

from tests.cluster.manifests import MANIFESTS, MOUNTS, TEAMS, Built, Object, overlay
from tutelage.step import describe, step_names


def policies(name: str) -> dict[str, Object]:
    return {policy["metadata"]["name"]: policy["spec"] for policy in overlay(name).of("NetworkPolicy")}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a Kubernetes label selector matches."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    tests = {"Exists": lambda key, _: key in labels, "In": lambda key, values: labels.get(key) in values}
    return all(tests[e["operator"]](e["key"], e.get("values")) for e in selector.get("matchExpressions", ()))


#: Labels that Argo and the operators put on pods (argo 4, training-operator 1.9, spark-operator 2.5, KServe 0.20).
TASK = {"workflows.argoproj.io/workflow": "w", "pipelines.kubeflow.org/v2_component": "true"}
WORKER = {"training.kubeflow.org/job-name": "j", "training.kubeflow.org/replica-type": "worker"}
DRIVER, EXECUTOR = {"spark-role": "driver"}, {"spark-role": "executor"}
SERVER = {"serving.kserve.io/inferenceservice": "m", "component": "predictor"}
STRANGER = {"app": "notebook"}


def connects(name: str, source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether the policies let a pod of the namespace reach another one on a TCP port: out there and in here."""

    def allowed(direction: str, pod: dict[str, str], peer: dict[str, str]) -> bool:
        side = {"Egress": "to", "Ingress": "from"}[direction]
        rules = [
            rule
            for policy in policies(name).values()
            if direction in policy["policyTypes"] and selects(policy["podSelector"], pod)
            for rule in policy.get(direction.lower(), ())
        ]
        return any(
            any("namespaceSelector" not in to and "podSelector" in to and selects(to["podSelector"], peer)
                for to in rule.get(side, ()))
            and any(item["port"] <= port <= item.get("endPort", item["port"]) for item in rule["ports"])
            for rule in rules
        )  # fmt: skip

    return allowed("Egress", source, target) and allowed("Ingress", target, source)


@pytest.mark.parametrize("name", TEAMS)
def test_pods_reach_those_they_work_with_and_nobody_else(name: str):
    assert policies(name)["deny-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert connects(name, WORKER, WORKER, 29400)
    assert connects(name, WORKER, WORKER, 41234)
    assert connects(name, EXECUTOR, DRIVER, 7078)
    assert connects(name, DRIVER, EXECUTOR, 7079)
    assert connects(name, EXECUTOR, EXECUTOR, 41234)
    assert connects(name, TASK, SERVER, 8080)
    for source, target, port in (
        (WORKER, DRIVER, 7078), (EXECUTOR, WORKER, 29400), (SERVER, WORKER, 29400), (SERVER, DRIVER, 7078),
        (WORKER, SERVER, 8080), (STRANGER, SERVER, 8080), (STRANGER, WORKER, 29400), (TASK, WORKER, 29400),
        (TASK, DRIVER, 4040), (TASK, SERVER, 8081), (SERVER, TASK, 8080), (WORKER, WORKER, 22),
    ):  # fmt: skip
        assert not connects(name, source, target, port), (source, target, port)


@pytest.mark.parametrize("name", TEAMS)
def test_only_tasks_and_spark_drivers_reach_the_kubernetes_api_and_nothing_reaches_the_internet(name: str):
    anywhere = {}
    for key, policy in policies(name).items():
        for rule in policy.get("egress", ()):
            assert rule["ports"], key
            assert not [to for to in rule.get("to", ()) if "ipBlock" in to], f"{key} leaves the cluster"
            if not rule.get("to"):
                anywhere[key] = [item["port"] for item in rule["ports"]]
    assert anywhere == {"kubernetes-api": [6443], "kubernetes-api-spark": [6443]}
    asking = [policies(name)[key]["podSelector"] for key in anywhere]
    for pod, may in ((TASK, True), (DRIVER, True), (EXECUTOR, False), (WORKER, False), (SERVER, False)):
        assert any(selects(selector, pod) for selector in asking) is may, pod


def test_the_way_to_packages_is_a_component_for_the_labelled_steps_that_fetch():
    built = Built((MANIFESTS / "components" / "package-egress").resolve())
    (policy,) = built.of("NetworkPolicy")
    ((label, value),) = policy["spec"]["podSelector"]["matchLabels"].items()
    assert MOUNTS["labels"][label] == {"value": value, "tasks": ["plan/check", "plan/acquire", "data/ingest"]}
    (rule,) = policy["spec"]["egress"]
    assert [item["port"] for item in rule["ports"]] == [443]
    assert "10.0.0.0/8" in rule["to"][0]["ipBlock"]["except"]


def quantity(text: str) -> float:
    units = {"m": 1e-3, "": 1, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]


@pytest.mark.parametrize("name", TEAMS)
def test_the_quota_holds_the_largest_step_four_times_over(name: str):
    hard = overlay(name).one("ResourceQuota", "tutelage")["spec"]["hard"]
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            largest = max(quantity(describe(step).resources[kind][resource]) for step in step_names())
            assert quantity(hard[f"{kind}.{resource}"]) >= 4 * largest, (kind, resource)
    (limits,) = overlay(name).one("LimitRange", "tutelage")["spec"]["limits"]
    # A quota on these refuses every container that names none: Argo's and KFP's own do not.
    assert set(limits["defaultRequest"]) == set(limits["default"]) == {"cpu", "memory"}
