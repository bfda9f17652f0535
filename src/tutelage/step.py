"""What a step is: a folder with `component.yaml` and `step.py`, and the little that every `step.py` is given to run.

    python components/data/curate/step.py --in documents=runs/store/…/manifest.json --out curated=/tmp/curated \
        --set quality.minimum_words=5

A step is a function `run(config, context) -> {output name: Result}`. It reads input payloads, writes output payloads and
reports progress through `context`; `main()` around it builds the Config, verifies the inputs, turns Results into manifests
(rank 0 alone, last of all) and always leaves an `outcome.json`. The same file is started by python, by torchrun and by
spark-submit.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import yaml

import tutelage
from tutelage.config import Config, build, parse_assignments
from tutelage.contracts import locations, store
from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import KINDS, OBSERVATIONS_NAME, OUTCOME_NAME, Manifest, read, verify
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput, TutelageError

RUNTIMES = ("process", "spark", "torch")
PROGRESS_INTERVAL_SECONDS = 0.5
log = logging.getLogger("tutelage")


class Description(Config):
    """What `component.yaml` says of a step."""

    name: str
    """`stage/verb`, as the folder is called."""
    image: str
    """Name of a folder below images/."""
    runtime: str
    """process, spark or torch."""
    resources: dict[str, dict[str, str]]
    """Kubernetes requests and limits."""
    reads: dict[str, str]
    """Input name → kind."""
    writes: dict[str, str]
    """Output name → kind."""
    reuse: bool = True
    """Whether finished work is found again by its step key."""
    settings: tuple[str, ...] = ()
    """Settings of the installation handed to this step: signing_key, public_keys, registry."""
    owners: tuple[str, ...]
    """Who answers for it."""
    stability: str
    """alpha, beta or stable."""


@cache
def repository_root() -> Path:
    """The folder that holds components/ and pipelines/: on PYTHONPATH, or above this package. Raises InvalidInput.

    PYTHONPATH comes first, so that a fork's components run with the package of another checkout.
    """
    candidates = [*(Path(entry or ".") for entry in sys.path), Path(__file__).parents[2], Path.cwd()]
    for candidate in candidates:
        if next((candidate / "components").glob("*/*/component.yaml"), None):
            return candidate.absolute()
    raise InvalidInput(
        "components/ not found", hint="install with `pip install -e .` or put the repository on PYTHONPATH"
    )


def step_names() -> list[str]:
    """Every `stage/verb` that has a component.yaml, sorted."""
    root = repository_root() / "components"
    return sorted("/".join(path.parts[-3:-1]) for path in root.glob("*/*/component.yaml"))


@cache
def describe(name: str) -> Description:
    """The description of step `name`. Raises InvalidInput for an unknown step or a description that does not hold."""
    if name not in step_names():
        raise InvalidInput(f"unknown step {name!r}", hint=f"accepted: {', '.join(step_names())}")
    path = repository_root() / "components" / name / "component.yaml"
    description = build(Description, yaml.safe_load(path.read_text()), where=f"components/{name}/component.yaml")
    if description.name != name:
        raise InvalidInput(f"{path} calls itself {description.name!r}", hint="name it as its folder")
    if description.runtime not in RUNTIMES:
        raise InvalidInput(f"{path}: runtime {description.runtime!r}", hint=f"accepted: {', '.join(RUNTIMES)}")
    for kind in (*description.reads.values(), *description.writes.values()):
        if kind not in KINDS:
            raise InvalidInput(f"{path}: unknown kind {kind!r}", hint=f"accepted: {', '.join(KINDS)}")
    if len(set(description.writes.values())) != len(description.writes):
        raise InvalidInput(
            f"{path}: two outputs of one kind share a folder of the store", hint="give each its own kind"
        )
    return description


def image_of(name: str) -> str:
    """The image reference that a step's component.py compiles in."""
    return f"tutelage/{describe(name).image}:{tutelage.__version__}"


@cache
def load(name: str) -> ModuleType:
    """The module of a step's `step.py`, which must offer `Config` and `run`. Light: heavy imports stand inside run."""
    describe(name)
    path = repository_root() / "components" / name / "step.py"
    module_name = "components." + name.replace("/", ".") + ".step"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


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
    """Local folder for downloads."""
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

    def event(self, name: str, **fields: Any) -> None:
        """Append an event to the run's event file, if there is one."""
        if self._request.events is not None:
            append_event(self._request.events, name, self.label, self._request.step, **fields)


def append_event(path: str, name: str, label: str, step: str, **fields: Any) -> None:
    """Append one line to an event file in a single write, so that lines of several processes never mix."""
    time_stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": time_stamp, "event": name, "task": label, "step": step, **fields}, ensure_ascii=False)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


RunFunction = Callable[[Any, Context], Mapping[str, Result]]


def execute(run: RunFunction, config_type: type[Config], request: Request) -> dict[str, Manifest]:
    """One try of a step in this process: verify inputs, run, write manifests. Always leaves outcome.json.

    Under torchrun every rank runs this; rank 0 alone writes manifests, and a rank that fails leaves an outcome of its own.
    """
    rank = int(os.environ.get("RANK", "0"))
    started = time.monotonic()
    try:
        manifests = _attempt(run, config_type, request, rank, started)
    except BaseException as error:
        _write_outcome(request, rank, started, error)
        raise
    if rank == 0:
        _write_outcome(request, rank, started, None)
    return manifests


def _attempt(
    run: RunFunction, config_type: type[Config], request: Request, rank: int, started: float
) -> dict[str, Manifest]:
    config = build(config_type, dict(request.config), where=request.step)
    inputs = {name: read(uri) for name, uri in request.inputs.items()}
    if rank == 0:
        for manifest in inputs.values():
            verify(manifest)
    context = Context(request, inputs)
    results = run(config, context)
    if rank != 0:
        return {}
    kinds = describe(request.step).writes
    if set(results) != set(kinds):
        raise TutelageError(f"{request.step} gave {sorted(results)}, its component.yaml promises {sorted(kinds)}")
    context.observe(seconds=round(time.monotonic() - started, 3), peak_memory_bytes=peak_memory_bytes())
    return {name: _finish(name, kinds[name], results[name], config, context, request) for name in kinds}


def _finish(name: str, kind: str, result: Result, config: Config, context: Context, request: Request) -> Manifest:
    output = context.outputs[name]
    output.settle()
    values = config.values()
    manifest = Manifest(
        kind=kind,
        location=locations.normalise(output.location),
        content_digest=result.content_digest,
        files=result.files if result.files is not None else store.payload_files(output.location),
        step=request.step,
        step_key=request.step_key,
        attempt=request.attempt,
        config=values,
        seed=values.get("seed"),
        code_version=request.code_version,
        inputs={key: manifest.content_digest for key, manifest in context.inputs.items()},
        input_manifests={key: manifest.uri for key, manifest in context.inputs.items()},
        run=request.run,
        output=name,
        rows=result.rows,
        rows_in=result.rows_in,
        dropped=result.dropped,
        licences=result.licences,
        metrics=result.metrics,
        details=result.details,
    )
    observations = json.dumps(context.observations, indent=1).encode()
    locations.write_bytes(locations.join(output.location, OBSERVATIONS_NAME), observations)
    return store.finish(manifest)


def peak_memory_bytes() -> int:
    """Largest resident set of this process and its finished children, in bytes."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both) * 1024


def _write_outcome(request: Request, rank: int, started: float, error: BaseException | None) -> None:
    outcome: dict[str, Any] = {"outcome": "done", "cause": None, "hint": None}
    if isinstance(error, TutelageError):
        outcome = {"outcome": error.outcome, "cause": error.message, "hint": error.hint}
    elif error is not None:
        outcome = {"outcome": "failed", "cause": f"{type(error).__name__}: {error}", "hint": None}
    outcome |= {"step": request.step, "label": request.label, "rank": rank}
    outcome["seconds"] = round(time.monotonic() - started, 3)
    location = request.outcome if rank == 0 else f"{request.outcome}.rank{rank}"
    try:
        locations.write_bytes(location, json.dumps(outcome, indent=1, ensure_ascii=False).encode())
    except TutelageError:
        # A full disk must not hide the error that brought us here.
        log.exception("outcome not written")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def main(run: RunFunction, config_type: type[Config]) -> NoReturn:
    """The command line of a `step.py`. Exits with the outcome's code; errors go to stderr with their hint."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        request = _parse_arguments(sys.argv[1:], Path(sys.modules["__main__"].__file__ or "."))
        if request.leashed:
            die_with_parent()
        execute(run, config_type, request)
    except TutelageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def _parse_arguments(arguments: list[str], step_file: Path) -> Request:
    parser = argparse.ArgumentParser(description=f"Run {step_file} by hand.")
    parser.add_argument("--request", help="JSON file written by the launcher; stands for all other flags")
    parser.add_argument("--in", dest="inputs", action="append", default=[], metavar="NAME=MANIFEST_URI")
    parser.add_argument("--out", dest="outputs", action="append", default=[], metavar="NAME=LOCATION")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--setting", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    flags = parser.parse_args(arguments)
    if flags.request:
        return Request(**json.loads(Path(flags.request).read_text()))
    name = "/".join(step_file.absolute().parts[-3:-1])
    return request_by_hand(name, flags.inputs, flags.outputs, parse_assignments(flags.assignments), flags.settings)


def request_by_hand(
    name: str, inputs: list[str], outputs: list[str], config: Mapping[str, Any], settings: list[str]
) -> Request:
    """A Request from NAME=VALUE flags. Raises InvalidInput naming what is missing or unknown."""
    description = describe(name)
    given = {"--in": _pairs(inputs), "--out": _pairs(outputs)}
    for flag, expected in (("--in", description.reads), ("--out", description.writes)):
        if set(given[flag]) != set(expected):
            raise InvalidInput(
                f"{name} takes {flag} {', '.join(expected) or 'nothing'}; got {', '.join(given[flag]) or 'nothing'}",
                hint="; ".join(f"{flag} {key}=… ({kind})" for key, kind in expected.items()) or f"leave {flag} out",
            )
    manifests = {
        key: uri if uri.endswith(".json") else locations.join(uri, "manifest.json")
        for key, uri in given["--in"].items()
    }
    first = next(iter(given["--out"].values()), tempfile.mkdtemp(prefix="tutelage-"))
    values = build(load(name).Config, dict(config), where=name).values()
    by_hand = digest_of([name, values, sorted(manifests.items())])[:32]
    return Request(
        step=name, config=values, inputs=manifests, outputs=given["--out"], scratch=locations.join(first, "..", ".scratch"),
        cache=str(Path.home() / ".cache" / "tutelage"), outcome=locations.join(first, OUTCOME_NAME), step_key=by_hand,
        attempt="by-hand", code_version="by-hand", run="by-hand", label=name.split("/")[1], settings=_pairs(settings),
    )  # fmt: skip


def _pairs(flags: list[str]) -> dict[str, str]:
    pairs = {}
    for flag in flags:
        name, separator, value = flag.partition("=")
        if not separator or not name or not value:
            raise InvalidInput(f"not NAME=VALUE: {flag!r}", hint="for example documents=runs/store/…/manifest.json")
        pairs[name] = value
    return pairs


def request_json(request: Request) -> bytes:
    """A Request as the file a step reads."""
    return json.dumps(asdict(request), indent=1).encode()
