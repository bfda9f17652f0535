"""Curation on real Spark: licences, quality, and personal data planted in real text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from tutelage.config import build
from tutelage.contracts import locations, tables
from tutelage.data import personal_data
from tutelage.errors import InvalidInput
from tutelage.step import load

pytestmark = [pytest.mark.java, pytest.mark.usefixtures("spark")]

PLANTED = {
    "email": "jane.doe@mail.example.com",
    "phone": "+49 30 1234567",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
    "ip_address": "93.184.216.34",
    "api_key": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
}


def reasons_of(manifest):
    return {row["id"]: row["reason"] for row in tables.read(manifest, "dropped")}


def everything_in(manifest):
    """All the bytes of manifest and payload as text, rows unpacked."""
    rows = [str(row) for table in ("rows", "dropped") for row in tables.read(manifest, table)]
    return locations.read_bytes(manifest.uri).decode() + "\n".join(rows)


def test_only_rows_under_allowed_licences_stay_and_the_others_are_counted(run_step, payload, document, topics):
    licences = {
        "MIT": None, "MIT OR GPL-3.0-only": None, "Apache-2.0 WITH LLVM-exception": None, "MIT AND BSD-3-Clause": None,
        "GPL-3.0-only": "licence_not_allowed", "MIT AND GPL-3.0-only": "licence_not_allowed",
        "GPL-2.0-only WITH Classpath-exception-2.0": "licence_not_allowed", "NOASSERTION": "licence_unknown",
        None: "licence_unknown", "my own terms": "licence_unknown", "LicenseRef-ours": "licence_not_allowed",
    }  # fmt: skip
    rows = [document(text, licence=name) for text, name in zip(topics, licences, strict=False)]
    manifest = run_step("data/curate", {"documents": payload("documents", rows)})
    expected = {row["id"]: reason for row, reason in zip(rows, licences.values(), strict=True) if reason}
    assert reasons_of(manifest) == expected
    assert manifest.rows_in == len(rows) == manifest.rows + sum(manifest.dropped.values())
    assert manifest.licences["MIT"] == 1 and "GPL-3.0-only" not in manifest.licences


def test_personal_data_is_masked_everywhere_and_shown_nowhere(run_step, payload, document, topics):
    turns = [
        {"role": "user", "content": f"Who is {PLANTED['email']}?"},
        {"role": "assistant", "content": PLANTED["phone"]},
    ]
    rows = [
        document(f"{topic}\nPlease contact Jane Doe: {secret} or {secret}.")
        for topic, secret in zip(topics, PLANTED.values(), strict=False)
    ]
    rows.append(document(phase="sft", messages=turns))
    rows.append(
        document(
            phase="dpo", prompt=turns[:1], chosen=turns[1:], rejected=[{"role": "assistant", "content": "No idea."}]
        )
    )
    rows.append(
        document(
            topics[20],
            source=f"mail/{PLANTED['email']}.txt",
            group=PLANTED["email"],
            metadata=f'{{"by":"{PLANTED["email"]}"}}',
            language=PLANTED["email"],
        )
    )
    rows.append(document("too short", source=f"mail/{PLANTED['email']}.txt"))
    manifest = run_step("data/curate", {"documents": payload("documents", rows)})
    found = everything_in(manifest)
    for secret in PLANTED.values():
        assert secret not in found
    assert "Jane" not in locations.read_bytes(manifest.uri).decode()
    counts = manifest.details["personal_data"]
    assert counts == {"email": 8, "phone": 4, "iban": 2, "card": 2, "ip_address": 2, "api_key": 2, "private_key": 2}
    assert "Please contact Jane Doe: <EMAIL> or <EMAIL>." in found
    kept = {row["id"] for row in tables.read(manifest)}
    assert kept == {row["id"] for row in rows[:-1]}, "masking changes no id"


def test_masked_examples_show_the_place_and_no_person(run_step, payload, document, topics):
    rows = [document(f"{topic}\nplease contact jane doe, Köln: {PLANTED['email']}") for topic in topics[:9]]
    manifest = run_step("data/curate", {"documents": payload("documents", rows)})
    examples = manifest.details["masked"]
    assert len(examples) == 3
    for item in examples:
        assert item["type"] == "email" and "please contact xxxx xxx, Xxxx: <EMAIL>" in item["text"]
        assert len(item["text"]) <= personal_data.EXAMPLE_CHARACTERS
        assert not personal_data.mask(item["text"])[1]


def test_rows_with_chosen_types_of_personal_data_are_dropped(run_step, payload, document, topics):
    rows = [document(f"{topics[0]} {PLANTED['card']}"), document(f"{topics[1]} {PLANTED['email']}")]
    manifest = run_step("data/curate", {"documents": payload("documents", rows)}, personal_data={"card": "drop"})
    assert reasons_of(manifest) == {rows[0]["id"]: "personal_data_card"}
    assert manifest.details["personal_data"] == {"email": 1}


def test_rows_without_sound_text_are_dropped_with_the_rule_as_the_reason(run_step, payload, document, topics):
    said = {"role": "user", "content": "Do it."}
    answer = {"role": "assistant", "content": "Done."}
    cases = {
        "too_few_words": document("Only five words stand here."),
        "odd_word_length": document("a b c d e f g h i j k l m n"),
        "too_few_letters": document("1234 5678 word 9012 3456 7890 1234 5678 9012 three 4567"),
        "too_many_symbols": document("tags are here: #one #two #three #four and nothing else besides them"),
        "repeated_lines": document("This line is said again and again.\n" * 8),
        "no_answer": document(phase="sft", messages=[said]),
        "empty_turn": document(phase="sft", messages=[said, {"role": "assistant", "content": " "}]),
        "equal_answers": document(phase="dpo", prompt=[said], chosen=[answer], rejected=[answer]),
        None: document(topics[0]),
    }
    code = document("def f(x):\n    return x  # 1\n\n\nf(1) + f(2) + f(3) + f(4) + f(5)", language="python")
    rows = [*cases.values(), code]
    manifest = run_step("data/curate", {"documents": payload("documents", rows)})
    assert reasons_of(manifest) == {row["id"]: reason for reason, row in cases.items() if reason}


def test_rows_of_other_languages_are_dropped_where_a_list_is_given(run_step, payload, document, topics):
    rows = [document(topics[0]), document(topics[1], language="de")]
    manifest = run_step("data/curate", {"documents": payload("documents", rows)}, languages=["en"])
    assert reasons_of(manifest) == {rows[1]["id"]: "language_not_allowed"}


def test_order_and_files_change_neither_rows_nor_digest_nor_examples(run_step, payload, document, topics):
    rows = [document(f"{topic}\nmail {index}@example.org") for index, topic in enumerate(topics)]
    one = run_step("data/curate", {"documents": payload("documents", rows)})
    other = run_step("data/curate", {"documents": payload("documents", rows[::-1], files=5)})
    assert one.content_digest == other.content_digest
    assert one.details == other.details


def test_a_policy_that_leaves_nothing_is_refused_with_the_reasons(run_step, payload, document, topics):
    rows = [document(topics[0], licence="GPL-3.0-only")]
    with pytest.raises(InvalidInput, match="curate left no row; dropped: licence_not_allowed 1"):
        run_step("data/curate", {"documents": payload("documents", rows)})


def test_every_type_that_is_found_can_be_configured():
    module = load("data/curate")
    assert set(get_args(module.PersonalData)) == set(personal_data.TYPES)
    with pytest.raises(InvalidInput, match="no SPDX licences: BSD"):
        build(module.Config, {"allowed_licences": ["BSD"]})


def test_tasks_read_and_write_an_object_store(run_step, payload, document, topics, s3_location):
    from tutelage.data.curate import Curation
    from tutelage.data.licences import PERMISSIVE
    from tutelage.data.quality import Quality
    from tutelage.data.spark import chunks_of

    manifest = payload("documents", [document(topic) for topic in topics[:5]])
    curation = Curation(s3_location, frozenset(PERMISSIVE), None, frozenset(), Quality())
    tally = curation.chunk(chunks_of(manifest)[0])
    (entry,) = tally.files
    assert locations.sha256_of(locations.join(s3_location, entry.path)) == entry.sha256
    assert len(list(tables.read_file(locations.join(s3_location, entry.path)))) == 5


def test_no_word_of_a_row_stands_in_logs(run_step, payload, document, topics, tmp_path: Path):
    run_step("data/curate", {"documents": payload("documents", [document(f"{topics[0]} {PLANTED['email']}")])})
    events = "".join(path.read_text() for path in tmp_path.rglob("events.jsonl"))
    assert not re.search("jane|@", events)
