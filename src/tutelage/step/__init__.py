"""What a step is: a folder with `component.yaml` and `step.py`, and the little that every `step.py` is given to run.

    description.py   what component.yaml says, and the step's module
    images.py        the image it runs in
    code.py          the code version: what must change for finished work to be done again
    context.py       Request (launcher to step) and Context (what `run` gets besides its Config)
    running.py       one try: verify, run, write manifests, leave an outcome.json
    by_hand.py       the command line of every step.py

A step is a function `run(config, context) -> {output name: Result}`. It reads input payloads, writes output payloads and
reports progress through `context`; `main()` around it builds the Config, verifies the inputs, turns Results into manifests
(rank 0 alone, last of all) and always leaves an `outcome.json`. The same file is started by python, by torchrun and by
spark-submit.
"""

from tutelage.step.by_hand import die_with_parent, main, request_by_hand
from tutelage.step.context import (
    PROGRESS_INTERVAL_SECONDS,
    Context,
    Output,
    Request,
    append_event,
    request_json,
)
from tutelage.step.description import (
    RUNTIMES,
    Description,
    describe,
    image_of,
    load,
    repository_root,
    step_names,
)
from tutelage.step.images import DEFAULT_REGISTRY, reference
from tutelage.step.measured import peak_memory_bytes
from tutelage.step.running import RunFunction, execute

__all__ = [
    "DEFAULT_REGISTRY", "PROGRESS_INTERVAL_SECONDS", "RUNTIMES", "Context", "Description", "Output", "Request", "RunFunction",
    "append_event", "describe", "die_with_parent", "execute", "image_of", "load", "main", "peak_memory_bytes", "reference",
    "repository_root", "request_by_hand", "request_json", "step_names",
]  # fmt: skip
