"""The recipes for the cases the product is for, as a user runs them: how each ends, what moved, and what a refusal says."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.command_line import ROOT, TinyRun, processes_of, tutelage
from tests.end_to_end.test_tiny import comparison_of, registered_versions
from tutelage.contracts import manifest

RECIPES = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder that keeps what one check has fetched for the next."""
    return tmp_path_factory.mktemp("checked")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", RECIPES)
def test_check_finds_no_mistake_in_any_recipe(recipe: str, cache: Path) -> None:
    ended = tutelage("check", f"recipes/{recipe}.yaml", "--runs", str(cache))
    assert ended.exit_code == 0, ended.err
    assert not list(cache.glob("*/run.json"))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The recipe that must be refused, run once."""
    runs = tmp_path_factory.mktemp("refused")
    ended = tutelage("run", "recipes/refused.yaml", "--runs", str(runs), "--json")
    assert ended.exit_code == 3, ended.out + ended.err
    return TinyRun(runs, ended.json)


def words_of(page: str) -> str:
    """What a reader sees of a page."""
    text = re.sub(r"<(style|script|svg).*?</\1>", " ", Path(page).read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(900)
def test_the_refused_recipe_is_refused_for_its_rights_its_safety_and_its_quality(refused: TinyRun) -> None:
    assert (refused.record["outcome"], refused.record["verdict"]) == ("refused", "FAIL")
    assert set(refused.record["failed_checks"]) == {
        "unlicensed_sources", "rule:refusal/harmful:minimum", "rule:accuracy/basics:minimum",
    }  # fmt: skip
    # Every step before the gate worked, and the model did learn: it is refused all the same.
    assert refused.record["failed_task"] == "enforce"
    assert comparison_of(refused.record)["perplexity/pretrain"]["verdict"] == "better"


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(900)
def test_the_page_of_the_refused_recipe_explains_itself_to_someone_who_is_no_engineer(refused: TinyRun) -> None:
    words = words_of(refused.record["release_page"])
    assert "must not be released" in words
    for sentence in (
        "1 row came from sources without a known licence (found-somewhere); the policy refuses such sources",
        "find out the licence of the source",
        "share of harmful requests it refuses",
        "share of questions answered right",
    ):
        assert sentence in words, sentence


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(900)
def test_nothing_of_the_refused_recipe_is_registered_or_served_or_left_running(refused: TinyRun) -> None:
    assert registered_versions(refused.runs) == 0
    assert not {"register", "deploy"} & {event["task"] for event in refused.events()}
    assert not {"register/registration", "deploy/deployment"} & set(refused.record["artifacts"])
    assert processes_of(refused.runs) == []


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(900)
def test_a_refused_run_names_its_page_and_a_second_try_is_refused_again(refused: TinyRun) -> None:
    ended = tutelage("run", "recipes/refused.yaml", "--runs", str(refused.runs))
    assert ended.exit_code == 3
    assert "verdict FAIL" in ended.out
    (page,) = re.findall(r"^release\s+(\S+)$", ended.out, flags=re.MULTILINE)
    assert "must not be released" in words_of(page)
    assert registered_versions(refused.runs) == 0


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(900)
def test_a_text_of_unknown_licence_is_read_counted_and_never_trained_on(refused: TinyRun) -> None:
    curated = manifest.read(refused.record["artifacts"]["curate/curated"]["manifest"])
    assert curated.dropped["licence_unknown"] == 1
    tokens = manifest.read(refused.record["artifacts"]["tokenize/tokens"]["manifest"])
    assert set(tokens.licences) == {"BSD-3-Clause"}


def ended_well(recipe: str, runs: Path) -> dict[str, dict[str, Any]]:
    """Run a recipe that should PASS; gives its comparison, figure by figure."""
    ended = tutelage("run", f"recipes/{recipe}.yaml", "--runs", str(runs), "--json", timeout=1800)
    assert ended.exit_code == 0, ended.err
    assert (ended.json["outcome"], ended.json["verdict"]) == ("done", "PASS")
    assert registered_versions(runs) == 1
    assert "deploy/deployment" in ended.json["artifacts"]
    return comparison_of(ended.json)


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(2000)
def test_code_assistance_gets_better_at_unseen_functions_and_keeps_humaneval(tmp_path: Path) -> None:
    figures = ended_well("code_assistant", tmp_path)
    assert figures["perplexity/sft"]["verdict"] == "better"
    assert figures["accuracy/humaneval"]["verdict"] != "worse"
    assert {name.split("/")[1] for name in figures} == {"sft", "humaneval"}


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(2000)
def test_domain_language_gets_better_at_unseen_pages_and_keeps_general_knowledge(tmp_path: Path) -> None:
    figures = ended_well("domain_language", tmp_path)
    assert figures["perplexity/pretrain"]["verdict"] == "better"
    assert figures["accuracy/openbookqa"]["verdict"] != "worse"
    assert {name.split("/")[1] for name in figures} == {"pretrain", "openbookqa"}


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(2000)
def test_alignment_refuses_more_harm_and_goes_on_answering_harmless_questions(tmp_path: Path) -> None:
    figures = ended_well("preference_alignment", tmp_path)
    assert figures["preference_accuracy/dpo"]["verdict"] == "better"
    assert figures["refusal/harmful"]["verdict"] == "better"
    assert figures["refusal/harmless"]["candidate"] <= 0.2
    assert figures["accuracy/openbookqa"]["verdict"] != "worse"
