"""One pinned wheel from whatever package index pip is set up for, without pip: images hold no installer.

pip's own settings count, as its documentation gives them (https://pip.pypa.io/en/stable/topics/configuration): variables
(PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX, PIP_TRUSTED_HOST, PIP_CERT, PIP_CLIENT_CERT, PIP_PROXY,
PIP_CONFIG_FILE), then the files pip.conf. unearth, PDM's finder of packages, reads the index; credentials come from the URL, from
netrc or from a keyring. The hash that was pinned chooses the file: it does not matter which Python a wheel is made for, since
nothing of it is installed or run.
"""

from __future__ import annotations

import configparser
import hashlib
import logging
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.masking import mask
from tutelage.errors import InvalidInput

log = logging.getLogger("tutelage")
DEFAULT_INDEX = "https://pypi.org/simple"
#: Sections of pip.conf that hold for downloads, the more particular one last.
SECTIONS = ("global", "download")
TRIES = 4
TIMEOUT_SECONDS = 60.0
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """Where wheels are looked for, and how these places are reached."""

    urls: tuple[str, ...] = (DEFAULT_INDEX,)
    """Simple indexes (PEP 503, PEP 691)."""
    find_links: tuple[str, ...] = ()
    """Folders, and pages with links."""
    trusted_hosts: tuple[str, ...] = ()
    """Hosts that need no certificate, or no TLS."""
    certificates: str | None = None
    """File with the certificates of authorities."""
    client_certificate: str | None = None
    """File with our certificate and its key."""
    proxy: str | None = None
    """URL of a proxy; else HTTPS_PROXY and the like."""


def indexes(environment: Mapping[str, str] = os.environ) -> Indexes:
    """What pip is set up for. Raises InvalidInput for a pip.conf that is none."""
    values = _of_files(environment)
    values |= {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environment.items()
        if name.startswith("PIP_") and value
    }
    urls = [values.get("index-url", DEFAULT_INDEX), *values.get("extra-index-url", "").split()]
    if values.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        urls = []
    certificates = values.get("cert") or environment.get("REQUESTS_CA_BUNDLE") or environment.get("SSL_CERT_FILE")
    return Indexes(
        urls=tuple(urls), find_links=tuple(values.get("find-links", "").split()),
        trusted_hosts=tuple(values.get("trusted-host", "").split()), certificates=certificates or None,
        client_certificate=values.get("client-cert"), proxy=values.get("proxy"),
    )  # fmt: skip


def _of_files(environment: Mapping[str, str]) -> dict[str, str]:
    named, home = environment.get("PIP_CONFIG_FILE"), Path(environment.get("HOME", "/"))
    own = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", own / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    if named:
        # The null device stands for no file at all.
        files = [] if named == os.devnull else [*files, Path(named)]
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file} is no pip.conf: {str(error).splitlines()[0]}", hint="mend it") from error
        for section in SECTIONS:
            if parser.has_section(section):
                found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    return found


def download(uri: str, requirement: str, sha256: str, folder: Path, given: Indexes | None = None) -> Path:
    """Bring the wheel of `requirement` (package==version) with this hash into `folder`. Raises InvalidInput.

    `uri` is what messages call it.
    """
    with _session(given or indexes()) as (finder, session), _warnings() as told:
        said = [(link, _sha256_of(link)) for link in _candidates(uri, requirement, finder, told)]
        # A folder tells no hashes: what it has is read.
        wanted = [link for expected in (sha256, None) for link, hashed in said if hashed == expected]
        served = {hashed for _, hashed in said if hashed not in (sha256, None)}
        for link in wanted:
            target: Path = folder / link.filename
            found = _transfer(uri, session, link, target)
            if found == sha256:
                return target
            target.unlink()
            served.add(found)
    shown = ", ".join(f"{found[:12]}…" for found in sorted(filter(None, served))[:4])
    raise InvalidInput(
        f"{uri}: wheel has sha256 {shown}, pinned is {sha256[:12]}…",
        hint="the index serves another file than the one that was pinned: find out why before using it",
    )


def _candidates(uri: str, requirement: str, finder: Any, told: Sequence[str]) -> list[Any]:
    """Links to wheels of the version. Raises InvalidInput when there is none."""
    from packaging.version import InvalidVersion, Version

    package, _, version = requirement.partition("==")
    hint = "check name and version, and the index that pip is set up for (PIP_INDEX_URL, pip config list)"
    try:
        pinned = Version(version)
    except InvalidVersion as error:
        raise InvalidInput(f"{uri}: {version!r} is no version", hint=hint) from error
    found = list(finder.find_all_packages(package, allow_yanked=True))
    wheels = [(Version(item.version), item.link) for item in found if item.link.is_wheel and item.version]
    if candidates := [link for its_version, link in wheels if its_version == pinned]:
        return candidates
    newest = sorted({its_version for its_version, _ in wheels}, reverse=True)[:4]
    why = "no index has a wheel of it"
    if newest:
        why = f"no index has a wheel of that version; the newest are {', '.join(map(str, newest))}"
    # An index that could not be asked is passed over by the finder.
    raise InvalidInput(f"{uri}: cannot be fetched: {why}{''.join(f'; {item}' for item in told)}", hint=hint)


def _sha256_of(link: Any) -> str | None:
    """What the index says (PEP 691), or the link itself (PEP 503)."""
    told = link.hashes or {}
    return str(told["sha256"]) if "sha256" in told else link.hash if link.hash_name == "sha256" else None


def _transfer(uri: str, session: Any, link: Any, target: Path) -> str:
    """Bring one file, tried again where the connection breaks. Gives its sha256."""
    import httpx2

    for attempt in range(1, TRIES + 1):
        try:
            return _stream(session, link, target)
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            if status < 500 and status != 429:
                raise InvalidInput(f"{uri}: {link.filename}: the index answers {status}") from error
            why = f"the index answers {status}"
        except httpx2.HTTPError as error:
            why = mask(str(error)) or type(error).__name__
        if attempt < TRIES:
            log.warning("%s: %s, trying again", link.filename, why)
            time.sleep(2**attempt / 2)
    raise InvalidInput(f"{uri}: {link.filename} cannot be fetched: {why}", hint="try again later")


def _stream(session: Any, link: Any, target: Path) -> str:
    digest, done, said = hashlib.sha256(), 0, time.monotonic()
    # A packed answer would have another hash.
    plain = {"Accept-Encoding": "identity"}
    with (
        session.stream("GET", link.normalized, headers=plain, follow_redirects=True) as answer,
        target.open("wb") as file,
    ):
        answer.raise_for_status()
        total = int(answer.headers.get("Content-Length") or 0)
        for chunk in answer.iter_raw(locations.CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                log.info("%s: %.0f of %.0f MB", link.filename, done / 1e6, total / 1e6)
    return digest.hexdigest()


@contextmanager
def _session(given: Indexes) -> Iterator[tuple[Any, Any]]:
    """A finder over `given`, and the client that it asks with."""
    from unearth import PackageFinder
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    # unearth's own client is not what its protocol for clients says, in the words of types.
    client: Any = PyPIClient
    if not given.urls and not given.find_links:
        # The finder would take PyPI.
        raise InvalidInput(
            "pip is set up for no index and no folder of wheels", hint="PIP_NO_INDEX asks for PIP_FIND_LINKS"
        )
    verify = ssl.create_default_context(cafile=given.certificates) if given.certificates else True
    more = {"proxy": given.proxy} if given.proxy else {}
    with client(
        trusted_hosts=given.trusted_hosts, verify=verify, cert=given.client_certificate, timeout=TIMEOUT_SECONDS, **more
    ) as session:
        session.auth = MultiDomainBasicAuth(index_urls=given.urls, prompting=False)
        finder = PackageFinder(
            session=session, index_urls=given.urls, find_links=[_place(item) for item in given.find_links],
            trusted_hosts=given.trusted_hosts, ignore_compatibility=True, only_binary=[":all:"],
        )  # fmt: skip
        yield finder, session


def _place(item: str) -> str:
    return item if "://" in item else Path(item).absolute().as_uri()


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the finder warns of, masked: indexes that it could not ask."""
    told: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(mask(record.getMessage()))

    logger, handler = logging.getLogger("unearth.collector"), Collect(logging.WARNING)
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
