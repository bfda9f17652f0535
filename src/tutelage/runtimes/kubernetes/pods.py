"""What every pod that an operator starts for us has in common: nobody's root, no token, nothing writable but what it needs.

Written to pass the *restricted* Pod Security Standard, and stricter where that costs nothing: a read-only root file system, and
a token only for the Spark driver, which makes pods. Writable places are emptyDirs, gone with the pod.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tutelage.runtimes.kubernetes.jobs import Object
from tutelage.runtimes.kubernetes.settings import ClusterSettings, Pods
from tutelage.step.context import CACHE_VARIABLE
from tutelage.step.resources import Resources

#: The user of our images (Dockerfile), by number: the kubelet cannot tell from a name that it is not root.
USER_ID = 65532
#: Volume → where it is mounted: all that a pod may write to.
WRITABLE: Mapping[str, str] = {"tmp": "/tmp", "cache": "/var/cache/tutelage"}  # noqa: S108 (an emptyDir of the pod's own)
CACHE = WRITABLE["cache"]
SHARED_MEMORY = "shared-memory"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
#: A sidecar outlives the work, so the job would never end; and Istio's init container is not *restricted*.
NO_SIDECAR: Mapping[str, str] = {"sidecar.istio.io/inject": "false"}
#: Where libraries write that ask nobody, and where our own steps put what they fetch.
ENVIRONMENT: Mapping[str, str] = {"HOME": WRITABLE["tmp"], "TMPDIR": WRITABLE["tmp"], CACHE_VARIABLE: CACHE}


def pod_security_context() -> Object:
    """`securityContext` of a pod."""
    return {
        "runAsNonRoot": True, "runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip


def container_security_context() -> Object:
    """`securityContext` of a container."""
    return {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
        "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip


def environment(
    settings: ClusterSettings, place: Pods, given: Mapping[str, str], *, leave_out: Sequence[str] = ()
) -> list[Object]:
    """A container's `env`, sorted by name: ours, the step's, the installation's, and single keys of the store's secret."""
    plain = {**ENVIRONMENT, **given, **place.environment}
    entries: list[Object] = [{"name": name, "value": value} for name, value in plain.items() if name not in leave_out]
    if settings.secrets.store:
        entries = [entry for entry in entries if entry["name"] not in settings.secrets.store_keys]
        entries += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": settings.secrets.store, "key": key}}}
            for name, key in settings.secrets.store_keys.items()
        ]
    return sorted(entries, key=lambda entry: str(entry["name"]))


def container(
    name: str,
    settings: ClusterSettings,
    place: Pods,
    needs: Resources,
    *,
    env: Mapping[str, str],
    leave_out: Sequence[str] = (),
    writable: Mapping[str, str] | None = None,
) -> Object:
    """A container without image, command and resources: security, environment and places to write."""
    made: Object = {
        "name": name,
        "imagePullPolicy": settings.images.pull_policy,
        "env": environment(settings, place, env, leave_out=leave_out),
        "securityContext": container_security_context(),
        # What the step leaves there is typed; the end of its log, which a fallback would copy, may hold personal data.
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": volume, "mountPath": path} for volume, path in _writable(place, needs, writable).items()
        ],
    }
    if settings.secrets.store and not settings.secrets.store_keys:
        made["envFrom"] = [{"secretRef": {"name": settings.secrets.store}}]
    return made


def pod_spec(
    containers: list[Object],
    settings: ClusterSettings,
    place: Pods,
    needs: Resources,
    *,
    account: str,
    token: bool = False,
    writable: Mapping[str, str] | None = None,
) -> Object:
    """A pod's spec around `containers`: account, security, volumes, and where it may stand."""
    spec: Object = {
        "containers": containers,
        "serviceAccountName": account,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "securityContext": pod_security_context(),
        "volumes": [_volume(name, place, needs) for name in _writable(place, needs, writable)],
    }
    if secrets := settings.images.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    if selector := {**place.node_selector, **needs.node_selector}:
        spec["nodeSelector"] = dict(sorted(selector.items()))
    if tolerations := [*place.tolerations, *(toleration.manifest() for toleration in needs.tolerations)]:
        spec["tolerations"] = [dict(toleration) for toleration in tolerations]
    if place.priority_class:
        spec["priorityClassName"] = place.priority_class
    return spec


def pod_metadata(labels: Mapping[str, str], place: Pods, annotations: Mapping[str, str] | None = None) -> Object:
    """`metadata` of a pod template: our labels over the installation's, and no mesh sidecar unless it asks for one."""
    return {
        "labels": {**NO_SIDECAR, **place.labels, **labels},
        "annotations": {**NO_SIDECAR, **place.annotations, **(annotations or {})},
    }


def _writable(place: Pods, needs: Resources, more: Mapping[str, str] | None) -> dict[str, str]:
    shared = {SHARED_MEMORY: "/dev/shm"} if _shared_memory(place, needs) else {}  # noqa: S108 (an emptyDir too)
    return {**WRITABLE, **(more or {}), **shared}


def _shared_memory(place: Pods, needs: Resources) -> str | None:
    return needs.shared_memory or place.shared_memory


def _volume(name: str, place: Pods, needs: Resources) -> Object:
    if name != SHARED_MEMORY:
        return {"name": name, "emptyDir": {}}
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": _shared_memory(place, needs)}}
