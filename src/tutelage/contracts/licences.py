"""Licences as SPDX expressions: read from what packages declare, None wherever that leaves a doubt.

Wheels declare theirs in METADATA: `License-Expression` (PEP 639), else the free text of `License`, else trove
classifiers. Free text and classifiers are taken only where they name exactly one licence: "BSD" does not say how many
clauses, the classifier "Apache Software License" no version (PEP 639 lists ambiguous classifiers), so both give None.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser
from functools import cache
from typing import Any

#: SPDX's word for "nobody says"; admitted as a declaration, dropped later by the licence policy.
UNKNOWN = "NOASSERTION"
#: Written instead of an expression: take the one that the wheel's METADATA or the hub's card declares.
FROM_METADATA = "metadata"

#: Classifiers that name one licence, after "License :: OSI Approved :: " (CC0 and others stand without "OSI Approved").
CLASSIFIERS = {
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Eclipse Public License 1.0 (EPL-1.0)": "EPL-1.0",
    "Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    "European Union Public Licence 1.1 (EUPL 1.1)": "EUPL-1.1",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "Zero-Clause BSD (0BSD)": "0BSD",
}

#: Free texts of the `License` field, lower case, that can mean one licence only.
TEXTS = {
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "isc license": "ISC",
    "mit license": "MIT",
    "mpl 2.0": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "the mit license": "MIT",
}


def normalise(expression: str) -> str | None:
    """The canonical spelling of an SPDX expression ("mit or apache-2.0" → "MIT OR Apache-2.0"); None when it is none.

    Licences outside SPDX's list are written LicenseRef-<name>, as SPDX has it.
    """
    from license_expression import ExpressionError  # type: ignore[import-untyped]

    text = expression.strip()
    if text.upper() == UNKNOWN:
        return UNKNOWN
    if not text or "\n" in text or len(text) > 400:
        return None
    try:
        parsed = spdx().parse(text)
        unknown = spdx().unknown_license_keys(parsed)
    except ExpressionError:
        return None
    if parsed is None or not all(re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", key) for key in unknown):
        return None
    return str(parsed)


def declared(licence: str) -> str:
    """A licence as a recipe declares it, in canonical spelling: SPDX, `metadata` or NOASSERTION. Raises ValueError."""
    if licence == FROM_METADATA:
        return licence
    expression = normalise(licence)
    if expression is None:
        raise ValueError(f"not an SPDX expression, accepted: SPDX, {FROM_METADATA!r} or {UNKNOWN!r}")
    return expression


@cache
def spdx() -> Any:
    """license_expression.Licensing with SPDX's list of licences, made once: it takes a second."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def from_metadata(metadata: str) -> str | None:
    """The licence that a wheel's METADATA declares, as an SPDX expression; None when it is absent or unclear."""
    headers = HeaderParser().parsestr(metadata)
    for field in ("License-Expression", "License"):
        text = str(headers.get(field) or "")
        found = TEXTS.get(text.strip().lower()) or normalise(text)
        if found is not None:
            return found
    return from_classifiers([str(value) for value in headers.get_all("Classifier") or []])


def from_classifiers(classifiers: list[str]) -> str | None:
    """The one licence that trove classifiers name; None when they name none, several, or one that is unclear."""
    named = {item.removeprefix("License :: ").removeprefix("OSI Approved :: ") for item in classifiers
             if item.startswith("License :: ") and item != "License :: OSI Approved"}  # fmt: skip
    licences = {CLASSIFIERS.get(name) for name in named}
    return licences.pop() if len(licences) == 1 else None
