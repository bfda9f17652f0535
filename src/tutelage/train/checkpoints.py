"""Checkpoints that a torn write, a full disk or a killed rank cannot spoil.

`<scratch>/checkpoints/<step>/`: tensors.safetensors, state.json and, last, complete.json with the sha256 of both. Without a
complete.json that matches there is no checkpoint. The last two are kept, so that there is one while another is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from tutelage.contracts import locations
from tutelage.errors import StoreError

TENSORS, STATE, COMPLETE = "tensors.safetensors", "state.json", "complete.json"
KEPT = 2


@dataclass
class Progress:
    """How far a run is. With the tensors, all that a resumed run needs: data order and dropout follow from the step."""

    step_key: str
    """Whose checkpoint it is; another step's is not resumed."""
    step: int = 0
    """Steps made."""
    tokens: int = 0
    """Tokens trained."""
    seconds: float = 0.0
    """Wall time spent up to here, all attempts together; what was lost after the last checkpoint is not in it."""
    longest_step_seconds: float = 0.0
    loss: list[tuple[int, float]] = field(default_factory=list)
    """Tokens trained and loss of each step."""


def save(scratch: str, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a checkpoint and remove all but the last two. Gives its location. Raises StoreError."""
    folder = locations.join(scratch, "checkpoints")
    target = locations.join(folder, f"{progress.step:010d}")
    local = locations.is_local(scratch)
    place = locations.local_path(folder) if local else None
    try:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        # Beside its target where that is local, so that the rename stays on one disk.
        with tempfile.TemporaryDirectory(prefix="incoming-", dir=place) as incoming:
            digests = _write_files(Path(incoming), progress, tensors)
            locations.remove(target)
            if place is not None:
                _move(Path(incoming), locations.local_path(target))
            else:
                locations.upload(Path(incoming), target)
    except OSError as error:
        raise StoreError(f"checkpoint of step {progress.step} not written: {error}", hint="free some space") from error
    locations.write_bytes(locations.join(target, COMPLETE), json.dumps(digests, indent=1).encode())
    for old in _names(folder)[:-KEPT]:
        locations.remove(locations.join(folder, old))
    return target


def _write_files(folder: Path, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}, folder / TENSORS)
    (folder / STATE).write_text(json.dumps(asdict(progress)))
    digests = {}
    for name in (TENSORS, STATE):
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    return digests


def _move(incoming: Path, target: Path) -> None:
    incoming.rename(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    incoming.mkdir()  # for TemporaryDirectory to remove


def newest(scratch: str, step_key: str) -> int | None:
    """The step of the newest complete, unaltered checkpoint of `step_key`, or None. Others are passed over."""
    folder = locations.join(scratch, "checkpoints")
    for name in reversed(_names(folder)):
        location = locations.join(folder, name)
        try:
            digests = json.loads(locations.read_bytes(locations.join(location, COMPLETE)))
            if any(locations.sha256_of(locations.join(location, file)) != digests[file] for file in (TENSORS, STATE)):
                continue
            if json.loads(locations.read_bytes(locations.join(location, STATE)))["step_key"] == step_key:
                return int(name)
        except (OSError, ValueError, KeyError):
            continue
    return None


def load(scratch: str, step: int, device: torch.device) -> tuple[Progress, dict[str, torch.Tensor]]:
    """A checkpoint that `newest` found."""
    from safetensors.torch import load_file

    location = locations.join(scratch, "checkpoints", f"{step:010d}")
    state = json.loads(locations.read_bytes(locations.join(location, STATE)))
    state["loss"] = [(tokens, loss) for tokens, loss in state["loss"]]
    if locations.is_local(location):
        return Progress(**state), load_file(locations.local_path(location) / TENSORS, device=str(device))
    folder = Path(tempfile.mkdtemp(prefix="tutelage-"))
    try:
        locations.download(location, folder, [TENSORS])
        return Progress(**state), load_file(folder / TENSORS, device=str(device))
    finally:
        shutil.rmtree(folder)


def _names(folder: str) -> list[str]:
    return [name for name in locations.list_folders(folder) if name.isdigit()]
