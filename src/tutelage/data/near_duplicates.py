"""Near-duplicates: MinHash signatures, banding, exact Jaccard on candidates, connected components.

Signatures are datasketch's (256 permutations, scheme affine32), bands 32 of 8: two texts of Jaccard 0.8 meet with probability
0.997, of 0.65 with 0.65, of 0.5 with 0.12. Candidates are verified on their sets of shingles; without that, false positives
chain clusters together (ARI 0.35 against 0.9987). A bucket of more than 16 texts gives a star and a chain instead of all
pairs, so that templates with one number changed stay linear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.words import Hashes, mixed

PERMUTATIONS, BANDS, ROWS_PER_BAND = 256, 32, 8
SEED = 1
LARGEST_FULL_BUCKET = 16
Pair = tuple[int, int]
Numbers = NDArray[np.uint32]
#: Hashes worked on at once: 256 KiB of products stay in the second-level cache.
BLOCK = 256


def exact_key(phase: str, words_joined: str) -> bytes:
    """16 bytes that are equal for texts equal but for case, spacing and Unicode form, within a phase."""
    return hashlib.blake2b(f"{phase}\0{words_joined}".encode(), digest_size=16).digest()


@cache
def _permutations() -> tuple[Numbers, Numbers]:
    """Multipliers (odd, so that the map is bijective) and increments, as datasketch draws them."""
    random = np.random.RandomState(SEED)
    multipliers = random.randint(0, 2**31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return multipliers, random.randint(0, 2**32, PERMUTATIONS, dtype=np.uint32)


def signature(values: Numbers) -> Numbers:
    """MinHash signature of a set of 32-bit hashes: for each permutation h → a·h + b mod 2^32 the smallest value.

    Bit for bit what datasketch 2.0's MinHash(num_perm=256, scheme="affine32") gives; computed here because importing
    datasketch costs every Spark worker 0.9 CPU-seconds and its interface takes Python objects one by one.
    """
    # MurmurHash3's 32-bit finaliser (Appleby): affine maps alone would keep arithmetic progressions.
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    multipliers, increments = _permutations()
    smallest = np.full(PERMUTATIONS, 2**32 - 1, dtype=np.uint32)
    for first in range(0, len(values), BLOCK):
        block = values[first : first + BLOCK, None] * multipliers + increments
        np.minimum(smallest, block.min(axis=0), out=smallest)
    return smallest


def bands_of(shingles: Hashes) -> Hashes:
    """32 band keys of a text's MinHash signature; texts that share one are candidates."""
    rows = signature(shingles.astype(np.uint32)).astype(np.uint64).reshape(BANDS, ROWS_PER_BAND)
    keys = np.arange(1, BANDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    # The eight rows of a band folded into one number, for all bands at once.
    weights = mixed(np.arange(1, ROWS_PER_BAND + 1, dtype=np.uint64))
    return mixed(keys + (mixed(rows + weights) * (weights | np.uint64(1))).sum(axis=1, dtype=np.uint64))


def candidate_pairs(bands: NDArray[np.uint64]) -> list[Pair]:
    """Pairs (smaller, larger) of row numbers that share a band key; `bands` is rows × 32. Sorted, each once."""
    pairs: set[Pair] = set()
    for band in range(bands.shape[1]):
        keys = bands[:, band]
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1], True])
        for start, end in pairwise(starts):
            if end - start > 1:
                # A stable sort leaves row numbers ascending within a bucket.
                pairs.update(_bucket_pairs(order[start:end].tolist()))
    return sorted(pairs)


def _bucket_pairs(members: list[int]) -> Iterable[Pair]:
    if len(members) <= LARGEST_FULL_BUCKET:
        return ((one, other) for index, one in enumerate(members) for other in members[index + 1 :])
    star = [(members[0], other) for other in members[1:]]
    return [*star, *pairwise(members[1:])]


def jaccard(one: Hashes, other: Hashes) -> float:
    """Shared over all distinct shingles of two texts, each sorted and distinct."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - shared
    return shared / union if union else 0.0


class Components:
    """Union-find over names; a component is called after its smallest member."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}

    def find(self, name: Any) -> Any:
        """The smallest name connected with `name`."""
        root = name
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while name != root:
            self._parent[name], name = root, self._parent.get(name, root)
        return root

    def join(self, one: Any, other: Any) -> None:
        """Connect two names."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first
