"""What makes an item of a row: lettered options, choices made of other answers, pairs of sentences, gzipped lines."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tutelage.config import problems_of
from tutelage.contracts.sources import Fetched
from tutelage.errors import InvalidInput
from tutelage.plan import suite_rows
from tutelage.plan.suite import Items, read_task
from tutelage.plan.tasks import Task

#: Functions of the standard library's kind, as HumanEval writes them: docstring, then a body that is indented.
FUNCTIONS = [
    ("total", "Return the sum of the numbers.", "    return sum(numbers)\n"),
    ("largest", "Return the largest number.", "    return max(numbers)\n"),
    ("smallest", "Return the smallest number.", "    return min(numbers)\n"),
    ("backwards", "Return the numbers in reverse.", "    return numbers[::-1]\n"),
    ("squares", "Return the square of each.", "    return [number**2 for number in numbers]\n"),
    ("evens", "Return the even ones.", "    return [number for number in numbers if number % 2 == 0]\n"),
    ("mean", "Return the mean.", "    if not numbers:\n        return 0.0\n    return sum(numbers) / len(numbers)\n"),
    ("distinct", "Return each once.", "    seen = {}\n    for one in numbers:\n        seen[one] = 1\n    return list(seen)\n"),
]  # fmt: skip
CODE = [
    {"prompt": f'def {name}(numbers):\n    """{text}"""\n', "canonical_solution": body}
    for name, text, body in FUNCTIONS
]


def read(path: Path, rows: Sequence[Mapping[str, Any]] | bytes, **fields: Any) -> Items:
    data = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    values = {"task": "t", "type": "multiple_choice", "uri": str(path), "format": "jsonl", "licence": "MIT", **fields}
    assert problems_of(Task, values) == []
    task = Task.model_validate_json(json.dumps(values))
    return read_task(task, Fetched(path=path, digest="", licence=None, origin=str(path)))


def reasons(items: Items) -> dict[str, int]:
    return dict(Counter(row["reason"] for row in items.dropped))


LETTERED = {"prompt": "question", "choices": "options", "choices_as": "lettered_lines", "answer_as": "text"}


@pytest.mark.parametrize("answer", ["B. a tundra", "a tundra", ["a tundra"], " B. a tundra "])
def test_an_answer_among_lettered_lines_is_the_line_the_choice_or_a_list_of_it(tmp_path: Path, answer: Any) -> None:
    row = {"question": "Where is moss?", "options": "A. a desert\nB. a tundra\nC. the moon ", "answer": answer}
    (item,) = read(tmp_path / "items", [row], **LETTERED).kept
    assert (item["prompt"], item["choices"], item["answer"]) == (
        "Where is moss?",
        ["a desert", "a tundra", "the moon"],
        1,
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"options": "A. one\nC. two", "answer": "one"}, "no_choices"),
        ({"options": "A. one", "answer": "one"}, "no_choices"),
        ({"options": "one\ntwo", "answer": "one"}, "no_choices"),
        ({"options": ["A. one", "B. two"], "answer": "one"}, "no_choices"),
        ({"options": "A. one\nB. one", "answer": "one"}, "no_choices"),
        ({"options": "A. one\nB. two"}, "no_answer"),
        ({"options": "A. one\nB. two", "answer": "A. two"}, "no_answer"),
        ({"options": "A. one\nB. two", "answer": "C. two"}, "no_answer"),
        ({"options": "A. one\nB. two", "answer": ["one", "two"]}, "no_answer"),
    ],
)
def test_lettered_rows_that_are_no_items_are_dropped_by_reason(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    items = read(tmp_path / "items", [{"question": "Which?", **row}], **LETTERED)
    assert (items.kept, reasons(items)) == ([], {reason: 1})


def test_an_instruction_that_ends_prompts_is_cut_off_and_others_stay_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"question": f"{text}", "options": "A. he\nB. she", "answer": "he"}
        for text in ("Who ran?\nPlease choose the correct option ", "Please choose the correct option")
    ]
    items = read(tmp_path / "items", rows, cut_ending="Please choose the correct option", **LETTERED)
    assert [item["prompt"] for item in items.kept] == ["Who ran?"] and reasons(items) == {"no_prompt": 1}


def code_task(path: Path, rows: Sequence[Mapping[str, Any]] = CODE, **fields: Any) -> Items:
    return read(path, rows, **{"answer": "canonical_solution", "distractors": 3, "verbatim": True, **fields})


def test_distractors_are_other_answers_near_in_length_and_never_the_right_one(tmp_path: Path) -> None:
    items = code_task(tmp_path / "items").kept
    solutions = {row["prompt"]: row["canonical_solution"] for row in CODE}
    assert len(items) == len(CODE)
    for item in items:
        right = solutions[item["prompt"]]
        assert len(set(item["choices"])) == 4 and item["choices"][item["answer"]] == right
        assert set(item["choices"]) <= set(solutions.values())
        gap = max(abs(len(choice) - len(right)) for choice in item["choices"])
        assert all(abs(len(other) - len(right)) >= gap for other in solutions.values() if other not in item["choices"])
    assert len({item["answer"] for item in items}) > 1


def test_distractors_do_not_depend_on_the_order_of_rows_or_on_the_limit(tmp_path: Path) -> None:
    first = code_task(tmp_path / "items").kept
    shuffled = [*CODE, CODE[0]]
    random.Random(3).shuffle(shuffled)
    again = code_task(tmp_path / "items", shuffled)
    assert [item["id"] for item in again.kept] == [item["id"] for item in first] and reasons(again) == {"duplicate": 1}
    few = code_task(tmp_path / "items", limit=2)
    assert few.kept == first[:2] and reasons(few) == {"over_limit": len(CODE) - 2}


def test_code_keeps_its_line_ends_and_indentation_and_text_does_not(tmp_path: Path) -> None:
    for item in code_task(tmp_path / "items").kept:
        assert item["prompt"].endswith('"""\n') and all(choice.startswith("    ") for choice in item["choices"])
    for item in code_task(tmp_path / "items", verbatim=False).kept:
        assert item["prompt"].endswith('"""') and not any(choice[0].isspace() for choice in item["choices"])


def test_an_answer_that_differs_in_white_space_alone_is_no_distractor(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{place}", "answer": text} for place, text in enumerate(["x = 1", "x  = 1\n", "y = 2", "z = 3"])
    ]
    items = read(tmp_path / "items", rows, distractors=2, verbatim=True).kept
    assert all(len({" ".join(choice.split()) for choice in item["choices"]}) == 3 for item in items) and len(items) == 4
    none = read(tmp_path / "items", rows, distractors=3, verbatim=True)
    assert (none.kept, reasons(none)) == ([], {"no_distractors": 4})


def test_an_answer_that_is_right_for_the_same_prompt_is_no_distractor(tmp_path: Path) -> None:
    asked = [
        ("Name a colour.", "red"),
        ("name a  colour.", "tan"),
        ("Name a pet.", "hamster"),
        ("A town?", "Stralsund"),
    ]
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in asked]
    items = {item["prompt"]: sorted(item["choices"]) for item in read(tmp_path / "items", rows, distractors=2).kept}
    assert items["Name a colour."] == ["Stralsund", "hamster", "red"]
    assert items["name a  colour."] == ["Stralsund", "hamster", "tan"]
    assert len(items) == 4 and all(len(choices) == 3 for choices in items.values())


def test_an_answer_that_differs_in_case_alone_is_no_distractor(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{place}", "answer": text} for place, text in enumerate(["Red", "red", " RED", "blue"])]
    items = read(tmp_path / "items", rows, distractors=1).kept
    assert [{choice.casefold() for choice in item["choices"]} for item in items] == [{"red", "blue"}] * 4
    assert reasons(read(tmp_path / "items", rows, distractors=2)) == {"no_distractors": 4}


@pytest.mark.parametrize(
    ("answer_as", "answer"),
    [("letter", "ß"), ("letter", "Ａ"), ("letter", "C"), ("index", "9" * 5000), ("index", 10**4000), ("index", "-1")],
)
def test_an_answer_that_is_no_choice_costs_its_row_alone(tmp_path: Path, answer_as: str, answer: Any) -> None:
    good = {"prompt": "Which?", "choices": ["one", "two"], "answer": "B" if answer_as == "letter" else "1"}
    items = read(tmp_path / "items", [good, {**good, "prompt": "What?", "answer": answer}], answer_as=answer_as)
    assert [item["answer"] for item in items.kept] == [1] and reasons(items) == {"no_answer": 1}


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [(1, ["number", "real"]), ("1", ["string"]), (True, ["true"]), (0, ["zero"]), (False, ["false"]), (0.5, ["half"])],
)
def test_rows_are_selected_by_values_of_the_same_kind(tmp_path: Path, wanted: Any, taken: list[str]) -> None:
    levels = {
        "number": 1, "real": 1.0, "string": "1", "true": True, "zero": 0, "false": False, "half": 0.5, "none": None,
        "list": [1], "no": "",
    }  # fmt: skip
    rows = [{"prompt": name, "level": level} for name, level in levels.items()]
    items = read(tmp_path / "items", rows, type="harmful", only={"level": wanted})
    assert sorted(item["prompt"] for item in items.kept) == taken
    assert reasons(items) == {"not_selected": len(levels) - len(taken)}


CSV = {"format": "csv", "choices": ["a", "b"]}


def test_a_cell_of_any_length_costs_no_row(tmp_path: Path) -> None:
    lines = ["prompt,a,b,answer", "one,x,y,0", f"two,{'z' * 200_000},y,0", "three,x,y,1", "four,x,y,1"]
    items = read(tmp_path / "items", "\n".join(lines).encode(), **CSV)
    assert sorted(item["prompt"] for item in items.kept) == ["four", "one", "three", "two"] and items.dropped == []


@pytest.mark.parametrize(
    ("rows", "kept", "lost"),
    [
        (["one,x,y,0", '"two,x,y,0', "three,x,y,1", "", "four,x,y,1"], 1, {"malformed": 3}),
        (["one,x,y,0", '"two"s,x,y,0', "three,x,y,1"], 2, {"malformed": 1}),
        (["one,x,y,0", '"two, of\ntwo lines and ""quotes""",x,y,0', 'three "3",x,y,1'], 3, {}),
        (["one,x,y,0,more,cells", "two,x", "\udcff,x,y,0"], 1, {"no_choices": 1, "not_utf8": 1}),
    ],
    ids=["unclosed", "torn", "quoted", "cells"],
)
def test_every_row_of_a_csv_that_cannot_be_read_is_counted(
    tmp_path: Path, rows: list[str], kept: int, lost: dict[str, int]
) -> None:
    text = "\n".join(["prompt,a,b,answer", *rows])
    items = read(tmp_path / "items", text.encode(errors="surrogateescape"), **CSV)
    assert (len(items.kept), reasons(items)) == (kept, lost)


def test_a_row_without_the_right_answer_is_dropped_and_counted(tmp_path: Path) -> None:
    items = code_task(tmp_path / "items", [*CODE, {"prompt": "def f():\n", "canonical_solution": " \n"}])
    assert reasons(items) == {"no_answer": 1}


PAIR = {"stereotyping": "mask1", "other": "mask2", "template": "sentence"}


def test_a_pair_that_fills_a_blank_becomes_two_sentences_with_the_stereotyping_one_first(tmp_path: Path) -> None:
    rows = ["All [MASK] are tall.,Dutch,Danes", "No blank.,a,b", "[MASK] and [MASK].,a,b", "[MASK].,a,a", "[MASK].,,a"]
    text = "\n".join(["sentence,mask1,mask2", *rows])
    items = read(tmp_path / "items", text.encode(), type="stereotype", format="csv", pair=PAIR)
    (item,) = items.kept
    assert (item["type"], item["prompt"], item["answer"]) == ("stereotype", "", 0)
    assert item["choices"] == ["All Dutch are tall.", "All Danes are tall."]
    assert reasons(items) == {"no_blank": 2, "no_pair": 2}


def test_whole_sentences_follow_their_context_and_only_the_rows_asked_for_are_taken(tmp_path: Path) -> None:
    row = {"type": "inter", "context": "He is Dutch.", "stereotype": "He is tall.", "anti-stereotype": "He is small."}
    rows = [row, {**row, "type": "intra"}, {**row, "context": ""}]
    pair = {"stereotyping": "stereotype", "other": "anti-stereotype", "context": "context"}
    items = read(tmp_path / "items", rows, type="stereotype", pair=pair, only={"type": "inter"})
    (item,) = items.kept
    assert (item["prompt"], item["choices"], item["answer"]) == ("He is Dutch.", ["He is tall.", "He is small."], 0)
    assert reasons(items) == {"not_selected": 1, "no_prompt": 1}


LINES = b"".join(json.dumps({"prompt": f"Question {number}?"}).encode() + b"\n" for number in range(500))


def test_gzipped_lines_are_the_same_items(tmp_path: Path) -> None:
    plain = read(tmp_path / "plain.jsonl", LINES, type="harmful")
    packed = read(tmp_path / "packed.jsonl.gz", gzip.compress(LINES), type="harmful")
    assert [item["id"] for item in packed.kept] == [item["id"] for item in plain.kept] and len(packed.kept) == 500
    assert packed.dropped == []


def test_a_folder_gives_its_gzipped_lines_and_no_other_gzip(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "one"}\n'))
    (folder / "b.jsonl").write_bytes(b'{"prompt": "two"}\n')
    (folder / "c.tar.gz").write_bytes(gzip.compress(b'{"prompt": "three"}\n'))
    values = {"task": "t", "type": "harmful", "uri": str(folder), "format": "jsonl", "licence": "MIT"}
    items = read_task(Task.model_validate(values), Fetched(path=folder, digest="", licence=None, origin=str(folder)))
    assert sorted(item["prompt"] for item in items.kept) == ["one", "two"] and items.dropped == []


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_of_a_gzip_that_breaks_off_the_complete_lines_count_and_the_rest_is_counted(
    tmp_path: Path, keep: float
) -> None:
    noise = random.Random(0)
    lines = b"".join(json.dumps({"prompt": noise.randbytes(200).hex()}).encode() + b"\n" for _ in range(200))
    packed = gzip.compress(lines)
    items = read(tmp_path / "items.jsonl.gz", packed[: int(len(packed) * keep)], type="harmful")
    assert reasons(items) == {"truncated": 1} and len(items.kept) < 200
    assert items.dropped[0]["detail"] == f"items.jsonl.gz:{len(items.kept) + 1}"


def test_a_gzip_that_fails_its_checksum_is_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[-8] ^= 1
    assert reasons(read(tmp_path / "items.jsonl.gz", bytes(packed), type="harmful")) == {"truncated": 1}


def test_a_gzip_that_unpacks_to_too_much_is_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_rows, "MAXIMUM_UNPACKED_BYTES", 1000)
    with pytest.raises(InvalidInput, match="unpacks to more than 1,000 bytes"):
        read(tmp_path / "items.jsonl.gz", gzip.compress(LINES), type="harmful")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "stereotype"}, "has a pair"),
        ({"pair": PAIR}, "no other task has one"),
        ({"type": "stereotype", "pair": PAIR, "format": "text"}, "format text"),
        ({"type": "harmful", "distractors": 3}, "belong to multiple_choice"),
        ({"distractors": 3, "choices": "options"}, "leave choices"),
        ({"distractors": 3, "answer_as": "text"}, "leave choices"),
        ({"distractors": 0}, "greater than or equal to 1"),
        ({"choices": ["a", "b"], "choices_as": "lettered_lines"}, "one field"),
        ({"cut_ending": ""}, "at least 1 character"),
        ({"format": "csv", "only": {"level": 1}}, "cells of a csv are strings"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields: dict[str, Any], message: str) -> None:
    given = {"task": "t", "type": "multiple_choice", "uri": "x", "format": "jsonl", "licence": "MIT", **fields}
    (problem,) = problems_of(Task, given)
    assert message in problem.message
