"""The run page shows what there is, says what is missing, and gives nothing away."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tutelage.contracts import locations
from tutelage.contracts.digests import digest_of
from tutelage.contracts.store import Result
from tutelage.report.run_charts import duration, graph, reduced, ticks, timeline
from tutelage.report.run_page import render, size
from tutelage.report.run_record import STATES, Task

NEEDS = {
    "check": (), "acquire": ("check",), "ingest": ("check",), "curate": ("ingest",), "deduplicate": ("curate",),
    "split": ("acquire", "deduplicate"), "tokenize": ("acquire", "split"), "train-pretrain": ("acquire", "tokenize"),
    "train-sft": ("tokenize", "train-pretrain"), "evaluate-baseline": ("acquire", "split"),
    "evaluate-candidate": ("acquire", "split", "train-sft"), "compare": ("evaluate-baseline", "evaluate-candidate"),
    "decide": ("compare", "train-sft"), "enforce": ("decide",), "deploy": ("enforce",), "clean": (),
}  # fmt: skip
VOID = {"meta", "link", "br", "wbr", "hr", "img", "input", "line", "rect", "path", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps ids, links, text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.words = [], [], [], [], []
        self.feed(html)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(run, needs=NEEDS) -> Page:
    html = render(run.folder, needs=needs)
    assert len(html) < 2_000_000
    assert "undefined" not in html.lower()
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not [tag for tag, values in page.tags if tag == "script" or values.get("src") or values.get("onclick")]
    assert not [link for link in page.links if "://" in link]
    return page


def test_a_run_that_ended_well_shows_pipeline_curves_figures_data_sources_and_versions(synthetic_run):
    run = synthetic_run()
    run.whole()
    run.close("done")
    page = page_of(run)
    assert "✓ done" in page.text
    for words in (
        "12 done, 4 not run", "train-sft: loss from", "▲ better", "▼ worse", "○ cannot be told", "-0.41 to -0.2",
        "10 × nobody knows its licence", "2 × nearly the same as a row that was kept",
        "wheel://topics==1.0/data", "NOASSERTION: 10", "2.17.0", "recipes/tiny.yaml",
        "pipeline: llm-training", "2,600,000", "39,000",
    ):  # fmt: skip
        assert words in page.text + str(page.tags), words
    for made in run.made.values():
        assert made.content_digest in page.text
    assert "What went wrong" not in page.text


def test_the_graph_has_every_task_with_its_state_and_leads_to_it_by_keyboard(synthetic_run):
    run = synthetic_run()
    run.whole()
    run.close("done")
    page = page_of(run)
    assert {f"#task-{label}" for label in NEEDS} <= set(page.links)
    labels = [values.get("aria-label", "") for tag, values in page.tags if tag == "a"]
    assert any(label.startswith("curate: done 9.0 s") for label in labels)
    assert any(label.startswith("deploy: not run") for label in labels)


def test_a_refused_run_says_why_first_with_hint_and_the_end_of_the_log(synthetic_run):
    run = synthetic_run()
    made = run.whole()
    run.finish("release/decide", "decide", {"comparison": made["comparison"]}, {
        "verdict": ("verdict", {"verdict.json": b'{"verdict": "FAIL", "reasons": ["harmless prompts refused"]}'},
                    Result(content_digest=digest_of("verdict"))),
        "page": ("page", {"page.html": b"<p>no</p>"}, Result(content_digest=digest_of("page"))),
    })  # fmt: skip
    run.fail("release/enforce", "enforce", "verdict FAIL", "change the data", "refused")
    (run.folder / "logs" / "enforce.log").write_text("first line\n" + "noise\n" * 100 + "the last line\n")
    run.close("refused")
    page = page_of(run)
    assert "⊘ refused by a gate" in page.text
    assert page.text.index("What went wrong") < page.text.index("Timeline")
    assert "hint: change the data" in page.text
    assert "the last line" in page.text
    assert "first line" not in page.text
    assert "harmless prompts refused" in page.text
    link = next(link for link in page.links if link.endswith("page.html"))
    assert (run.folder / link).is_file()


def test_a_killed_run_without_a_record_still_has_a_page(synthetic_run):
    run = synthetic_run()
    run.data()
    run.start("train/train", "train-sft")
    page = page_of(run)
    assert "run.json is missing" in page.text
    assert "◔ running" in page.text


def test_a_start_without_an_end_in_a_finished_run_ended_without_a_word(synthetic_run):
    run = synthetic_run()
    run.start("train/train", "train-sft")
    (run.folder / "outcomes").mkdir()
    (run.folder / "outcomes" / "train-sft.json").write_text(
        json.dumps({"outcome": "failed", "cause": "out of memory", "hint": None})
    )
    run.close("failed")
    page = page_of(run)
    assert "† train-sft: ended without a word" in page.text
    assert "out of memory" in page.text


def test_reused_tasks_are_told_from_those_done(synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.data()
    second.reuse("data/ingest", "ingest", {}, {"documents": made["documents"]})
    second.finish("data/curate", "curate", {"documents": made["documents"]})
    second.close("done")
    assert "1 done, 1 reused" in page_of(second).text


def test_a_run_that_is_going_says_what_is_not_done_yet_and_one_that_ended_what_was_not_done(synthetic_run):
    run = synthetic_run()
    run.prepare()
    run.start("train/train", "train-sft")
    going = page_of(run).text
    assert "tasks are done so far" in going and "Nothing is trained yet." in going and "not run yet" in going
    assert "Rows to train on" in going and "Rows trained on" not in going
    run.fail("train/train", "train-sft", "out of memory", "smaller batches")
    run.close("failed")
    ended = page_of(run).text
    assert "Nothing was trained." in ended and "tasks ended well" in ended and "not run yet" not in ended
    assert "Rows to train on" in ended


def test_an_empty_or_absent_folder_has_a_page(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        page = Page(render(tmp_path / name))
        assert "No task has started" in page.text
        assert "events.jsonl is missing" in page.text


@pytest.mark.parametrize("kind", ["documents", "model", "comparison", "scorecard"])
def test_removed_payloads_are_named_and_the_rest_is_shown(synthetic_run, kind):
    run = synthetic_run()
    run.whole()
    run.close("done")
    locations.remove(locations.join(run.store.root, kind))
    page = page_of(run)
    assert "What could not be read" in page.text
    assert "Timeline" in page.text


def test_torn_files_are_named(synthetic_run):
    run = synthetic_run()
    made = run.whole()
    run.close("done")
    (run.folder / "run.json").write_text('{"run": ')
    with (run.folder / "events.jsonl").open("a") as file:
        file.write("{torn\n")
    Path(made["comparison"].file("comparison.json")).write_text("{torn")
    page = page_of(run)
    assert "run.json is torn" in page.text
    assert "torn event line" in page.text
    assert "comparison.json of evaluate/compare cannot be read" in page.text


@pytest.mark.parametrize("time", [0, 1.5e300, ["x"], "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59"])
def test_an_event_with_a_time_that_is_none_is_shown_without_one(synthetic_run, time):
    run = synthetic_run()
    run.close("done")
    with (run.folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "started", "task": "ingest", "step": "data/ingest", "time": time}) + "\n")
    assert "ingest" in page_of(run).text


@pytest.mark.timeout(30)
@pytest.mark.parametrize("broken", ["[" * 200_000, "[1]", None])
def test_a_record_that_is_none_is_named_and_a_pipe_not_waited_for(synthetic_run, broken):
    run = synthetic_run()
    run.close("done")
    (run.folder / "run.json").unlink()
    if broken is None:
        os.mkfifo(run.folder / "run.json")
    else:
        (run.folder / "run.json").write_text(broken)
    assert "run.json is torn" in page_of(run).text


def test_addresses_credentials_and_markup_do_not_reach_the_page(synthetic_run):
    run = synthetic_run()
    run.event("warning", "ingest", "data/ingest", message="written by jane.doe@example.org")
    run.fail("data/ingest", "ingest", "<script>alert(1)</script> bob@example.org", "s3://key:word@host/bucket")
    (run.folder / "logs" / "ingest.log").write_text("Traceback: carol@mail.example.com\n")
    run.close("failed")
    key = "sk-" + "a1B2" * 8
    (run.folder / "recipe.yaml").write_text(f"# dave@example.net\nkey: {key}\n")
    html = render(run.folder, needs={"<b>": (), "ingest": ("<b>",)})
    assert not re.search(r"\w@\w+\.\w", html)
    assert "key:word" not in html
    assert key not in html and "key: [key]" in html
    assert "<script" not in html
    Page(html)


def test_a_retried_task_shows_its_last_try(synthetic_run):
    run = synthetic_run()
    run.fail("data/ingest", "ingest", "network")
    run.data()
    run.close("done")
    page = page_of(run)
    assert "2 tries" in page.text
    assert "What went wrong" not in page.text


def test_the_command_is_shown_whether_it_is_on_record_as_words_or_as_a_line(synthetic_run):
    run = synthetic_run()
    run.data()
    run.close("done")
    assert "tutelage run recipes/tiny.yaml" in page_of(run).text
    file = run.folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "command": "tutelage run recipes/tiny.yaml"}))
    assert "tutelage run recipes/tiny.yaml" in page_of(run).text


def test_every_state_has_a_sign_or_words_of_its_own():
    assert len(set(STATES.values())) == len(STATES) - 0
    for state, (sign, words) in STATES.items():
        drawn = graph({"task": Task("task", state=state)})
        assert sign in drawn
        assert words[:12] in drawn


def test_arrows_that_follow_from_others_are_not_drawn():
    assert reduced({"a": set(), "b": {"a"}, "c": {"a", "b"}}) == {"a": set(), "b": {"a"}, "c": {"b"}}


def test_a_circle_of_needs_does_not_hang_the_graph():
    tasks = {"a": Task("a", needs={"b"}), "b": Task("b", needs={"a"})}
    assert "<svg" in graph(tasks)


def test_drawings_of_nothing_are_nothing():
    assert graph({}) == ""
    assert timeline({"a": Task("a")}) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.02, "< 0.1 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words


def test_sizes_and_ticks_read_well():
    assert [size(count) for count in (None, 12, 3400, 93_000_000)] == ["unknown", "12 B", "3.4 kB", "93 MB"]
    assert ticks(0, 61.0, 5) == [0, 20, 40, 60]
    assert ticks(1.0, 1.0, 5) == [1.0]
