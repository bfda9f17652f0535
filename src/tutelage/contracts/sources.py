"""Where data and models come from: one fetcher for sources, base models and suites.

    file:///data/x.jsonl   a plain path           a file or folder of this machine
    s3://bucket/prefix                             an object or a prefix; credentials from where the AWS libraries look
    hf://datasets/org/name@<commit>/inner/path     a data set of a Hugging Face hub (HF_ENDPOINT names another hub)
    hf://org/name@<commit>                         a model of one; its pickle files are left out
    wheel://package==1.0/inner/path#sha256=<hex>   files of a wheel in the user's package registry, never installed

    python -c "from pathlib import Path; from tutelage.contracts.sources import fetch; print(fetch('.', Path('/tmp/x')))"

Whatever can change under a name is pinned: a wheel by sha256, a hub repository by commit. For paths and s3:// a pin
`#sha256=<Fetched.digest>` may be given. Nothing is read before its pin is checked, nothing is unpacked outside the
cache, and a cache entry that differs from what was fetched is fetched again.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tutelage.contracts import licences, locations, wheels
from tutelage.contracts.digests import digest_of, files_digest
from tutelage.contracts.locks import step_lock
from tutelage.contracts.masking import mask
from tutelage.contracts.models import PICKLE_SUFFIXES
from tutelage.errors import InvalidInput, StepFailed

SCHEMES = ("file", "s3", "hf", "wheel")
PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.!+_-]*[A-Za-z0-9])?")
HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
WHEEL_FORM = "wheel://package==version/inner/path#sha256=<hex of the wheel>"
HUB_FORM = "hf://datasets/org/name@<commit>/inner/path or hf://org/model@<commit>"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source URI taken apart."""

    scheme: str
    """file, s3, hf or wheel."""
    uri: str
    """As written: it holds no credentials, so it may be recorded."""
    name: str
    """Path, s3 location, hub repository or package."""
    version: str | None = None
    """Version of the package, commit of the hub repository."""
    inner: str = ""
    """Path inside the package or repository; empty: all of it."""
    repository_type: str | None = None
    """hf: model or dataset."""
    sha256: str | None = None
    """wheel: of the wheel; file and s3: of the content (`Fetched.digest`), where it is pinned."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A source on this machine. Read only: it stands in a cache, or is the user's own folder."""

    path: Path
    """Local file or folder."""
    digest: str
    """File: hex sha256 of its bytes. Folder: digest of the relative paths and sha256 of its files."""
    licence: str | None
    """SPDX expression from the wheel's METADATA or the hub's card; None where nobody says or it is unclear."""
    origin: str
    """The URI it came from, without credentials."""
    package: str | None = None
    """Wheel: the package's name; hf: the repository's."""
    version: str | None = None
    """Wheel: the package's version; hf: the commit."""

    def files(self, suffixes: tuple[str, ...] = ()) -> list[tuple[str, Path]]:
        """(relative POSIX path, path) of every file, sorted; with `suffixes` (".py"), those alone.

        A source that is one file gives that file under its name, whatever its ending.
        """
        if self.path.is_file():
            return [(self.path.name, self.path)]
        found = [(name_below(self.path, path), path) for path in self.path.rglob("*") if path.is_file()]
        return sorted(item for item in found if not suffixes or item[1].suffix in suffixes)


def parse(uri: str) -> Source:
    """The parts of a source URI. Raises InvalidInput with a hint: unknown scheme, no version, no pin, traversal."""
    if not uri.strip() or "\0" in uri:
        raise InvalidInput(f"not a source: {uri!r}", hint=f"accepted: a path, {', '.join(f'{s}://' for s in SCHEMES)}")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "file", uri
    if scheme not in SCHEMES:
        raise InvalidInput(f"{mask(uri)}: unknown scheme {scheme!r}", hint=f"accepted: a path, {', '.join(SCHEMES)}")
    if scheme != "file" and _has_credentials(scheme, rest):
        raise InvalidInput(
            f"{mask(uri)}: credentials in a source",
            hint="put them where the library looks: AWS_*, HF_TOKEN, pip.conf",
        )
    rest, pin, sha256 = rest.partition("#sha256=")
    if pin and not SHA256.fullmatch(sha256):
        raise InvalidInput(f"{uri}: #sha256= takes 64 hexadecimal digits, got {sha256!r}", hint="in lower case")
    if scheme == "wheel":
        return _parse_wheel(uri, rest, sha256)
    if scheme == "hf":
        return _parse_hub(uri, rest, sha256)
    name = locations.normalise(rest) if scheme == "file" else f"s3://{rest.rstrip('/')}"
    return Source(scheme=scheme, uri=uri, name=name, sha256=sha256 or None)


def checked_uri(uri: str) -> str:
    """`uri` when it can be parsed: a validator for Configs. Raises ValueError."""
    try:
        parse(uri)
    except InvalidInput as error:
        raise ValueError(f"{error.message} ({error.hint})") from error
    return uri


def pinned(values: Any, cache: Path) -> Any:
    """`values` with every `uri` of a path or of s3:// pinned by `#sha256=`, so that a step key changes when the content does.

    What is pinned already, or is not there, stays as it is. Reads every file once.
    """
    if isinstance(values, list | tuple):
        return [pinned(item, cache) for item in values]
    if not isinstance(values, Mapping):
        return values
    found = {key: pinned(item, cache) for key, item in values.items()}
    uri = found.get("uri")
    if isinstance(uri, str) and "#sha256=" not in uri and parse(uri).scheme in ("file", "s3"):
        source = parse(uri)
        if source.scheme == "s3" or Path(source.name).exists():
            found["uri"] = f"{uri}#sha256={fetch(uri, cache).digest}"
    return found


def _has_credentials(scheme: str, rest: str) -> bool:
    authority = rest.split("/", 1)[0]
    # hf://name@commit is no user name: a repository without an organisation.
    return "@" in authority and not (scheme == "hf" and ":" not in authority)


def _parse_wheel(uri: str, rest: str, sha256: str) -> Source:
    requirement, _, inner = rest.partition("/")
    package, separator, version = requirement.partition("==")
    if not PACKAGE.fullmatch(package) or not separator or not VERSION.fullmatch(version):
        raise InvalidInput(f"{uri}: no pinned version", hint=f"write {WHEEL_FORM}")
    if not sha256:
        hint = f"write {WHEEL_FORM}; get it by `pip download --no-deps {package}=={version}` and `sha256sum`"
        raise InvalidInput(f"{uri}: no sha256 of the wheel", hint=hint)
    return Source(scheme="wheel", uri=uri, name=package, version=version, inner=_safe_inner(uri, inner), sha256=sha256)


def _parse_hub(uri: str, rest: str, sha256: str) -> Source:
    if sha256:
        raise InvalidInput(f"{uri}: hf:// takes no #sha256=", hint="the commit pins every file")
    kind = "dataset" if rest.startswith("datasets/") else "model"
    name, separator, after = rest.removeprefix("datasets/").partition("@")
    commit, _, inner = after.partition("/")
    if not HUB_NAME.fullmatch(name):
        raise InvalidInput(f"{uri}: not a repository: {name!r}", hint=f"write {HUB_FORM}")
    if not separator or not COMMIT.fullmatch(commit):
        raise InvalidInput(
            f"{uri}: not pinned to a commit, got {commit or 'nothing'!r}",
            hint=f"write {HUB_FORM}; branches and tags move, the commit's 40 digits stand on the repository's page",
        )
    return Source(scheme="hf", uri=uri, name=name, version=commit, inner=_safe_inner(uri, inner), repository_type=kind)


def _safe_inner(uri: str, inner: str) -> str:
    parts = PurePosixPath(inner).parts
    if ".." in parts or inner.startswith("/") or "\\" in inner or any(symbol in inner for symbol in "*?["):
        raise InvalidInput(f"{uri}: path leads out of the package or is a pattern", hint="write a plain relative path")
    return "/".join(parts)


def _fetch_wheel(source: Source, cache: Path) -> Fetched:
    requirement = f"{source.name}=={source.version}"
    path, licence = wheels.fetch(source.uri, requirement, str(source.sha256), source.inner, cache)
    return Fetched(
        path=path, digest=content_digest(path), licence=licence, origin=source.uri, package=source.name,
        version=source.version,
    )  # fmt: skip


def fetch(uri: str, cache: Path) -> Fetched:
    """Bring a source to this machine and give where it stands, its digest and its licence. Safe to call concurrently.

    Raises InvalidInput when it cannot be had, is not there or differs from its pin.
    """
    source = parse(uri)
    if source.scheme == "wheel":
        return _fetch_wheel(source, cache)
    if source.scheme == "hf":
        return _fetch_hub(source, cache)
    if source.scheme == "s3" and source.sha256 and (cached := _cached_objects(source, source.sha256, cache)):
        return Fetched(path=cached, digest=source.sha256, licence=None, origin=uri)
    path = Path(source.name) if source.scheme == "file" else _fetch_objects(source, cache)
    if not path.exists():
        raise InvalidInput(f"source not found: {uri}", hint=f"nothing stands at {path}")
    if not path.is_file() and not path.is_dir():
        raise InvalidInput(f"source is neither a file nor a folder: {uri}", hint="write its content to a file first")
    digest = content_digest(path)
    if source.sha256 and digest != source.sha256:
        raise InvalidInput(
            f"{uri}: content has sha256 {digest[:12]}…, pinned is {source.sha256[:12]}…",
            hint="the content changed; look at the change, then pin the new digest",
        )
    return Fetched(path=path, digest=digest, licence=None, origin=uri)


def content_digest(path: Path) -> str:
    """What `Fetched.digest` holds: a file's sha256, or the digest of a folder's files with their paths."""
    if path.is_file():
        return locations.sha256_of(str(path))
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return files_digest((name_below(path, item), locations.sha256_of(str(item))) for item in files)


def name_below(folder: Path, path: Path) -> str:
    """Relative POSIX path of a file; bytes of its name that are no UTF-8 as \\udcXX, so that it can be recorded."""
    return path.relative_to(folder).as_posix().encode(errors="backslashreplace").decode()


def _objects_folder(digest: str, within: str, cache: Path) -> Path:
    """Where objects of this content are kept; `within` is the name of a single one, else "."."""
    return cache / "objects" / digest_of([digest, within])[:32]


def _cached_objects(source: Source, digest: str, cache: Path) -> Path | None:
    """What was fetched before under this pin, when it still is what the pin says."""
    for within in (source.name.rsplit("/", 1)[1], "."):
        path = _objects_folder(digest, within, cache) / within
        if path.exists() and content_digest(path) == digest:
            return path
    return None


def _fetch_objects(source: Source, cache: Path) -> Path:
    """The object, or the objects below the prefix, brought here anew: without a pin, what a bucket holds may change."""
    files = locations.list_files(source.name)
    single = not files
    parent, name = source.name.rsplit("/", 1)
    if single and not locations.exists(source.name):
        raise InvalidInput(f"source not found: {source.uri}", hint="check bucket, prefix and AWS_ENDPOINT_URL")
    incoming = cache / "objects" / f".incoming-{uuid.uuid4().hex}"
    try:
        incoming.mkdir(parents=True)
        if single:
            locations.download(parent, incoming, [name])
        else:
            locations.download(source.name, incoming, [_safe_inner(source.uri, path) for path, _ in files])
        within = name if single else "."
        digest = content_digest(incoming / within)
        folder = _objects_folder(digest, within, cache)
        with step_lock(cache / "locks", f"objects-{digest}", lambda: None):
            if not (folder / within).exists() or content_digest(folder / within) != digest:
                shutil.rmtree(folder, ignore_errors=True)
                incoming.replace(folder)
        return folder / within
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _fetch_hub(source: Source, cache: Path) -> Fetched:
    # Imported here: it takes a second, and most runs have no such source.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    ignored = [f"*{suffix}" for suffix in sorted(PICKLE_SUFFIXES)] if source.repository_type == "model" else None
    options: dict[str, Any] = {
        "repo_type": source.repository_type,
        "revision": source.version,
        "cache_dir": str(cache / "hub"),
        "allow_patterns": [source.inner, f"{source.inner}/*", "README.md"] if source.inner else None,
        "ignore_patterns": ignored,
        "endpoint": os.environ.get("HF_ENDPOINT"),
        "tqdm_class": None,
    }
    try:
        with step_lock(cache / "locks", f"hub-{digest_of(source.name)[:32]}", lambda: None):
            root = Path(snapshot_download(source.name, **options))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InvalidInput(
            f"{source.uri}: the hub does not give it: {mask(str(error).splitlines()[0])}",
            hint="check repository and commit; gated ones need HF_TOKEN, other hubs HF_ENDPOINT; or use a wheel",
        ) from error
    except OSError as error:
        raise StepFailed(f"{source.uri}: {mask(str(error))}", hint="check the network and free space") from error
    path = root / source.inner if source.inner else root
    if not path.exists():
        raise InvalidInput(f"{source.uri}: the repository holds no {source.inner!r}", hint="check the path")
    return Fetched(
        path=path, digest=content_digest(path), licence=_card_licence(root), origin=source.uri,
        package=source.name, version=source.version,
    )  # fmt: skip


def _card_licence(root: Path) -> str | None:
    """The licence in the front matter of a hub's README.md, when it is an SPDX expression."""
    card = root / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    declared = re.search(r"^license:[ ]*([\w.+-]+)[ ]*$", front.group(1), flags=re.MULTILINE) if front else None
    return licences.normalise(declared.group(1)) if declared else None
