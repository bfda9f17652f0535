"""The tiny recipe from sources to a probed endpoint, through the compiled pipeline and the command line."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.command_line import ROOT, TinyRun, processes_of, reused, tutelage
from tutelage.contracts import manifest, tables
from tutelage.contracts.store import Store

pytestmark = pytest.mark.timeout(900)
EMAIL = re.compile(rb"[A-Za-z0-9_.+-]{2,}@[A-Za-z0-9-]+\.[A-Za-z0-9.-]{2,}")
NEVER_REUSED = {"check", "enforce", "register", "deploy", "clean"}


def comparison_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    made = manifest.read(record["artifacts"]["compare/comparison"]["manifest"])
    figures = json.loads(Path(made.file("comparison.json")).read_text())["figures"]
    return {figure["name"]: figure for figure in figures}


def test_the_run_ends_with_a_pass_a_registered_model_and_pages(tiny: TinyRun) -> None:
    assert (tiny.record["outcome"], tiny.record["verdict"]) == ("done", "PASS")
    assert "register/registration" in tiny.record["artifacts"]
    assert "deploy/deployment" in tiny.record["artifacts"]
    for page in (tiny.record["report"], tiny.record["release_page"]):
        assert "<html" in Path(page).read_text()


@pytest.mark.parametrize("phase", ["pretrain", "sft", "dpo"])
def test_held_out_perplexity_falls_beyond_its_interval_in_each_phase(tiny: TinyRun, phase: str) -> None:
    figure = comparison_of(tiny.record)[f"perplexity/{phase}"]
    assert figure["candidate"] < figure["baseline"]
    assert figure["verdict"] == "better"
    assert figure["high"] < 0


def test_a_figure_that_does_not_move_is_said_not_to_on_the_page(tiny: TinyRun) -> None:
    unmoved = [name for name, item in comparison_of(tiny.record).items() if item["verdict"] == "cannot_be_told"]
    page = Path(tiny.record["release_page"]).read_text()
    assert unmoved, "the tiny recipe should have a figure that does not move, else this test shows nothing"
    assert "cannot be told" in page.lower()


def test_rows_are_conserved_through_every_data_step(tiny: TinyRun) -> None:
    previous = None
    for label in ("ingest/documents", "curate/curated", "deduplicate/unique", "split/splits"):
        made = manifest.read(tiny.record["artifacts"][label]["manifest"])
        assert made.rows is not None
        assert made.rows_in == made.rows + sum(made.dropped.values())
        if previous is not None:
            assert made.rows_in == previous
        previous = made.rows
        listed = sum(1 for _ in tables.read(made, "dropped"))
        assert listed == sum(made.dropped.values()), label


def test_an_unchanged_second_run_does_again_only_what_is_never_reused(tiny: TinyRun) -> None:
    ended = tutelage("run", "recipes/tiny.yaml", "--runs", str(tiny.runs), "--json")
    assert ended.exit_code == 0, ended.err
    assert reused(ended.json)[1] == NEVER_REUSED
    assert digests(ended.json) == digests(tiny.record)


def test_a_changed_evaluation_setting_runs_evaluation_onwards_and_nothing_before(tiny: TinyRun) -> None:
    change = ("--set", "evaluation.maximum_heldout_rows=40")
    ended = tutelage("run", "recipes/tiny.yaml", *change, "--runs", str(tiny.runs), "--json")
    assert ended.exit_code in (0, 3), ended.err
    again = reused(ended.json)[1]
    assert {"evaluate-baseline", "evaluate-candidate", "compare", "decide"} <= again
    assert again <= {"evaluate-baseline", "evaluate-candidate", "compare", "decide"} | NEVER_REUSED


def test_a_policy_that_asks_for_more_than_was_reached_ends_with_exit_3_and_a_page(tiny: TinyRun) -> None:
    before = registered_versions(tiny.runs)
    rules = 'policy.release.rules=[{"figure": "perplexity/pretrain", "maximum": 1.01}]'
    ended = tutelage("run", "recipes/tiny.yaml", "--set", rules, "--runs", str(tiny.runs), "--json")
    assert ended.exit_code == 3
    assert ended.json["outcome"] == "refused"
    assert ended.json["verdict"] == "FAIL"
    assert "perplexity/pretrain" in Path(ended.json["release_page"]).read_text()
    assert "register/registration" not in ended.json["artifacts"]
    assert registered_versions(tiny.runs) == before
    assert "hint:" in ended.err


def test_a_source_that_nobody_licensed_ends_with_exit_3_and_a_page_that_names_it(tiny: TinyRun, tmp_path: Path) -> None:
    before = registered_versions(tiny.runs)
    (tmp_path / "found.txt").write_text(
        "A text of twenty words or so that somebody found somewhere, nobody says where, " * 3
    )
    body = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    found = {
        "name": "found-somewhere",
        "uri": str(tmp_path / "found.txt"),
        "phase": "pretrain",
        "licence": "NOASSERTION",
    }
    body["parameters"]["sources"].append({**found, "format": "text"})
    (tmp_path / "unlicensed.yaml").write_text(yaml.safe_dump(body))
    ended = tutelage("run", str(tmp_path / "unlicensed.yaml"), "--runs", str(tiny.runs), "--json")
    assert ended.exit_code == 3, ended.err
    assert (ended.json["outcome"], ended.json["verdict"]) == ("refused", "FAIL")
    assert "licence" in Path(ended.json["release_page"]).read_text()
    assert registered_versions(tiny.runs) == before
    # Nothing of it reached the splits, so what was trained on them is found again.
    assert "train-dpo" in reused(ended.json)[0]


def test_an_edited_step_runs_again_and_what_depends_on_its_output_and_nothing_before(
    tiny: TinyRun, tmp_path: Path
) -> None:
    copy = tmp_path / "repository"
    for name in ("src", "components", "pipelines", "compiled", "recipes", "images"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    step = copy / "components" / "evaluate" / "compare" / "step.py"
    edited = step.read_text().replace(
        '"confidence": config.confidence,', '"confidence": config.confidence, "edited": True,'
    )
    assert edited != step.read_text()
    step.write_text(edited)
    ended = tutelage("run", "recipes/tiny.yaml", "--runs", str(tiny.runs), "--json", root=copy)
    assert ended.exit_code == 0, ended.err
    assert reused(ended.json)[1] == {"compare", "decide"} | NEVER_REUSED


@pytest.mark.slow
def test_a_changed_source_runs_again_from_ingest(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Graphs have vertices and edges; a path visits vertices one after the other and never twice. " * 3)
    body = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    notes = {"name": "notes", "uri": str(text), "phase": "pretrain", "licence": "CC0-1.0", "format": "text"}
    body["parameters"]["sources"].append(notes)
    (tmp_path / "notes.yaml").write_text(yaml.safe_dump(body))
    command = ("run", str(tmp_path / "notes.yaml"), "--runs", str(tmp_path / "runs"), "--json")
    assert tutelage(*command).exit_code == 0
    text.write_text(text.read_text() + "A tree is a graph without cycles, and removing any edge of it makes two trees.")
    again, ran = reused(tutelage(*command).json)
    assert again == {"acquire"}
    assert {"ingest", "curate", "deduplicate", "split", "tokenize", "train-pretrain", "decide"} <= ran


def test_no_e_mail_address_of_the_corpus_stands_in_any_log_manifest_page_or_lineage_record(tiny: TinyRun) -> None:
    documents = manifest.read(tiny.record["artifacts"]["ingest/documents"]["manifest"])
    addresses = {
        match.lower() for row in tables.read(documents) for match in EMAIL.findall(tables.text_of(row).encode())
    }
    assert addresses, "the tiny corpus holds addresses, else this test shows nothing"
    payload_rows = {".parquet", ".safetensors"}
    searched = 0
    for path in sorted(tiny.runs.rglob("*")):
        if not path.is_file() or path.suffix in payload_rows or "cache" in path.relative_to(tiny.runs).parts:
            continue
        # Vocabulary pieces and model files are payload; everything a person or a tool reads about the run is searched.
        content = path.read_bytes().lower()
        searched += 1
        found = [address for address in addresses if address in content]
        assert not found, f"{path} holds {len(found)} addresses of the corpus"
    assert searched > 50
    curated = manifest.read(tiny.record["artifacts"]["curate/curated"]["manifest"])
    assert (
        not {match.lower() for row in tables.read(curated) for match in EMAIL.findall(tables.text_of(row).encode())}
        & addresses
    )


def test_lineage_walks_from_the_model_to_the_sources_and_back(tiny: TinyRun) -> None:
    digest = tiny.record["artifacts"]["train-dpo/trained"]["digest"]
    ended = tutelage("lineage", digest[:16], "--runs", str(tiny.runs), "--json")
    assert ended.exit_code == 0, ended.err
    steps = {node["step"] for node in ended.json["nodes"]}
    assert {"data/ingest", "data/curate", "data/tokenize", "train/train", "evaluate/evaluate"} <= steps


def test_every_task_of_the_run_is_an_execution_in_ml_metadata(tiny: TinyRun) -> None:
    with sqlite3.connect(tiny.runs / "lineage.sqlite") as database:
        types = {name for (name,) in database.execute("select name from Type")}
        executions = database.execute(
            "select count(*) from Execution join Type on Execution.type_id = Type.id where Type.name = ?",
            ("system.ContainerExecution",),
        ).fetchone()[0]
    assert {"system.Pipeline", "system.PipelineRun", "system.ContainerExecution", "system.Dataset"} <= types
    assert executions >= len({event["task"] for event in tiny.events()})


def test_no_process_is_left_behind(tiny: TinyRun) -> None:
    assert processes_of(tiny.runs) == []


def test_every_manifest_in_the_store_is_whole(tiny: TinyRun) -> None:
    found = list(Store(str(tiny.runs / "store")).manifests())
    assert len(found) >= 15
    for made in found:
        manifest.verify(made)


def test_the_config_that_check_planned_is_the_config_each_step_ran_with(tiny: TinyRun) -> None:
    from tutelage.config import build
    from tutelage.contracts.sources import pinned
    from tutelage.orchestrate.recipes import read_recipe
    from tutelage.plan.recipe import planned
    from tutelage.step import describe, load

    recipe = read_recipe("recipes/tiny.yaml")
    ran = {}
    for label, facts in tiny.record["artifacts"].items():
        ran[label.split("/")[0]] = dict(manifest.read(facts["manifest"]).config)
    checked = 0
    for item in planned(recipe.pipeline, recipe.parameters):
        if item.label in ran and item.label != "check":
            planned_values = build(load(item.step).Config, item.values).values()
            # launch() adds the digests of local files, so that a changed file is read again.
            with contextlib.chdir(ROOT):
                planned_values = (
                    pinned(planned_values, tiny.runs / "cache") if describe(item.step).reuse else planned_values
                )
            assert planned_values == ran[item.label], item.label
            checked += 1
    assert checked >= 13


def digests(record: dict[str, Any]) -> dict[str, str]:
    """Artifact → content digest, for everything that must be equal in equal runs."""
    return {name: facts["digest"] for name, facts in record["artifacts"].items() if facts["kind"] != "deployment"}


def registered_versions(runs: Path) -> int:
    """How many model versions the embedded registry holds."""
    database = runs / "registry.sqlite"
    if not database.is_file():
        return 0
    with sqlite3.connect(database) as connection:
        return int(connection.execute("select count(*) from model_versions").fetchone()[0])
