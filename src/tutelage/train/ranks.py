"""The ranks of one training job: who we are, sums over all, and the wall between the loop and how the model is spread.

`Replicated` is the one way of spreading there is: every rank holds the whole model and gradients are summed explicitly, once an
optimiser step. That keeps the loss exactly normalised, whatever each rank got, and bit-equal between launches on the same
number of ranks. A sharded way (FSDP2) is to stand beside it with the same methods.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tutelage.errors import NotFinite, StepFailed

#: Numbers summed in one call: 64 MiB of float32.
BUCKET_NUMBERS = 16 * 1024 * 1024


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. Alone, `size` is 1 and nothing is communicated."""

    rank: int
    size: int
    device: torch.device

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over all ranks, in place. Raises StepFailed when a peer is gone."""
        if self.size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise StepFailed(
                    f"rank {self.rank} lost its peers: {str(error).splitlines()[0][:200]}",
                    hint="another rank died, often for want of memory; its log says why. The next run resumes",
                ) from error
        return tensor

    def from_first(self, number: int) -> int:
        """`number` as rank 0 has it."""
        tensor = torch.tensor([number if self.rank == 0 else 0], dtype=torch.int64, device=self.device)
        return int(self.sum(tensor).item())


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that torchrun started (gloo on CPUs, NCCL on GPUs), or stand alone without it."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Ranks(rank, size, device)
    # Not in a finally: after an error the peers may be gone, and waiting for them would hide it.
    if size > 1:
        dist.destroy_process_group()


class Replicated:
    """Every rank holds all trainable weights; gradients are summed in buckets of 64 MiB."""

    def __init__(self, ranks: Ranks, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._ranks = ranks
        self._parameters = list(parameters)

    def sum_gradients(self) -> float:
        """Sum gradients over ranks, in place; one that a rank had no rows for counts as zero. Gives the norm of all."""
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if self._ranks.size > 1:
            for bucket in _buckets(gradients):
                flat = self._ranks.sum(torch.cat([gradient.reshape(-1) for gradient in bucket]))
                for gradient, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                    gradient.copy_(part.view_as(gradient))
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])).item())

    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient by `factor`."""
        for parameter in self._parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(factor)

    def require_sound(self, step: int) -> None:
        """Raise NotFinite when a weight is not, StepFailed when ranks have drifted apart."""
        total = sum(float(parameter.detach().double().sum().item()) for parameter in self._parameters)
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters)
        if not (finite and math.isfinite(total)):
            raise NotFinite(
                f"weights are not finite after step {step}; nothing was saved", hint="lower optimiser.learning_rate"
            )
        everybody = torch.zeros(self._ranks.size, dtype=torch.float64, device=self._ranks.device)
        everybody[self._ranks.rank] = total
        if len(set(self._ranks.sum(everybody).tolist())) > 1:
            raise StepFailed(
                f"ranks hold different weights after step {step}; nothing was saved",
                hint="run on machines of one kind; a memory fault is possible",
            )


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    numbers = 0
    for tensor in tensors:
        if bucket and numbers + tensor.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(tensor)
        numbers += tensor.numel()
    if bucket:
        yield bucket
