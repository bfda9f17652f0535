"""Licence policy: may a row under this SPDX expression be trained on, given the licences that are allowed?

AND needs every part allowed, OR any; `X WITH exception` is allowed where X is, since SPDX's exceptions only add permissions.
https://spdx.github.io/spdx-spec/v3.0.1/annexes/spdx-license-expressions/
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tutelage.contracts.licences import UNKNOWN, normalise, spdx

#: Licences that permit training and redistribution with attribution at most; share-alike and non-commercial ones are not here.
PERMISSIVE = (
    "0BSD", "AFL-3.0", "Apache-1.1", "Apache-2.0", "Artistic-2.0", "BlueOak-1.0.0", "BSD-1-Clause", "BSD-2-Clause",
    "BSD-2-Clause-Patent", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0",
    "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CNRI-Python", "curl", "ECL-2.0", "HPND", "ICU", "ISC", "JasPer-2.0",
    "libpng-2.0", "MIT", "MIT-0", "MIT-CMU", "MulanPSL-2.0", "NCSA", "ODC-By-1.0", "PDDL-1.0", "PostgreSQL", "PSF-2.0",
    "Python-2.0", "Python-2.0.1", "TCL", "Unicode-3.0", "Unicode-DFS-2016", "Unlicense", "UPL-1.0", "W3C", "WTFPL", "X11", "Zlib",
    "ZPL-2.1",
)  # fmt: skip


def refusal(expression: str | None, allowed: frozenset[str]) -> str | None:
    """None where `expression` is allowed, else `licence_unknown` or `licence_not_allowed`."""
    return _refusal(expression or UNKNOWN, allowed)


@lru_cache(maxsize=4096)
def _refusal(expression: str, allowed: frozenset[str]) -> str | None:
    canonical = normalise(expression)
    if canonical is None or canonical == UNKNOWN:
        return "licence_unknown"
    return None if _permits(spdx().parse(canonical), allowed) else "licence_not_allowed"


def _permits(parsed: Any, allowed: frozenset[str]) -> bool:
    kind = type(parsed).__name__
    if kind == "OR":
        return any(_permits(part, allowed) for part in parsed.args)
    if kind == "AND":
        return all(_permits(part, allowed) for part in parsed.args)
    if kind == "LicenseWithExceptionSymbol":
        return str(parsed) in allowed or str(parsed.license_symbol.key) in allowed
    return str(parsed.key) in allowed
