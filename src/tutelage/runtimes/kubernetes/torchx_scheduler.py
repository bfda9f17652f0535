"""A TorchX scheduler for PyTorchJobs, under the name `kubeflow` (entry point `torchx.schedulers`).

    torchx run -s kubeflow -cfg namespace=team-a dist.torchrun -j 2x4 --script train.py

It renders an AppDef by `pytorchjob.render`, as the launch engine does: what people start by hand and what pipelines start differ
in nothing but the name. TorchX passes it plain options; everything else comes from the installation's settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, filter_regex
from torchx.specs import AppDef, AppDryRunInfo, AppState, ReplicaStatus, Role, RoleStatus, macros, runopts

from tutelage.errors import InvalidInput
from tutelage.runtimes.kubernetes import names, pytorchjob
from tutelage.runtimes.kubernetes.api import PYTORCHJOB, Api
from tutelage.runtimes.kubernetes.jobs import Object, Phase
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.step.resources import Resources

BACKEND = "kubeflow"
#: Where ranks of TorchX's own components (dist.torchrun) meet.
RANK0_VARIABLE = "TORCHX_RANK0_HOST"
#: What a job started by hand belongs to.
BY_HAND = "by-hand"
STATES: Mapping[Phase, AppState] = {
    Phase.QUEUED: AppState.SUBMITTED,
    Phase.PENDING: AppState.PENDING,
    Phase.RUNNING: AppState.RUNNING,
    Phase.RESTARTING: AppState.PENDING,
    Phase.SUCCEEDED: AppState.SUCCEEDED,
    Phase.FAILED: AppState.FAILED,
    Phase.GONE: AppState.UNKNOWN,
}
POD_STATES = {
    "Pending": AppState.PENDING, "Running": AppState.RUNNING, "Succeeded": AppState.SUCCEEDED, "Failed": AppState.FAILED,
}  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """What would be sent to the API server."""

    namespace: str
    body: Object

    def __str__(self) -> str:
        import yaml

        return str(yaml.safe_dump(self.body, sort_keys=False))


class KubeflowScheduler(Scheduler[Mapping[str, Any]]):  # type: ignore[misc]
    """TorchX's view of the training operator."""

    def __init__(self, session_name: str, *, settings: ClusterSettings | None = None, api: Api | None = None) -> None:
        """`settings` and `api` are the installation's and the surroundings' where absent."""
        super().__init__(BACKEND, session_name)
        self._settings, self._given_api = settings, api

    def _run_opts(self) -> runopts:
        options = runopts()
        options.add("namespace", type_=str, default=None, help="namespace of the job; the settings', or this pod's")
        options.add("queue", type_=str, default=None, help="Kueue LocalQueue; the settings' when absent")
        return options

    def _submit_dryrun(self, app: AppDef, cfg: Mapping[str, Any]) -> AppDryRunInfo[Submission, Mapping[str, Any]]:
        if len(app.roles) != 1:
            raise InvalidInput(
                f"a PyTorchJob has one role, {app.name} has {len(app.roles)}",
                hint="start roles as jobs of their own",
            )
        settings = self._cluster(cfg)
        namespace = cfg.get("namespace") or settings.namespace or self._namespace()
        identity = names.Identity(run=BY_HAND, task=app.name, iteration=names.spec_hash(_plain(app.roles[0])))
        role = macros.Values("", identity.name, "0", rank0_env=RANK0_VARIABLE).apply(app.roles[0])
        role.env.setdefault(RANK0_VARIABLE, f"{identity.name}-worker-0")
        body = pytorchjob.render(AppDef(app.name, [role]), identity, namespace, settings, _needs(role))
        return AppDryRunInfo(Submission(namespace, body), str)

    def schedule(self, dryrun_info: AppDryRunInfo[Submission, Mapping[str, Any]]) -> str:
        """Create the job; gives `namespace:name`."""
        request = dryrun_info.request
        made = self._api(request.namespace).create(PYTORCHJOB, request.body)
        return f"{request.namespace}:{made['metadata']['name']}"

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """State by the same observation as the engine's; None where there is no such job."""
        namespace, name = _place(app_id)
        api = self._api(namespace)
        found = api.get(PYTORCHJOB, name)
        if found is None:
            return None
        pods = api.pods(f"{pytorchjob.NAME_LABEL}={name}")
        seen = pytorchjob.observe(found, pods, api.events(PYTORCHJOB.kind, name, found["metadata"].get("uid")))
        worker = found["spec"]["pytorchReplicaSpecs"]["Worker"]
        image = worker["template"]["spec"]["containers"][0]["image"]
        replicas = [_replica(pod, position) for position, pod in enumerate(pods)]
        return DescribeAppResponse(
            app_id=app_id,
            state=STATES[seen.phase],
            msg=f"{seen.reason}: {seen.message}",
            roles_statuses=[RoleStatus(role="worker", replicas=replicas)],
            roles=[Role(name="worker", image=image, num_replicas=worker["replicas"])],
        )

    def list(self, cfg: Mapping[str, Any] | None = None) -> list[ListAppResponse]:
        """Every PyTorchJob of ours in the namespace."""
        settings = self._cluster(cfg or {})
        namespace = (cfg or {}).get("namespace") or settings.namespace or self._namespace()
        found = self._api(namespace).list(PYTORCHJOB, f"{names.MANAGED_LABEL}={names.MANAGED_BY}")
        return [
            ListAppResponse(
                app_id=f"{namespace}:{job['metadata']['name']}",
                state=STATES[pytorchjob.observe(job, [], []).phase],
                name=job["metadata"]["name"],
            )
            for job in found
        ]

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Any = None,
    ) -> Iterable[str]:
        """Lines of worker `k`. Kubernetes keeps both streams as one and knows no end time."""
        if until is not None:
            raise InvalidInput("logs of a cluster have no end time", hint="leave --until out")
        namespace, name = _place(app_id)
        start = since.isoformat().replace("+00:00", "Z") if since is not None else None
        lines = self._api(namespace).log(
            f"{name}-worker-{k}", pytorchjob.CONTAINER, since_time=start, follow=should_tail
        )
        # Each begins with the time stamp that the API server puts there.
        texts = (line.decode(errors="replace").partition(" ")[2] + "\n" for line in lines)
        return filter_regex(regex, texts) if regex else texts

    def _cancel_existing(self, app_id: str) -> None:
        namespace, name = _place(app_id)
        self._api(namespace).delete(PYTORCHJOB, name)

    def _cluster(self, cfg: Mapping[str, Any]) -> ClusterSettings:
        if self._settings is None:
            from tutelage.runtimes.settings import read_settings

            self._settings = getattr(read_settings(), "cluster", None) or ClusterSettings()
        return self._settings.model_copy(update={"queue": cfg["queue"]}) if cfg.get("queue") else self._settings

    def _api(self, namespace: str) -> Api:
        return self._given_api if self._given_api is not None else Api.connect(namespace)

    def _namespace(self) -> str:
        return self._given_api.namespace if self._given_api is not None else Api.connect(None).namespace


def create_scheduler(session_name: str, **_: object) -> KubeflowScheduler:
    """What TorchX calls."""
    return KubeflowScheduler(session_name)


def _place(app_id: str) -> tuple[str, str]:
    namespace, separator, name = app_id.partition(":")
    if not separator:
        raise InvalidInput(f"no job of kubeflow: {app_id!r}", hint="accepted: namespace:name")
    return namespace, name


def _needs(role: Role) -> Resources:
    """Placement and clocks are the installation's; amounts stand in the role's own Resource."""
    given = role.resource
    amounts = {"cpu": str(max(given.cpu, 1)), "memory": f"{max(given.memMB, 1)}Mi"}
    return Resources.model_validate({"requests": amounts, "limits": amounts})


def _plain(role: Role) -> dict[str, Any]:
    return {
        "name": role.name, "image": role.image, "entrypoint": role.entrypoint, "args": role.args, "env": role.env,
        "replicas": role.num_replicas,
    }  # fmt: skip


def _replica(pod: Object, position: int) -> ReplicaStatus:
    status = pod.get("status", {})
    index = pod["metadata"].get("labels", {}).get("training.kubeflow.org/replica-index", str(position))
    state = POD_STATES.get(status.get("phase", ""), AppState.UNKNOWN)
    return ReplicaStatus(id=int(index), role="worker", state=state, hostname=str(pod["metadata"]["name"]))
