"""Digests: of JSON values, of files, and of datasets whatever their order, partitions and file layout.

A dataset's digest is LtHash (Bellare and Micciancio 1997; Lewi et al., "Securing Update Propagation with Homomorphic
Hashing", 2019): each row is expanded by SHAKE-256 to 1,024 32-bit numbers, rows are added number by number modulo 2^32,
and the sum is hashed. Sums of partitions add up, so each Spark task sums its own rows and the driver adds the sums. Equal
multisets give equal digests; finding two unequal ones is a lattice problem with more than 200 bits of security. 16-bit numbers
would do for sets, but 65,536 copies of any row would add up to nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Imported where rows are added: every task of a run imports this module, and few of them add rows.
    import numpy as np
    from numpy.typing import NDArray

LTHASH_NUMBERS = 1024


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes. Refuses NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Hex sha256 of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class RowsDigest:
    """Running digest of a multiset of rows. `add` rows, `merge` other sums, read `hexdigest()` when done."""

    def __init__(self, state: bytes | None = None, rows: int = 0) -> None:
        """Start empty, or from another's `state()` and row count."""
        import numpy as np

        self._sum: NDArray[np.uint32] = (
            np.zeros(LTHASH_NUMBERS, dtype="<u4") if state is None else np.frombuffer(state, dtype="<u4").copy()
        )
        self.rows = rows

    def add(self, row: Mapping[str, Any] | bytes) -> None:
        """Add one row: a mapping of JSON values, or its canonical bytes."""
        import numpy as np

        data = row if isinstance(row, bytes) else canonical_json(row)
        self._sum += np.frombuffer(hashlib.shake_256(data).digest(4 * LTHASH_NUMBERS), dtype="<u4")
        self.rows += 1

    def update(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add every row of `rows`."""
        for row in rows:
            self.add(row)

    def merge(self, other: RowsDigest) -> None:
        """Add another sum, for example a partition's."""
        self._sum += other._sum
        self.rows += other.rows

    def state(self) -> bytes:
        """4,096 bytes from which the sum can be rebuilt: what a Spark task returns."""
        return self._sum.tobytes()

    def hexdigest(self) -> str:
        """Hex sha256 of row count and sum."""
        return hashlib.sha256(f"lthash32:{self.rows}:".encode() + self.state()).hexdigest()


def files_digest(files: Iterable[tuple[str, str]]) -> str:
    """Digest of (relative path, sha256) pairs, for payloads whose files are the content: models, pages, verdicts."""
    return digest_of(sorted(files))
