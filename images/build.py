"""Build one image of the Dockerfile, and push it: the arguments that a deterministic, labelled build needs, filled in.

    .venv/bin/python images/build.py python --base-image REGISTRY/python:3.11-slim-bookworm@sha256:… --registry REGISTRY/tutelage
    … --push        # then record what the registry answers: images/digests.py --pushed python sha256:…

Refuses a base image without a digest, and code that is not the commit it would be labelled with.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tutelage
from images.digests import EVERYWHERE, content_of
from images.lock import IMAGES, ROOT
from tutelage.step.images import CONTENT_CHARACTERS

PINNED = re.compile(r".+@sha256:[0-9a-f]{64}")
#: Whatever a build may copy must be what was committed.
COPIED = (*EVERYWHERE, "compiled", "images")


def command(arguments: argparse.Namespace, revision: str, epoch: int) -> list[str]:
    """The command line of the builder. Raises SystemExit for a base image that may change."""
    if not PINNED.fullmatch(arguments.base_image):
        sys.exit(
            f"error: --base-image {arguments.base_image} has no digest\n\n"
            "hint: name it …@sha256:…, as `docker buildx imagetools inspect` prints it"
        )
    tag = f"{tutelage.__version__}-{content_of(arguments.image)[:CONTENT_CHARACTERS]}"
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {
        "BASE_IMAGE": arguments.base_image, "SOURCE_DATE_EPOCH": str(epoch), "CREATED": created, "REVISION": revision,
        "SOURCE": arguments.source, "VERSION": tutelage.__version__,
    }  # fmt: skip
    if arguments.torch:
        values["TORCH"] = arguments.torch
    options = ["--target", arguments.image, "--tag", f"{arguments.registry.rstrip('/')}/{arguments.image}:{tag}"]
    for name, value in values.items():
        options += ["--build-arg", f"{name}={value}"]
    for name in arguments.build_arg:
        options += ["--build-arg", name]
    if arguments.pip_conf:
        options += ["--secret", f"id=pip_conf,src={arguments.pip_conf}"]
    if arguments.builder == "buildah":
        return ["buildah", "build", "--timestamp", str(epoch), *options, str(ROOT)]
    output = f"type=image,rewrite-timestamp=true,push={'true' if arguments.push else 'false'}"
    return ["docker", "buildx", "build", "--output", output, *options, str(ROOT)]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Build one image."""
    parser = argparse.ArgumentParser(description="Build one image of the Dockerfile.")
    parser.add_argument("image", choices=IMAGES)
    parser.add_argument("--base-image", required=True, help="CPython 3.11 on Debian 12 or like it, with @sha256:…")
    parser.add_argument("--registry", default="tutelage", help="prefix of the image's name")
    parser.add_argument("--source", default="", help="URL of the repository, for the label")
    parser.add_argument("--torch", choices=("cpu", "cuda"), help="build of torch; the CPU build where absent")
    parser.add_argument(
        "--pip-conf", type=Path, help="pip.conf with the package index and its credentials: a build secret"
    )
    parser.add_argument("--build-arg", action="append", default=[], help="more, for example PIP_INDEX_URL=…")
    parser.add_argument("--builder", choices=("docker", "buildah"), default="docker")
    parser.add_argument("--push", action="store_true", help="push what was built")
    parser.add_argument("--print", action="store_true", help="print the command and run nothing")
    arguments = parser.parse_args()
    line = command(arguments, _git("rev-parse", "HEAD"), int(_git("log", "-1", "--format=%ct")))
    if arguments.print:
        print(shlex.join(line))
        return 0
    if _git("status", "--porcelain", "--", *COPIED):
        sys.exit(
            "error: the working tree differs from its commit\n\nhint: commit first: the label names what was built"
        )
    done = subprocess.run(line, check=False)
    if done.returncode == 0 and arguments.push and arguments.builder == "buildah":
        done = subprocess.run(["buildah", "push", line[line.index("--tag") + 1]], check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
