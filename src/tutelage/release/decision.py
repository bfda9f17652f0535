"""From checks to a signed verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.contracts.verdicts import SCHEMA, sign
from tutelage.release.checks import Check, reasons_of


def verdict_of(checks: Sequence[Check], subject: Mapping[str, str], private_key: Path | None) -> dict[str, Any]:
    """The verdict: PASS when every check passed. Signed where there is a usable key, FAIL and unsigned where there is none."""
    passed = bool(checks) and all(check.passed for check in checks)
    verdict: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": "PASS" if passed else "FAIL",
        "reasons": reasons_of(checks),
        "checks": [check.values() for check in checks],
        "subject": dict(subject),
        "key": None,
        "signature": None,
    }
    return sign(verdict, private_key) if private_key is not None else verdict
