"""Training as a PyTorchJob of the training operator: workers only, joined by c10d, never restarted by the operator.

    AppDef (runtimes/appdef.py) ── render ──▶ PyTorchJob ── operator ──▶ pods NAME-worker-0 … ── torchrun ──▶ ranks

- No Master: for it the operator adds an init container that runs as root, which *restricted* Pod Security rejects.
- Without a Master one worker's success is the job's, so a job whose workers still run is not over (rank 0 may be writing), and
  `cleanPodPolicy: None` keeps the operator from killing them. The engine deletes job, pods and services when it has the logs.
- No `backoffLimit`: with it operators before 1.9.4 delete a failed pod before its log is read (kubeflow/trainer#3419), and
  pods that never restart need none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from tutelage.runtimes.appdef import launcher_flags, training_app
from tutelage.runtimes.kubernetes import causes, pods
from tutelage.runtimes.kubernetes.jobs import PYTORCHJOB, Object, Observation, Phase, Resource
from tutelage.runtimes.kubernetes.names import Identity, metadata, request_location
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.step.resources import Resources, amount

CONTAINER = "pytorch"
PORT_NAME, PORT = "pytorchjob-port", 23456
NAME_LABEL = "training.kubeflow.org/job-name"
#: Should nobody delete the job, the operator does, this long after its end.
KEPT_SECONDS = 24 * 3600
#: The operator sets it itself, and a second entry of the name draws a warning from the API server.
SET_BY_OPERATOR = ("PYTHONUNBUFFERED",)
#: Key of a Role's metadata that holds what an AppDef has no field for.
ROLE_METADATA = "kubeflow"


@dataclass(frozen=True, kw_only=True)
class PyTorchJob:
    """The job that trains; implements `jobs.Job`."""

    identity: Identity
    namespace: str
    settings: ClusterSettings
    needs: Resources
    image: str
    """Reference of the image that holds the step."""
    requests: str
    """Location below which the launcher puts the job's request."""
    processes: int = 1
    """Ranks of a pod that asks for neither ranks nor accelerators."""

    @property
    def resource(self) -> Resource:
        """PyTorchJob."""
        return PYTORCHJOB

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.identity.name

    @property
    def request(self) -> str:
        """Location of the request that this launch of the job reads."""
        return request_location(self.requests, self.name)

    @property
    def world_size(self) -> int:
        """Ranks of the whole job: part of the step key."""
        nodes, processes = self.needs.training_shape(self.settings.training_workers, self.processes)
        return nodes * processes

    @property
    def body(self) -> Object:
        """The complete object."""
        app = appdef_for_cluster(
            self.identity.task, self.name, self.request, self.image, self.needs, self.settings, self.processes
        )
        return render(app, self.identity, self.namespace, self.settings, self.needs)

    def observe(self, found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
        """Read conditions and pods."""
        return observe(found, pods, events)

    def pod_selector(self) -> str:
        """The operator's own label."""
        return f"{NAME_LABEL}={self.name}"

    def log_sources(self, pods: Sequence[Object]) -> Sequence[tuple[str, str]]:
        """Every worker: which of them holds rank 0 the rendezvous decides."""
        return [(pod["metadata"]["uid"], CONTAINER) for pod in sorted(pods, key=_index)]

    def relaunched(self, ordinal: int) -> Self:
        """The same training as another job; it resumes from the checkpoint of its step key."""
        return replace(self, identity=self.identity.relaunched(ordinal))


def appdef_for_cluster(
    label: str, job: str, request: str, image: str, needs: Resources, settings: ClusterSettings, processes: int
) -> Any:
    """The training job as a torchx.specs.AppDef: what `torch.appdef` says for a laptop, on the pods that `needs` asks for.

    No endpoint: the operator puts that of worker 0 into every pod's environment.
    """
    nodes, ranks = needs.training_shape(settings.training_workers, processes)
    waiting = needs.timeouts.start_seconds or settings.clocks.start_seconds
    # Pods of one job may start minutes apart; ranks wait for each other as long as the start clock does.
    meeting = ("--rdzv-conf", f"join_timeout={waiting}")
    flags = launcher_flags(nodes=nodes, processes=ranks, rendezvous=job, meeting=meeting)
    return training_app(
        label,
        image=image,
        entrypoint="python",
        args=["-m", "torch.distributed.run", *flags, "-m", "tutelage.step.cluster", request],
        nodes=nodes,
        resource=_torchx_resource(needs),
        ports={PORT_NAME: PORT},
        metadata={ROLE_METADATA: {"resources": json.dumps(needs.manifest(), sort_keys=True)}},
    )


def _torchx_resource(needs: Resources) -> Any:
    from torchx import specs

    devices = dict(needs.devices)
    gpus = devices.pop("nvidia.com/gpu", 0)
    cores = max(1, int(amount(needs.limits["cpu"])))
    return specs.Resource(cpu=cores, gpu=gpus, memMB=int(amount(needs.limits["memory"]) / 2**20), devices=devices)


def render(app: Any, identity: Identity, namespace: str, settings: ClusterSettings, needs: Resources) -> Object:
    """An AppDef of one role as a PyTorchJob. `needs` gives what an AppDef cannot: placement, shared memory, clocks."""
    (role,) = app.roles
    spec = {
        "pytorchReplicaSpecs": {
            "Worker": {
                "replicas": role.num_replicas,
                "restartPolicy": "Never",
                "template": _template(role, identity, settings, needs),
            }
        },
        "nprocPerNode": _flag(role.args, "nproc-per-node", "1"),
        "elasticPolicy": {
            "rdzvBackend": "c10d",
            "rdzvPort": PORT,
            "rdzvId": _flag(role.args, "rdzv-id", identity.name),
            # As many as there are, neither fewer nor more: the weights depend on it.
            "minReplicas": role.num_replicas,
            "maxReplicas": role.num_replicas,
            "maxRestarts": 0,
        },
        "runPolicy": {
            "cleanPodPolicy": "None",
            "activeDeadlineSeconds": deadline_seconds(needs, settings),
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "suspend": settings.queue is not None,
        },
    }
    labels = {pods.QUEUE_LABEL: settings.queue} if settings.queue else {}
    return {
        "apiVersion": PYTORCHJOB.api_version,
        "kind": PYTORCHJOB.kind,
        "metadata": metadata(identity, namespace, spec, labels=labels),
        "spec": spec,
    }


def deadline_seconds(needs: Resources, settings: ClusterSettings) -> int:
    """The object's own deadline, counted from admission: start and run clocks together, for when nobody watches any more."""
    start = needs.timeouts.start_seconds or settings.clocks.start_seconds
    return start + (needs.timeouts.run_seconds or settings.clocks.run_seconds)


def _template(role: Any, identity: Identity, settings: ClusterSettings, needs: Resources) -> Object:
    place = settings.training
    container = pods.container(CONTAINER, settings, place, needs, env=role.env, leave_out=SET_BY_OPERATOR)
    container |= {
        "image": role.image,
        "command": [role.entrypoint, *role.args],
        "ports": [{"name": name, "containerPort": number} for name, number in sorted(role.port_map.items())],
        "resources": _resources(role),
    }
    account = settings.service_accounts.training
    return {
        "metadata": pods.pod_metadata(identity.labels, place),
        "spec": pods.pod_spec([container], settings, place, needs, account=account),
    }


def _resources(role: Any) -> Object:
    """Ours, word for word; of an AppDef that somebody else wrote, what its Resource says, as request and limit."""
    ours = role.metadata.get(ROLE_METADATA, {})
    if "resources" in ours:
        return dict(json.loads(ours["resources"]))
    given = role.resource
    amounts = {"cpu": str(given.cpu), "memory": f"{given.memMB}Mi"}
    amounts |= {"nvidia.com/gpu": str(given.gpu)} if given.gpu > 0 else {}
    amounts |= {name: str(number) for name, number in sorted(given.devices.items())}
    return {"requests": dict(amounts), "limits": amounts}


def _flag(args: Sequence[str], name: str, default: str) -> str:
    """The value of torchrun's flag `name`, written with dashes or underscores, as one word or two."""
    spellings = (f"--{name}", f"--{name.replace('-', '_')}")
    for position, argument in enumerate(args):
        flag, separator, value = argument.partition("=")
        if flag in spellings:
            return value if separator else args[position + 1]
    return default


def observe(found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
    """What the operator's conditions and the pods say together."""
    if found is None:
        return Observation(phase=Phase.GONE, reason="NotFound", message="the PyTorchJob does not exist")
    conditions = {item["type"]: item for item in found.get("status", {}).get("conditions") or []}
    holding = {kind: item for kind, item in conditions.items() if item.get("status") == "True"}
    if "Failed" in holding:
        return _failed(holding["Failed"], pods, events)
    if "Succeeded" in holding:
        return _succeeded(holding["Succeeded"], pods)
    if found.get("spec", {}).get("runPolicy", {}).get("suspend"):
        reason, message = _words(holding.get("Suspended"), "Suspended", "held by a queue")
        return Observation(phase=Phase.QUEUED, reason=reason, message=message, suspended=True)
    if "Restarting" in holding:
        reason, message = _words(holding["Restarting"], "PyTorchJobRestarting", "")
        return Observation(phase=Phase.RESTARTING, reason=reason, message=message)
    return _under_way(holding, pods, events)


def _failed(condition: Mapping[str, Any], pods: Sequence[Object], events: Sequence[Object]) -> Observation:
    reason, message = _words(condition, "PyTorchJobFailed", "")
    cause = causes.of_job(pods, events, [condition], message)
    return Observation(phase=Phase.FAILED, reason=reason, message=message, cause=cause)


def _succeeded(condition: Mapping[str, Any], pods: Sequence[Object]) -> Observation:
    reason, message = _words(condition, "PyTorchJobSucceeded", "")
    if active := [pod["metadata"]["name"] for pod in pods if is_active(pod)]:
        message = f"a worker ended well; still at work: {', '.join(sorted(active))}"
        return Observation(phase=Phase.RUNNING, reason=reason, message=message)
    return Observation(phase=Phase.SUCCEEDED, reason=reason, message=message)


def _under_way(holding: Mapping[str, Any], pods: Sequence[Object], events: Sequence[Object]) -> Observation:
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    ended = [pod for pod in pods if pod.get("status", {}).get("phase") in ("Succeeded", "Failed")]
    cause = causes.of_waiting(pods) or (causes.of_events(events) if not running else None)
    if running or ended or ("Running" in holding and not pods):
        reason, message = _words(holding.get("Running"), "Running", f"{len(running)} workers run")
        return Observation(phase=Phase.RUNNING, reason=reason, message=message, cause=cause)
    reason, message = causes.pending_reason(pods, events)
    if not reason:
        reason, message = _words(holding.get("Created"), "Created", "the operator has made no pod yet")
    return Observation(phase=Phase.PENDING, reason=reason, message=message, cause=cause)


def is_active(pod: Object) -> bool:
    """Whether the pod may still do work."""
    going = pod.get("metadata", {}).get("deletionTimestamp") is not None
    return not going and pod.get("status", {}).get("phase") in ("Pending", "Running")


def _words(condition: Mapping[str, Any] | None, reason: str, message: str) -> tuple[str, str]:
    given = condition or {}
    return given.get("reason") or reason, given.get("message") or message


def _index(pod: Object) -> tuple[int, str]:
    name = str(pod["metadata"]["name"])
    number = name.rpartition("-")[2]
    return (int(number) if number.isdigit() else -1), name
