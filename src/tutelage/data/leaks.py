"""Leaks: training rows that contain held-out rows or items of the evaluation Suite.

Containment of 5-word sequences of at least 0.5 after strong normalisation found .99 of 12,369 GSM8K and MMLU items wherever they
were embedded and flagged none of 3,000 clean pages; Jaccard finds none of them. Items of fewer than five words count as
contained when all their words stand in the row in order, those of one or two words only when they are the whole row.
Sequences that stand in very many protected texts are templates ("Write the body of this Python function") and prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.data.words import Hashes, sequences, strong_words, word_hashes

#: A sequence in this share of at least this many protected texts is a template.
TEMPLATE_SHARE, TEMPLATE_TEXTS = 0.05, 20
LEAK_SUITE, LEAK_HELDOUT = "leak_suite", "leak_heldout"
#: Fewer words than this are contained only in a row that has no other words.
FEWEST_WORDS = 3


@dataclass(frozen=True)
class Protected:
    """A text that training must not see: a held-out row or a Suite item."""

    id: str
    kind: str
    """LEAK_SUITE or LEAK_HELDOUT: the reason that rows are dropped for."""
    sequences: Hashes
    """Sorted distinct hashes of its word sequences."""
    length: int
    """Words of a sequence: fewer than the usual number in a short text."""
    whole: bool
    """So short that only a row that says nothing else contains it."""


def protect(name: str, kind: str, text: str, length: int) -> Protected | None:
    """`text` as something to protect; None when it has no words."""
    words = strong_words(text)
    if not words:
        return None
    used = min(length, len(words))
    found = np.unique(sequences(word_hashes(words), used))
    return Protected(name, kind, found, used, len(words) < min(FEWEST_WORDS, length))


@dataclass(frozen=True)
class Match:
    """The protected text that a row contains most of."""

    kind: str
    id: str
    containment: float


class Index:
    """All protected texts, searchable by sequence; numpy arrays only, so that it travels to executors cheaply."""

    def __init__(self, protected: Iterable[Protected], length: int, containment: float) -> None:
        """`length` is the usual number of words of a sequence, `containment` the share that makes a leak."""
        # The Suite's first, each in the order of ids whatever order they came in: matches are settled by it.
        texts = sorted(protected, key=lambda text: (text.kind != LEAK_SUITE, text.id))
        self._of_suite = sum(1 for text in texts if text.kind == LEAK_SUITE)
        self._length, self._containment = length, containment
        self._names = [(text.kind, text.id) for text in texts]
        self._whole = np.array([text.whole for text in texts], dtype=bool)
        self._lengths = sorted({text.length for text in texts})
        hashes = np.concatenate([text.sequences for text in texts]) if texts else np.empty(0, dtype=np.uint64)
        owners = np.repeat(np.arange(len(texts)), [len(text.sequences) for text in texts])
        hashes, owners = _without_templates(hashes, owners, len(texts))
        order = np.lexsort((owners, hashes))
        self._hashes, self._owners = hashes[order], owners[order]
        self._sizes = np.bincount(owners, minlength=len(texts))

    def match(self, text: str, *, suite_only: bool = False) -> Match | None:
        """The protected text that `text` contains, None when there is none; `suite_only` leaves held-out rows out.

        Of several an item of the Suite before a held-out row, then the largest containment, then the first id.
        """
        if not self._names:
            return None
        words = strong_words(text)
        hashes = word_hashes(words)
        mine = [sequences(hashes, length) for length in self._lengths]
        # Sequences of different lengths never collide but by chance, so they share one index.
        hits = self._hits(np.unique(np.concatenate(mine)))
        if not len(hits):
            return None
        counts = np.bincount(hits, minlength=len(self._names))
        share = counts / np.maximum(self._sizes, 1)
        if len(words) >= FEWEST_WORDS:
            share[self._whole] = 0
        kinds = ((0, self._of_suite), (self._of_suite, len(share)))
        for first, end in kinds[:1] if suite_only else kinds:
            best = first + int(np.argmax(share[first:end])) if end > first else None
            if best is not None and share[best] >= self._containment:
                return Match(*self._names[best], float(share[best]))
        return None

    def _hits(self, mine: Hashes) -> NDArray[np.int64]:
        """The owner of every protected sequence that is among `mine`."""
        first = np.searchsorted(self._hashes, mine, side="left")
        last = np.searchsorted(self._hashes, mine, side="right")
        ranges = [self._owners[start:end] for start, end in zip(first, last, strict=True) if end > start]
        return np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int64)


def _without_templates(hashes: Hashes, owners: NDArray[np.int64], texts: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The sequences that are no templates; all of a text's where it would have none left."""
    if texts < TEMPLATE_TEXTS:
        return hashes, owners
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    telling = counts[inverse] < max(TEMPLATE_TEXTS, TEMPLATE_SHARE * texts)
    left = np.bincount(owners, weights=telling, minlength=texts)
    telling |= left[owners] == 0
    return hashes[telling], owners[telling]
