"""Settings of an installation: where the store is, the registry, the keys. Never run parameters, never read by steps.

On a laptop they stand in `tutelage.toml`, in a cluster in a mounted ConfigMap; both are found through TUTELAGE_SETTINGS.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from tutelage.config import Config, build
from tutelage.contracts import locations
from tutelage.errors import InvalidInput
from tutelage.runtimes.kubernetes.settings import ClusterSettings

SETTINGS_VARIABLE = "TUTELAGE_SETTINGS"
RUN_VARIABLE = "TUTELAGE_RUN"
RUN_FOLDER_VARIABLE = "TUTELAGE_RUN_FOLDER"
SUPERVISOR_VARIABLE = "TUTELAGE_SUPERVISOR"
#: Settings that name a file or folder, or may.
PLACES = ("runs", "store", "registry", "signing_key", "public_keys")


class Settings(Config):
    """What an installation fixes for all its runs."""

    runs: str = "runs"
    """Local folder for run records, locks, downloads and, by default, the store."""
    store: str | None = None
    """Root location of payloads; RUNS/store when absent. Any fsspec location."""
    registry: str | None = None
    """Model registry: RUNS/registry.sqlite when absent, on a cluster STORE/registry, an object for each version."""
    signing_key: str | None = None
    """File with the Ed25519 private key that signs verdicts (PEM); handed to decide alone."""
    public_keys: str | None = None
    """Folder of public keys (PEM) that verdicts are checked against."""
    processes: int = Field(default=2, ge=1)
    """Training processes on this machine."""
    spark_cores: int = Field(default=2, ge=1)
    """Cores of a local Spark session."""
    spark_memory: str = Field(default="2g", pattern=r"^[1-9][0-9]*[mgMG]$")
    """Heap of a local Spark driver: a number with m or g, such as 512m."""
    reuse: bool = True
    """Whether finished work is looked up; off for `tutelage run --fresh`."""
    cluster: ClusterSettings | None = None
    """Where Spark and training jobs run; on this machine when absent."""

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Self:
        if (self.signing_key is None) != (self.public_keys is None):
            missing = "public_keys" if self.public_keys is None else "signing_key"
            raise ValueError(f"signing_key and public_keys belong together, {missing} is missing: set both or neither")
        return self

    @property
    def store_root(self) -> str:
        """Root location of payloads."""
        return self.store or str(Path(self.runs).absolute() / "store")

    def for_step(self, names: tuple[str, ...]) -> dict[str, str]:
        """The settings a step's component.yaml asks for, those that are set."""
        runs = Path(self.runs).absolute()
        values = self.values() | {
            "registry": self.registry or self._default_registry(),
            "locks": str(runs / "locks"),
        }
        return {name: str(values[name]) for name in names if values.get(name) is not None}

    def _default_registry(self) -> str:
        # What a pod keeps below its runs folder is gone with the pod.
        if self.cluster is not None:
            return locations.join(self.store_root, "registry")
        return str(Path(self.runs).absolute() / "registry.sqlite")


def read_settings(path: str | None = None) -> Settings:
    """Settings from `path`, TUTELAGE_SETTINGS or ./tutelage.toml; defaults where there is no file. Raises InvalidInput.

    Relative paths in the file start at its folder.
    """
    named = path or os.environ.get(SETTINGS_VARIABLE)
    file = Path(named or "tutelage.toml")
    if not file.is_file():
        if named:
            raise InvalidInput(f"settings file not found: {file}", hint="create it or unset TUTELAGE_SETTINGS")
        return Settings()
    try:
        text = file.read_text()
        values = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{file} is not {file.suffix[1:]}: {error}", hint="see README, Settings") from error
    settings = build(Settings, values, where=str(file))
    return settings.model_copy(update=_absolute(settings, file.absolute().parent))


def _absolute(settings: Settings, folder: Path) -> dict[str, Any]:
    """The local places that the file sets, relative ones taken from its folder."""
    given = {name: getattr(settings, name) for name in PLACES if name in settings.model_fields_set}
    return {
        name: str(folder / place.removeprefix("file://"))
        for name, place in given.items()
        if place is not None and locations.is_local(place)
    }
