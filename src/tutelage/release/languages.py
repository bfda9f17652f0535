"""Which languages the rows of a payload are declared in."""

from __future__ import annotations

from tutelage.contracts import tables
from tutelage.contracts.manifest import Manifest


def languages_of(splits: Manifest) -> list[str]:
    """Distinct values of column `language`, sorted, as sources declared them; rows without one are left out."""
    found = {row["language"] for row in tables.read(splits, columns=["language"])}
    return sorted(language for language in found if language)
