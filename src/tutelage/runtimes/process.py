"""Runtime `process`: the step runs in the interpreter that KFP started. For work that needs neither Spark nor ranks."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tutelage.runtimes.settings import Settings
from tutelage.step import Request, execute, load


def run(request: Request, log_file: Path, lock: Path, settings: Settings) -> int:
    """Run the step here. Gives 0; errors come as exceptions, with an outcome.json left behind."""
    module = load(request.step)
    with _logged_to(log_file):
        execute(module.run, module.Config, request)
    return 0


@contextmanager
def _logged_to(log_file: Path) -> Iterator[None]:
    """Write what is logged, and the traceback of an error, to the task's log too."""
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException:
        root.removeHandler(handler)
        handler.close()
        with log_file.open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
