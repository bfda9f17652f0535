"""torchrun whose ranks are forks of one process that has imported what all need.

    python -P src/tutelage/runtimes/agent.py --run-path --start-method fork [torchrun's other flags] STEP.py [ARGUMENT ...]

Importing torch and transformers takes 4 to 7 CPU-seconds, which torchrun pays for every rank and for itself. Here it is paid
once. Started by path, importing nothing of ours. Machines with GPUs take plain torchrun: a CUDA driver that some import has
woken does not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

#: What every rank imports sooner or later; importing it early changes nothing but the time.
PRELOADED = ("pyarrow", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama")


def main(arguments: list[str]) -> None:
    """Import, then be torchrun."""
    # Nothing of what imports make is garbage: collecting among it is a tenth of their time, and would unshare forked pages.
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    from torch.distributed.run import main as torchrun

    gc.freeze()
    gc.enable()
    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking all those modules down in order takes a second.
    os._exit(0)
