"""Run a command that dies with whoever started it:  python -S src/tutelage/runtimes/leash.py COMMAND [ARGUMENT ...]

The parent-death signal survives exec, so this becomes the command itself. It is started by path and imports nothing of ours:
until it has set the signal, a killed parent goes unnoticed, so it must be quick, and it looks twice.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def leash(command: list[str]) -> list[str]:
    """`command` on a leash: the command line to start in its place."""
    return [sys.executable, "-S", "-P", __file__, *command]


def main() -> None:
    """Set the signal, then become the command."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(137)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
