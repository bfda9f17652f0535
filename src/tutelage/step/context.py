"""What is handed to one try of a step: the Request from its launcher, and the Context that `run` gets."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import Manifest
from tutelage.errors import InvalidInput

PROGRESS_INTERVAL_SECONDS = 0.5
#: Where a pod of a cluster keeps downloads: said by the pod, since only it knows what is mounted there.
CACHE_VARIABLE = "TUTELAGE_CACHE"
log = logging.getLogger("tutelage")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything one try of a step needs to know, as handed from launcher to step in a JSON file."""

    step: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Input name → location of its manifest."""
    outputs: Mapping[str, str]
    """Output name → location of the attempt's folder."""
    scratch: str
    """Location that outlives attempts of the same step key: checkpoints."""
    cache: str
    """Local folder for downloads. In a pod of a cluster CACHE_VARIABLE says it instead."""
    outcome: str
    """Where outcome.json goes."""
    step_key: str
    attempt: str
    code_version: str
    run: str
    label: str
    """What this task is called in progress and lineage, for example train-sft."""
    events: str | None = None
    """File that events are appended to, a JSON object a line."""
    settings: Mapping[str, str] = field(default_factory=dict)
    leashed: bool = False
    """Die with the parent process."""


def request_json(request: Request) -> bytes:
    """A Request as the file a step reads."""
    return json.dumps(asdict(request), indent=1).encode()


@dataclass
class Output:
    """Where a step writes one output."""

    location: str
    """Location of the payload; Spark tasks write below it directly."""
    _folder: Path | None = None

    @property
    def path(self) -> Path:
        """A local folder to write into; copied to `location` at the end where that is not local."""
        if self._folder is None:
            local = locations.is_local(self.location)
            self._folder = locations.local_path(self.location) if local else Path(tempfile.mkdtemp(prefix="tutelage-"))
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def settle(self) -> None:
        """Bring what stands in `path` to `location`."""
        if self._folder is not None:
            locations.upload(self._folder, self.location)

    def discard_copy(self) -> None:
        """Remove the local copy of an output whose place is elsewhere; a model's may be large."""
        if self._folder is not None and not locations.is_local(self.location):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Context:
    """What a running step has besides its Config: inputs, outputs, progress, and a place for downloads."""

    def __init__(self, request: Request, inputs: Mapping[str, Manifest]) -> None:
        self.inputs = inputs
        self.outputs = {name: Output(location) for name, location in request.outputs.items()}
        self.scratch = request.scratch
        self.cache = Path(request.cache)
        self.run = request.run
        self.label = request.label
        self.step_key = request.step_key
        self.observations: dict[str, float] = {}
        self._request = request
        self._last_progress = 0.0

    def input_path(self, name: str) -> Path:
        """A local folder with the payload of input `name`; downloaded once where the store is elsewhere."""
        manifest = self.inputs[name]
        if locations.is_local(manifest.location):
            return locations.local_path(manifest.location)
        folder = self.cache / "payloads" / manifest.step_key / manifest.attempt / manifest.kind
        missing = [
            entry.path
            for entry in manifest.files
            if not (folder / entry.path).is_file() or locations.sha256_of(str(folder / entry.path)) != entry.sha256
        ]
        locations.download(manifest.location, folder, missing)
        return folder

    def setting(self, name: str) -> str:
        """A setting of the installation that component.yaml asks for. Raises InvalidInput when it is not set."""
        if name not in self._request.settings:
            raise InvalidInput(f"setting {name!r} is not set for {self._request.step}", hint="set it in tutelage.toml")
        return self._request.settings[name]

    def optional_setting(self, name: str) -> str | None:
        """A setting that says where something is done, None where it is done here."""
        return self._request.settings.get(name)

    def progress(self, done: float, total: float | None, unit: str, **figures: float) -> None:
        """Say how far the step is: `done` of `total` (None: unknown) in `unit`, and figures such as loss."""
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_INTERVAL_SECONDS and done != total:
            return
        self._last_progress = now
        self.event("progress", done=done, total=total, unit=unit, **figures)

    def warn(self, message: str) -> None:
        """Say something that a person should know and that is no error; shown in progress and on the run page."""
        log.warning("%s: %s", self.label, message)
        self.event("warning", message=message)

    def observe(self, **figures: float) -> None:
        """Record measured figures (seconds, tokens a second): they go to observations.json, outside every digest."""
        self.observations.update(figures)

    def event(self, name: str, /, **fields: Any) -> None:
        """Append an event to the run's event file, if there is one."""
        if self._request.events is not None:
            append_event(self._request.events, name, self.label, self._request.step, **fields)


def append_event(path: str, name: str, label: str, step: str, /, **fields: Any) -> dict[str, Any]:
    """Append one line to an event file in a single write, so that lines of several processes never mix. Gives the event."""
    time_stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"time": time_stamp, "event": name, "task": label, "step": step, **fields}
    line = json.dumps(event, ensure_ascii=False)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        rest = line.encode() + b"\n"
        while rest:
            # On a full disk a part is written; writing the rest then says why.
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
    return event
