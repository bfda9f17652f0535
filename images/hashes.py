"""The sha256 of every file that a pinned line may be installed from; used by lock.py.

An image installs with `pip --require-hashes`: what an index serves under a locked name and version tomorrow is refused unless it
is what was locked. Hashes that a lock already holds for a version are kept, so only new versions ask the package index, and
`make lock` works offline when nothing changed. pip answers for platforms other than this one too, without installing anything.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

#: What images are built for: both are Linux with glibc 2.28 or later.
PLATFORMS = ("x86_64", "aarch64")
#: Platform tags that such a machine takes, newest first; pip does not derive the older ones itself.
TAGS = (
    "manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux_2_12",
    "manylinux2010", "manylinux_2_5", "manylinux1", "linux",
)  # fmt: skip
PYTHON_VERSION = "3.11"
LINE = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ \\\n]+)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", re.MULTILINE
)

Pins = Mapping[str, str]
Hashes = dict[tuple[str, str], set[str]]


def pinned_line(name: str, version: str, hashes: Iterable[str]) -> str:
    """`name==version` with its hashes, as pip reads it."""
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{item}" for item in sorted(hashes))]) + "\n"


def read_lock(file: Path) -> Hashes:
    """(name, version) → hashes of every line of a lock; nothing when there is no file."""
    text = file.read_text() if file.is_file() else ""
    return {
        (found["name"], found["version"]): set(re.findall(r"[0-9a-f]{64}", found["hashes"]))
        for found in LINE.finditer(text)
    }


def from_index(pins: Pins) -> Hashes:
    """Ask the package index for the files of `pins`: Linux wheels, or the source where there are none. Raises SystemExit."""
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
    found: Hashes = {(name, version): set() for name, version in pins.items()}
    for platform in PLATFORMS if pins else ():
        for name, version, digest in _resolve(lines, platform, "--no-deps"):
            found[name, version].add(digest)
    if missing := sorted(name for (name, _), hashes in found.items() if not hashes):
        sys.exit(f"error: the package index lists no file for {', '.join(missing)}\n\nhint: check the index pip uses")
    return found


def closure_on_linux(requirement: str, constraints: Path) -> Hashes:
    """What `requirement` needs on 64-bit x86 Linux, held to `constraints`, with hashes. Raises SystemExit."""
    options = ("--only-binary", ":all:", "--constraint", str(constraints))
    found: Hashes = {}
    for name, version, digest in _resolve(f"{requirement}\n", PLATFORMS[0], *options):
        found.setdefault((name, version), set()).add(digest)
    return found


def wheels_in(folder: Path) -> Hashes:
    """(name, version without local part) → hashes of the wheels in a folder, such as a CPU build of torch."""
    found: Hashes = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(wheel.name)
        with wheel.open("rb") as file:
            found.setdefault((name, version.public), set()).add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _resolve(requirements: str, platform: str, *options: str) -> list[tuple[str, str, str]]:
    """(name, version, sha256) of the files that pip would install on `platform`; nothing is installed. Raises SystemExit."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--disable-pip-version-check", "--python-version", PYTHON_VERSION, "--implementation", "cp"]
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(requirements)
        tags = [word for tag in TAGS for word in ("--platform", f"{tag}_{platform}")]
        command += ["--target", str(Path(folder) / "nothing"), *tags, *options, "--requirement", str(wanted)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"error: pip could not lock: {answer.stderr.strip()}\n\nhint: the index must hold these versions")
    return [
        (
            canonicalize_name(item["metadata"]["name"]),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in json.loads(answer.stdout)["install"]
    ]
