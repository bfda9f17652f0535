"""Where a KFP server is and who we are to it, from the environment:

    KF_PIPELINES_TOKEN          a bearer token
    KF_PIPELINES_SA_TOKEN_PATH  a file with one, read again when the server refuses it; a pod's projected token by default
    KF_PIPELINES_COOKIE         the cookie of a session in the browser, where the gateway knows no tokens
    KF_PIPELINES_CA             certificates (PEM) of the host's authority, where it is your own

None of it is ever shown: what no header can carry is refused by its name alone, and what a server says of a request is told
without them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from tutelage.errors import InvalidInput

TOKEN_VARIABLE = "KF_PIPELINES_TOKEN"  # noqa: S105  (a name)
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105  (a name)
COOKIE_VARIABLE = "KF_PIPELINES_COOKIE"
CERTIFICATES_VARIABLE = "KF_PIPELINES_CA"
#: Where Kubeflow projects a token for its API into pods.
POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")


def checked_host(host: str) -> str:
    """`host` as an address. Raises InvalidInput, which shows neither a password in it nor what stands behind its path."""
    if "@" in host:
        raise InvalidInput(
            "the address holds a password", hint=f"set {TOKEN_VARIABLE} instead; addresses end up in logs"
        )
    host, shown = host.strip(), re.split(r"[?#]", host.strip(), maxsplit=1)[0]
    try:
        parts = urlsplit(host)
        fits = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        # A bracket that is left open, a port that is none.
        fits = False
    if not fits or not host.isascii() or not host.isprintable() or " " in host:
        raise InvalidInput(f"not an address: {shown!r}", hint="write https://host or http://host:port")
    if shown != host:
        raise InvalidInput(
            f"the address goes on behind its path, with ? or #: {shown!r}",
            hint="it is a page's: name the API's own, which this may be without its end",
        )
    return host.rstrip("/")


def token(file_name: str | None) -> str | None:
    """The bearer token: of the named file, of the environment, or of this pod. Raises InvalidInput where there should be one."""
    file = Path(file_name) if file_name else POD_TOKEN
    if file_name and not file.is_file():
        raise InvalidInput(f"token file not found: {file}", hint=f"name a file with a token, or set {TOKEN_VARIABLE}")
    if file_name is None and (given := os.environ.get(TOKEN_VARIABLE)):
        return _sendable(given, TOKEN_VARIABLE)
    # Latin 1 reads every file; what is no ASCII is refused then, by the file's name.
    return _sendable(file.read_text(encoding="latin-1"), f"token file {file}") if file.is_file() else None


def cookie() -> str:
    """The cookie of a session; empty without one. Raises InvalidInput."""
    return _sendable(os.environ.get(COOKIE_VARIABLE, ""), COOKIE_VARIABLE)


def _sendable(secret: str, what: str) -> str:
    """A credential without the white space around it. Raises InvalidInput, naming `what` alone, where no header can carry it."""
    secret = secret.strip()
    if not (secret.isascii() and secret.isprintable()):
        raise InvalidInput(
            f"{what} holds a line break, or another character that no HTTP header can carry",
            hint="it may have been pasted with a line break in it, or from a page that put … for its end: copy it again",
        )
    return secret


def certificates() -> str:
    """The file of certificates that are trusted. Raises InvalidInput."""
    import certifi

    file = os.environ.get(CERTIFICATES_VARIABLE)
    if file and not Path(file).is_file():
        raise InvalidInput(f"{CERTIFICATES_VARIABLE}: no file {file}", hint="name a PEM file")
    return file or str(certifi.where())
