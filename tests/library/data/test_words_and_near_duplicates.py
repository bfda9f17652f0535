from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.data.near_duplicates import (
    LARGEST_FULL_BUCKET,
    PERMUTATIONS,
    SEED,
    Components,
    bands_of,
    candidate_pairs,
    jaccard,
    signature,
)  # fmt: skip
from tutelage.data.words import plain_words, sequences, shingles, strong_words, word_hashes


@pytest.mark.parametrize("count", [1, 7, 255, 256, 3000])
def test_signatures_are_those_of_datasketch(count):
    from datasketch import MinHash

    values = np.random.default_rng(count).integers(0, 2**32, count, dtype=np.uint32)
    reference = MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme="affine32", hashfunc=lambda value: value)
    reference.update_batch(values)
    assert (reference.hashvalues == signature(values)).all()


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.lists(st.sampled_from("abcdefgh"), max_size=30))
def test_hashed_shingles_compare_as_sets_of_tuples_do(one, other):
    def tuples(words):
        length = min(3, len(words))
        return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if words else set()

    first, second = tuples(one), tuples(other)
    expected = len(first & second) / len(first | second) if first | second else 0.0
    assert jaccard(shingles(one, 3), shingles(other, 3)) == pytest.approx(expected)


def test_the_order_of_words_matters():
    hashes = word_hashes(["a", "b", "a"])
    assert sequences(hashes[:2], 2)[0] != sequences(hashes[1:], 2)[0]


def test_texts_meet_in_a_band_as_often_as_the_formula_says():
    chance = np.random.default_rng(0)
    meetings = {0.5: 0, 0.8: 0}
    for likeness in meetings:
        for _ in range(200):
            size = 300
            shared = round(2 * size * likeness / (1 + likeness))
            values = chance.integers(0, 2**63, 2 * size - shared, dtype=np.uint64)
            one, other = values[:size], values[size - shared :]
            meetings[likeness] += bool(set(bands_of(one)) & set(bands_of(other)))
    assert meetings[0.8] >= 196
    assert 8 <= meetings[0.5] <= 45


def test_large_buckets_give_a_star_and_a_chain():
    size = 10 * LARGEST_FULL_BUCKET
    bands = np.ones((size, 32), dtype=np.uint64)
    pairs = candidate_pairs(bands)
    assert len(pairs) == (size - 1) + (size - 2)
    assert len(candidate_pairs(bands[:LARGEST_FULL_BUCKET])) == LARGEST_FULL_BUCKET * (LARGEST_FULL_BUCKET - 1) // 2


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40), st.randoms())
def test_components_do_not_depend_on_the_order_of_pairs(pairs, chance):
    def found(order):
        components = Components()
        for one, other in order:
            components.join(one, other)
        return [components.find(name) for name in range(21)]

    shuffled = list(pairs)
    chance.shuffle(shuffled)
    assert found(pairs) == found(shuffled)
    assert all(component <= name for name, component in enumerate(found(pairs)))


def test_strong_normalisation_sees_through_disguises():
    plain = plain_words("The naive cafe travels far")
    disguises = [
        "THE  naïve—café, travels: far!", "the <i>naive</i>&nbsp;cafe travels far", "the naive cafe tra-\nvels far",
        "the naive cafe tra\u00advels far", "ｔｈｅ naive cafe travels far", "the naive cafe\ntravels\nfar",
    ]  # fmt: skip
    for disguise in disguises:
        assert strong_words(disguise) == plain


@pytest.mark.parametrize(
    "unseen", ["\u00ad", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u202e", "\ufe0f", "\u034f"]
)
def test_characters_of_no_width_hide_no_word(unseen):
    assert strong_words("A desert and a m\u0331arsh".replace("e", f"e{unseen}")) == ["a", "desert", "and", "a", "marsh"]
    assert strong_words(f"de&#{ord(unseen)};sert") == ["desert"]


def test_words_next_to_a_less_than_sign_are_not_taken_for_markup():
    assert strong_words("if a < b and b > c") == ["if", "a", "b", "and", "b", "c"]
