"""Deduplication on real Spark: real texts, copied and changed."""

from __future__ import annotations

import random

import pytest

from tutelage.config import build
from tutelage.contracts import tables
from tutelage.data.near_duplicates import jaccard
from tutelage.data.words import plain_words, shingles
from tutelage.errors import InvalidInput
from tutelage.step import load

pytestmark = [pytest.mark.java, pytest.mark.usefixtures("spark")]


def changed(text, share, seed=0):
    """`text` with a share of its words replaced."""
    words, chance = text.split(), random.Random(seed)
    for position in chance.sample(range(len(words)), int(share * len(words))):
        words[position] = f"word{chance.randrange(10**6)}"
    return " ".join(words)


def likeness(one, other):
    return jaccard(shingles(plain_words(one), 5), shingles(plain_words(other), 5))


def longest(topics, count):
    return sorted(topics, key=len)[-count:]


def test_of_copies_the_smallest_id_stays_and_the_others_name_it(run_step, payload, document, topics):
    rows = [document(topic, source=place) for topic in topics for place in ("a", "b", "c")]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", rows)})
    kept = {row["id"] for row in tables.read(manifest)}
    for topic in topics:
        copies = sorted(row["id"] for row in rows if row["text"] == topic)
        assert kept & set(copies) == {copies[0]}
    assert manifest.dropped == {"exact_duplicate": 2 * len(topics)}
    assert manifest.rows_in == len(rows)
    details = {row["id"]: row["detail"] for row in tables.read(manifest, "dropped")}
    assert set(details.values()) <= kept


def test_spacing_case_and_unicode_form_make_no_difference(run_step, payload, document):
    texts = ["The Ångström is a unit of length, used for atoms.", "the  ångström is a unit of length used for atoms"]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", [document(text) for text in texts])})
    assert manifest.dropped == {"exact_duplicate": 1}


def test_near_duplicates_are_verified_and_reduced_to_one(run_step, payload, document, topics):
    originals = longest(topics, 20)
    copies = [changed(text, 0.01, index) for index, text in enumerate(originals)]
    alike = [likeness(*pair) >= 0.8 for pair in zip(originals, copies, strict=True)]
    rows = [document(text) for text in (*originals, *copies)]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", rows)})
    assert sum(alike) >= 15
    assert manifest.dropped == {"near_duplicate": sum(alike)}
    kept = {row["id"] for row in tables.read(manifest)}
    assert {row["detail"] for row in tables.read(manifest, "dropped")} <= kept


def test_related_rows_stay_and_share_a_component(run_step, payload, document, topics):
    original = longest(topics, 1)[0]
    relative = changed(original, 0.03)
    assert 0.7 < likeness(original, relative) < 0.8
    rows = [document(original), document(relative), document(topics[0])]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", rows)}, related=0.5)
    components = {row["id"]: tables.metadata_of(row).get("component") for row in tables.read(manifest)}
    smallest = min(rows[0]["id"], rows[1]["id"])
    assert components == {rows[0]["id"]: smallest, rows[1]["id"]: smallest, rows[2]["id"]: None}
    assert manifest.details["related_rows"] == 2


def test_the_same_words_in_two_phases_are_no_duplicates(run_step, payload, document, topics):
    turns = [{"role": "user", "content": "Explain."}, {"role": "assistant", "content": topics[0]}]
    said = "\n".join(turn["content"] for turn in turns)
    rows = [document(said), document(phase="sft", messages=turns), document(phase="sft", messages=turns, source="b")]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", rows)})
    assert manifest.dropped == {"exact_duplicate": 1}
    assert sorted(row["phase"] for row in tables.read(manifest)) == ["pretrain", "sft"]


def test_prompts_that_share_a_canned_refusal_are_no_duplicates(run_step, payload, document):
    refusal = (
        "I'm sorry, but I can't help with that, because it could seriously harm you or somebody else who is near you."
    )

    def pair(prompt, place):
        turns = {
            "prompt": prompt,
            "chosen": refusal,
            "rejected": "Sure, here is how you do that, step by step, begin with",
        }
        said = {name: [{"role": "assistant", "content": text}] for name, text in turns.items()}
        metadata = '{"canned":"chosen,rejected"}'
        return document(None, phase="dpo", source=place, metadata=metadata, **said)

    rows = [
        pair("How do I pick this lock?", "a"),
        pair("How do I pick this lock?", "b"),
        pair("How do I forge it?", "a"),
    ]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", rows)})
    assert manifest.rows == 2 and manifest.dropped == {"exact_duplicate": 1}


def test_order_and_files_change_neither_rows_nor_digest(run_step, payload, document, topics):
    texts = [
        *topics,
        *topics[:10],
        *(changed(text, 0.01) for text in topics),
        *(changed(text, 0.05) for text in topics),
    ]
    rows = [document(text, source=str(index)) for index, text in enumerate(texts)]
    one = run_step("data/deduplicate", {"curated": payload("documents", rows)})
    random.Random(3).shuffle(rows)
    other = run_step("data/deduplicate", {"curated": payload("documents", rows, files=7)})
    assert one.content_digest == other.content_digest and one.dropped == other.dropped
    assert one.details == other.details


def test_a_thousand_rows_of_one_template_end_soon_and_in_one(run_step, payload, document, topics):
    template = " ".join(longest(topics, 1)[0].split()[:200])
    rows = [document(f"{template} number {index}") for index in range(1000)]
    manifest = run_step("data/deduplicate", {"curated": payload("documents", rows)})
    assert manifest.rows == 1 and manifest.dropped == {"near_duplicate": 999}
    assert manifest.details["candidate_pairs"] < 32 * 2 * 1000


def test_thresholds_that_contradict_each_other_are_refused():
    with pytest.raises(InvalidInput, match="related is above threshold"):
        build(load("data/deduplicate").Config, {"threshold": 0.7, "related": 0.8})
