"""Whether this machine has the Java that Spark needs: pyspark 4.3 runs on 17 and 21."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tutelage.errors import MissingTool

MINIMUM_VERSION = 17
TIMEOUT_SECONDS = 30


def require_java() -> None:
    """Raise MissingTool, with how to get it, unless JAVA_HOME's java (else the one on PATH) answers and is new enough."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except FileNotFoundError:
        problem = f"JAVA_HOME is {home}, which has no bin/java" if home else "no java on PATH and JAVA_HOME is not set"
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = f"{java} does not answer: {error}"
    else:
        version = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
        if version and int(version.group(1)) >= MINIMUM_VERSION:
            return
        problem = f"{java} is version {version.group(1)}" if version else f"{java} does not tell its version"
    raise MissingTool(
        f"Spark needs Java {MINIMUM_VERSION} or later: {problem}",
        hint="Debian and Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17",
    )
