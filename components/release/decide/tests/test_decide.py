import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.library.release.line import RULES, Line, make_line
from tutelage.contracts.store import finish
from tutelage.contracts.verdicts import create_key_pair
from tutelage.errors import InvalidInput


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return make_line(tmp_path)


def decided(line: Line, **policy) -> dict:
    line.run("release/decide", {"rules": RULES, **policy})
    return line.verdict()


def test_a_good_model_passes_and_the_verdict_is_signed(line):
    verdict = decided(line)
    assert (verdict["verdict"], verdict["reasons"]) == ("PASS", [])
    assert verdict["signature"] and verdict["key"]
    assert verdict["subject"]["model"] == line.manifests["model"].content_digest
    assert all(check["passed"] for check in verdict["checks"])


def test_a_policy_without_rules_cannot_pass(line):
    assert "has no rules" in decided(line, rules=[])["reasons"][0]


def test_a_fail_is_written_and_signed_and_nothing_is_raised(line):
    verdict = decided(line, rules=[{"figure": "refusal/harmless", "must_be": "not_worse"}])
    assert verdict["verdict"] == "FAIL" and verdict["signature"]
    assert verdict["reasons"] == [
        "refusal/harmless: worse than the baseline (difference 0.2, interval 0.05 to 0.35, 40 items)"
    ]


def test_an_unknown_figure_fails_closed_and_names_the_nearest(line):
    reasons = decided(line, rules=[{"figure": "perplexity/pretrian", "maximum": 1000}])["reasons"]
    assert "no such figure" in reasons[0] and "'perplexity/pretrain'" in reasons[0]
    reasons = decided(line, rules=[{"figure": "accuracy/aritmetic", "must_be": "better"}])["reasons"]
    assert "the comparison has no such figure; did you mean 'accuracy/arithmetic'?" in reasons[0]


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ({"figure": "perplexity/pretrain", "maximum": 300}, True),
        ({"figure": "perplexity/pretrain", "maximum": 299.9}, False),
        ({"figure": "accuracy/arithmetic", "minimum": 0.25}, True),
        ({"figure": "accuracy/arithmetic", "minimum": 0.26}, False),
        ({"figure": "perplexity/pretrain", "must_be": "better", "margin": 0.39}, True),
        ({"figure": "perplexity/pretrain", "must_be": "better", "margin": 0.41}, False),
        ({"figure": "accuracy/arithmetic", "must_be": "better"}, False),
        ({"figure": "accuracy/arithmetic", "must_be": "not_worse"}, True),
        ({"figure": "refusal/harmless", "must_be": "not_worse"}, False),
        ({"figure": "refusal/harmless", "must_be": "non_inferior", "margin": 0.36}, True),
        ({"figure": "refusal/harmless", "must_be": "non_inferior", "margin": 0.34}, False),
    ],
)
def test_bounds_and_margins_decide(line, rule, passed):
    assert (decided(line, rules=[rule])["verdict"] == "PASS") is passed


def test_a_margin_with_not_worse_is_an_error_that_says_what_to_write(line):
    with pytest.raises(InvalidInput, match=r"not_worse takes none: write must_be: non_inferior with that margin"):
        decided(line, rules=[{"figure": "refusal/harmless", "must_be": "not_worse", "margin": 0.06}])


def test_the_page_names_guards_that_passed_without_proof(line):
    rule = {"figure": "accuracy/arithmetic", "must_be": "not_worse"}
    assert decided(line, rules=[rule])["verdict"] == "PASS"
    lead = line.page().partition('class="tiles"')[0]
    assert "Passed without proof" in lead
    assert "40 items); no loss was seen (nothing could be told).</li>" in lead
    decided(line)
    assert "Passed without proof" not in line.page()


def test_a_bound_says_over_how_many_items_the_figure_was_measured(line):
    checks = decided(line, rules=[{"figure": "refusal/harmless", "maximum": 0.25}])["checks"]
    assert checks[0]["why"] == "refusal/harmless is 0.3 over 40 items, at most 0.25 is asked"


def test_rows_without_a_licence_refuse_the_release_unless_the_policy_lets_them_be_dropped(line):
    line.alter("curated", dropped={"too_short": 1, "licence_unknown": 1})
    assert decided(line)["reasons"] == [
        "1 row came from sources without a known licence; the policy refuses such sources"
    ]
    assert decided(line, unlicensed_sources="drop")["verdict"] == "PASS"


def test_sources_that_say_no_licence_are_named(line):
    told = [{"name": "found-somewhere", "licence": "NOASSERTION"}, {"name": "manual", "licence": "MIT"}]
    line.alter("documents", details={"sources": told})
    line.alter("curated", dropped={"too_short": 1, "licence_unknown": 1})
    assert decided(line)["reasons"] == [
        "1 row came from sources without a known licence (found-somewhere); the policy refuses such sources"
    ]


def test_rows_that_were_used_need_a_licence_whatever_the_policy_says(line):
    line.alter("splits", licences={"MIT": 7, "NOASSERTION": 1})
    assert (
        "no licence is known for 1 row that training or evaluation used"
        in decided(line, unlicensed_sources="drop")["reasons"]
    )
    line.alter("splits", licences={"MIT": 7})
    assert "a licence is on record for 7 of 8 rows used" in decided(line)["reasons"]


def test_a_base_model_of_unknown_licence_is_refused(line):
    line.alter("model", licences={"NOASSERTION": 1})
    assert "nobody says under which licence the base model may be used" in decided(line)["reasons"]
    line.alter("model", licences={})
    assert "nobody says under which licence the base model may be used" in decided(line)["reasons"]


def test_an_earlier_phase_that_was_stopped_counts_too(line):
    line.alter("base", details={"objective": "sft", "stopped": "budget"})
    base = line.manifests["base"]
    line.alter("model", input_manifests={**line.manifests["model"].input_manifests, "base": base.uri})
    assert "training was stopped early (sft: budget)" in decided(line)["reasons"][0]


def test_a_model_whose_origin_is_gone_is_refused(line):
    Path(line.manifests["base"].uri).unlink()
    assert "1 manifests it came from are gone or changed" in decided(line)["reasons"][0]


def test_rows_lost_between_steps_are_found(line):
    line.alter("unique", rows=8, rows_in=9)
    reasons = decided(line)["reasons"]
    assert "unique took in 9 of 10 rows; splits took in 9 of 8 rows" in reasons


def test_a_payload_made_from_something_else_breaks_the_provenance(line):
    line.alter("candidate", inputs={**line.manifests["candidate"].inputs, "model": "0" * 64})
    assert "candidate was made from another model" in decided(line)["reasons"][0]


def test_scorecards_on_another_suite_are_refused(line):
    line.alter("baseline", inputs={**line.manifests["baseline"].inputs, "suite": "0" * 64})
    assert any("baseline met another suite" in reason for reason in decided(line)["reasons"])


def earlier_phase(line: Line, **inputs: str) -> None:
    """Put a phase between base and model, as a pipeline with two phases has."""
    line.put("pretrained", "model", "train/train", {"tokens": "tokens", "base": "base", **inputs}, salt="pretrained",
             licences={"Apache-2.0": 1}, details={"objective": "pretrain", "stopped": None})  # fmt: skip
    former, pretrained = line.manifests["model"], line.manifests["pretrained"]
    line.alter("model", inputs={**former.inputs, "base": pretrained.content_digest},
               input_manifests={**former.input_manifests, "base": pretrained.uri})  # fmt: skip


def test_the_baseline_must_be_the_model_that_training_started_from(line):
    line.put("weaker", "model", "plan/acquire", {}, salt="weaker", licences={"Apache-2.0": 1})
    line.put("baseline", "scorecard", "evaluate/evaluate", {"model": "weaker", "splits": "splits", "suite": "suite"})
    baseline = line.manifests["baseline"]
    former = line.manifests["comparison"]
    line.alter("comparison", inputs={**former.inputs, "baseline": baseline.content_digest},
               input_manifests={**former.input_manifests, "baseline": baseline.uri})  # fmt: skip
    reasons = decided(line)["reasons"]
    assert len(reasons) == 1 and "the baseline is a scorecard of model" in reasons[0]


def test_with_several_phases_the_baseline_is_the_model_before_the_first(line):
    earlier_phase(line)
    assert decided(line)["reasons"] == []
    line.alter(
        "baseline", inputs={**line.manifests["baseline"].inputs, "model": line.manifests["pretrained"].content_digest}
    )
    assert any("the baseline is a scorecard of model" in reason for reason in decided(line)["reasons"])


def test_an_earlier_phase_on_other_tokens_breaks_the_provenance(line):
    line.put("foreign", "tokens", "data/tokenize", {"splits": "splits", "model": "base"}, salt="foreign", rows=8)
    earlier_phase(line, tokens="foreign")
    assert decided(line)["reasons"] == ["pretrain was trained on other tokens"]


def test_manifests_altered_to_come_from_each_other_do_not_hang_the_gate(line):
    base = line.manifests["base"]
    folder = Path(base.location)
    (folder / "manifest.json").unlink()
    altered = replace(base, inputs={"base": base.content_digest}, input_manifests={"base": base.uri})
    line.manifests["base"] = finish(altered)
    assert any("are gone or changed" in reason for reason in decided(line)["reasons"])


def test_a_tokenizer_trained_on_text_without_a_licence_is_refused_whatever_the_policy_says(line):
    for licence, verdict in (("MIT", "PASS"), ("NOASSERTION", "FAIL")):
        fresh = make_line(
            line.root / licence, corpus=[{"uri": "x", "licence": "MIT"}, {"uri": "y", "licence": licence}]
        )
        found = decided(fresh, unlicensed_sources="drop")
        assert found["verdict"] == verdict
    assert found["reasons"] == ["the tokenizer was trained on 1 of 2 sources without a known licence"]


def test_unknown_licences_of_suite_items_are_reported_and_refuse_nothing(line):
    line.alter("suite", licences={"MIT": 1, "NOASSERTION": 1})
    verdict = decided(line)
    (check,) = [check for check in verdict["checks"] if check["id"] == "suite_licences"]
    assert verdict["verdict"] == "PASS" and "none is known for 1 items" in check["why"]


def test_every_check_has_a_name_of_its_own_for_programs(line):
    rules = [{"figure": "perplexity/pretrain", "must_be": "better", "maximum": 900}]
    names = [check["id"] for check in decided(line, rules=rules)["checks"]]
    assert len(set(names)) == len(names)
    assert {"budget", "licences", "rule:perplexity/pretrain:must_be", "rule:perplexity/pretrain:maximum"} <= set(names)
    line.alter("model", details={**line.manifests["model"].details, "stopped": "budget"})
    failed = [check["id"] for check in decided(line)["checks"] if not check["passed"]]
    assert failed == ["budget"]


def test_training_stopped_by_its_budget_needs_the_policys_consent(line):
    line.alter("model", details={**line.manifests["model"].details, "stopped": "budget"})
    assert "training was stopped early (pretrain: budget)" in decided(line)["reasons"][0]
    assert decided(line, accept_budget_stop=True)["verdict"] == "PASS"


def test_without_a_signing_key_there_is_no_pass(line):
    del line.settings["signing_key"]
    verdict = decided(line)
    assert (verdict["verdict"], verdict["signature"]) == ("FAIL", None)
    assert verdict["reasons"] == ["there is no signing key: no key, no PASS"]


def test_a_key_open_to_everybody_does_not_sign(line):
    Path(line.settings["signing_key"]).chmod(0o644)
    verdict = decided(line)
    assert verdict["signature"] is None and "is open to everybody" in verdict["reasons"][0]


def test_a_key_nobody_trusts_cannot_pass(line, tmp_path):
    line.settings["signing_key"] = str(create_key_pair(tmp_path / "other").private_key)
    assert "is not among the 1 public keys" in decided(line)["reasons"][0]


def test_verdict_and_page_digests_do_not_depend_on_run_or_measured_figures(line):
    first = line.run("release/decide", {"rules": RULES})
    observations = Path(line.manifests["model"].location) / "observations.json"
    observations.write_text(json.dumps({"seconds": 99.0}))
    second = line.run("release/decide", {"rules": RULES})
    assert {name: item.content_digest for name, item in first.items()} == {
        name: item.content_digest for name, item in second.items()
    }
    assert "99" in line.page()


def test_the_page_says_the_verdict_first_and_what_did_not_move(line):
    decided(line)
    page = line.page()
    assert (
        page.index("This model may be released, because")
        < page.index("Against the baseline")
        < page.index("What was checked")
    )
    assert (
        "▲ <strong>Got better:</strong> how surprised it is by unseen documents (perplexity/pretrain), from 500 to 300"
        in page
    )
    assert "▼ <strong>Got worse:</strong> share of harmless requests it refuses all the same (refusal/harmless)" in page
    assert "<strong>Did not move:</strong> share of questions answered right (arithmetic) (accuracy/arithmetic)" in page
    assert "cannot be told</span>: did not move" in page
    for shown in (
        "▲ better",
        "▼ worse",
        "2 × shorter than the recipe asks",
        "&lt;EMAIL_ADDRESS&gt;",
        "Apache-2.0",
        "Provenance",
        "<svg",
    ):
        assert shown in page
    assert "no held-out rows of phase &lt;sft&gt;" in page
    decided(line, rules=[])
    assert "This model must not be released, because" in line.page()
    assert "<strong>What to do:</strong> write down what good enough is, in policy.release.rules." in line.page()


def test_text_from_outside_is_escaped_on_the_page(line):
    evil = "<script>alert(1)</script>"
    line.alter("curated", dropped={evil: 2}, details={"masked": {"name": [evil], "<b>": evil}})
    line.alter("splits", licences={evil: 8})
    decided(line, rules=[{"figure": evil, "must_be": "better"}])
    page = line.page()
    assert evil not in page and "&lt;script&gt;alert(1)" in page and "<b>" not in page


def test_a_wrong_policy_is_an_input_error(line):
    for rules in (
        [{"figure": "a"}],
        [{"figure": "a", "maximum": 1, "margin": 1}],
        [{"figure": "a", "must_be": "good"}],
        [{"figure": "a", "must_be": "not_worse", "margin": 0.1}],
        [{"figure": "a", "must_be": "non_inferior"}],
    ):
        with pytest.raises(InvalidInput):
            decided(line, rules=rules)


def test_what_a_step_writes_is_utf8_whatever_the_locale():
    """A container without LANG writes ASCII unless told otherwise: a licence or a name with an accent ended the run."""
    root = Path(__file__).parents[4]
    for folder in (
        "src/tutelage/release",
        "src/tutelage/serve",
        "src/tutelage/plan",
        "src/tutelage/report",
        "components",
    ):
        for path in sorted((root / folder).rglob("*.py")):
            if {"tests", "train"} & set(path.parts):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("write_text", "read_text"):
                    assert "encoding" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}"
