"""Prove that an image's lock alone runs its components: a clean environment, the image's own install.sh, every step, its tests.

    .venv/bin/python images/prove.py python          # also python-spark (Java 17), python-torch, python-serve
    .venv/bin/python images/prove.py python --keep FOLDER    # leave the environment there; a second proof takes it as it is

In the environment is what install.sh puts into the image, and nothing else; pytest's own files and an S3 server are laid beside
it. Every step of the image is then loaded in a fresh interpreter with each module of the package that it imports, and its
component's tests run: real steps on small real data.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from images.hashes import read_lock
from images.lock import IMAGES, ROOT, image_lock
from tutelage.step import describe, step_names

TORCH_IMAGES = ("python-torch", "python-serve")
#: What runs tests and is in no image.
TEST_TOOLS = ("pytest", "pluggy", "iniconfig", "pytest-timeout", "hypothesis", "sortedcontainers")
#: Loads a step, then every module of `tutelage` that it imports, directly or not, those that it imports late included.
LOAD = """
import ast, importlib, sys
from importlib.util import find_spec
from pathlib import Path
from tutelage.step import load, repository_root

step = sys.argv[1]
module = load(step)
assert callable(module.run) and module.Config
waiting, seen = [repository_root() / "components" / step / "step.py"], set()
while waiting:
    for node in ast.walk(ast.parse(waiting.pop().read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tutelage."):
            continue
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            if name in seen:
                continue
            seen.add(name)
            parent = importlib.import_module(name.rpartition(".")[0])
            found = find_spec(name) if hasattr(parent, "__path__") else None
            if found is not None:
                importlib.import_module(name)
                waiting.append(Path(found.origin))
"""


def prove(image: str, folder: Path) -> list[str]:
    """Make the environment of `image` in `folder` and try every step in it. Gives what went wrong."""
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        install(image, folder)
    failures = unlocked(image, python)
    environment = {
        "PATH": f"{lay_server(folder / 'bin')}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if "JAVA_HOME" in os.environ:
        environment["JAVA_HOME"] = os.environ["JAVA_HOME"]
    steps = [step for step in step_names() if describe(step).image == image]
    for step in steps:
        if not _runs([str(python), "-c", LOAD, step], environment, f"load {step}"):
            failures.append(f"{step} cannot be loaded")
    tools = lay_test_tools(folder / "tests")
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(tools)])
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", f"--basetemp={folder / 'pytest'}", "--durations=5"]
    for step in steps:
        command = [str(python), "-m", "pytest", *options, str(ROOT / "components" / step / "tests")]
        if not _runs(command, environment, f"test {step}"):
            failures.append(f"the tests of {step} fail")
    return failures


def install(image: str, folder: Path) -> None:
    """What the Dockerfile's build stage does, here. Raises CalledProcessError."""
    build = folder / "build"
    build.mkdir(parents=True, exist_ok=True)
    shutil.copy(image_lock(image), build / "requirements.lock")
    tools = build / "tools" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(build / "tools")], check=True)
    pinned = [str(tools), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pinned, "-r", str(ROOT / "images" / "build.lock")], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "environment")], check=True)
    command = [
        "sh",
        str(ROOT / "images" / "install.sh"),
        "requirements.lock",
        *(["cpu"] if image in TORCH_IMAGES else []),
    ]
    places = {"BUILD": str(build), "ENVIRONMENT": str(folder / "environment"), "PIP_QUIET": "1"}
    subprocess.run(command, cwd=build, env={**os.environ, **places}, check=True)


def unlocked(image: str, python: Path) -> list[str]:
    """What the environment has beside its lock, or lacks: names are compared as the lock writes them."""
    program = (
        "import importlib.metadata as m, json, re; "
        "print(json.dumps([[re.sub(r'[-_.]+', '-', d.name).lower(), d.version.split('+')[0]] for d in m.distributions()]))"
    )
    answer = subprocess.run([str(python), "-I", "-c", program], capture_output=True, text=True, check=True)
    installed = {(name, version) for name, version in json.loads(answer.stdout)}
    locked = set(read_lock(image_lock(image)))
    return [f"{name}=={version} is installed and not locked" for name, version in sorted(installed - locked)] + [
        f"{name}=={version} is locked and not installed" for name, version in sorted(locked - installed)
    ]


def lay_test_tools(folder: Path) -> Path:
    """Copies of the installed test tools' files in a folder of their own, so that nothing else comes along."""
    for name in TEST_TOOLS:
        for file in distribution(name).files or []:
            source, target = Path(str(file.locate())), folder / str(file)
            if ".." in file.parts or file.suffix == ".pyc" or target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return folder


def lay_server(folder: Path) -> Path:
    """A folder with a link to the S3 server that tests start, which is no part of any image either."""
    folder.mkdir(parents=True, exist_ok=True)
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is not None and not (folder / "weed").exists():
        (folder / "weed").symlink_to(weed)
    return folder


def _runs(command: list[str], environment: Mapping[str, str], what: str) -> bool:
    started = time.monotonic()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"{'ok    ' if done.returncode == 0 else 'FAILED'} {what} ({time.monotonic() - started:.1f} s)", flush=True)
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n", flush=True)
    return done.returncode == 0


def main() -> int:
    """Prove one image."""
    parser = argparse.ArgumentParser(description="Prove that an image's lock alone runs its components.")
    parser.add_argument("image", choices=IMAGES)
    parser.add_argument(
        "--keep", type=Path, help="folder for the environment; a temporary one that is removed when absent"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tutelage-prove-") as temporary:
        failures = prove(arguments.image, (arguments.keep or Path(temporary)).absolute())
    print(*(f"error: {line}" for line in failures), sep="\n", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
