"""What may be shown and recorded of a text: no e-mail address, no access key, and no user name or password of a URL.

    from tutelage.contracts.masking import mask
    mask("https://user:word@host/x, jane@example.org")     # https://[credentials]@host/x, [e-mail]

For messages, logs, lineage and pages. Rows of a corpus need more, and have it in `tutelage.data.personal_data`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Each match begins where a run of such characters begins, so that a long run without an at sign is read once.
_EMAIL = re.compile(r"(?<![\w.!#$%'*+=?^`{|}~-])[\w.!#$%'*+=?^`{|}~-]+@(?:[\w-]+\.)+[^\W\d_]{2,}")
#: Whatever stands before the last at sign of a URL's authority. hf://name@<commit> is a pinned repository and no user name.
_CREDENTIALS = re.compile(r"(?<=://)(?!(?<=\bhf://)[\w.-]+@[0-9a-f]{40}(?![\w.@-]))[^/\s\"<>]+@")
#: Access keys that their makers gave a beginning to be known by, of clouds, forges, package indexes and model hubs.
ACCESS_KEYS = (
    r"(?<![A-Za-z0-9_])(?:"
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|"
    r"xox[abprs]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{20,}|sk_live_[A-Za-z0-9]{16,}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,}|"
    r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"
)
#: One alternative for all, since most texts have none: reading a text once for each would take a dozen times as long.
_ACCESS_KEYS = re.compile(ACCESS_KEYS)


def mask(text: str) -> str:
    """`text` without e-mail addresses, access keys, and user names and passwords in URLs."""
    return _ACCESS_KEYS.sub("[key]", _EMAIL.sub("[e-mail]", _CREDENTIALS.sub("[credentials]@", text)))


def mask_values(value: Any) -> Any:
    """A JSON value with every string in it masked, keys among them.

    Value by value, since in JSON text an escape such as \\n runs into the address behind it.
    """
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(key)): mask_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_values(item) for item in value]
    return value
