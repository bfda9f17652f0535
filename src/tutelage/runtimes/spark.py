"""Runtime `spark`: on a laptop the step's own interpreter is the driver of a local session; in a cluster a SparkApplication."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tutelage.contracts.java import require_java
from tutelage.runtimes.children import run_child
from tutelage.runtimes.settings import Settings
from tutelage.step import Request, repository_root, request_json

__all__ = ["require_java", "run", "spark_environment"]


def run(request: Request, log_file: Path, lock: Path, settings: Settings) -> int:
    """Run the step under a local Spark session. Gives its exit code. Raises MissingTool without Java."""
    require_java()
    request_file = log_file.parent / f"{request.label}.request.json"
    request_file.write_bytes(request_json(request))
    step = repository_root() / "components" / request.step / "step.py"
    environment = spark_environment(settings, Path(request.cache))
    return run_child([sys.executable, str(step), "--request", str(request_file)], environment, log_file, lock)


def spark_environment(settings: Settings, cache: Path) -> dict[str, str]:
    """Environment under which a plain `python step.py` finds a local session of `settings.spark_cores` cores."""
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(2 * settings.spark_cores),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.local.dir": str(cache / "spark"),
        "spark.sql.warehouse.dir": str(cache / "spark" / "warehouse"),
        # The second compiler tier does not pay for sessions of seconds: a quarter of the JVM's CPU time saved.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -Duser.timezone=UTC",
    }
    flags = [f"--master local[{settings.spark_cores}]", f"--driver-memory {settings.spark_memory}"]
    flags += [f"--conf {shlex.quote(f'{name}={value}')}" for name, value in options.items()]
    return {
        "PYSPARK_SUBMIT_ARGS": " ".join([*flags, "pyspark-shell"]),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONHASHSEED": "0",
    }
