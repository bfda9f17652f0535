"""What an installation fixes for its cluster: the section `[cluster]` of the settings file, mounted from a ConfigMap.

[cluster]
queue = "team-a"
[cluster.images]
registry = "registry.example.com/tutelage"
[cluster.secrets]
store = "tutelage-store"
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tutelage.config import Config, problems_of
from tutelage.step.description import repository_root
from tutelage.step.images import checked_registry, reference
from tutelage.step.kubernetes_grammar import (
    LabelKey,
    LabelValue,
    Namespace,
    ObjectName,
    QueueName,
    SecretKey,
    VariableName,
)
from tutelage.step.resources import Quantity, Toleration


def _registry(text: str) -> str:
    checked_registry(text.rstrip("/"))
    return text


def _toleration(given: dict[str, Any]) -> dict[str, Any]:
    """`given`, in Kubernetes' own words, if it holds together."""
    words = {("toleration_seconds" if key == "tolerationSeconds" else key): value for key, value in given.items()}
    if "toleration_seconds" in given:
        raise ValueError("write tolerationSeconds, as Kubernetes does")
    if problems := problems_of(Toleration, words):
        raise ValueError("; ".join(str(problem) for problem in problems))
    return given


class ServiceAccounts(Config):
    """Accounts of the pods that operators start."""

    spark_driver: ObjectName = "tutelage-spark-driver"
    """Makes executor pods, and nothing else."""
    spark_executor: ObjectName = "tutelage-spark-executor"
    """Mounts no token."""
    training: ObjectName = "tutelage-training"
    """Mounts no token."""
    serving: ObjectName = "tutelage-serving"
    """Mounts no token."""


class Images(Config):
    """Where images come from."""

    registry: Annotated[str, AfterValidator(_registry)] = "tutelage"
    """Prefix of every image, registry host and path; what follows it stands in images/digests.json."""
    digests: dict[str, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = Field(default_factory=dict)
    """Image → digest of its manifest, for the pods of jobs; without it the tag that `images/build.py` gave."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Kubernetes imagePullPolicy."""
    pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets with registry credentials."""


class Secrets(Config):
    """Secrets referenced by name, never contained."""

    store: ObjectName | None = None
    """Secret with the object store's credentials, as environment variables of the job pods (envFrom): AWS_ACCESS_KEY_ID …"""
    store_keys: dict[VariableName, SecretKey] = Field(default_factory=dict)
    """Environment variable → key in that secret, where its keys have other names (KFP's: accesskey, secretkey)."""


class Pods(Config):
    """How the pods of one runtime are placed."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Annotated[dict[str, Any], AfterValidator(_toleration)], ...] = ()
    """Kubernetes tolerations."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """More labels, for example a cost centre."""
    annotations: dict[LabelKey, str] = Field(default_factory=dict)
    """More annotations, for example sidecar.istio.io/inject."""
    environment: dict[VariableName, str] = Field(default_factory=dict)
    """More environment variables: AWS_ENDPOINT_URL, HF_HUB_OFFLINE."""
    shared_memory: Quantity | None = None
    """Size limit of /dev/shm, for example 8Gi; the container runtime's 64 MiB when absent."""
    priority_class: ObjectName | None = None
    """PriorityClass of the pods."""


class ClockLimits(Config):
    """How long a job may wait and run."""

    queue_seconds: int | None = Field(default=None, ge=1)
    """Longest wait for admission by a queue, all waits together; unlimited when absent: a queued job is not a late one."""
    start_seconds: int = Field(default=1800, ge=1)
    """Longest wait from admission until a container runs, of Spark an executor's; again after each readmission."""
    run_seconds: int = Field(default=86_400, ge=1)
    """Longest time running, all tries of one job together."""
    grace_seconds: int = Field(default=120, ge=0)
    """How long an image that cannot be pulled, or a denied quota, must persist before the job is given up."""


class Deployment(Config):
    """Where released models are served."""

    name: str = Field(default="tutelage-model", pattern=r"^[a-z]([-a-z0-9]{0,43}[a-z0-9])?$")
    """Name of the InferenceService that traffic goes to."""
    mode: Literal["Standard"] = "Standard"
    """KServe's deployment mode."""
    take_over: bool = False
    """Whether a service of that name that somebody else made may be replaced. A failed promotion gives it back; a good one keeps
    nothing of it: set it for the release that is to take over, and leave it out again."""


class ClusterSettings(Config):
    """The section `[cluster]`. Its presence means: steps run on this cluster, not in this process."""

    namespace: Namespace | None = None
    """Where jobs are made; the namespace of this pod's service account when absent."""
    queue: QueueName | None = None
    """Kueue LocalQueue, as the label kueue.x-k8s.io/queue-name of every job."""
    service_accounts: ServiceAccounts = ServiceAccounts()
    """Accounts of the pods that operators start."""
    images: Images = Images()
    """Where images come from."""
    secrets: Secrets = Secrets()
    """Secrets referenced by name."""
    spark: Pods = Pods()
    """Pods of Spark drivers and executors."""
    spark_executors: int = Field(default=2, ge=1)
    """Executors of a Spark job."""
    training: Pods = Pods()
    """Pods of training workers."""
    training_workers: int = Field(default=1, ge=1)
    """Pods of a training job; ranks on each come from the step's accelerators, or `processes`."""
    serving: Pods = Pods()
    """Pods of the model server."""
    clocks: ClockLimits = ClockLimits()
    """How long a job may wait and run."""
    relaunches: int = Field(default=2, ge=0)
    """How often we start a job again that something outside ended (preempted, evicted)."""
    keep_failed: bool = False
    """Leave a failed job's object on the cluster for a look, until its Workflow is deleted, or for a day after its end. While
    it is there, trying the task again in the same run ends as it did."""
    deployment: Deployment = Deployment()
    """Where released models are served."""

    def image(self, name: str) -> str:
        """Reference of the image below images/`name`, pulled from this cluster's registry. Raises InvalidInput."""
        if name in self.images.digests:
            return f"{self.images.registry.rstrip('/')}/{name}@{self.images.digests[name]}"
        return reference(name, repository_root(), self.images.registry)
