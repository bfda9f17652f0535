"""Splitting on real Spark: nothing held out, and no Suite item, stays in training."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import pytest

from tutelage.config import build
from tutelage.contracts import tables
from tutelage.data.leaks import Index
from tutelage.data.personal_data import mask
from tutelage.data.split import suite_texts
from tutelage.errors import InvalidInput
from tutelage.step import load

pytestmark = [pytest.mark.java, pytest.mark.usefixtures("spark")]

QUESTION = (
    "A train leaves the station at nine and travels at eighty kilometres per hour; when does it arrive in Leipzig?"
)


def item(prompt, choices=None, name="item"):
    kind = "multiple_choice" if choices else "harmful"
    return {"id": name, "task": "test", "type": kind, "prompt": prompt, "choices": choices, "answer": 0 if choices else None,
            "source": "test", "licence": "MIT", "language": "en"}  # fmt: skip


def by_split(manifest):
    splits = defaultdict(list)
    for row in tables.read(manifest):
        splits[row["split"]].append(row)
    return splits


@pytest.fixture
def suite(payload):
    return payload("suite", [item(QUESTION)])


@pytest.fixture
def corpus(document, topics):
    """Topics in 26 groups, each in all three phases."""
    rows = []
    for index, topic in enumerate(topics[:78]):
        group, half = f"group{index // 3}", len(topic) // 2
        ask = [{"role": "user", "content": f"Go on, number {index}."}]
        rows.append(document(topic[:half], group=group))
        rows.append(document(phase="sft", messages=[*ask, {"role": "assistant", "content": topic[half:]}], group=group))
    return rows


def test_groups_and_components_stay_on_one_side_in_all_phases(run_step, payload, corpus, suite):
    for index in (4, 40):
        corpus[index]["metadata"] = '{"component":"c"}'
    inputs = {"unique": payload("documents", corpus), "suite": suite}
    manifest = run_step("data/split", inputs, heldout_fraction=0.2, minimum_heldout=6, seed=7)
    splits = by_split(manifest)
    groups = {name: {row["group"] for row in rows} for name, rows in splits.items()}
    assert not groups["train"] & groups["heldout"]
    joined = {corpus[4]["group"], corpus[40]["group"]}
    assert joined <= groups["train"] or joined <= groups["heldout"]
    heldout = defaultdict(int)
    for row in splits["heldout"]:
        heldout[row["phase"]] += 1
    assert all(0.15 * 78 <= heldout[phase] <= 0.3 * 78 for phase in ("pretrain", "sft"))
    assert manifest.rows_in == len(corpus) == manifest.rows + sum(manifest.dropped.values())
    assert manifest.details["rows_by_split"]["heldout_sft"] == heldout["sft"]


def test_the_seed_alone_decides_what_is_held_out(run_step, payload, corpus, suite):
    first = run_step("data/split", {"unique": payload("documents", corpus), "suite": suite}, seed=1)
    random.Random(5).shuffle(corpus)
    same = run_step("data/split", {"unique": payload("documents", corpus, files=6), "suite": suite}, seed=1)
    other = run_step("data/split", {"unique": payload("documents", corpus), "suite": suite}, seed=2)
    assert first.content_digest == same.content_digest and first.dropped == same.dropped
    assert first.content_digest != other.content_digest


def test_training_rows_that_contain_an_item_of_the_suite_are_dropped(run_step, payload, document, corpus, suite):
    hidden = {
        "embedded": f"Some words before. {QUESTION} And some words after it.",
        "capitals": QUESTION.upper().replace(";", " --"),
        "markup": QUESTION.replace(" at ", " <b>at</b>&nbsp;").replace("travels", "tra&shy;vels"),
        "wrapped": QUESTION.replace(" ", "\n").replace("kilometres", "kilo-\nmetres"),
        "accents": QUESTION.replace("a", "á").replace("e", "é"),
        "half": QUESTION[: len(QUESTION) * 3 // 4],
    }
    ask = [{"role": "user", "content": QUESTION}]
    answer = [{"role": "assistant", "content": "At noon."}]
    leaks = [document(text, group=f"leak-{name}") for name, text in hidden.items()]
    leaks.append(document(phase="sft", messages=[*ask, *answer], group="leak-sft"))
    near = document("A train leaves the station at ten and somebody waves to those who remain behind.", group="near")
    inputs = {"unique": payload("documents", [*corpus, *leaks, near]), "suite": suite}
    manifest = run_step("data/split", inputs, minimum_heldout=4)
    dropped = {row["id"]: row for row in tables.read(manifest, "dropped")}
    splits = by_split(manifest)
    trained = {row["id"] for row in splits["train"]}
    heldout = {row["id"] for row in splits["heldout"]}
    for row in leaks:
        assert row["id"] in heldout or dropped[row["id"]]["reason"] == "leak_suite"
        assert row["id"] not in trained
    assert sum(1 for row in leaks if row["id"] in dropped) >= 5
    assert near["id"] in trained | heldout
    assert all(QUESTION[:20] not in row["detail"] and "item" in row["detail"] for row in dropped.values())


CODE = """def running_mean(numbers):
    \"\"\"Give the mean of all numbers seen until now, one for each number of the list.

    >>> running_mean([1, 2, 6])
    [1.0, 1.5, 3.0]
    \"\"\"
"""
SOLUTION = """    total, means = 0, []
    for place, number in enumerate(numbers, 1):
        total += number
        means.append(total / place)
    return means
"""
SHORT = "Fog is most likely found around"
PAIR = ["The Saxon girls like sewing best.", "The Frankish girls like sewing best."]
CONTEXT = "My neighbour comes from Thuringia."


@pytest.mark.parametrize(
    "text",
    [
        f"{CODE}{SOLUTION}",
        f"Exercise 7. Complete this function.\n\n{CODE}\nThat was all.",
        f"{SHORT} a marsh in the early morning.",
        "Bees make\nB. thick honey",
        f"Quiz: {SHORT}\nA. a tundra with moss\nB. a marsh\nC. a sandy desert\nD. a paved road",
        f"She said: {PAIR[0]}",
        PAIR[1].upper(),
        f"{CONTEXT} He eats dumplings every single day.",
        f"{CONTEXT} He builds cars every single day.",
    ],
    ids=["code", "prompt", "question", "letter", "quiz", "stereotype", "counterpart", "context", "contrast"],
)  # fmt: skip
def test_items_of_every_type_are_found_in_training_rows(text):
    pairs = [
        {**item("", PAIR, name="pair"), "type": "stereotype"},
        {**item(CONTEXT, ["He eats dumplings every single day.", "He builds cars every single day."], name="after"),
         "type": "stereotype"},
    ]  # fmt: skip
    options = ["a marsh", "a tundra with moss", "a sandy desert", "a paved road"]
    bees = {**item("Bees make", ["bread", "thick honey"], name="bees"), "answer": 1}
    code = item(CODE, [SOLUTION, "    return []\n"], name="code")
    items = [*pairs, bees, code, item(SHORT, options, name="fog")]
    index = Index(suite_texts(items, 5), 5, 0.5)
    found = index.match(text)
    assert found is not None and found.kind == "leak_suite"
    assert index.match("A tundra is a cold plain, and a marsh is wet; the road between them is paved.") is None
    assert index.match("def mean(numbers):\n    return sum(numbers) / len(numbers)\n") is None


def test_training_rows_that_contain_items_of_any_type_are_dropped(run_step, payload, document, corpus):
    items = [{**item("", PAIR, name="pair"), "type": "stereotype"}, item(CODE, [SOLUTION, "    pass\n"], name="code")]
    answer = [{"role": "user", "content": CODE}, {"role": "assistant", "content": SOLUTION}]
    leaks = [document(phase="sft", messages=answer, group="a"), document(f"She said: {PAIR[1]}", group="b")]
    inputs = {"unique": payload("documents", [*corpus, *leaks]), "suite": payload("suite", items)}
    manifest = run_step("data/split", inputs, minimum_heldout=4)
    dropped = {row["id"]: row["reason"] for row in tables.read(manifest, "dropped")}
    assert [dropped[row["id"]] for row in leaks] == ["leak_suite", "leak_suite"]


def test_an_item_in_a_canned_answer_is_a_leak_and_a_canned_answer_of_two_rows_is_none(
    run_step, payload, document, corpus, suite
):
    def pair(number, chosen):
        turns = {"prompt": f"Tell me about thing number {number}, please.", "chosen": chosen, "rejected": "No."}
        said = {
            name: [{"role": "user" if name == "prompt" else "assistant", "content": text}]
            for name, text in turns.items()
        }
        return document(phase="dpo", group=f"pair{number}", metadata='{"canned":"chosen"}', **said)

    refusal = "I am sorry, but that is something that I will never help anybody with in any way."
    clean = [pair(number, refusal) for number in range(30)]
    leaks = [pair(number, f"Of course: {QUESTION}") for number in range(30, 34)]
    inputs = {"unique": payload("documents", [*corpus, *clean, *leaks]), "suite": suite}
    manifest = run_step("data/split", inputs, minimum_heldout=4)
    dropped = {row["id"]: row["reason"] for row in tables.read(manifest, "dropped")}
    assert dropped == {row["id"]: "leak_suite" for row in leaks}


def test_only_the_answers_of_a_pair_can_be_canned():
    row = {"text": "Paris is the capital of France.", "metadata": '{"canned":"text"}'}
    assert tables.own_text(row) == row["text"]


def test_items_are_found_in_rows_whose_personal_data_is_masked():
    question = "Who answers when one writes to bob.smith@example.com or calls 020 7946 0958 today?"
    pings = "8.8.8.8 or 1.1.1.1 or 9.9.9.10 or 8.8.4.4"
    short = "Mail to bob.smith@example.com"
    items = [item(question, ["Bob", "Bill"]), item(pings, ["a", "b"], name="ping"), item(short, name="short")]
    index = Index(suite_texts(items, 5), 5, 0.5)
    for text in (question, f"{pings}\na", short):
        assert index.match(text) is not None
    assert index.match(mask(question)[0]).id == "item"
    assert index.match("They sent mail to everybody, or so they say, when one writes or calls.") is None


def test_training_rows_that_contain_a_held_out_row_are_dropped(run_step, payload, document, corpus, suite):
    unique = {"unique": payload("documents", corpus), "suite": suite}
    heldout = by_split(run_step("data/split", unique, minimum_heldout=4))["heldout"]
    copied = next(row for row in heldout if row["phase"] == "pretrain" and len(row["text"].split()) > 60)
    copies = [document(f"Reader {number} said: {copied['text']}", group=f"copy{number}") for number in range(8)]
    manifest = run_step(
        "data/split", {"unique": payload("documents", [*corpus, *copies]), "suite": suite}, minimum_heldout=4
    )
    splits = by_split(manifest)
    train = "\n".join(tables.text_of(row) for row in splits["train"])
    for row in splits["heldout"]:
        words = tables.text_of(row).split()
        assert len(words) < 8 or " ".join(words) not in " ".join(train.split())
    assert sum(manifest.dropped.values()) == manifest.dropped["leak_heldout"] > 0


def test_short_items_are_contained_only_with_all_their_words(run_step, payload, document, corpus):
    suite = payload("suite", [item("Leipzig station clock tower", name="four"), item("Hello", name="one")])
    rows = {
        "whole": document("We met below the Leipzig station clock tower when it rained.", group="a"),
        "part": document("We met below the Leipzig station clock when it rained on us.", group="b"),
        "hello": document("Hello world is what the first program of most people says.", group="c"),
    }
    manifest = run_step(
        "data/split", {"unique": payload("documents", [*corpus, *rows.values()]), "suite": suite}, minimum_heldout=4
    )
    dropped = {row["id"]: row["detail"] for row in tables.read(manifest, "dropped")}
    heldout = {row["id"] for row in by_split(manifest)["heldout"]}
    assert rows["whole"]["id"] in heldout or dropped[rows["whole"]["id"]] == "1.00 of four"
    assert rows["part"]["id"] not in dropped and rows["hello"]["id"] not in dropped


def test_a_phase_of_one_group_cannot_be_split(run_step, payload, document, topics, suite):
    rows = [document(topic) for topic in topics]
    with pytest.raises(
        InvalidInput, match="phase pretrain cannot be split: 79 rows in 1 inseparable group give 0"
    ) as error:
        run_step("data/split", {"unique": payload("documents", rows), "suite": suite})
    assert "group_by" in error.value.hint


def test_training_that_is_all_test_is_refused(run_step, payload, document, suite):
    rows = [document(f"{QUESTION} {number}", group=str(number)) for number in range(40)]
    with pytest.raises(InvalidInput, match="no training row of phase pretrain is left"):
        run_step("data/split", {"unique": payload("documents", rows), "suite": suite})


@pytest.mark.parametrize("fraction", [0, 1, 0.7, -0.1])
def test_fractions_that_leave_nothing_to_train_on_are_refused(fraction):
    with pytest.raises(InvalidInput, match="heldout_fraction"):
        build(load("data/split").Config, {"heldout_fraction": fraction})


def test_metadata_survives_splitting(run_step, payload, corpus, suite):
    corpus[0]["metadata"] = json.dumps({"name": "x"})
    manifest = run_step("data/split", {"unique": payload("documents", corpus), "suite": suite})
    assert any(tables.metadata_of(row) == {"name": "x"} for row in tables.read(manifest))
