"""torchrun that listens on loopback alone, and whose ranks may be forks of one process that has imported what all need.

    python -P src/tutelage/runtimes/agent.py --run-path --start-method fork [torchrun's other flags] STEP.py [ARGUMENT ...]

Importing torch and transformers takes 4 to 7 CPU-seconds, which torchrun pays for every rank and for itself. With
`--start-method fork` it is paid once. Machines with GPUs leave that out: a CUDA driver that some import has woken does not
survive a fork. torchrun's stores listen on every interface whatever address they are given (pytorch#173909), unless they are
handed a socket that is bound already. Started by path, importing nothing of ours.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
from typing import Any

LOOPBACK = "127.0.0.1"
#: What every rank imports sooner or later; importing it early changes nothing but the time.
PRELOADED = ("pyarrow", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama")


def listen_on_loopback() -> None:
    """Let every store that torchrun serves from this process listen on loopback alone."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, dynamic_rendezvous

    def store(host: str, port: int, *, is_master: bool = False, **options: Any) -> TCPStore:
        if is_master:
            listener = socket.create_server((LOOPBACK, port))
            port = listener.getsockname()[1]
            # Detached: the store closes it.
            options["master_listen_fd"] = listener.detach()
        return TCPStore(host, port, is_master=is_master, **options)

    def shared_store(_: Any, host: str, port: int) -> TCPStore:
        return store(host, port, is_master=True, multi_tenant=True)

    c10d_rendezvous_backend.TCPStore = store  # type: ignore[assignment,attr-defined]
    dynamic_rendezvous.DynamicRendezvousHandler._create_tcp_store_server = shared_store  # type: ignore[assignment,method-assign]


def main(arguments: list[str]) -> None:
    """Import, then be torchrun."""
    if "fork" in arguments:
        preload()
    from torch.distributed.run import main as torchrun

    listen_on_loopback()
    torchrun(arguments)


def preload() -> None:
    """Import what the forked ranks need, in pages that stay shared."""
    # Nothing of what imports make is garbage: collecting among it is a tenth of their time, and would unshare forked pages.
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("torch.distributed.run")
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking all those modules down in order takes a second.
    os._exit(0)
