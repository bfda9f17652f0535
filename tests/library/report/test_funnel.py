"""The funnel, source by source: every dropped row stands with the source it came from, and sums add up."""

import re
from pathlib import Path

import pytest

from tests.library.release.line import Line
from tutelage.contracts import tables
from tutelage.contracts.manifest import Manifest
from tutelage.report import words
from tutelage.report.funnel import BySource, SourceRows, by_source, masked_examples, stages
from tutelage.report.style import environment

ROOT = Path(__file__).parents[3]
WHEEL = "wheel://pkg==1/pkg"
SOURCES = [
    {"name": "prose", "uri": f"{WHEEL}#sha256=ab", "phase": "pretrain", "licence": "MIT", "rows": 3,
     "passed_over": {"too_short": 5}, "over_limit": {"rows": 2, "files": 4}},
    {"name": "exercises", "uri": f"{WHEEL}#sha256=ab", "phase": "sft", "licence": "MIT", "rows": 2},
    {"name": "found", "uri": "/home/someone/found.jsonl", "phase": "pretrain", "licence": "NOASSERTION", "rows": 2},
]  # fmt: skip
ROWS = [
    ("p1", "pretrain"),
    ("p2", "pretrain"),
    ("p3", "pretrain"),
    ("e1", "sft"),
    ("e2", "sft"),
    ("f1", "pretrain"),
    ("f2", "pretrain"),
]


def place(row: str) -> str:
    return "found" if row[0] == "f" else f"{WHEEL}/module.py"


def lost(*rows: tuple[str, str]):
    listed = [{"id": row, "reason": why, "source": place(row), "detail": "line 3"} for row, why in rows]
    return lambda folder: tables.write(listed, str(folder), "dropped", tables.DROPPED).hexdigest()


@pytest.fixture
def payloads(tmp_path: Path) -> dict[str, Manifest]:
    """Seven rows and one line that gave none; licences, a leak, a duplicate and held-out rows take five of them."""
    line = Line(tmp_path)

    def documents(folder: Path) -> str:
        rows = [
            {
                "id": row,
                "phase": phase,
                "text": "text",
                "source": place(row),
                "licence": "MIT",
                "group": "g",
                "metadata": "{}",
            }
            for row, phase in ROWS
        ]
        lost(("bad", "malformed_line"))(folder)
        return tables.write(rows, str(folder), "rows", tables.ROWS).hexdigest()

    line.put("documents", "documents", "data/ingest", {}, write=documents, rows=7, rows_in=8,
             dropped={"malformed_line": 1}, details={"sources": SOURCES})  # fmt: skip
    line.put("curated", "documents", "data/curate", {"documents": "documents"}, rows=5, rows_in=7,
             write=lost(("f1", "licence_unknown"), ("f2", "licence_unknown")), dropped={"licence_unknown": 2})  # fmt: skip
    line.put("unique", "documents", "data/deduplicate", {"curated": "curated"}, rows=4, rows_in=5,
             write=lost(("e1", "near_duplicate")), dropped={"near_duplicate": 1})  # fmt: skip
    line.put("splits", "splits", "data/split", {"unique": "unique"}, rows=3, rows_in=4,
             write=lost(("p1", "leak_suite")), dropped={"leak_suite": 1})  # fmt: skip
    return line.manifests


def test_each_dropped_row_stands_with_its_source_even_where_two_share_a_place(payloads):
    rows = {row.name: row for row in by_source(payloads).rows}
    assert rows["found"].dropped == {"licence_unknown": 2} and rows["found"].kept == 0
    assert rows["exercises"].dropped == {"near_duplicate": 1}
    assert rows["prose"].dropped == {"leak_suite": 1, "malformed_line": 1}
    assert rows["prose"].read == 4 and rows["prose"].kept == 2
    assert sum(row.kept for row in rows.values()) == payloads["splits"].rows


def test_a_local_source_is_named_without_its_folder(payloads):
    assert "someone" not in str(by_source(payloads))


def test_what_limits_left_out_before_there_were_rows_is_counted(payloads):
    prose = next(row for row in by_source(payloads).rows if row.name == "prose")
    assert prose.passed_over == {"too_short": 5, "over_limit": 2} and prose.files_beyond == 4


def test_sources_that_cannot_be_told_apart_share_a_row(payloads, monkeypatch):
    monkeypatch.setattr("tutelage.report.funnel.MAXIMUM_ROWS", 6)
    rows = {row.name: row for row in by_source(payloads).rows}
    assert rows["exercises + prose"].read == 6 and rows["exercises + prose"].kept == 3


def test_a_list_that_is_gone_is_said_and_the_steps_still_stand(payloads):
    for file in Path(payloads["splits"].location).glob("dropped-*"):
        file.unlink()
    assert "cannot be read" in (by_source(payloads).missing or "")
    assert [stage["rows"] for stage in stages(payloads)] == [7, 5, 4, 3]


def test_the_table_says_every_reason_in_words_and_where_rows_came_from(payloads):
    macro = environment().get_template("tables.jinja").module.funnel(stages(payloads), by_source(payloads))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", str(macro)))
    for said in (
        "2 × nobody knows its licence", "1 × leak: gives away an item of the evaluation suite", "✗ unknown",
        "1 × nearly the same as a row that was kept", "5 × shorter than the recipe asks", "files beyond the limit: 4", "line 3",
    ):  # fmt: skip
        assert said in text, said


def test_masked_examples_are_few_and_short():
    examples = masked_examples([{"type": "email", "text": "x " * 500}] * 40)
    assert len(examples) == 12 and max(len(text) for _, text in examples) <= 200
    assert masked_examples({"email": ["a", "b"]}) == [("email", "a"), ("email", "b")]
    assert masked_examples(None) == []


def test_every_reason_that_the_data_steps_give_has_words():
    code = "\n".join(path.read_text() for path in sorted((ROOT / "src/tutelage/data").glob("*.py")))
    patterns = (r'reason="([a-z_0-9]+)"', r'NotARow\("([a-z_0-9]+)"',
                r'drops?\.?\w*\(row, "([a-z_]+)"', r'drop\([^,]+, "([a-z_]+)"',
                r'passed_over\["([a-z_]+)"\]', r'LEAK_\w+ = "([a-z_]+)"', r'return "([a-z_]{6,})"')  # fmt: skip
    found = {name for pattern in patterns for name in re.findall(pattern, code)}
    assert {"malformed_line", "no_completion", "too_few_words", "licence_unknown"} <= found
    named = {name for name in found if f'"{name}"' in code and not name.startswith(("mask", "personal"))}
    assert sorted(named - words.REASONS.keys()) == []


def test_the_rows_of_a_source_are_to_be_trained_on_until_something_was_trained():
    show = environment().get_template("tables.jinja").module.funnel
    source = BySource(rows=(SourceRows("notes", "notes", "MIT", "pretrain", 5),))
    assert ">Trained on<" in show([], source)
    going = show([], source, "To train on")
    assert ">To train on<" in going and ">Trained on<" not in going
