"""Runtime `torch`: training described once as a TorchX AppDef; on a laptop TorchX's `local_cwd` scheduler runs it.

    launch → torchx local_cwd → leash → torchrun (its agent) → ranks

Each of them dies with the one before it: TorchX gives the agent a session of its own and the agent gives one to every rank, so
no signal to a process group would reach them.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tutelage.contracts.locks import record_child
from tutelage.runtimes.children import python_path
from tutelage.runtimes.leash import leash
from tutelage.runtimes.settings import Settings
from tutelage.step import Request, repository_root, request_json

POLL_SECONDS = 0.1
ACCELERATOR_DEVICES = ("/dev/nvidiactl", "/dev/kfd")


def appdef(request: Request, request_file: str, processes: int) -> Any:
    """The training job as a torchx.specs.AppDef: `processes` ranks on one host, rendezvous on loopback.

    The ranks' agent is started through the leash, since local_cwd gives it a session of its own.
    """
    from torchx import specs

    step = str(repository_root() / "components" / request.step / "step.py")
    launcher = [*_torchrun(), "--nnodes", "1", "--nproc-per-node", str(processes)]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--rdzv-id", request.attempt]
    launcher += ["--local-addr", "127.0.0.1", "--max-restarts", "0"]
    # Without a folder of ours the agent leaves one in /tmp.
    launcher += ["--log-dir", str(Path(request_file).with_suffix("") / "agent"), step, "--request", request_file]
    role = specs.Role(
        name=request.label,
        image=str(Path(request_file).parent),
        entrypoint=sys.executable,
        args=leash([sys.executable, *launcher])[1:],
        env={
            "PYTHONPATH": python_path(),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",
            "HF_HUB_OFFLINE": "1",
        },
        num_replicas=1,
        max_retries=0,
    )
    return specs.AppDef(name=request.label, roles=[role])


def _torchrun() -> list[str]:
    """Python's arguments that start ranks on this machine: forks of one process, but for GPUs (see agent.py)."""
    # -P: beside the agent's file stands another torch.py.
    agent = ["-P", str(Path(__file__).with_name("agent.py"))]
    if any(Path(device).exists() for device in ACCELERATOR_DEVICES):
        return agent
    return [*agent, "--run-path", "--start-method", "fork"]


def run(request: Request, log_file: Path, lock: Path, settings: Settings) -> int:
    """Run the step on `settings.processes` ranks of this machine. Gives 0, or 1 when a rank failed."""
    from torchx.runner import get_runner

    request_file = log_file.parent / f"{request.label}.request.json"
    request_file.write_bytes(request_json(request))
    folder = log_file.parent / "torchx" / f"{request.label}-{request.attempt}"
    before = {child.pid for child in psutil.Process().children()}
    with _signals_kept(), get_runner() as runner:
        try:
            handle = runner.run(
                appdef(request, str(request_file), settings.processes),
                scheduler="local_cwd",
                cfg={"log_dir": str(folder), "prepend_cwd": False},
            )
            for child in psutil.Process().children():
                if child.pid not in before:
                    record_child(lock, child.pid)
            return 0 if _succeeded(runner, handle) else 1
        finally:
            _collect_logs(folder, log_file)


def _succeeded(runner: Any, handle: str) -> bool:
    """Wait for the job to end. Gives whether it ended well."""
    from torchx.specs import AppState

    while True:
        status = runner.status(handle)
        if status is None:
            return False
        if status.is_terminal():
            return bool(status.state == AppState.SUCCEEDED)
        time.sleep(POLL_SECONDS)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the handlers of SIGINT and SIGTERM that TorchX replaces for good."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


def _collect_logs(folder: Path, log_file: Path) -> None:
    """Append what agent and ranks wrote to the task's log."""
    with log_file.open("ab") as log:
        for part in sorted(folder.rglob("std*.log")):
            if part.stat().st_size:
                log.write(f"--- {part.name}\n".encode() + part.read_bytes())
