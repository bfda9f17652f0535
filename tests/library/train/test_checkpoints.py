"""Checkpoints that are torn, altered or another's are passed over."""

from pathlib import Path

import pytest
import torch

from tutelage.contracts import locations
from tutelage.train import checkpoints
from tutelage.train.checkpoints import Progress

CPU = torch.device("cpu")


def save(scratch: str, step: int, step_key: str = "key") -> str:
    progress = Progress(step_key, step=step, tokens=10 * step, seconds=1.5, loss=[(10, 2.5)])
    return checkpoints.save(scratch, progress, {"weight:a": torch.full((3,), float(step))})


@pytest.fixture(params=["local", "object store"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_a_checkpoint_comes_back_as_it_was(scratch: str) -> None:
    save(scratch, 7)
    assert checkpoints.newest(scratch, "key") == 7
    progress, tensors = checkpoints.load(scratch, 7, CPU)
    assert progress == Progress("key", step=7, tokens=70, seconds=1.5, loss=[(10, 2.5)])
    assert tensors["weight:a"].tolist() == [7, 7, 7]


def test_the_last_two_are_kept(scratch: str) -> None:
    for step in (1, 2, 3, 10):
        save(scratch, step)
    assert locations.list_folders(locations.join(scratch, "checkpoints")) == ["0000000003", "0000000010"]


def test_one_without_complete_mark_does_not_exist(scratch: str) -> None:
    save(scratch, 1)
    locations.remove(locations.join(save(scratch, 2), checkpoints.COMPLETE))
    assert checkpoints.newest(scratch, "key") == 1


@pytest.mark.parametrize("name", [checkpoints.TENSORS, checkpoints.STATE])
def test_an_altered_one_is_passed_over(scratch: str, name: str) -> None:
    save(scratch, 1)
    file = locations.join(save(scratch, 2), name)
    content = bytearray(locations.read_bytes(file))
    content[-1] ^= 1
    locations.write_bytes(file, bytes(content))
    assert checkpoints.newest(scratch, "key") == 1


def test_another_steps_checkpoint_is_not_taken_up(scratch: str) -> None:
    save(scratch, 1, "another key")
    assert checkpoints.newest(scratch, "key") is None


def test_nothing_is_found_where_nothing_is(scratch: str) -> None:
    assert checkpoints.newest(scratch, "key") is None


def test_a_checkpoint_is_written_again_over_a_torn_one(scratch: str) -> None:
    locations.remove(locations.join(save(scratch, 2), checkpoints.COMPLETE))
    save(scratch, 2)
    assert checkpoints.newest(scratch, "key") == 2
    assert locations.list_folders(locations.join(scratch, "checkpoints")) == ["0000000002"]
