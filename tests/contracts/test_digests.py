"""Digests: equal for equal content whatever its order and partitions, different for anything else."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.contracts import tables
from tutelage.contracts.digests import RowsDigest, canonical_json, digest_of, files_digest
from tutelage.contracts.store import step_key

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rows_of_any_kind = st.lists(st.dictionaries(texts, values, max_size=4), max_size=12)


def rows_digest(rows: list[dict[str, Any]]) -> str:
    digest = RowsDigest()
    digest.update(rows)
    return digest.hexdigest()


@given(rows_of_any_kind, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    assert rows_digest(shuffled) == rows_digest(rows)


@given(rows_of_any_kind)
def test_order_of_fields_does_not_matter(rows):
    assert rows_digest([dict(reversed(row.items())) for row in rows]) == rows_digest(rows)


@given(rows_of_any_kind, st.lists(st.integers(0, 12), max_size=4))
def test_partitions_do_not_matter(rows, borders):
    cuts = [0, *sorted(min(border, len(rows)) for border in borders), len(rows)]
    whole = RowsDigest()
    for start, end in itertools.pairwise(cuts):
        part = RowsDigest()
        part.update(rows[start:end])
        # As a Spark task hands it over: state and row count.
        whole.merge(RowsDigest(part.state(), part.rows))
    assert whole.hexdigest() == rows_digest(rows)
    assert whole.rows == len(rows)


@given(rows_of_any_kind, rows_of_any_kind)
def test_digests_are_equal_exactly_for_equal_multisets(left, right):
    same = sorted(map(canonical_json, left)) == sorted(map(canonical_json, right))
    assert (rows_digest(left) == rows_digest(right)) == same


@given(rows_of_any_kind.filter(bool), st.integers(2, 5))
def test_duplicate_rows_count(rows, times):
    assert rows_digest(rows) != rows_digest(rows + rows[:1] * (times - 1))
    assert rows_digest(rows[:1] * times) != rows_digest(rows[:1] * (times + 1))


@pytest.mark.parametrize("power", [15, 16, 17, 20])
def test_many_copies_of_one_row_are_not_many_copies_of_another(power: int):
    digests = []
    for text in ("a", "b"):
        digest = RowsDigest()
        digest.add({"text": text})
        for _ in range(power):
            digest.merge(RowsDigest(digest.state(), digest.rows))
        assert digest.rows == 2**power
        digests.append(digest.hexdigest())
    assert digests[0] != digests[1]


def test_swapping_values_between_rows_is_seen():
    assert rows_digest([{"a": 1, "b": 2}, {"a": 3, "b": 4}]) != rows_digest([{"a": 1, "b": 4}, {"a": 3, "b": 2}])


def test_absent_is_not_null_and_one_is_not_true():
    variants = [
        [{}],
        [{"a": None}],
        [{"a": 1}],
        [{"a": True}],
        [{"a": "1"}],
        [{"a": 1.5}],
        [{"a": ""}],
        [{"a": []}],
        [],
    ]
    assert len({rows_digest(variant) for variant in variants}) == len(variants)


def test_digests_do_not_depend_on_hash_randomisation():
    program = (
        "from tutelage.contracts import RowsDigest, digest_of\n"
        "d = RowsDigest(); d.update({'b': i, 'a': {'z', 'y'}.__len__(), 'é': str(i)} for i in range(50))\n"
        "print(d.hexdigest(), digest_of({'x': 1, 'ä': [1.5, None]}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1


def test_a_digest_stays_what_it_was():
    """Finished work is found by digests: a change here makes every store a stranger. Change it knowingly."""
    assert rows_digest([{"id": "1", "text": "ä"}, {"id": "2", "text": None}]) == (
        "29cfa1723f54d597a455e7e2d7a4d39151524db6880b98af284bdfc2fb16d992"
    )
    assert (
        digest_of({"b": [1, 2.5, None], "a": "ä"}) == "324d0f98e8e7b390bd24bc556eff388b74bd640e9df12c341becba7b8658c628"
    )


@given(values)
def test_canonical_json_is_json_of_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")], {"a": {1, 2}}, b"bytes", object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        canonical_json(value)


@given(st.lists(st.tuples(texts, texts), max_size=6, unique_by=lambda pair: pair[0]), st.randoms(use_true_random=False))
def test_order_of_files_does_not_matter(files, random):
    assert files_digest(random.sample(files, len(files))) == files_digest(files)


def test_a_renamed_or_changed_file_is_another_payload():
    base = [("a.bin", "00"), ("b.bin", "11")]
    others = [[("a.bin", "11"), ("b.bin", "00")], [("c.bin", "00"), ("b.bin", "11")], base[:1], [*base, ("c", "22")]]
    assert files_digest(base) not in {files_digest(other) for other in others}


INGREDIENTS: dict[str, Any] = {
    "step": "data/curate",
    "code_version": "c0de",
    "config": {"minimum_words": 5, "nested": {"languages": ["en"]}},
    "inputs": {"documents": "d1"},
}
CHANGES: list[dict[str, Any]] = [
    {"step": "data/split"},
    {"code_version": "c0df"},
    {"config": {"minimum_words": 6, "nested": {"languages": ["en"]}}},
    {"config": {"minimum_words": 5, "nested": {"languages": ["de"]}}},
    {"config": {"minimum_words": 5, "nested": {"languages": ["en"]}, "more": None}},
    {"config": {}},
    {"inputs": {"documents": "d2"}},
    {"inputs": {"other": "d1"}},
    {"inputs": {"documents": "d1", "suite": "s1"}},
    {"inputs": {}},
]


def test_the_step_key_changes_with_every_ingredient():
    keys = {step_key(**(INGREDIENTS | change)) for change in ({}, *CHANGES)}
    assert len(keys) == 1 + len(CHANGES)
    assert all(len(key) == 32 for key in keys)


def test_the_step_key_does_not_change_with_the_order_of_names():
    swapped = {"config": {"nested": {"languages": ["en"]}, "minimum_words": 5}, "inputs": {"b": "2", "a": "1"}}
    straight = {"config": INGREDIENTS["config"], "inputs": {"a": "1", "b": "2"}}
    assert step_key(**(INGREDIENTS | swapped)) == step_key(**(INGREDIENTS | straight))


def test_swapped_inputs_are_other_work():
    left, right = {"baseline": "1", "candidate": "2"}, {"baseline": "2", "candidate": "1"}
    assert step_key(**(INGREDIENTS | {"inputs": left})) != step_key(**(INGREDIENTS | {"inputs": right}))


def row(text: str, index: int) -> dict[str, Any]:
    metadata = canonical_json({"index": index}).decode()
    fields: dict[str, Any] = dict.fromkeys(tables.ROWS.names)
    fields |= {"phase": "pretrain", "text": text, "source": "s", "licence": "MIT", "group": "g", "metadata": metadata}
    return fields | {"id": tables.row_id(fields)}


def test_file_layout_does_not_matter(tmp_path, monkeypatch):
    rows = [row(f"text {index}", index) for index in range(25)]
    one = tables.write(rows, str(tmp_path / "one"), "rows", tables.ROWS)
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 4)
    seven = tables.write(reversed(rows), str(tmp_path / "seven"), "rows", tables.ROWS)
    assert len(list((tmp_path / "seven").iterdir())) == 7
    assert one.hexdigest() == seven.hexdigest()
    read_again = RowsDigest()
    for file in (tmp_path / "seven").iterdir():
        read_again.update(tables.read_file(str(file)))
    assert read_again.hexdigest() == one.hexdigest(), "what is read back is what was written"


def test_the_same_row_has_the_same_id_and_another_row_another():
    base = row("text", 1)
    assert base["id"] == row("text", 1)["id"]
    changes = [{"text": "other"}, {"phase": "sft"}, {"source": "t"}, {"metadata": "{}"}]
    ids = {tables.row_id(base | change) for change in changes}
    assert len(ids | {base["id"]}) == 1 + len(changes)
    assert tables.row_id(base | {"licence": None, "group": "h", "language": "de"}) == base["id"]
