"""A step in a pod of a cluster job: the Spark driver, or every rank of a training job, starts here.

    python -m tutelage.step.cluster s3://store/scratch/jobs/RUN/JOB.request.json

Reads the request that the launcher left in the store, runs the step, and leaves how it ended twice: `outcome.json` in the store,
and the same, typed, as the container's termination message, which outlives a store that cannot be reached. Events of the step
(progress, warnings) go to standard output, where the launcher finds them among the log's lines.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Started by path (spark-submit), this folder comes first among the places of modules, and its code.py would stand for Python's.
sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).absolute() != Path(__file__).absolute().parent]

import errno  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from contextlib import suppress  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

from tutelage.contracts import locations  # noqa: E402
from tutelage.errors import NotFinite, TutelageError  # noqa: E402
from tutelage.step.context import CACHE_VARIABLE, Request  # noqa: E402
from tutelage.step.description import load  # noqa: E402
from tutelage.step.running import execute  # noqa: E402

log = logging.getLogger("tutelage")
SCHEMA = "tutelage.outcome/1"
TERMINATION_LOG_VARIABLE = "TUTELAGE_TERMINATION_LOG"
TERMINATION_LOG = "/dev/termination-log"
#: The kubelet keeps 4,096 bytes of a container's message, and 12 KiB of all containers of a pod together.
MAXIMUM_MESSAGE_BYTES = 4096
STANDARD_OUTPUT = "/dev/stdout"
MOST_JAVA_CAUSES = 20


def main(arguments: list[str]) -> NoReturn:
    """Run the step of the request named by the one argument. Exits with the outcome's code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if len(arguments) != 1:
        print("usage: python -m tutelage.step.cluster REQUEST_URI", file=sys.stderr)
        sys.exit(2)
    request: Request | None = None
    try:
        request = fetch(arguments[0])
        module = load(request.step)
        execute(module.run, module.Config, request)
    except TutelageError as error:
        leave(request, error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as error:
        leave(request, error)
        raise
    except BaseException as error:
        leave(request, error)
        traceback.print_exc()
        sys.exit(1)
    leave(request, None)
    sys.exit(0)


def fetch(uri: str) -> Request:
    """The request at `uri`, with places of this pod in it. Raises StoreError, FileNotFoundError."""
    request = Request(**json.loads(locations.read_bytes(uri)))
    mounted = os.environ.get(CACHE_VARIABLE)
    cache = mounted if mounted and writable(mounted) else os.environ.get("TMPDIR", tempfile.gettempdir())
    return replace(request, cache=cache, events=STANDARD_OUTPUT, leashed=False)


def writable(folder: str) -> bool:
    """Whether files can be made in `folder`; it is created where its parent allows that."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def leave(request: Request | None, error: BaseException | None) -> None:
    """Type the outcome in the store, name the attempt in it, and write the termination message. Never raises."""
    rank = int(os.environ.get("RANK", "0"))
    outcome: dict[str, Any] = {"outcome": "done", "cause": None, "hint": None}
    if error is not None:
        message = error.message if isinstance(error, TutelageError) else f"{type(error).__name__}: {error}"
        kind = error.outcome if isinstance(error, TutelageError) else "failed"
        outcome = {"outcome": kind, "cause": message, "hint": getattr(error, "hint", None), "kind": kind_of(error)}
    if request is not None:
        outcome |= {"step": request.step, "label": request.label, "attempt": request.attempt, "rank": rank}
        if rank == 0 or error is not None:
            _complete_outcome(request.outcome if rank == 0 else f"{request.outcome}.rank{rank}", outcome)
    _write_termination_message(outcome)


def kind_of(error: BaseException) -> str | None:
    """The type of an error as the launcher's taxonomy has it (runtimes/kubernetes/causes.py); None where it has none."""
    if isinstance(error, TutelageError) and error.outcome in ("invalid", "refused"):
        return "data"
    if isinstance(error, TutelageError) and error.outcome == "budget":
        return "budget"
    if isinstance(error, NotFinite):
        return "nan"
    return "out_of_memory" if _is_out_of_memory(error) else None


def _is_out_of_memory(error: BaseException) -> bool:
    """By type, its own or that of what it was raised from, and never by words: a message may quote data."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return True
        # PyTorch's, on any device; and what py4j brings from Java.
        names = {base.__name__ for base in type(cause).__mro__} | set(_java_names(cause))
        if names & {"OutOfMemoryError", "java.lang.OutOfMemoryError"}:
            return True
        seen.append(cause)
        cause = cause.__cause__
    return False


def _java_names(error: BaseException) -> Iterator[str]:
    """Names of the Java classes that an error of py4j carries; none where its JVM is gone."""
    with suppress(Exception):
        java = getattr(error, "java_exception", None)
        for _ in range(MOST_JAVA_CAUSES):
            if java is None:
                return
            yield str(java.getClass().getName())
            java = java.getCause()


def _complete_outcome(location: str, outcome: Mapping[str, Any]) -> None:
    """Add to what `execute` wrote what only this entry point knows."""
    try:
        try:
            written = json.loads(locations.read_bytes(location))
        except (FileNotFoundError, ValueError):
            written = {}
        data = json.dumps({**written, **outcome}, indent=1, ensure_ascii=False).encode()
        locations.write_bytes(location, data)
    except TutelageError:
        # The termination message says the same.
        log.exception("outcome not written to %s", location)


def _write_termination_message(outcome: Mapping[str, Any]) -> None:
    """At most 4,096 bytes of JSON: the cause is cut where it is longer."""
    body = {"schema": SCHEMA, **outcome}
    data = json.dumps(body).encode()
    if len(data) > MAXIMUM_MESSAGE_BYTES:
        spare = MAXIMUM_MESSAGE_BYTES - (len(data) - len(json.dumps(body.get("cause") or "")))
        # Escaped, a character takes up to 12 bytes.
        body |= {"cause": str(body.get("cause") or "")[: max(0, spare // 12 - 1)] + "…"}
        data = json.dumps(body).encode()[:MAXIMUM_MESSAGE_BYTES]
    try:
        Path(os.environ.get(TERMINATION_LOG_VARIABLE, TERMINATION_LOG)).write_bytes(data)
    except OSError as error:
        # Outside a cluster there is none.
        log.info("no termination message: %s", error)


if __name__ == "__main__":
    main(sys.argv[1:])
