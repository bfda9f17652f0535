"""The block of images: one place at the top of each compiled file that says what its tasks run, and from which registry.

    # IMAGES (tutelage compile --registry …)
    #    registry: registry.example.com/tutelage
    #    literals: on
    #    python: registry.example.com/tutelage/python@sha256:…

Components name images as if they came from the registry `tutelage`; the block's registry is put before every one of them. It is
a comment, since KFP's IR has no place to say an image once, and `compile` alone writes it: a new digest shows in a review as
one line here, and the tasks below it never say anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tutelage.errors import InvalidInput
from tutelage.step import DEFAULT_REGISTRY
from tutelage.step.images import checked_registry

TITLE = "# IMAGES (written by `tutelage compile`; --registry changes where they come from)"


@dataclass(frozen=True)
class Choices:
    """What an installation chooses when it compiles. Kept in the block, so that the next to compile need not know."""

    registry: str = DEFAULT_REGISTRY
    """Registry host and path that stand before every image's name."""
    literals: bool = True
    """Whether allowed values of parameters are injected; KFP servers before 2.16 do not know them."""

    def __post_init__(self) -> None:
        try:
            checked_registry(self.registry)
        except ValueError as error:
            raise InvalidInput(str(error), hint="for example: --registry registry.example.com/tutelage") from error


def choices_in(text: str | None) -> Choices:
    """The choices that a compiled file's block says; the defaults where there is none."""
    lines = (text or "").split(TITLE, 1)[1:]
    said = dict(re.findall(r"^#    (registry|literals): (\S+)$", _comment(lines[0]) if lines else "", re.MULTILINE))
    return Choices(said.get("registry", DEFAULT_REGISTRY), said.get("literals", "on") == "on")


def _comment(text: str) -> str:
    return text[: end.start()] if (end := re.search(r"^[^#\n]", text, re.MULTILINE)) else text


def with_images(ir: dict[str, Any], choices: Choices) -> str:
    """Put the registry before every image of `ir`, in place. Gives the block, each image once."""
    for container in containers_of(ir):
        container["image"] = _moved(container["image"], choices.registry)
    images = sorted({container["image"] for container in containers_of(ir)})
    lines = [f"{_name(image)}: {image}" for image in images]
    said = [f"registry: {choices.registry}", f"literals: {'on' if choices.literals else 'off'}", *lines]
    return TITLE + "\n" + "".join(f"#    {line}\n" for line in said)


def containers_of(ir: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container that a pipeline's tasks run."""
    for executor in ir["deploymentSpec"]["executors"].values():
        yield executor["container"]


def _moved(image: str, registry: str) -> str:
    """An image of ours under `registry`; any other as it is."""
    prefix = f"{DEFAULT_REGISTRY}/"
    return f"{registry}/{image.removeprefix(prefix)}" if image.startswith(prefix) else image


def _name(image: str) -> str:
    return re.split(r"[@:]", image.rsplit("/", 1)[-1])[0]
