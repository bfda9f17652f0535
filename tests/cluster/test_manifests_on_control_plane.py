"""Manifests on a real API server: every overlay is accepted, and each account may do exactly what it must.

    KUBEBUILDER_ASSETS=$(setup-envtest use -p path) make test-control-plane

Rights are those that the server's own authoriser grants, asked for every resource it serves and every verb there is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import MANIFESTS, OVERLAYS, ROOT, named, overlay
from tests.cluster.real_site import RUN_ACCOUNT, install_crds, make_namespace

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
TEAM = "tutelage-rights"
VERBS = (
    "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection",
    "impersonate", "bind", "escalate", "use", "approve", "sign", "terminate",
)  # fmt: skip
#: Resources that only KFP's API server asks about; nobody serves them.
VIRTUAL = (("pipelines.kubeflow.org", "runs"), ("pipelines.kubeflow.org", "experiments"))
#: Definitions that no file at hand holds: kinds of Kubeflow's profiles and of Argo CD.
NOT_SERVED = {"Profile", "AppProject", "Application"}
OUR_JOBS = {"create", "get", "list", "watch", "patch", "delete"}
LOOK = {"get", "list", "watch"}
#: Account → (group, resource) → verbs. Everything else is refused.
RIGHTS: dict[str, dict[tuple[str, str], set[str]]] = {
    "tutelage-run": {
        ("kubeflow.org", "pytorchjobs"): OUR_JOBS,
        ("sparkoperator.k8s.io", "sparkapplications"): OUR_JOBS,
        ("serving.kserve.io", "inferenceservices"): OUR_JOBS,
        ("", "pods"): LOOK,
        ("", "events"): LOOK,
        ("", "pods/log"): {"get"},
        ("argoproj.io", "workflows"): {"get"},
        ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
    },
    "tutelage-spark-driver": {
        ("", "pods"): LOOK | {"create", "patch", "delete", "deletecollection"},
        ("", "configmaps"): {"create", "get", "list", "delete", "deletecollection"},
    },
    "tutelage-submit": {
        ("pipelines.kubeflow.org", "runs"): {"create", "get", "list", "terminate"},
        ("pipelines.kubeflow.org", "experiments"): {"create", "get", "list"},
        ("pipelines.kubeflow.org", "pipelines"): {"get", "list"},
        ("pipelines.kubeflow.org", "pipelineversions"): {"get", "list"},
    },
    "tutelage-upload": {
        ("pipelines.kubeflow.org", "pipelines"): {"create", "get", "list", "update"},
        ("pipelines.kubeflow.org", "pipelineversions"): {"create", "get", "list", "update"},
    },
    "tutelage-training": {},
    "tutelage-serving": {},
    "tutelage-spark-executor": {},
}
#: Single objects: account → (group, resource, name) → verbs.
NAMED = {
    ("tutelage-run", "secrets", "mlpipeline-minio-artifact"): {"get"},
    ("tutelage-run", "configmaps", "kfp-launcher"): {"get"},
    ("tutelage-run", "secrets", "tutelage-signing-key"): set(),
    ("tutelage-run", "secrets", "tutelage-store"): set(),
    ("tutelage-spark-driver", "secrets", "tutelage-store"): set(),
}
#: What Kubernetes lets everybody do: ask about themselves.
EVERYBODY = {
    ("authorization.k8s.io", "selfsubjectaccessreviews"), ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
}  # fmt: skip


@pytest.fixture(scope="module")
def served(plane: ControlPlane) -> ControlPlane:
    """The control plane with KFP's definitions, and a namespace with our accounts and roles."""
    install_crds(plane, "Pipeline", "PipelineVersion")
    make_namespace(plane, TEAM, overlay("prod"))
    return plane


def resources(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """(group, resource) of everything that the server serves, subresources included."""
    ask = plane.administrator.must
    versions = ["/api/v1"]
    versions += [
        f"/apis/{version['groupVersion']}" for group in ask("GET", "/apis")["groups"] for version in group["versions"]
    ]
    for version in versions:
        answer = ask("GET", version)
        group = version.removeprefix("/apis/").split("/")[0] if version != "/api/v1" else ""
        yield from ((group, item["name"]) for item in answer["resources"])
    yield from VIRTUAL


def may(
    plane: ControlPlane, account: str, verb: str, group: str, resource: str, namespace: str, name: str = ""
) -> bool:
    """What the authoriser says."""
    plural, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "namespace": namespace}
    user = f"system:serviceaccount:{TEAM}:{account}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{TEAM}", "system:authenticated"]
    body = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": asked | ({"name": name} if name else {})},
    }  # fmt: skip
    answer = plane.administrator.must("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(answer["status"]["allowed"])


def rights(plane: ControlPlane, account: str, namespace: str) -> dict[tuple[str, str], set[str]]:
    """Everything that an account may do in a namespace ("": in all of them), of all that there is."""
    found: dict[tuple[str, str], set[str]] = {}
    for group, resource in sorted(set(resources(plane)) - EVERYBODY):
        verbs = {verb for verb in VERBS if may(plane, account, verb, group, resource, namespace)}
        if verbs:
            found[group, resource] = verbs
    return found


# --- rights ---


@pytest.mark.parametrize("account", sorted(RIGHTS))
def test_an_account_may_do_exactly_what_it_must(served: ControlPlane, account: str) -> None:
    expected = dict(RIGHTS[account])
    # Nobody serves Argo's own kind here; the role names it all the same.
    if expected.pop(("argoproj.io", "workflowtaskresults"), None):
        assert may(served, account, "create", "argoproj.io", "workflowtaskresults", TEAM)
    assert rights(served, account, TEAM) == expected


@pytest.mark.parametrize("account", ["tutelage-run", "tutelage-spark-driver"])
@pytest.mark.parametrize("namespace", ["", "default"], ids=["everywhere", "elsewhere"])
def test_an_account_may_do_nothing_outside_its_namespace(served: ControlPlane, account: str, namespace: str) -> None:
    assert rights(served, account, namespace) == {}


@pytest.mark.parametrize(("account", "resource", "name"), sorted(NAMED))
def test_single_secrets_and_config_maps_are_read_by_name(
    served: ControlPlane, account: str, resource: str, name: str
) -> None:
    verbs = {verb for verb in VERBS if may(served, account, verb, "", resource, TEAM, name)}
    granted = RIGHTS[account].get(("", resource), set())
    assert verbs == NAMED[account, resource, name] | granted


def test_the_table_names_every_account(served: ControlPlane) -> None:
    assert set(RIGHTS) == {account["metadata"]["name"] for account in overlay("prod").of("ServiceAccount")}
    assert {len(set(resources(served))) > 80} == {True}


def test_rights_are_those_of_a_real_token(served: ControlPlane) -> None:
    client = served.client(served.token_of(TEAM, RUN_ACCOUNT))
    path = f"/api/v1/namespaces/{TEAM}"
    assert client.ask("GET", f"{path}/pods")[0] == 200
    for method, place in (
        ("GET", "secrets"), ("POST", "pods"), ("GET", "secrets/tutelage-signing-key"), ("POST", "pods/x/exec?command=sh"),
        ("POST", "serviceaccounts/tutelage-run/token"), ("DELETE", "pods/x"), ("GET", "configmaps/tutelage-settings"),
    ):  # fmt: skip
        assert client.ask(method, f"{path}/{place}", {} if method == "POST" else None)[0] == 403, (method, place)


# --- overlays ---


@pytest.mark.parametrize("folder", OVERLAYS, ids=named)
def test_the_server_takes_every_overlay_and_a_second_time_changes_nothing(served: ControlPlane, folder: Path) -> None:
    if shutil.which("kubectl") is None and not (served.binaries / "kubectl").is_file():
        pytest.skip("no kubectl, neither installed nor beside the control plane")
    built = served.kubectl("kustomize", str(folder))
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    skipped = [made for made in documents if made["kind"] in NOT_SERVED]
    print(f"{named(folder)}: not served here: {sorted(made['kind'] for made in skipped)}")
    kept = [made for made in documents if made["kind"] not in NOT_SERVED]
    for namespace in {made["metadata"].get("namespace") for made in kept} - {None}:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        assert served.administrator.ask("POST", "/api/v1/namespaces", body)[0] in (201, 409)
    if not kept:
        assert folder.name == "gitops"
        return
    text = yaml.safe_dump_all(kept)
    command = ("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-")
    applied = served.kubectl(*command, text=text)
    assert applied.returncode == 0, applied.stderr
    assert len(applied.stdout.splitlines()) == len(kept)
    # Warnings of the server: deprecated kinds, pods that a standard would refuse.
    assert "Warning" not in applied.stderr
    compared = served.kubectl("diff", "--server-side", "--force-conflicts", "-f", "-", text=text)
    assert (compared.returncode, compared.stdout) == (0, "")


def test_the_server_takes_what_compile_writes(served: ControlPlane) -> None:
    make_namespace(served, "tutelage-compiled", overlay("prod"), kinds=())
    for file in sorted((ROOT / "compiled" / "kubernetes").glob("*.yaml")):
        for body in yaml.safe_load_all(file.read_text()):
            if body["kind"] not in ("Pipeline", "PipelineVersion"):
                continue
            plural = f"{body['kind'].lower()}s"
            path = f"/apis/{body['apiVersion']}/namespaces/tutelage-compiled/{plural}?fieldValidation=Strict"
            body["metadata"].pop("namespace", None)
            made = served.administrator.must("POST", path, body)
            assert made["spec"] == body["spec"]


# --- the guard of the signing key ---

SECRET = {"name": "key", "secret": {"secretName": "tutelage-signing-key"}}
PROJECTED = {"name": "key", "projected": {"sources": [{"secret": {"name": "tutelage-signing-key"}}]}}
FROM = {"envFrom": [{"secretRef": {"name": "tutelage-signing-key"}}]}
KEY = {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "tutelage-signing-key", "key": "signing.pem"}}}]}
ARGO = "system:serviceaccount:kubeflow:argo"
GUARDED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mounted": ({"volumes": [SECRET]}, {}),
    "projected": ({"volumes": [PROJECTED]}, {}),
    "in the environment": ({}, FROM),
    "one key in the environment": ({}, KEY),
    "account of the run": ({"serviceAccountName": RUN_ACCOUNT}, {}),
    "in an init container": ({"initContainers": [{"name": "first", "image": "busybox:1", **FROM}]}, {}),
}


@pytest.fixture(scope="module")
def guarded(served: ControlPlane) -> ControlPlane:
    """The prod overlay's policy, and two makers of pods: Argo's controller and somebody else."""
    namespace = "tutelage-guarded"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    body["metadata"]["labels"] = {"tutelage.dev/environment": "guarded"}  # type: ignore[index]
    served.administrator.must("POST", "/api/v1/namespaces", body)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": RUN_ACCOUNT}}
    for name in (RUN_ACCOUNT, "default"):
        made = account | {"metadata": {"name": name}}
        served.administrator.must("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", made)
    rights = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    role = {"metadata": {"name": "makers"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]}
    served.administrator.must("POST", f"{rights}/roles", role)
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": "makers"}, "roleRef": {"apiGroup": group, "kind": "Role", "name": "makers"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": name} for name in (ARGO, "somebody")],
    }  # fmt: skip
    served.administrator.must("POST", f"{rights}/rolebindings", binding)
    policy = overlay("prod").one("ValidatingAdmissionPolicy", "tutelage-key-guard")
    bound = overlay("prod").one("ValidatingAdmissionPolicyBinding", "tutelage-key-guard")
    for made, plural in ((policy, "validatingadmissionpolicies"), (bound, "validatingadmissionpolicybindings")):
        made = yaml.safe_load(yaml.safe_dump(made))
        made["metadata"] = {"name": "guarded"}
        if made["spec"].get("policyName"):
            made["spec"]["policyName"] = "guarded"
            made["spec"]["matchResources"]["namespaceSelector"]["matchLabels"] = {"tutelage.dev/environment": "guarded"}
        served.administrator.must(
            "POST", f"/apis/admissionregistration.k8s.io/v1/{plural}?fieldValidation=Strict", made
        )
    return served


def makes(plane: ControlPlane, user: str, spec: dict[str, Any], container: dict[str, Any]) -> tuple[int, str]:
    """What the server says to a pod that `user` would make."""
    body = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"},
        "spec": {"containers": [{"name": "main", "image": "busybox:1", **container}], **spec},
    }  # fmt: skip
    path = "/api/v1/namespaces/tutelage-guarded/pods?dryRun=All&fieldValidation=Strict"
    code, answer = plane.playing(user).ask("POST", path, body)
    return code, str(answer.get("message"))


@pytest.mark.parametrize("how", sorted(GUARDED))
def test_only_argo_makes_pods_that_hold_the_signing_key(guarded: ControlPlane, how: str) -> None:
    from tests.cluster.control_plane import wait_for

    # A policy is in force a moment after it was made.
    wait_for("the guard is in force", lambda: "another maker" in makes(guarded, "somebody", *GUARDED["mounted"])[1])
    code, message = makes(guarded, "somebody", *GUARDED[how])
    assert code == 403 and "this pod has another maker" in message
    assert makes(guarded, ARGO, *GUARDED[how])[0] == 201
    other = {"volumes": [{"name": "key", "secret": {"secretName": "another"}}]}
    assert makes(guarded, "somebody", other, {})[0] == 201


def test_the_overlays_stand_where_these_tests_look(served: ControlPlane) -> None:
    assert {folder.relative_to(MANIFESTS).parts[0] for folder in OVERLAYS} == {"overlays"}
    assert served.version().startswith("v1.")
