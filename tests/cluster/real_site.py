"""`bench.Site` on a real control plane: a namespace of its own, the roles of `manifests/`, and the same rows.

    site = RealSite(plane, folder)
    site.train(site.working)
    site.check(site.run(), Phase.SUCCEEDED)

The engine acts as the account `tutelage-run` with the roles that the prod overlay gives it, in a namespace that enforces the
*restricted* Pod Security Standard; pods are those that the operators' simulators make of what the adapters render.
"""

from __future__ import annotations

import functools
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import schemas
from tests.cluster.bench import Site
from tests.cluster.control_plane import ControlPlane, wait_for
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import Built, Object, overlay
from tests.cluster.nodes import Nodes
from tests.cluster.real_cluster import RealCluster, RealTime
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.clocks import Clocks

SPEED = 5.0
RUN_ACCOUNT = "tutelage-run"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
#: What a namespace needs before an engine can work in it.
NEEDED = ("ServiceAccount", "Role", "RoleBinding")


def install_crds(plane: ControlPlane, *kinds: str) -> None:
    """Install the official definitions of these kinds, and wait until they are served."""
    for kind in kinds:
        plane.administrator.must("POST", CRDS, definition(kind))
    for kind in kinds:
        wait_for(f"{kind} is served", functools.partial(_served, plane, definition(kind)))


def definition(kind: str) -> Object:
    """The official CustomResourceDefinition of `kind`, less what only its operator can answer (conversion webhooks)."""
    place = schemas.folder()
    assert place is not None
    file = max(place.glob(f"{schemas.FILES[kind]}*.yaml"))
    body: Object = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    body["spec"].pop("conversion", None)
    return body


def _served(plane: ControlPlane, body: Object) -> bool:
    spec = body["spec"]
    version = next(version["name"] for version in spec["versions"] if version["storage"])
    path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
    return plane.administrator.ask("GET", path)[0] == 200


def make_namespace(plane: ControlPlane, name: str, built: Built, *, kinds: tuple[str, ...] = NEEDED) -> None:
    """A namespace that enforces *restricted*, with these kinds of object of an overlay."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    plane.administrator.must("POST", "/api/v1/namespaces", body)
    for kind in kinds:
        for made in built.of(kind):
            put(plane, made, name)


def put(plane: ControlPlane, made: Object, namespace: str) -> Object:
    """An object of an overlay in another namespace than the overlay's."""
    made = made | {"metadata": made["metadata"] | {"namespace": namespace}}
    if made["kind"] == "RoleBinding":
        made["subjects"] = [subject | {"namespace": namespace} for subject in made["subjects"]]
    group, plural = made["apiVersion"], f"{made['kind'].lower()}s"
    prefix = f"/apis/{group}" if "/" in group else f"/api/{group}"
    path = f"{prefix}/namespaces/{namespace}/{plural}?fieldValidation=Strict"
    answer: Object = plane.administrator.must("POST", path, made)
    return answer


class RealSite(Site):
    """A namespace of a real cluster, a store and an engine."""

    cluster: RealCluster
    time: RealTime
    restarting: threading.Thread | None = None

    def __init__(self, plane: ControlPlane, folder: Path, *, queue: str | None = None) -> None:
        self.plane = plane
        super().__init__(folder, queue=queue)

    def set_up(self) -> None:
        self.namespace = f"team-{uuid.uuid4().hex[:8]}"
        make_namespace(self.plane, self.namespace, overlay("prod"))
        self.token.write_text(self.plane.token_of(self.namespace, RUN_ACCOUNT))
        self.time = RealTime(SPEED)
        self.cluster = RealCluster(self.plane, self.namespace, self.time)
        self.nodes = Nodes(self.cluster)  # type: ignore[arg-type]
        self.kubelet = Kubelet(self.plane, self.nodes)
        self.kubelet.start()

    def close(self) -> None:
        if self.restarting is not None:
            self.restarting.join()
        self.time.close()
        self.kubelet.stop()
        assert self.time.errors == []

    def restart(self, after_seconds: float, outage_seconds: float) -> None:
        """Kill the API server a while from now and start it again: in real seconds, by nobody who needs it."""

        def work() -> None:
            time.sleep(after_seconds)
            self.plane.kill_api_server()
            time.sleep(outage_seconds)
            self.plane.start_api_server()

        self.restarting = threading.Thread(target=work)
        self.restarting.start()

    def connect(self) -> Api:
        """A client that reads its token from a file, as from the mount of a service account."""

        def load() -> Any:
            from kubernetes import client

            configuration = client.Configuration(host=self.plane.url)
            configuration.ssl_ca_cert = str(self.plane.authority)
            configuration.api_key["authorization"] = self.token.read_text()
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.connection_pool_maxsize = 64
            return client.ApiClient(configuration)

        return Api(load, self.namespace, now=self.time.now, sleep=self.time.sleep)

    def clocks(self, **limits: Any) -> Clocks:
        # A watch lasts as long as one look, in the server's seconds.
        return super().clocks(**{"look_seconds": 2.0, "report_seconds": 5.0, **limits})

    def check_left(self, *names: str) -> None:
        expected = sorted([*names, "Workflow/wf"])
        # The garbage collector itself waits when the API server was away.
        left = lambda: sorted(self.cluster.everything(self.namespace)) == expected
        wait_for(f"only {expected} is left", left, seconds=90)
