"""The *restricted* Pod Security Standard, control by control, as https://kubernetes.io/docs/concepts/security/pod-security-standards
lists them (those of *baseline* first). Written from that page alone: it knows nothing of how our templates are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = {"RuntimeDefault", "Localhost"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """Every way in which a pod's spec breaks the standard."""
    pod = spec.get("securityContext") or {}
    containers = [
        *spec.get("initContainers", []), *spec.get("containers", []), *spec.get("ephemeralContainers", []),
    ]  # fmt: skip
    if not containers:
        yield "no container"
    yield from _host(spec, pod)
    yield from (f"volume {volume['name']} is no {kinds}" for volume, kinds in _forbidden_volumes(spec))
    for container in containers:
        own = container.get("securityContext") or {}
        for problem in (*_privileges(own), *_user(own, pod), *_profiles(own, pod), *_reach(container)):
            yield f"container {container['name']}: {problem}"


def _host(spec: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    yield from (f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    yield from (f"sysctl {item['name']}" for item in pod.get("sysctls", []) if item["name"] not in SYSCTLS)


def _forbidden_volumes(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds or not kinds <= VOLUMES:
            yield volume, f"{sorted(kinds)}"


def _privileges(own: dict[str, Any]) -> Iterator[str]:
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop ALL capabilities"
    if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {sorted(added)}"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if (own.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess"


def _user(own: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runAsUser is 0"


def _profiles(own: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    seccomp = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")
    if seccomp not in SECCOMP:
        yield f"seccompProfile.type is {seccomp}"
    for context in (own, pod):
        options = context.get("seLinuxOptions") or {}
        if options.get("type", "") not in SELINUX or options.get("user") or options.get("role"):
            yield "seLinuxOptions"
        if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
            yield "appArmorProfile"


def _reach(container: dict[str, Any]) -> Iterator[str]:
    yield from (f"hostPort {port['hostPort']}" for port in container.get("ports", []) if port.get("hostPort"))
    handlers = [container.get(name) or {} for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += [(container.get("lifecycle") or {}).get(name) or {} for name in ("postStart", "preStop")]
    for handler in handlers:
        for kind in ("httpGet", "tcpSocket"):
            if (handler.get(kind) or {}).get("host"):
                yield f"{kind} names a host"
