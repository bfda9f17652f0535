"""The command line of a `step.py`: a request file from a launcher, or flags from a person.

    python components/data/curate/step.py --in documents=runs/store/…/manifest.json --out curated=/tmp/curated \
        --set quality.minimum_words=5
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tutelage.config import Config, build, merge, parse_assignments
from tutelage.contracts import locations
from tutelage.contracts.manifest import OUTCOME_NAME, read
from tutelage.contracts.store import step_key
from tutelage.errors import InvalidInput, TutelageError
from tutelage.step.code import code_version
from tutelage.step.context import Request
from tutelage.step.description import describe, load
from tutelage.step.running import RunFunction, execute

#: The run that a step started by a person belongs to, and its attempt.
BY_HAND = "by-hand"


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
        if request.attempt == BY_HAND and os.environ.get("RANK", "0") == "0":
            locations.remove(request.scratch)
    except TutelageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


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
    config = merge({}, parse_assignments(flags.assignments))
    return request_by_hand(name, flags.inputs, flags.outputs, config, flags.settings)


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
    digests = {key: _input_digest(key, uri, description.reads[key]) for key, uri in manifests.items()}
    if os.environ.get("RANK", "0") == "0":
        for location in given["--out"].values():
            _require_empty(location)
    first = next(iter(given["--out"].values()), None) or tempfile.mkdtemp(prefix="tutelage-")
    values = build(load(name).Config, dict(config), where=name).values()
    # A checkpoint is resumed under its key: other inputs, code or number of ranks make another.
    digests["setting:processes"] = os.environ.get("WORLD_SIZE", "1")
    version = code_version(name)
    return Request(
        step=name, config=values, inputs=manifests, outputs=given["--out"],
        scratch=f"{locations.normalise(first)}.scratch", cache=str(Path.home() / ".cache" / "tutelage"),
        outcome=locations.join(first, OUTCOME_NAME), step_key=step_key(name, version, values, digests), attempt=BY_HAND,
        code_version=version, run=BY_HAND, label=name.split("/")[1], settings=_pairs(settings),
    )  # fmt: skip


def _input_digest(name: str, uri: str, kind: str) -> str:
    """Content digest of the payload that `uri` describes. Raises InvalidInput when it is none, or of another kind."""
    try:
        manifest = read(uri)
    except FileNotFoundError as error:
        raise InvalidInput(
            f"input {name!r}: no manifest at {uri}", hint="name a manifest.json or the folder that holds it"
        ) from error
    if manifest.kind != kind:
        raise InvalidInput(
            f"input {name!r} is a {manifest.kind}, accepted: {kind}", hint="see the step's component.yaml"
        )
    return manifest.content_digest


def _require_empty(location: str) -> None:
    """Raise InvalidInput where files stand that would be taken for this try's; the outcome of a failed one may."""
    found = [path for path, _ in locations.list_files(location) if path != OUTCOME_NAME]
    if found:
        raise InvalidInput(
            f"output location is not empty: {location} holds {found[0]}",
            hint="name another place, or remove what stands there",
        )


def _pairs(flags: list[str]) -> dict[str, str]:
    pairs = {}
    for flag in flags:
        name, separator, value = flag.partition("=")
        if not separator or not name or not value:
            raise InvalidInput(f"not NAME=VALUE: {flag!r}", hint="for example documents=runs/store/…/manifest.json")
        pairs[name] = value
    return pairs
