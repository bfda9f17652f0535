"""Our model server: KServe's app (V1, V2, health, metrics) with OpenAI routes, on 127.0.0.1.

    python -m tutelage.serve.server --model FOLDER --name model --port 8080
    curl 127.0.0.1:8080/v2/models/model/infer \
        -d '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Once"]}]}'

In a pod it fetches the Model from the store first (`--manifest`), verified, and listens for others (`--host 0.0.0.0`).
A laptop's smoke deployment hands over a socket that listens already, so nobody else can take the port and nobody has to
poll.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import CorruptPayload, InvalidInput, TutelageError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tutelage.serve.engine import Engine

DEFAULT_MAXIMUM_TOKENS = 16


def application(engine: Engine, name: str, digest: str) -> FastAPI:
    """KServe's app with `engine` registered as model `name`, ready."""
    from kserve import ModelRepository
    from kserve.model_server import app
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer

    from tutelage.serve.kserve_model import LanguageModel
    from tutelage.serve.openai import routes

    models = ModelRepository()
    models.update(LanguageModel(name, engine, DEFAULT_MAXIMUM_TOKENS))
    # The server object is asked for its routes and handlers alone: its own start() listens on every interface.
    RESTServer("kserve.model_server:app", DataPlane(models), ModelRepositoryExtension(models), 0).create_application()
    app.include_router(routes(engine, name, digest))
    return app  # type: ignore[no-any-return]


def serve(app: Any, listening: socket.socket) -> None:
    """Answer requests on `listening` until told to stop."""
    import uvicorn

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


def soundness(folder: Path, manifest_uri: str | None, expected: str | None) -> str:
    """The content digest of the Model in `folder`, fetched first where a manifest is named.

    Raises CorruptPayload when a file differs from its manifest, InvalidInput for a pickle or for another Model than expected.
    """
    from tutelage.contracts.models import model_digest, refuse_unsafe_files

    if manifest_uri is not None:
        fetch(manifest_uri, folder)
    refuse_unsafe_files(folder)
    digest = model_digest(folder)
    if expected is not None and digest != expected:
        raise InvalidInput(f"the model's digest is {digest[:12]}, expected {expected[:12]}", hint="deploy it again")
    return digest


def fetch(manifest_uri: str, folder: Path) -> None:
    """Copy a Model's payload to `folder`, every file checked against its manifest. Raises CorruptPayload, InvalidInput."""
    from tutelage.contracts import locations
    from tutelage.contracts.manifest import read

    manifest = read(manifest_uri)
    if manifest.kind != "model":
        raise InvalidInput(f"{manifest_uri} describes a {manifest.kind}", hint="accepted: model")
    folder.mkdir(parents=True, exist_ok=True)
    locations.download(manifest.location, folder, [entry.path for entry in manifest.files])
    for entry in manifest.files:
        if locations.sha256_of(str(folder / entry.path)) != entry.sha256:
            raise CorruptPayload(f"{entry.path} of {manifest_uri} differs from its sha256 in the manifest")


def _die_with_stdin() -> None:
    """End when whoever holds the other end of standard input is gone: works where the kernel gives no death signal."""

    def watch() -> None:
        # Not through sys.stdin: its lock, held by a daemon thread, aborts the interpreter when it ends.
        while os.read(0, 1):
            pass
        os._exit(137)

    threading.Thread(target=watch, name="leash", daemon=True).start()


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tutelage.serve.server", description="Serve a model on 127.0.0.1.")
    parser.add_argument("--model", required=True, type=Path, help="Model folder: safetensors, tokenizer, chat template")
    parser.add_argument("--manifest", help="location of the Model's manifest: fetch its payload into the Model folder")
    parser.add_argument("--digest", help="content digest that the Model must have")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; a pod takes 0.0.0.0")
    parser.add_argument("--name", default="model", help="name of the model in every route")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one request")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--descriptor", type=int, help="a listening socket handed over by the parent, instead of --port"
    )
    parser.add_argument("--leashed", action="store_true", help="die with the parent, which holds standard input")
    flags = parser.parse_args(arguments)
    # kserve parses the command line when it is imported.
    sys.argv = sys.argv[:1]
    if flags.leashed:
        from tutelage.step import die_with_parent

        die_with_parent()
        _die_with_stdin()
    if flags.descriptor is not None:
        listening = socket.socket(fileno=flags.descriptor)
    else:
        listening = socket.create_server((flags.host, flags.port))

    # Importing torch, transformers and kserve makes a million objects that live for ever; looking through them again and
    # again costs a quarter of the start (8.4 → 6.0 CPU-s).
    gc.disable()
    digest = soundness(flags.model, flags.manifest, flags.digest)
    from tutelage.serve.engine import Engine

    app = application(Engine(flags.model, threads=flags.threads), flags.name, digest)
    gc.freeze()
    gc.enable()
    serve(app, listening)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except TutelageError as error:
        sys.exit(f"error: {error}")
