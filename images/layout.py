"""Lay an image's folders out; the Dockerfile runs it in its build stages, with the standard library alone.

    python3 layout.py base /                      # the base image without installers
    python3 layout.py rights /                    # again, after packages of the distribution were added
    python3 layout.py packages /opt/venv --epoch 0
    python3 layout.py code /opt/tutelage --epoch 0
    python3 layout.py spark /opt/spark            # SPARK_HOME over the pyspark that is installed

Byte code is compiled here, since nothing may write it later, and checked against nothing (unchecked hashes), so it holds whatever
times a registry gives the files. Times are SOURCE_DATE_EPOCH: the same commit builds the same layers.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import py_compile
import shutil
import stat
import sys
import sysconfig
import tomllib
from pathlib import Path

INSTALLERS = ("pip", "pip-*", "setuptools", "setuptools-*", "wheel", "wheel-*", "pkg_resources", "_distutils_hack")
#: What the builder mounts, and the one folder that everybody may write.
NOT_OURS = {"dev", "proc", "sys", "tmp"}
SPARK_FOLDERS = ("bin", "sbin", "jars", "python", "data")


def lay_base(root: Path) -> None:
    """Remove every installer that the base image's interpreter brings, and every right to become another user."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    for place in sorted(root / Path(item).relative_to("/") for item in places if item and Path(item).is_absolute()):
        for pattern in INSTALLERS if place.is_dir() else ():
            for found in sorted(place.glob(pattern)):
                shutil.rmtree(found) if found.is_dir() else found.unlink()
    scripts = root / Path(sysconfig.get_path("scripts")).relative_to("/")
    for script in sorted([*scripts.glob("pip*"), *scripts.glob("wheel*")]):
        script.unlink()
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip is not None and ensurepip.origin is not None:
        shutil.rmtree(root / Path(ensurepip.origin).parent.relative_to("/"))
    # Where Debian keeps what its ensurepip installs.
    shutil.rmtree(root / "usr/share/python-wheels", ignore_errors=True)
    take_rights(root)


def take_rights(root: Path) -> None:
    """No setuid or setgid bit anywhere, and nothing but /tmp that everybody may write (Debian: /var/tmp, /run/lock)."""
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = sorted(set(folders) - NOT_OURS)
        for path in (Path(folder) / name for name in (*folders, *files)):
            mode = path.lstat().st_mode
            kept = stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
            if kept != stat.S_IMODE(mode) and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                path.chmod(kept)


def lay_packages(environment: Path, epoch: int) -> None:
    """Byte code and times of a virtual environment."""
    _compile(environment)
    _set_times(environment, epoch)


def lay_code(folder: Path, epoch: int) -> None:
    """What `pip install` would record of our package (TorchX finds its scheduler there), byte code, tags and times."""
    _write_metadata(folder)
    _forget_digests(folder / "images" / "digests.json")
    _compile(folder)
    _set_times(folder, epoch)


def lay_spark(home: Path) -> None:
    """SPARK_HOME as Spark on Kubernetes expects it: a real folder, so that `conf` can be mounted into it."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        sys.exit("error: pyspark is not installed\n\nhint: only the image python-spark has it")
    (home / "conf").mkdir(parents=True)
    for name in SPARK_FOLDERS:
        (home / name).symlink_to(Path(found.origin).parent / name)


def _write_metadata(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / "src" / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
        f"Summary: {project['description']}\nLicense-Expression: {project['license']}\n"
    )
    lines = []
    for group, entries in sorted(project.get("entry-points", {}).items()):
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in sorted(entries.items())), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))


def _forget_digests(file: Path) -> None:
    """An image cannot hold its own digest; tags name the others."""
    images = json.loads(file.read_text())
    for image in images.values():
        image["digest"] = None
    file.write_text(json.dumps(images, indent=2, sort_keys=True) + "\n")


def _compile(folder: Path) -> None:
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    # Some packages ship files of other Python versions: they stay without byte code, as with pip.
    compileall.compile_dir(folder, quiet=2, force=True, invalidation_mode=mode)


def _set_times(folder: Path, epoch: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def main() -> None:
    """Lay one part out."""
    parser = argparse.ArgumentParser(description="Lay an image's folders out.")
    parser.add_argument("part", choices=("base", "rights", "packages", "code", "spark"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epoch", type=int, default=0, help="time of every file, in seconds since 1970")
    arguments = parser.parse_args()
    if arguments.part in {"packages", "code"}:
        {"packages": lay_packages, "code": lay_code}[arguments.part](arguments.folder, arguments.epoch)
    else:
        {"base": lay_base, "rights": take_rights, "spark": lay_spark}[arguments.part](arguments.folder)


if __name__ == "__main__":
    main()
