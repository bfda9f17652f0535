"""manifests/mounts.yaml, read: what the pods of compiled pipelines mount, and what the cluster's manifests must provide.

python -c "from tutelage.step.mounts import mounts; print(mounts().run_account)"
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import yaml
from pydantic import Field

from tutelage.config import Config, build
from tutelage.step.description import repository_root

Tasks = Literal["all"] | tuple[str, ...]


class Mount(Config):
    """A ConfigMap or Secret as files."""

    kind: Literal["ConfigMap", "Secret"]
    """What it is."""
    name: str
    """Its name in the run's namespace."""
    mount_path: str = Field(pattern=r"^/.+")
    """Folder that its keys appear in, a file each."""
    keys: tuple[str, ...] = ()
    """Keys that must be in it."""
    tasks: Tasks
    """all, or the components (stage/verb) that mount it."""
    made_by: Literal["manifests", "installer"]
    """Who makes it."""


class EnvironmentFrom(Config):
    """Keys of a Secret as environment variables."""

    kind: Literal["Secret"]
    """What it is."""
    name: str
    """Its name in the run's namespace."""
    keys: dict[str, str]
    """Environment variable → key."""
    tasks: Tasks
    """all, or the components (stage/verb) that get them."""
    made_by: Literal["manifests", "installer"]
    """Who makes it."""


class SecurityContext(Config):
    """Whom a task's container runs as."""

    run_as_user: int
    """User id, as the images have it."""
    run_as_group: int
    """Group id."""
    run_as_non_root: bool
    """Refuse to start as root."""


class Label(Config):
    """A label of some tasks' pods."""

    value: str
    """Its value."""
    tasks: Tasks
    """all, or the components (stage/verb) whose pods carry it."""


class Mounts(Config):
    """manifests/mounts.yaml: what compiled pipelines and the cluster's manifests must agree on."""

    mounts: tuple[Mount, ...]
    """Files."""
    environment_from: tuple[EnvironmentFrom, ...] = ()
    """Environment variables out of secrets."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables with these values, on a cluster only."""
    security_context: SecurityContext
    """Of every task."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """Label → value and tasks."""
    run_account: str
    """Service account of a run; named when the run is created."""


@cache
def mounts() -> Mounts:
    """What manifests/mounts.yaml says. Raises InvalidInput."""
    file = repository_root() / "manifests" / "mounts.yaml"
    return build(Mounts, yaml.safe_load(file.read_text(encoding="utf-8")), where="manifests/mounts.yaml")
