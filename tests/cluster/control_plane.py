"""A real control plane on loopback: etcd, kube-apiserver and, where it is there, kube-controller-manager. Nothing is faked.

    KUBEBUILDER_ASSETS=$(setup-envtest use -p path) make test-control-plane

The binaries are those of the folder that KUBEBUILDER_ASSETS names, as setup-envtest fills it (Kubernetes 1.30 or later, which
refuses unknown fields and knows ValidatingAdmissionPolicy). A kube-controller-manager beside them adds the garbage collector,
quotas and the end of namespaces; tests of these skip without one. There are no nodes: what runs in pods is told by
`nodes.py`, and `kubelet.py` serves what they print. It authorises by roles, admits by Pod Security, quota and policy, signs
tokens of service accounts, and can be killed and started again with everything that it knew.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Object = dict[str, Any]
VARIABLE = "KUBEBUILDER_ASSETS"
ADMINISTRATOR = "administrator"
START_SECONDS, STOP_SECONDS = 180.0, 20.0
#: No node exists, so none of the controllers that look after nodes.
CONTROLLERS = ("garbage-collector-controller", "namespace-controller", "resourcequota-controller")


def assets() -> Path | None:
    """The folder of binaries; None where there is none."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else None
    there = folder is not None and all((folder / name).is_file() for name in ("etcd", "kube-apiserver"))
    return folder if there else None


@dataclass(frozen=True)
class Client:
    """Plain HTTP to the API server, as the holder of a token; `user`: as another, whom an administrator may play."""

    url: str
    pool: Any
    """urllib3.PoolManager."""
    token: str
    user: str | None = None

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        """Status code and answer: parsed where it is JSON. Raises OSError where nobody answers."""
        import urllib3

        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind, "Accept": "application/json"}
        headers |= {"Impersonate-User": self.user} if self.user else {}
        data = None if body is None else json.dumps(body)
        try:
            answer = self.pool.request(
                method, self.url + path, body=data, headers=headers, retries=False, redirect=False, timeout=60
            )
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{method} {path}: {error}") from error
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.status, json.loads(answer.data) if is_json else answer.data.decode()

    def must(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer of what must succeed."""
        code, answer = self.ask(method, path, body, kind)
        assert code < 300, f"{method} {path}: {code} {answer}"
        return answer


@dataclass
class ControlPlane:
    """The processes, their data below `folder`, and an administrator's client."""

    binaries: Path
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    api_port: int = 0
    etcd_port: int = 0
    pool: Any = None

    def start(self) -> None:
        """Start everything. Raises AssertionError with the end of a log where something does not come up."""
        _keys(self.folder)
        self.api_port, self.etcd_port, peers = _free_ports(3)
        (self.folder / "tokens.csv").write_text(f"{ADMINISTRATOR},{ADMINISTRATOR},1,system:masters\n")
        own, other = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{peers}"
        self._run(
            "etcd", f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={own}", f"--advertise-client-urls={own}",
            f"--listen-peer-urls={other}", f"--initial-advertise-peer-urls={other}", f"--initial-cluster=default={other}",
            "--unsafe-no-fsync", "--log-level=error", "--max-request-bytes=8388608",
        )  # fmt: skip
        self.start_api_server()
        self.kubeconfig.write_text(json.dumps(self._kubeconfig()))
        if self.has_controllers:
            self._run(
                "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", f"--controllers={','.join(CONTROLLERS)}",
                "--leader-elect=false", "--secure-port=0", "--concurrent-gc-syncs=4", "--resource-quota-sync-period=10s", "--v=0",
            )  # fmt: skip

    def start_api_server(self) -> None:
        """Start the API server, on the port and with the keys that it had before, and wait until it is ready."""
        account = self.folder / "account"
        self._run(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self.etcd_port}", f"--secure-port={self.api_port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
            f"--cert-dir={self.folder / 'certificates'}", f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={account}.key", f"--service-account-key-file={account}.pub",
            "--service-cluster-ip-range=10.0.0.0/24", "--kubelet-preferred-address-types=InternalIP",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement", "--etcd-compaction-interval=0", "--v=0",
        )  # fmt: skip
        wait_for("kube-apiserver is ready", self.ready, START_SECONDS, self._died)

    def kill_api_server(self) -> None:
        """End it without a chance to say goodbye."""
        process = self.processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop exactly what was started here, the last first."""
        if self.pool is not None:
            self.pool.clear()
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def has_controllers(self) -> bool:
        """Whether garbage is collected, namespaces end, and quotas are counted."""
        return (self.binaries / "kube-controller-manager").is_file()

    @property
    def authority(self) -> Path:
        """The certificate that the API server made for itself."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def private_key(self) -> Path:
        """The key of that certificate."""
        return self.folder / "certificates" / "apiserver.key"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    @property
    def url(self) -> str:
        """Where the API server is."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def administrator(self) -> Client:
        """Who may do everything."""
        return self.client(ADMINISTRATOR)

    def client(self, token: str) -> Client:
        """A client with this token."""
        return Client(self.url, self.pool, token)

    def playing(self, user: str) -> Client:
        """The administrator, as another user."""
        return Client(self.url, self.pool, ADMINISTRATOR, user)

    def version(self) -> str:
        """What the API server says it is."""
        return str(self.administrator.must("GET", "/version")["gitVersion"])

    def token_of(self, namespace: str, account: str, bound_to: Object | None = None) -> str:
        """A token of a service account, as the kubelet asks for one."""
        spec: Object = {"expirationSeconds": 3600} | ({"boundObjectRef": bound_to} if bound_to else {})
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.administrator.must("POST", path, body)["status"]["token"])

    def compact(self) -> None:
        """Let etcd forget every older state."""
        status = self._etcd("/v3/maintenance/status", {})
        self._etcd("/v3/kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def kubectl(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """kubectl as the administrator, its cache with the rest of the data."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.folder / "cache")}
        command = [shutil.which("kubectl") or str(self.binaries / "kubectl"), *words]
        return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, timeout=120)

    def _run(self, name: str, *flags: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen([self.binaries / name, *flags], stdout=log, stderr=log)

    def ready(self) -> bool:
        if self.pool is None and self.authority.is_file():
            import urllib3

            self.pool = urllib3.PoolManager(ca_certs=str(self.authority), maxsize=16)
        with suppress(OSError):
            return self.pool is not None and self.administrator.ask("GET", "/readyz")[0] == 200
        return False

    def _died(self) -> str | None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                end = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                return f"{name} ended with exit code {process.returncode}: {end}"
        return None

    def _etcd(self, path: str, body: Object) -> Any:
        url = f"http://127.0.0.1:{self.etcd_port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _kubeconfig(self) -> Object:
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [
                {"name": "it", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
            ],
            "users": [{"name": "it", "user": {"token": ADMINISTRATOR}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip


def wait_for(
    what: str, found: Callable[[], Any], seconds: float = 30.0, died: Callable[[], str | None] = lambda: None
) -> Any:
    """The first true value of `found`. Raises AssertionError when it takes longer than `seconds`."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert (why := died()) is None, why
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return value


def _free_ports(count: int) -> Iterator[int]:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in listening]
    for server in listening:
        server.close()
    return iter(ports)


def _keys(folder: Path) -> None:
    """The key pair that signs tokens of service accounts."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "account.key").write_bytes(private)
    (folder / "account.pub").write_bytes(public)
