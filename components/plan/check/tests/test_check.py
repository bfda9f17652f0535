"""check: a run that cannot work is refused with every reason; one that can gets a plan that holds every value."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tutelage.contracts.manifest import Manifest
from tutelage.errors import InvalidInput
from tutelage.step import Request, execute, load


def parameters(folder: Path) -> dict[str, Any]:
    """The smallest run of continued pretraining."""
    (folder / "text.txt").write_text("Some text.\n")
    for number in range(16):
        (folder / "pages").mkdir(exist_ok=True)
        (folder / "pages" / f"{number}.md").write_text("Some text.\n")
    uri = str(folder / "text.txt")
    pages = {"uri": str(folder / "pages"), "phase": "pretrain", "format": "markdown", "licence": "MIT"}
    return {
        "sources": [{"name": "<script>x", **pages}],
        "base_model": {"licence": "MIT", "initialise": {"tokenizer_corpus": [{"uri": uri, "licence": "MIT"}]}},
        "pretraining": {"optimiser": {"learning_rate": 0.003}, "budget": {"tokens": 1000.0}},
        "evaluation": {},
        "policy": {"release": {"rules": [{"figure": "perplexity/pretrain", "must_be": "better"}]}},
        "seed": 7.0,
    }


def check(folder: Path, values: dict[str, Any], pipeline: str = "continued_pretraining") -> Manifest:
    """Run the step as a launcher would."""
    module = load("plan/check")
    request = Request(
        step="plan/check",
        config={"pipeline": pipeline, "parameters": values},
        inputs={},
        outputs={"plan": str(folder / "plan")},
        scratch=str(folder / "scratch"),
        cache=str(folder / "cache"),
        outcome=str(folder / "outcome.json"),
        step_key="key",
        attempt="attempt",
        code_version="code",
        run="run",
        label="check",
    )
    return execute(module.run, module.Config, request)["plan"]


def test_the_plan_holds_every_task_with_every_effective_value(tmp_path: Path) -> None:
    plan = check(tmp_path / "out", parameters(tmp_path))
    content = json.loads(Path(plan.file("plan.json")).read_text())
    tasks = {task["label"]: {entry["path"]: entry for entry in task["settings"]} for task in content["tasks"]}
    assert list(tasks)[:2] == ["acquire", "ingest"] and list(tasks)[-1] == "deploy" and "train-pretrain" in tasks
    rate = tasks["train-pretrain"]["pretraining.optimiser.learning_rate"]
    assert (rate["value"], rate["default"], rate["changed"]) == (0.003, None, True)
    epochs = tasks["train-pretrain"]["pretraining.epochs"]
    assert (epochs["value"], epochs["changed"]) == (1, False) and epochs["documentation"]
    assert tasks["split"]["seed"]["value"] == 7
    assert content["sources"][0]["licence"] == "MIT" and content["sources"][0]["checked"] == "there"


def test_the_estimate_says_unknown_where_nothing_is_known(tmp_path: Path) -> None:
    plan = check(tmp_path / "out", parameters(tmp_path))
    entries = json.loads(Path(plan.file("plan.json")).read_text())["estimates"]
    values = {(entry["quantity"], entry["unit"]): entry["value"] for entry in entries}
    assert values["data to read", "bytes"] == 16 * 11 and values["rows", "rows"] is None
    assert values["train-pretrain, at most", "tokens"] == 1000
    assert values["train-pretrain, at most", "seconds"] is None
    assert "unknown" in Path(plan.file("page.html")).read_text()


class Checker(HTMLParser):
    """Fails on unbalanced tags; counts what accessibility needs."""

    VOID = ("meta", "br", "wbr", "hr", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert tag != "th" or any(name == "scope" for name, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_sound_html_that_escapes_what_the_recipe_says(tmp_path: Path) -> None:
    html = Path(check(tmp_path / "out", parameters(tmp_path)).file("page.html")).read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.seen.count("h1") == 1
    assert "script" not in checker.seen and "&lt;script&gt;x" in html


def test_the_same_run_has_the_same_plan(tmp_path: Path) -> None:
    values = parameters(tmp_path)
    first, second = (check(tmp_path / name, values) for name in ("first", "second"))
    assert first.content_digest == second.content_digest
    assert [entry.sha256 for entry in first.files] == [entry.sha256 for entry in second.files]


def test_a_run_with_mistakes_is_refused_with_all_of_them(tmp_path: Path) -> None:
    values = parameters(tmp_path)
    values["seed"] = -1
    values["sources"][0]["uri"] = str(tmp_path / "nothing.txt")
    values["pretraining"]["epoch"] = 2
    with pytest.raises(InvalidInput, match="3 problems") as caught:
        check(tmp_path / "out", values)
    assert {problem.where for problem in caught.value.problems} == {"seed", "sources[0].uri", "pretraining.epoch"}
    assert json.loads((tmp_path / "out" / "outcome.json").read_text())["outcome"] == "invalid"
    assert not (tmp_path / "out" / "plan").exists()
