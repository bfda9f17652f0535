"""What a run needs of the world: sources that are there and licensed, a safe base model, a readable suite, Java, keys, disk.

Only what can be known before the start is checked. Wheels are fetched into the cache, so a wrong hash shows here and not an
hour later; local paths are looked at; s3:// is asked whether anything stands there; hf:// is believed until the run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.config import build
from tutelage.contracts import locations, sources
from tutelage.contracts.java import require_java
from tutelage.contracts.licences import FROM_METADATA
from tutelage.contracts.masking import mask
from tutelage.errors import InvalidInput, MissingTool, Problem
from tutelage.plan import consistency
from tutelage.plan.consistency import entries, mapping

if TYPE_CHECKING:
    from tutelage.plan.recipe import Planned

#: Payloads that hold a copy of the rows: documents, curated, unique, splits, tokens, and one torn attempt.
COPIES_OF_ROWS = 6
#: Bytes a parameter of two kept checkpoints: weights and two moments in float32.
CHECKPOINT_BYTES = 2 * 12
FETCHES_AT_ONCE = 4
#: Formats of which a file is one row, or none.
ROW_A_FILE = ("text", "markdown", "python_source")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What is known of where the run will be. Absent means: not known here, so not checked."""

    cache: Path | None = None
    """Where downloads are kept; wheels are checked when it is given."""
    runs: Path | None = None
    """Folder for runs and store, whose disk must have room."""
    java: bool = False
    """Whether Spark will run on this machine, so that Java must be here."""
    signing_key: str | None = None
    """File with the key that signs verdicts."""
    public_keys: str | None = None
    """Folder of keys that verdicts are checked against."""


@dataclass(frozen=True)
class Used:
    """A source that the recipe names."""

    where: str
    uri: str
    licence: str


def is_within(place: str, section: str) -> bool:
    """Whether a place in a recipe (`sources[1].uri`) is a section or stands below it (`sources[1]`, `sources`)."""
    return place == section or place.startswith((f"{section}.", f"{section}["))


def problems(
    tasks: Sequence[Planned], objectives: Sequence[str], wrong: Sequence[str], surroundings: Surroundings
) -> list[Problem]:
    """What stands in the way of a run although its Configs may be right. `wrong`: places already complained about."""
    values = {task.step: task.values for task in tasks}
    found, fetched = look_around(tasks, wrong, surroundings.cache)
    found += _model_problems(fetched)
    told, items = _suite_problems(values["plan/acquire"], fetched, wrong)
    found += told
    found += _selection_problems(values, fetched, wrong)
    model = fetched["base_model"].path if "base_model" in fetched else None
    folder = model if model is not None and model.is_dir() else None
    known = consistency.Known(model=folder, items=items, rows=_rows_at_most(values, fetched, wrong))
    found += consistency.problems(tasks, values, objectives, known)
    return found + _machine_problems(values, objectives, fetched, surroundings)


def look_around(
    tasks: Sequence[Planned], wrong: Sequence[str], cache: Path | None
) -> tuple[list[Problem], dict[str, sources.Fetched]]:
    """Problems of the sources, and those at hand by their place in the recipe."""
    used = [item for item in uses(tasks) if not any(is_within(place, item.where) for place in wrong)]
    found: list[Problem] = []
    fetched: dict[str, sources.Fetched] = {}
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
        for item, result in zip(used, pool.map(lambda item: look_at(item, cache), used), strict=True):
            if isinstance(result, Problem):
                found.append(result)
            elif result is not None:
                fetched[item.where] = result
    return found, fetched


def uses(tasks: Sequence[Planned]) -> Iterator[Used]:
    """Every source that the Configs name, with a uri and a licence that are strings and can be parsed."""
    values = {task.step: task.values for task in tasks}
    acquire = values["plan/acquire"]
    corpus = mapping(mapping(acquire["base_model"]).get("initialise")).get("tokenizer_corpus", [])
    named = [("base_model", mapping(acquire["base_model"]))]
    for place, listed in (
        ("sources", values["data/ingest"]["sources"]),
        ("evaluation.suite", acquire["suite"]),
        ("base_model.initialise.tokenizer_corpus", corpus),
    ):
        named += [
            (f"{place}[{index}]", entry) for index, entry in enumerate(listed if isinstance(listed, list) else [])
        ]
    for where, entry in named:
        uri, licence = mapping(entry).get("uri"), mapping(entry).get("licence")
        if isinstance(uri, str) and isinstance(licence, str):
            yield Used(where, uri, licence)


def look_at(used: Used, cache: Path | None) -> sources.Fetched | Problem | None:
    """The source where it can be had now, a Problem where it cannot be used, None where only the run will know."""
    try:
        source = sources.parse(used.uri)
        if source.scheme == "s3":
            return _look_at_objects(used, source)
        if source.scheme == "hf" or (source.scheme == "wheel" and cache is None):
            return None
        fetched = (
            _local(source)
            if source.scheme == "file" and not source.sha256
            else sources.fetch(used.uri, cache or Path())
        )
        _require_content(fetched.path, used.uri)
    except InvalidInput as error:
        return Problem(f"{used.where}.uri", error.message, error.hint)
    if used.licence == FROM_METADATA and fetched.licence is None:
        return Problem(
            f"{used.where}.licence",
            f"{source.name} declares no clear licence",
            "read its licence and write the SPDX expression; NOASSERTION where nobody says",
        )
    return fetched


def _local(source: sources.Source) -> sources.Fetched:
    """A local source without its digest: a terabyte is not read to see that it is there."""
    path = Path(source.name)
    if not path.exists():
        raise InvalidInput(f"source not found: {source.uri}", hint=f"nothing stands at {path}")
    return sources.Fetched(path=path, digest="", licence=None, origin=source.uri)


def _require_content(path: Path, uri: str) -> None:
    """Raise InvalidInput where there is nothing to read: an empty file, a folder without any file, a pipe or device."""
    if path.is_dir():
        if not any(item.is_file() for item in path.rglob("*")):
            raise InvalidInput(f"source is a folder without any file: {uri}", hint="name a folder that holds the data")
    elif not path.is_file():
        raise InvalidInput(f"source is neither a file nor a folder: {uri}", hint="write its content to a file first")
    elif path.stat().st_size == 0:
        raise InvalidInput(f"source is an empty file: {uri}", hint="name a file that holds the data")
    elif not os.access(path, os.R_OK):
        raise InvalidInput(f"source may not be read: {uri}", hint="check its permissions")


def _look_at_objects(used: Used, source: sources.Source) -> Problem | None:
    hint = "check bucket, prefix, AWS_ENDPOINT_URL and credentials"
    try:
        if locations.exists(source.name) or locations.list_files(source.name):
            return None
    except Exception as error:  # noqa: BLE001  (whatever the store's library raises is what the user must see)
        cause = mask(f"{type(error).__name__}: {error}")
        return Problem(f"{used.where}.uri", f"{source.uri} cannot be reached: {cause}", hint)
    return Problem(f"{used.where}.uri", f"source not found: {source.uri}", hint)


def _model_problems(fetched: Mapping[str, sources.Fetched]) -> list[Problem]:
    from tutelage.plan.base_model import require_loadable

    if "base_model" not in fetched:
        return []
    source = fetched["base_model"]
    try:
        require_loadable(source.path, source.origin)
    except InvalidInput as error:
        return [Problem("base_model.uri", error.message, error.hint)]
    return []


def _suite_problems(
    acquire: Mapping[str, Any], fetched: Mapping[str, sources.Fetched], wrong: Sequence[str]
) -> tuple[list[Problem], dict[int, int]]:
    """Tasks without a usable item, and tasks that give one name to two types; how many items the others give, by place."""
    from tutelage.plan.suite import read_task
    from tutelage.plan.tasks import Task

    found = []
    count: dict[int, int] = {}
    types: dict[str, str] = {}
    for index, values in enumerate(entries(acquire["suite"])):
        where = f"evaluation.suite[{index}]"
        if any(is_within(place, where) for place in wrong):
            continue
        task = build(Task, values, where)
        if types.setdefault(task.task, task.type) != task.type:
            found.append(Problem(f"{where}.type", f"task {task.task!r} is {types[task.task]} elsewhere", "rename one"))
        if where in fetched:
            items = read_task(task, fetched[where])
            count[index] = len(items.kept)
            if not items.kept:
                reasons = sorted({row["reason"] for row in items.dropped}) or ["no row"]
                found.append(Problem(where, f"gives no item: {', '.join(reasons)}", "check format and field names"))
    return found, count


def _selection_problems(
    values: Mapping[str, Any], fetched: Mapping[str, sources.Fetched], wrong: Sequence[str]
) -> list[Problem]:
    """Folders of which a source, or the tokenizer's corpus, takes no file."""
    from tutelage.plan.base_model import CorpusPart
    from tutelage.step import load

    def of_source(entry: Mapping[str, Any], found: sources.Fetched) -> bool:
        (source,) = build(load("data/ingest").Config, {"sources": [entry]}).sources
        return any(source.takes(name) for name, _ in found.files())

    def of_corpus(entry: Mapping[str, Any], found: sources.Fetched) -> bool:
        return bool(found.files(build(CorpusPart, entry).suffixes))

    shape = mapping(mapping(values["plan/acquire"]["base_model"]).get("initialise"))
    told = []
    for section, listed, takes_any, hint in (
        ("sources", values["data/ingest"]["sources"], of_source, "check format, include and exclude"),
        ("base_model.initialise.tokenizer_corpus", shape.get("tokenizer_corpus"), of_corpus, "check suffixes"),
    ):
        for index, entry in enumerate(entries(listed)):
            where = f"{section}[{index}]"
            at_hand = where in fetched and fetched[where].path.is_dir()
            if at_hand and not any(is_within(place, where) for place in wrong) and not takes_any(entry, fetched[where]):
                names = [name for name, _ in fetched[where].files()]
                told.append(Problem(where, f"takes none of its {len(names)} files, {names[0]} among them", hint))
    return told


def _rows_at_most(
    values: Mapping[str, Any], fetched: Mapping[str, sources.Fetched], wrong: Sequence[str]
) -> dict[int, int]:
    """Place of a source at hand → rows it can give at most, for formats of which a file is a row."""
    from tutelage.step import load

    found = {}
    for index, entry in enumerate(entries(values["data/ingest"]["sources"])):
        where = f"sources[{index}]"
        if where in fetched and not any(is_within(place, where) for place in wrong):
            (source,) = build(load("data/ingest").Config, {"sources": [entry]}).sources
            if source.format in ROW_A_FILE:
                files = [name for name, _ in fetched[where].files()]
                # A source that is one file is read whatever its name.
                found[index] = 1 if fetched[where].path.is_file() else sum(map(source.takes, files))
    return found


def _machine_problems(
    values: Mapping[str, Any],
    objectives: Sequence[str],
    fetched: Mapping[str, sources.Fetched],
    surroundings: Surroundings,
) -> list[Problem]:
    from tutelage.plan.estimate import bytes_of, parameters_of

    found = []
    if surroundings.java:
        try:
            require_java()
        except MissingTool as error:
            found.append(Problem("machine", error.message, error.hint))
    if surroundings.signing_key is not None and not Path(surroundings.signing_key).is_file():
        hint = "without it no verdict can be a PASS; set signing_key in tutelage.toml"
        found.append(Problem("settings.signing_key", f"no such file: {surroundings.signing_key}", hint))
    if surroundings.public_keys is not None and not any(Path(surroundings.public_keys).glob("*.pem")):
        hint = "set public_keys in tutelage.toml to a folder with the keys you trust"
        found.append(Problem("settings.public_keys", f"no *.pem in {surroundings.public_keys}", hint))
    if surroundings.runs is not None:
        rows = sum(bytes_of(source) for where, source in fetched.items() if where.startswith("sources["))
        weights = parameters_of(values["plan/acquire"]["base_model"], fetched.get("base_model")) or 0
        needed = COPIES_OF_ROWS * rows + weights * (4 * (len(objectives) + 1) + CHECKPOINT_BYTES)
        free = shutil.disk_usage(_existing(surroundings.runs)).free
        if free < needed:
            message = f"about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free at {surroundings.runs}"
            found.append(Problem("machine", message, "free some, or set runs or store in tutelage.toml"))
    return found


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
