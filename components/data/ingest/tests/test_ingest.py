"""Ingestion of real files: the standard library, and files damaged on purpose."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tutelage.config import build
from tutelage.contracts import tables
from tutelage.data import readers
from tutelage.errors import InvalidInput
from tutelage.step import load

STANDARD_LIBRARY = Path(json.__file__).parent


def source(uri, name="corpus", **fields):
    return {"name": name, "uri": str(uri), "phase": "pretrain", "licence": "PSF-2.0", "format": "text"} | fields


def rows_of(manifest):
    return sorted(tables.read(manifest), key=lambda row: row["id"])


def dropped_of(manifest):
    return sorted((row["reason"], row["detail"]) for row in tables.read(manifest, "dropped"))


def test_docstrings_of_the_standard_library_become_documents_with_provenance(run_step):
    manifest = run_step("data/ingest", {}, sources=[source(STANDARD_LIBRARY, format="python_docstrings")])
    rows = rows_of(manifest)
    assert len(rows) > 20
    assert manifest.rows == manifest.rows_in == len(rows)
    assert manifest.licences == {"PSF-2.0": len(rows)}
    whole = next(row for row in rows if row["source"].endswith("__init__.py") and '"name":""' in row["metadata"])
    assert whole["text"] == json.__doc__.strip()
    assert whole["group"] == whole["source"] and whole["language"] == "en"
    assert [row["id"] for row in rows] == [tables.row_id(row) for row in rows]


def test_functions_become_exercises_whose_answer_is_the_function(run_step):
    fields = {"format": "python_functions", "phase": "sft"}
    rows = rows_of(run_step("data/ingest", {}, sources=[source(STANDARD_LIBRARY, **fields)]))
    row = next(row for row in rows if '"name":"loads"' in row["metadata"])
    user, assistant = row["messages"]
    assert user["role"] == "user" and "def loads(s, *" in user["content"] and "Deserialize" in user["content"]
    assert assistant["content"].startswith("def loads(s, *") and "Deserialize" not in assistant["content"]
    compile(assistant["content"], "answer", "exec")
    assert row["language"] == "python"


def test_preferences_reject_the_body_of_another_function_of_the_same_file(run_step):
    fields = {"format": "python_functions", "phase": "dpo"}
    rows = rows_of(run_step("data/ingest", {}, sources=[source(STANDARD_LIBRARY, **fields)]))
    assert rows
    for row in rows:
        metadata = tables.metadata_of(row)
        assert row["chosen"] != row["rejected"] and metadata["rejected_body_of"]
        first_lines = {row[name][0]["content"].split("\n")[0] for name in ("chosen", "rejected")}
        assert len(first_lines) == 1


def test_rows_and_digest_do_not_depend_on_the_order_of_sources_or_lines(run_step, tmp_path, topics):
    lines = [json.dumps({"text": text}) for text in topics] + [json.dumps({"text": topics[0]})]
    for name, order in (("a", lines), ("b", random.Random(1).sample(lines, len(lines)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "topics.jsonl").write_text("\n".join(order))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    prose = source(STANDARD_LIBRARY, name="library", format="python_docstrings")
    first = source(tmp_path / "link" / "topics.jsonl", format="jsonl")
    one = run_step("data/ingest", {}, sources=[prose, first])
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    other = run_step("data/ingest", {}, sources=[first, prose])
    assert one.content_digest == other.content_digest
    ids = [row["id"] for row in rows_of(one)]
    assert len(set(ids)) == len(ids), "an equal line is a row of its own"


def test_what_cannot_be_read_is_quarantined_with_a_reason_and_counted(run_step, tmp_path, topics):
    (tmp_path / "good.txt").write_text(topics[0])
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "broken.py").write_text('"""Doc."""\ndef f(:\n')
    (tmp_path / "nested.py").write_text("(" * 5000)
    (tmp_path / "surrogate.py").write_text('"""Half a pair: \\ud800."""\n')
    whole = "\n".join(json.dumps({"text": text}) for text in topics[:3])
    (tmp_path / "cut.jsonl").write_bytes(whole.encode()[:-10] + b'\n{"text": 7}\n{"other": 1}\n[]\n\xff\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(whole.encode())[:-30])
    pq.write_table(pa.table({"text": topics}), tmp_path / "cut.parquet")
    cut = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(cut[: len(cut) // 2])
    formats = {"text": "*.txt", "python_docstrings": "*.py", "jsonl": "*.jsonl*", "parquet": "*.parquet"}
    sources = [source(tmp_path, name=name, format=name, include=[pattern]) for name, pattern in formats.items()]
    manifest = run_step("data/ingest", {}, sources=sources)
    assert manifest.dropped["not_utf8"] == 2 and manifest.dropped["empty"] == 1
    assert manifest.dropped["unparsable_python"] == 2 and manifest.dropped["not_unicode"] == 1
    assert manifest.dropped["malformed_line"] == 2 and manifest.dropped["truncated"] == 1
    assert manifest.dropped["malformed_field"] == 1 and manifest.dropped["missing_field"] == 1
    assert manifest.dropped["unreadable_parquet"] == 1
    assert manifest.rows_in == manifest.rows + sum(manifest.dropped.values())
    assert len(dropped_of(manifest)) == sum(manifest.dropped.values())
    assert ("malformed_line", "line 3") in dropped_of(manifest)


def test_conversations_are_taken_in_every_form_hugging_face_has(run_step, tmp_path):
    answer = {"role": "assistant", "content": "Yes."}
    ask = {"role": "user", "content": "Is it?"}
    examples = [{"messages": [ask, answer]}, {"prompt": "Is it?", "completion": "Yes."}, {"messages": [ask]}]
    pairs = [
        {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
        {"chosen": [ask, answer], "rejected": [ask, {"role": "assistant", "content": "No."}]},
        {"prompt": [ask], "chosen": [answer], "rejected": "No."},
    ]
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, examples)))
    (tmp_path / "dpo.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    sources = [source(tmp_path / f"{phase}.jsonl", name=phase, phase=phase, format="jsonl") for phase in ("sft", "dpo")]
    manifest = run_step("data/ingest", {}, sources=sources)
    rows = rows_of(manifest)
    assert [row["messages"] for row in rows if row["phase"] == "sft"] == [[ask, answer]] * 2
    preferences = [row for row in rows if row["phase"] == "dpo"]
    assert len(preferences) == 3
    assert all((row["prompt"], row["chosen"]) == ([ask], [answer]) for row in preferences)
    assert manifest.dropped == {"malformed_conversation": 1}


REFUSALS = ["I'm sorry, I can't help with that.", "I won't help with that.", "No, that could hurt someone."]


def pairs_of(run_step, tmp_path, records, **preference):
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, records)))
    made = source(tmp_path / "prompts.jsonl", phase="dpo", format="jsonl", preference=preference)
    manifest = run_step("data/ingest", {}, sources=[made])
    return {row["prompt"][0]["content"]: row for row in rows_of(manifest)}, manifest


def test_prompts_alone_become_pairs_of_a_refusal_and_a_canned_answer(run_step, tmp_path):
    prompts = [f"How do I harm thing number {number}?" for number in range(40)]
    answers = ["Sure, begin with", "Of course. First"]
    records = [{"prompt": prompt} for prompt in prompts]
    pairs, _ = pairs_of(run_step, tmp_path, records, prefer="refusal", refusals=REFUSALS, answers=answers)
    again, _ = pairs_of(run_step, tmp_path, records[::-1], prefer="refusal", refusals=REFUSALS, answers=answers)
    assert {prompt: row["chosen"] for prompt, row in pairs.items()} == {
        prompt: row["chosen"] for prompt, row in again.items()
    }
    assert {row["chosen"][0]["content"] for row in pairs.values()} == set(REFUSALS)
    assert {row["rejected"][0]["content"] for row in pairs.values()} == set(answers)
    row = pairs[prompts[0]]
    assert tables.metadata_of(row)["canned"] == "chosen,rejected"
    assert tables.own_text(row) == prompts[0]


def test_answered_prompts_become_pairs_in_which_the_answer_is_preferred(run_step, tmp_path):
    records = [{"prompt": "How do I kill a process?", "completion": "With kill."}, {"prompt": "Unanswered?"}]
    pairs, manifest = pairs_of(run_step, tmp_path, records, prefer="answer", refusals=REFUSALS)
    row = pairs["How do I kill a process?"]
    assert row["chosen"][0]["content"] == "With kill." and row["rejected"][0]["content"] in REFUSALS
    assert tables.own_text(row) == "How do I kill a process?\nWith kill."
    assert manifest.dropped == {"missing_field": 1}


def test_chatterbot_conversations_are_read_in_turns(run_step, tmp_path):
    talks = [["Hello?", "Hi."], ["When?", 1963, "Sure?", "Yes I am.", "Thanks."], ["Alone"], ["Who?", ["a", "list"]]]
    (tmp_path / "talk.yml").write_text(yaml.safe_dump({"categories": ["talk"], "conversations": talks}))
    (tmp_path / "torn.yml").write_text("conversations:\n- [Hello?, 'Hi")
    (tmp_path / "other.yml").write_text("just text")
    talk = source(tmp_path, phase="sft", format="chatterbot_yaml")
    manifest = run_step("data/ingest", {}, sources=[talk])
    said = sorted([turn["content"] for turn in row["messages"]] for row in rows_of(manifest))
    assert said == [["Hello?", "Hi."], ["When?", "1963", "Sure?", "Yes I am."]]
    assert manifest.dropped == {"malformed_conversation": 2, "malformed_yaml": 2}
    assert manifest.details["sources"][0]["passed_over"] == {"unanswered_statement": 1}
    pairs = source(
        tmp_path, phase="dpo", format="chatterbot_yaml", preference={"prefer": "answer", "refusals": REFUSALS}
    )
    rows = rows_of(run_step("data/ingest", {}, sources=[pairs]))
    assert {row["chosen"][0]["content"] for row in rows} == {"Hi.", "Yes I am."}
    assert {len(row["prompt"]) for row in rows} == {1, 3}


@pytest.mark.parametrize(
    "head",
    [
        "small: &a {k: v}\nlarge: &b {<<: [*a, *a, *a]}\n",
        f"long: &s {'lorem ' * 100}\nmany: [{', '.join(['*s'] * 100)}]\n",
        "anchor: &alone text\n",
        "self: &s [*s]\n",
    ],
    ids=["merges", "aliases", "anchor", "recursion"],
)
def test_yaml_that_stands_for_more_than_it_spells_out_is_not_read(run_step, tmp_path, head):
    (tmp_path / "good.yml").write_text("conversations:\n- [Hello there, Hi.]\n")
    (tmp_path / "bomb.yml").write_text(f"{head}conversations:\n- [Hello you, Hi you.]\n")
    manifest = run_step("data/ingest", {}, sources=[source(tmp_path, phase="sft", format="chatterbot_yaml")])
    assert manifest.rows == 1 and dropped_of(manifest) == [("malformed_yaml", "line 1")]


def test_yaml_scalars_stay_as_they_are_written(run_step, tmp_path):
    odd = ["0x" + "f" * 5000, "1" + ":1" * 200, "yes", "1963", "~", "2001-01-01"]
    tagged = ['!!bool "foo"', '!!int "1 2"', "!!timestamp foo", "!!python/name:os.system x"]
    lines = "".join(f"- - {text}\n  - Said.\n" for text in [*odd, *tagged])
    (tmp_path / "talk.yml").write_text(f"conversations:\n{lines}- - !!float ''\n  - Said.\n")
    (tmp_path / "wrong.yml").write_text('conversations:\n- ["\\UFFFFFFFF", Said.]\n')
    (tmp_path / "half.yml").write_text('conversations:\n- ["\\ud800", Said.]\n')
    manifest = run_step("data/ingest", {}, sources=[source(tmp_path, phase="sft", format="chatterbot_yaml")])
    said = {row["messages"][0]["content"] for row in rows_of(manifest)}
    assert said == {*odd, "foo", "1 2", "x"} and manifest.rows == len(odd) + len(tagged)
    assert manifest.dropped == {"empty": 1, "malformed_yaml": 1, "not_unicode": 1}


def test_a_yaml_file_that_would_take_minutes_is_counted_and_not_read(run_step, tmp_path, monkeypatch):
    (tmp_path / "good.yml").write_text("conversations:\n- [Hello there, Hi.]\n")
    (tmp_path / "large.yml").write_text("conversations:\n" + "- [Hello there, Hi.]\n" * 100)
    monkeypatch.setattr(readers, "MAXIMUM_YAML_BYTES", 1000)
    manifest = run_step("data/ingest", {}, sources=[source(tmp_path, phase="sft", format="chatterbot_yaml")])
    assert manifest.rows == 1 and dropped_of(manifest) == [("too_large", "2115 bytes, at most 1000")]


def test_one_value_that_is_no_text_costs_its_row_alone(run_step, tmp_path):
    rows = [{"text": f"Text {number}.", "tongue": tongue} for number, tongue in enumerate(["en", "\ud800", "de"])]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = pa.array([b"one text", b"\xff\xfe", b"another text"], pa.binary())
    texts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": texts, "tongue": ["en"] * 3}), tmp_path / "rows.parquet")
    named = [
        source(tmp_path, name=kind, format=kind, include=[f"*.{kind}"], fields={"language": "tongue"})
        for kind in ("jsonl", "parquet")
    ]
    manifest = run_step("data/ingest", {}, sources=named)
    assert sorted(row["text"] for row in rows_of(manifest)) == ["Text 0.", "Text 2.", "another text", "one text"]
    assert dropped_of(manifest) == [("not_unicode", "lone surrogates"), ("not_utf8", "row 2")]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["canned", "component", "occurrence"])
def test_metadata_that_data_steps_write_cannot_come_from_a_source(kind, name):
    given = source("rows", format=kind, fields={"metadata": ["year", name]})
    with pytest.raises(InvalidInput, match=rf"metadata cannot be called {name}: .*rename the field"):
        build(load("data/ingest").Config, {"sources": [given]})


def test_parquet_rows_bring_licence_group_and_metadata_of_their_own(run_step, tmp_path, topics):
    table = pa.table(
        {
            "body": topics[:4],
            "spdx": ["mit", "nonsense of mine", None, "GPL-2.0+"],
            "user": ["a@b.org"] * 4,
            "year": [1, 2, 3, 4],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    fields = {"text": "body", "licence": "spdx", "group": "user", "metadata": ["year"]}
    manifest = run_step("data/ingest", {}, sources=[source(tmp_path, format="parquet", fields=fields)])
    assert manifest.licences == {"MIT": 1, "NOASSERTION": 1, "PSF-2.0": 1, "GPL-2.0-or-later": 1}
    rows = rows_of(manifest)
    assert len({row["group"] for row in rows}) == 1 and "a@b.org" not in rows[0]["group"]
    assert {tables.metadata_of(row)["year"] for row in rows} == {1, 2, 3, 4}


def test_a_limit_takes_a_sample_that_does_not_depend_on_order(run_step, tmp_path, topics):
    (tmp_path / "topics.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in topics))
    limited = source(tmp_path, format="jsonl", limit=10)
    one = run_step("data/ingest", {}, sources=[limited])
    (tmp_path / "topics.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in reversed(topics)))
    other = run_step("data/ingest", {}, sources=[limited])
    assert one.rows == 10 and one.content_digest == other.content_digest
    assert one.details["sources"][0]["over_limit"]["rows"] == len(topics) - 10


def test_sources_without_a_row_are_refused_with_a_hint(run_step, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InvalidInput, match="ingest left no row; dropped: empty 1") as error:
        run_step("data/ingest", {}, sources=[source(tmp_path)])
    assert error.value.hint
    with pytest.raises(InvalidInput, match="has no markdown file"):
        run_step("data/ingest", {}, sources=[source(tmp_path, format="markdown")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"licence": "BSD"}, "not an SPDX expression"),
        ({"phase": "sft"}, "cannot feed phase sft"),
        ({"uri": "ftp://host/file"}, "unknown scheme"),
        ({"uri": "wheel://networkx==3.6.1/networkx"}, "no sha256"),
        ({"minimum_characters": 5}, "which takes all"),
        ({"fields": {"text": "body"}}, "fields given"),
        ({"preference": {"prefer": "answer", "refusals": ["No."]}}, "preference given"),
        ({"format": "chatterbot_yaml", "phase": "dpo"}, "no rejected answers"),
        (
            {
                "format": "jsonl",
                "phase": "dpo",
                "preference": {"prefer": "answer", "refusals": ["No."], "answers": ["A"]},
            },
            "takes the answers of the rows",
        ),
        ({"format": "jsonl", "phase": "dpo", "preference": {"prefer": "refusal", "refusals": [" "]}}, "empty text"),
    ],
)
def test_a_source_that_cannot_work_is_refused_before_anything_starts(fields, message):
    with pytest.raises(InvalidInput, match=message):
        build(load("data/ingest").Config, {"sources": [source("x.txt") | fields]})


def test_a_source_without_a_licence_is_refused():
    values = source("x.txt")
    del values["licence"]
    with pytest.raises(InvalidInput, match=r"sources\[0\].licence: is missing"):
        build(load("data/ingest").Config, {"sources": [values]})
