"""Training described once: the TorchX AppDef that a laptop's `local_cwd` and a cluster's `kubeflow` scheduler both render.

The same ranks under the same launcher flags everywhere. What differs is given: where ranks meet, what they are started from,
and what their environment adds. Exactly one of two ways to meet: loopback on a laptop, the operator's endpoint on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: The environment of every rank, wherever it runs. One thread a rank, since the number of threads changes sums of floats.
ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}


def launcher_flags(*, nodes: int, processes: int, rendezvous: str, meeting: Sequence[str] = ()) -> list[str]:
    """torchrun's flags for `processes` ranks on each of `nodes`; a rank that dies is not started again by torchrun.

    `rendezvous` names the job to its ranks, `meeting` is where they meet when the environment does not say.
    """
    return [
        "--nnodes", str(nodes), "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-id", rendezvous, *meeting, "--max-restarts", "0",
    ]  # fmt: skip


def training_app(
    name: str,
    *,
    image: str,
    entrypoint: str,
    args: Sequence[str],
    nodes: int = 1,
    environment: Mapping[str, str] | None = None,
    resource: Any = None,
    ports: Mapping[str, int] | None = None,
    metadata: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """A torchx.specs.AppDef of one role: `nodes` replicas, never retried by a scheduler (the engine relaunches)."""
    from torchx import specs

    role = specs.Role(
        name=name,
        image=image,
        entrypoint=entrypoint,
        args=list(args),
        env={**ENVIRONMENT, **(environment or {})},
        num_replicas=nodes,
        max_retries=0,
        port_map=dict(ports or {}),
        resource=resource or specs.NULL_RESOURCE,
        metadata={key: dict(value) for key, value in (metadata or {}).items()},
    )
    return specs.AppDef(name=name, roles=[role])
