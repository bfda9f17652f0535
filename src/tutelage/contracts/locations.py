"""URI strings and what can be done with them: `file://`, `s3://`, any fsspec location, or a plain path.

A location stays a string from end to end, since `pathlib` eats the second slash of `s3://`. Credentials and endpoints of
object stores come from where their libraries look for them (AWS_* variables, mounted secrets), never from a location.

`minio://bucket/key` is what Kubeflow Pipelines calls a place in the object store that it brings along: S3, with the endpoint and
the keys that Kubeflow's own launcher takes, unless AWS_* variables name others.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tutelage.errors import StoreError

CHUNK_BYTES = 4 * 1024 * 1024
MINIO = "minio://"
#: Stores without folders. Asked to make one, s3fs asks for the bucket, which credentials for one prefix may not make.
OBJECTS = ("s3://", MINIO)
#: Variables with host and port of KFP's store: of KFP since 2.15, and those that Kubernetes sets in the store's own namespace.
MINIO_ADDRESSES = (
    ("OBJECT_STORE_HOST", "OBJECT_STORE_PORT"),
    ("MINIO_SERVICE_SERVICE_HOST", "MINIO_SERVICE_SERVICE_PORT"),
)
#: Where a multi-user Kubeflow has it (kubeflow/pipelines 2.17, backend/src/v2/objectstore/config.go).
MINIO_ADDRESS = "minio-service.kubeflow:9000"


def is_local(location: str) -> bool:
    """Whether `location` is a folder or file of this machine."""
    return "://" not in location or location.startswith("file://")


def local_path(location: str) -> Path:
    """The path of a local `location`. Raises StoreError when it is not local."""
    if not is_local(location):
        raise StoreError(f"not a local location: {location}", hint="bring it here first with download()")
    return Path(location.removeprefix("file://")).absolute()


def normalise(location: str) -> str:
    """Canonical spelling: an absolute path for local locations, no trailing slash for the others."""
    return str(local_path(location)) if is_local(location) else location.rstrip("/")


def join(location: str, *parts: str) -> str:
    """`location` with `parts` appended, one slash between."""
    return "/".join([location.rstrip("/"), *(part.strip("/") for part in parts)])


def filesystem(location: str) -> tuple[Any, str]:
    """The fsspec filesystem of `location` and the path inside it. Raises StoreError for an unknown scheme."""
    import fsspec

    if is_local(location):
        return fsspec.filesystem("file"), str(local_path(location))
    if location.startswith(MINIO):
        options = {"use_listings_cache": False, **minio_options(os.environ)}
        return fsspec.filesystem("s3", **options), location.removeprefix(MINIO)
    try:
        # Listings must be fresh: another writer may have finished a second ago.
        files, path = fsspec.core.url_to_fs(location, use_listings_cache=False)
        return files, str(path)
    except (ValueError, ImportError) as error:
        raise StoreError(f"cannot open {location}: {error}", hint="use a path, file:// or s3://") from error


def minio_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """How s3fs reaches the store that `minio://` means.

    AWS_* variables stand for themselves; without them the names of KFP's own: its store's service, and the keys `accesskey` and
    `secretkey` of its secret `mlpipeline-minio-artifact`, taken in whole as environment (envFrom).
    """
    options: dict[str, Any] = {}
    if not any(environment.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")):
        pairs = ((environment.get(host), environment.get(port)) for host, port in MINIO_ADDRESSES)
        address = next((f"{host}:{port}" for host, port in pairs if host and port), MINIO_ADDRESS)
        options["endpoint_url"] = f"http://{address}"
    if not environment.get("AWS_ACCESS_KEY_ID") and environment.get("accesskey") and environment.get("secretkey"):
        options |= {"key": environment["accesskey"], "secret": environment["secretkey"]}
    if not any(environment.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        # What KFP's launcher signs with; the store asks for no other.
        options["client_kwargs"] = {"region_name": "minio"}
    return options


@contextmanager
def _reaching(location: str, action: str) -> Iterator[None]:
    """Turn what an object store's libraries raise into a StoreError; that nothing stands there is for the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        # botocore has errors of its own for an endpoint that does not answer.
        if not isinstance(error, OSError) and not type(error).__module__.startswith(
            ("botocore", "aiobotocore", "aiohttp")
        ):
            raise
        hint = "check that the store answers (AWS_ENDPOINT_URL) and that the credentials may do this"
        raise StoreError(f"cannot {action} {location}: {error}", hint=hint) from error


def exists(location: str) -> bool:
    """Whether a file (or, on a local disk, a folder) stands at `location`."""
    if is_local(location):
        return local_path(location).exists()
    files, path = filesystem(location)
    with _reaching(location, "look for"):
        return bool(files.exists(path))


def read_bytes(location: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    if is_local(location):
        return local_path(location).read_bytes()
    files, path = filesystem(location)
    with _reaching(location, "read"):
        return bytes(files.cat_file(path))


def open_binary(location: str) -> BinaryIO:
    """The file opened for reading, seekable."""
    if is_local(location):
        return local_path(location).open("rb")
    files, path = filesystem(location)
    with _reaching(location, "read"):
        return files.open(path, "rb")  # type: ignore[no-any-return]


def write_bytes(location: str, data: bytes) -> None:
    """Write the whole file atomically: a reader sees the old content or the new, never a part.

    Local: temporary file, fsync, rename, fsync of the folder. Object stores put whole objects. Raises StoreError.
    """
    try:
        if not is_local(location):
            files, path = filesystem(location)
            with _reaching(location, "write"):
                files.pipe_file(path, data)
            return
        target = local_path(location)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        raise StoreError(f"cannot write {location}: {error}", hint="check free space and permissions") from error


def list_files(location: str) -> list[tuple[str, int]]:
    """Relative paths and sizes in bytes of all files below `location`, sorted; empty where nothing stands."""
    if is_local(location):
        root = local_path(location)
        found = [
            (path.relative_to(root).as_posix(), path.stat().st_size)
            for path in root.rglob("*")
            if path.is_file() and not (path.name.startswith(".") and path.name.endswith(".tmp"))
        ]
        return sorted(found)
    files, path = filesystem(location)
    prefix = path.rstrip("/") + "/"
    with _reaching(location, "list"):
        details = files.find(path, detail=True, withdirs=False)
    return sorted((name.removeprefix(prefix), int(info["size"])) for name, info in details.items() if name != path)


def list_folders(location: str) -> list[str]:
    """Names of the folders directly below `location`, sorted; empty where nothing stands."""
    if is_local(location):
        root = local_path(location)
        return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    files, path = filesystem(location)
    try:
        with _reaching(location, "list"):
            entries = files.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")


def remove(location: str) -> None:
    """Remove the file or folder at `location`; nothing happens where nothing stands."""
    if is_local(location):
        path = local_path(location)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return
    files, inner = filesystem(location)
    with _reaching(location, "remove"):
        if files.exists(inner):
            files.rm(inner, recursive=True)


def upload(folder: Path, location: str) -> None:
    """Copy every file below `folder` to `location`. Raises StoreError."""
    if is_local(location) and local_path(location) == folder.absolute():
        return
    files, path = filesystem(location)
    for relative, _ in list_files(str(folder)):
        with _reaching(join(location, relative), "write"):
            if not location.startswith(OBJECTS):
                files.makedirs(join(path, relative).rsplit("/", 1)[0], exist_ok=True)
            files.put_file(str(folder / relative), join(path, relative))


def download(location: str, folder: Path, names: list[str]) -> None:
    """Copy the files `names` below `location` into `folder`, each whole or not at all, in place of what stands there."""
    files, path = filesystem(location)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        with _reaching(join(location, name), "read"):
            files.get_file(join(path, name), str(temporary))
        temporary.replace(target)


def sha256_of(location: str) -> str:
    """Hex sha256 of a file's bytes, read in chunks of 4 MiB."""
    digest = hashlib.sha256()
    for chunk in chunks_of(location):
        digest.update(chunk)
    return digest.hexdigest()


def chunks_of(location: str) -> Iterator[bytes]:
    """The file's bytes in chunks of 4 MiB."""
    with open_binary(location) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
