"""Settings of an installation: where the store is, the registry, the keys. Never run parameters, never read by steps.

On a laptop they stand in `tutelage.toml`, in a cluster in a mounted ConfigMap; both are found through TUTELAGE_SETTINGS.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

from tutelage.config import Config, build
from tutelage.errors import InvalidInput

SETTINGS_VARIABLE = "TUTELAGE_SETTINGS"
RUN_VARIABLE = "TUTELAGE_RUN"
RUN_FOLDER_VARIABLE = "TUTELAGE_RUN_FOLDER"
SUPERVISOR_VARIABLE = "TUTELAGE_SUPERVISOR"


class Settings(Config):
    """What an installation fixes for all its runs."""

    runs: str = "runs"
    """Local folder for run records, locks, downloads and, by default, the store."""
    store: str | None = None
    """Root location of payloads; RUNS/store when absent. Any fsspec location."""
    registry: str | None = None
    """Model registry: RUNS/registry.sqlite when absent."""
    signing_key: str | None = None
    """File with the Ed25519 private key that signs verdicts (PEM); handed to decide alone."""
    public_keys: str | None = None
    """Folder of public keys (PEM) that verdicts are checked against."""
    processes: int = 2
    """Training processes on this machine."""
    spark_cores: int = 2
    """Cores of a local Spark session."""
    spark_memory: str = "2g"
    """Heap of a local Spark driver."""

    reuse: bool = True
    """Whether finished work is looked up; off for `tutelage run --fresh`."""

    @property
    def store_root(self) -> str:
        """Root location of payloads."""
        return self.store or str(Path(self.runs).absolute() / "store")

    def for_step(self, names: tuple[str, ...]) -> dict[str, str]:
        """The settings a step's component.yaml asks for, those that are set."""
        runs = Path(self.runs).absolute()
        values = self.values() | {
            "registry": self.registry or str(runs / "registry.sqlite"),
            "locks": str(runs / "locks"),
        }
        return {name: str(values[name]) for name in names if values.get(name) is not None}


def read_settings(path: str | None = None) -> Settings:
    """Settings from `path`, TUTELAGE_SETTINGS or ./tutelage.toml; defaults where there is no file. Raises InvalidInput."""
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
    return build(Settings, values, where=str(file))
