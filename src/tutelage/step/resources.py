"""What a step's pods need: processors, memory, accelerators, where they may stand, how long they may take.

A step's `component.yaml` says it under `resources`; a run may change it with a `resources` key in the section that the step is
configured by. Only what differs is written, mappings are merged key by key, and null takes away what component.yaml says:

    finetuning:
      optimiser: {learning_rate: 1.0e-4}
      resources: {replicas: 2, accelerators: {nvidia.com/gpu: 4}, limits: {memory: 256Gi}, node_selector: {pool: null}}

It is taken out of the section before the step's Config is built (`without_resources`), so it never enters a step key: where work
is done does not decide what comes out. The number of training ranks does (gradients are summed in another order), so that one
number is part of the key, as it is on a laptop. Nothing of it holds on a laptop.

Ranks are counted by one kind of device alone: the one whose name is that of an accelerator (.../gpu, .../tpu, .../mig-1g.5gb).
Network and other devices that a pod gets beside it (rdma/…, vpc.amazonaws.com/efa) count for nothing. Where two kinds look like
accelerators, or none does, `processes` must say it: a guess would be a number of ranks that nobody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tutelage.config import Config, build, merge
from tutelage.errors import InvalidInput
from tutelage.step.kubernetes_grammar import LabelKey, LabelValue

#: Suffix of a Kubernetes quantity → factor.
FACTORS = {
    "m": 0.001, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?")
#: Names, after the slash, of resources that do arithmetic: a training rank belongs to each. Vendors' plugins call them so.
ACCELERATOR = re.compile(
    r"(gpu|mig|tpu|npu|xpu|hpu|dcu|mlu|gaudi|neuron|neuroncore|neurondevice|ascend|i915|xe)([-_.\d].*)?", re.IGNORECASE
)
#: The key of a run's section that changes what pods get.
KEY = "resources"


def amount(quantity: str) -> float:
    """A Kubernetes quantity as a number: cores or bytes. Raises ValueError for what is none."""
    parts = QUANTITY.fullmatch(quantity)
    if parts is None:
        raise ValueError("not a quantity: write 500m, 2 or 1.5 cores, 512Mi, 16Gi or 1G of memory")
    return float(parts[1]) * FACTORS[parts[2] or ""]


def _as_text(value: Any) -> Any:
    """YAML and STRUCT parameters give 4 or 4.0 for "4"."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quantity(value: str) -> str:
    amount(value)
    return value


Quantity = Annotated[str, BeforeValidator(_as_text), AfterValidator(_quantity)]
Measured = Literal["cpu", "memory", "ephemeral-storage"]
#: A resource that a device plugin offers: nvidia.com/gpu, amd.com/gpu, cloud.example.com/anything.
DeviceName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]


class Toleration(Config):
    """Kubernetes' toleration of a node's taint."""

    key: str | None = None
    """Taint key; every one when absent, which only `Exists` can say."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the taint's value counts."""
    value: str | None = None
    """Taint value that is tolerated."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; every one when absent."""
    toleration_seconds: int | None = Field(default=None, ge=0)
    """How long a pod stays on a node that got the taint; for ever when absent."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a toleration with operator Exists takes no value")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("a toleration without key takes operator Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds needs effect NoExecute")
        return self

    def manifest(self) -> dict[str, Any]:
        """As Kubernetes writes it."""
        given = self.values()
        seconds = given.pop("toleration_seconds")
        kept = {name: value for name, value in given.items() if value is not None}
        return kept | ({} if seconds is None else {"tolerationSeconds": seconds})


class Timeouts(Config):
    """The three clocks of a job; the installation's where absent. All stand still while it is suspended, but for the queue's."""

    queue_seconds: int | None = Field(default=None, ge=1)
    """From creation to admission by a queue."""
    start_seconds: int | None = Field(default=None, ge=1)
    """From admission until every pod runs: scheduling, image pull, volumes."""
    run_seconds: int | None = Field(default=None, ge=1)
    """From running to the end."""


class Resources(Config):
    """What the pods of one step need; of each pod, where nothing else is said."""

    requests: dict[Measured, Quantity]
    """What is set aside: cpu, memory and, if wanted, ephemeral-storage."""
    limits: dict[Measured, Quantity]
    """What may be used at most."""
    accelerators: dict[DeviceName, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Devices of a pod: resource name → number, such as {nvidia.com/gpu: 1}. 0 takes away what component.yaml asks for."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which counts as memory: data loaders and NCCL use it. The runtime's 64 MiB when absent."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that do not matter."""
    timeouts: Timeouts = Timeouts()
    """The job's clocks."""
    retries: int | None = Field(default=None, ge=0, le=100)
    """Times that the job is started anew after a cause that may pass (preempted, evicted); the installation's when absent."""
    replicas: int | None = Field(default=None, ge=1)
    """Pods that share the work: training workers or Spark executors; the installation's number when absent."""
    processes: int | None = Field(default=None, ge=1)
    """Training ranks of a pod; when absent one for each accelerator (of exactly one kind), else the installation's number."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for name in ("cpu", "memory"):
            for part in ("requests", "limits"):
                if name not in getattr(self, part):
                    raise ValueError(f"{part} needs {name}")
        for name, wanted in self.requests.items():
            limit = self.limits.get(name)
            if limit is not None and amount(wanted) > amount(limit):
                raise ValueError(f"requests.{name} {wanted} is more than limits.{name} {limit}; change both")
        if self.shared_memory is not None and amount(self.shared_memory) > amount(self.limits["memory"]):
            raise ValueError(f"shared_memory {self.shared_memory} is more than limits.memory {self.limits['memory']}")
        return self

    @property
    def devices(self) -> dict[str, int]:
        """Accelerators of a pod, those that are there."""
        return {name: number for name, number in sorted(self.accelerators.items()) if number}

    def manifest(self) -> dict[str, dict[str, str]]:
        """A container's `resources`. Devices cannot be overcommitted: their request is their limit."""
        devices = {name: str(number) for name, number in self.devices.items()}
        parts: dict[str, Mapping[Measured, str]] = {"requests": self.requests, "limits": self.limits}
        return {part: {str(name): value for name, value in given.items()} | devices for part, given in parts.items()}

    def training_shape(self, workers: int, processes: int) -> tuple[int, int]:
        """(pods, ranks of each); their product is the world size, which is part of the step key.

        `workers` and `processes` are the installation's numbers, for a step that asks for neither ranks nor devices. Raises
        InvalidInput where devices do not say how many ranks are meant: more than one kind is an accelerator, or none is.
        """
        return self.replicas or workers, self.processes or self._ranks_of_devices() or processes

    def _ranks_of_devices(self) -> int:
        """One for each device of the only kind that is an accelerator by its name; 0 without devices."""
        counted = {name: number for name, number in self.devices.items() if _is_accelerator(name)}
        if len(counted) == 1 or not self.devices:
            return sum(counted.values())
        what = "more than one kind of accelerator" if counted else "no device that is known for an accelerator"
        raise InvalidInput(
            f"{KEY}.accelerators: {', '.join(counted or self.devices)}: {what}, so the number of training ranks is not clear",
            hint=f"set {KEY}.processes to the training ranks of a pod",
        )


def _is_accelerator(device: str) -> bool:
    return ACCELERATOR.fullmatch(device.rpartition("/")[2]) is not None


def changed(resources: Resources, changes: Mapping[str, Any], where: str = KEY) -> Resources:
    """`resources` with a run's changes; null takes a key away. Raises InvalidInput naming every mistake in them."""
    if not isinstance(changes, Mapping):
        raise InvalidInput(f"{where} takes a mapping, got {type(changes).__name__}", hint=f"accepted: {_fields()}")
    given = {name: resources.values()[name] for name in resources.model_fields_set}
    return build(Resources, _without_nulls(merge(given, changes)), where=where)


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: _without_nulls(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in inner.items() if value is not None}


def without_resources(config: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """A section of a run as the step's Config takes it, and the changes to resources that stood in it."""
    return {name: value for name, value in config.items() if name != KEY}, config.get(KEY) or {}


def _fields() -> str:
    return ", ".join(Resources.model_fields)
