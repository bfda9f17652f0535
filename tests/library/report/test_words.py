"""What pages say in words: changes, remedies, comparisons and costs."""

import json
from pathlib import Path

import pytest

from tests.library.release.line import Line
from tutelage.report import words
from tutelage.report.comparison import figures, sentences
from tutelage.report.cost import bill
from tutelage.report.style import CSS


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ({"baseline": 0.22, "candidate": 0.34, "unit": "share of items"}, "from 22% to 34%"),
        ({"baseline": 4178.2, "candidate": 1372.9, "ratio": 0.33, "unit": "x"}, "down 67%, from 4,178 to 1,373"),
        ({"baseline": 2.0, "candidate": 3.0, "ratio": 1.5}, "up 50%, from 2 to 3"),
        ({"baseline": 3.966, "candidate": 2.836, "unit": "bits per byte"}, "from 3.97 to 2.84"),
        ({"baseline": None, "candidate": 1.0}, ""),
    ],
)
def test_a_change_is_said_as_people_say_it(figure, said):
    assert words.change(figure) == said


def test_names_nobody_foresaw_are_shown_as_they_stand():
    assert words.reason("brand_new_reason") == "brand new reason"
    assert words.reason("personal_data_email") == "holds personal data: e-mail addresses"
    assert words.figure("brand_new/x") == "" and "unseen documents" in words.figure("perplexity/pretrain")
    assert words.remedy({"id": "brand_new"})


def test_what_to_do_depends_on_what_was_found():
    said = {
        words.remedy({"id": "rule:accuracy/x:must_be", "observed": found})
        for found in ("worse", "cannot be told", None)
    }
    assert len(said) == 3
    guard = {"id": "rule:accuracy/x:must_be", "bound": "not worse", "observed": "cannot be told"}
    assert "too few items" not in words.remedy(guard)
    assert "minimum and maximum" in words.remedy({**guard, "observed": "not comparable"})


def test_bits_per_byte_do_not_say_twice_what_perplexity_says():
    rows = figures({"figures": [
        {"name": name, "baseline": 2, "candidate": 1, "difference": -1, "low": -2, "high": -0.5, "verdict": "better"}
        for name in ("bits_per_byte/sft", "perplexity/sft", "bits_per_byte/other")
    ]})  # fmt: skip
    better = next(line["text"] for line in sentences(rows) if line["words"] == "Got better")
    assert "perplexity/sft" in better and "bits_per_byte/sft" not in better and "bits_per_byte/other" in better


def test_what_cannot_be_told_and_what_did_not_move_are_named_in_words_too():
    rows = figures({"figures": [
        {"name": "refusal/harmful", "baseline": 0.1, "candidate": 0.2, "difference": 0.1, "low": -0.1, "high": 0.3,
         "unit": "share of prompts", "verdict": "cannot_be_told"},
        {"name": "accuracy/basics", "baseline": 0.5, "candidate": 0.5, "difference": 0, "low": 0, "high": 0,
         "verdict": "cannot_be_told"},
    ]})  # fmt: skip
    said = {line["words"]: line["text"] for line in sentences(rows)}
    assert said["Cannot be told"] == (
        "share of harmful requests it refuses (refusal/harmful), from 10% to 20% (the change could be chance)"
    )
    assert said["Did not move"] == "share of questions answered right (basics) (accuracy/basics)"


def test_a_bill_adds_up_by_stage_and_counts_a_step_with_two_outputs_once(tmp_path: Path):
    line = Line(tmp_path)
    for name, step in (("documents", "data/ingest"), ("curated", "data/curate"), ("model", "train/train")):
        made = line.put(name, "documents", step, {}, details={"tokens_trained": 10} if name == "model" else {})
        measured = {"seconds": 2.0, "cpu_seconds": 3.0, "peak_memory_bytes": 2**20 * len(name)}
        (Path(made.location) / "observations.json").write_text(json.dumps(measured))
    pairs = list(line.manifests.items())
    found = bill([*pairs, pairs[0]])
    assert [(row.name, row.seconds) for row in found.stages] == [("data", 4.0), ("train", 2.0)]
    assert (found.total.cpu_seconds, found.total.memory_bytes, found.total.tokens) == (9.0, 2**20 * 9, 10)
    assert found.total.energy_joules is None


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_colour_of_text_stands_out_from_its_ground(scheme):
    """WCAG 2.2, 1.4.3: 4.5 to 1. Light first, then dark."""
    colours = [dict(pair.strip()[2:].split(": ") for pair in block.split("}")[0].split(";") if pair.strip().startswith("--"))
               for block in CSS.split(":root {")[1:3]][scheme]  # fmt: skip
    for text in ("text", "soft", "accent", "good", "bad", "note"):
        for ground in ("ground", "raised"):
            bright, dim = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, ground)


def _luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
