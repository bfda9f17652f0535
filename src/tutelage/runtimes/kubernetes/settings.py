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

from pydantic import Field

from tutelage.config import Config
from tutelage.step.description import repository_root
from tutelage.step.images import reference


class ServiceAccounts(Config):
    """Accounts of the pods that operators start."""

    spark_driver: str = "tutelage-spark-driver"
    """Makes executor pods, and nothing else."""
    spark_executor: str = "tutelage-spark-executor"
    """Mounts no token."""
    training: str = "tutelage-training"
    """Mounts no token."""
    serving: str = "tutelage-serving"
    """Mounts no token."""


class Images(Config):
    """Where images come from."""

    registry: str = "tutelage"
    """Prefix of every image, registry host and path; what follows it stands in images/digests.json."""
    digests: dict[str, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = Field(default_factory=dict)
    """Image → digest of its manifest, for the pods of jobs; without it the tag that `images/build.py` gave."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Kubernetes imagePullPolicy."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets with registry credentials."""


class Secrets(Config):
    """Secrets referenced by name, never contained."""

    store: str | None = None
    """Secret with the object store's credentials, as environment variables of the job pods (envFrom): AWS_ACCESS_KEY_ID …"""
    store_keys: dict[str, str] = Field(default_factory=dict)
    """Environment variable → key in that secret, where its keys have other names (KFP's: accesskey, secretkey)."""


class Pods(Config):
    """How the pods of one runtime are placed."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Kubernetes tolerations."""
    labels: dict[str, str] = Field(default_factory=dict)
    """More labels, for example a cost centre."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """More annotations, for example sidecar.istio.io/inject."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More environment variables: AWS_ENDPOINT_URL, HF_HUB_OFFLINE."""
    shared_memory: str | None = None
    """Size limit of /dev/shm, for example 8Gi; the container runtime's 64 MiB when absent."""
    priority_class: str | None = None
    """PriorityClass of the pods."""


class ClockLimits(Config):
    """How long a job may wait and run."""

    queue_seconds: int | None = Field(default=None, ge=1)
    """Longest wait for admission by a queue, all waits together; unlimited when absent: a queued job is not a late one."""
    start_seconds: int = Field(default=1800, ge=1)
    """Longest wait from admission until a container runs; again after each readmission."""
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


class ClusterSettings(Config):
    """The section `[cluster]`. Its presence means: steps run on this cluster, not in this process."""

    namespace: str | None = None
    """Where jobs are made; the namespace of this pod's service account when absent."""
    queue: str | None = None
    """Kueue LocalQueue, as the label kueue.x-k8s.io/queue-name of every job."""
    service_accounts: ServiceAccounts = ServiceAccounts()
    """Accounts of the pods that operators start."""
    images: Images = Images()
    """Where images come from."""
    secrets: Secrets = Secrets()
    """Secrets referenced by name."""
    settings_config_map: str | None = None
    """ConfigMap with these settings, mounted into job pods too where a step needs them."""
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
    """Leave a failed job's object on the cluster for a look, instead of deleting it once its logs are collected."""
    deployment: Deployment = Deployment()
    """Where released models are served."""

    def image(self, name: str) -> str:
        """Reference of the image below images/`name`, pulled from this cluster's registry. Raises InvalidInput."""
        if name in self.images.digests:
            return f"{self.images.registry.rstrip('/')}/{name}@{self.images.digests[name]}"
        return reference(name, repository_root(), self.images.registry)
