"""Our model server: KServe's app (V1, V2, health, metrics) with OpenAI routes, on 127.0.0.1.

    python -m tutelage.serve.server --model FOLDER --name model --port 8080
    curl 127.0.0.1:8080/v2/models/model/infer \
        -d '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Once"]}]}'

The smoke deployment hands over a socket that listens already, so nobody else can take the port and nobody has to poll.
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

from tutelage.errors import TutelageError

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
        listening = socket.create_server(("127.0.0.1", flags.port))

    # Importing torch, transformers and kserve makes a million objects that live for ever; looking through them again and
    # again costs a quarter of the start (8.4 → 6.0 CPU-s).
    gc.disable()
    from tutelage.contracts.models import model_digest, refuse_unsafe_files

    refuse_unsafe_files(flags.model)
    from tutelage.serve.engine import Engine

    app = application(Engine(flags.model, threads=flags.threads), flags.name, model_digest(flags.model))
    gc.freeze()
    gc.enable()
    serve(app, listening)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except TutelageError as error:
        sys.exit(f"error: {error}")
