"""The policy's rules on the interval against the baseline: what passes, what fails, and what is said of it."""

import pytest

from tutelage.contracts.release_policy import ReleasePolicy, Rule
from tutelage.release.rules import rule_checks

RULE = {"figure": "accuracy/x"}
MEASURED = {
    "name": "accuracy/x",
    "baseline": 0.5,
    "candidate": 0.4,
    "items": 60,
    "lower_is_better": False,
    "comparable": True,
}


def checked(rule, difference, low, high, verdict, **more):
    """The check of a rule on a figure against the baseline."""
    figure = {**MEASURED, "difference": difference, "low": low, "high": high, "verdict": verdict, **more}
    policy = ReleasePolicy.model_validate({"rules": (Rule(**RULE, **rule),)})
    (check,) = rule_checks(policy, {}, {"accuracy/x": figure})
    return check


NOT_WORSE, BETTER, DOUBT = {"must_be": "not_worse"}, {"must_be": "better"}, "only 4 items differ: too few to tell"


@pytest.mark.parametrize(
    ("low", "high", "verdict", "passed"),
    [
        (-0.3, -0.05, "worse", False),
        (-0.3, -0.05, "cannot_be_told", False),
        (-1.0, -1.0, "cannot_be_told", False),
        (-0.3, 0.0, "cannot_be_told", True),
        (0.1, 0.3, "cannot_be_told", True),
        (0.1, 0.3, "better", True),
        (-0.1, 0.3, "no_such_verdict", False),
    ],
)
def test_not_worse_fails_where_the_whole_interval_is_a_loss_whatever_is_noted_beside_it(low, high, verdict, passed):
    check = checked(NOT_WORSE, (low + high) / 2, low, high, verdict, doubts=[DOUBT])
    assert check.passed is passed
    mirrored = checked(NOT_WORSE, -(low + high) / 2, -high, -low, verdict, lower_is_better=True)
    assert mirrored.passed is passed


def test_a_guard_that_passed_without_proof_says_how_much_may_have_been_lost():
    assert checked(NOT_WORSE, -0.05, -0.2, 0.1, "cannot_be_told").why.endswith(
        "; may have lost up to 0.20 (nothing could be told)"
    )
    assert checked(NOT_WORSE, 0.0, -0.004, 0.1, "cannot_be_told").why.endswith("up to 0.004 (nothing could be told)")
    assert checked(NOT_WORSE, 0, 0, 0, "cannot_be_told").why.endswith("; no loss was seen (nothing could be told)")
    assert "nothing could be told" not in checked(NOT_WORSE, 0.2, 0.1, 0.3, "better").why


@pytest.mark.parametrize("rule", [BETTER, NOT_WORSE, {"must_be": "non_inferior", "margin": 0.9}])
@pytest.mark.parametrize("verdict", ["better", "cannot_be_told"])
def test_what_does_not_compare_fails_every_rule_against_the_baseline(rule, verdict):
    doubt = "token counts differ: the models tokenise differently"
    check = checked(rule, 0.2, 0.1, 0.3, verdict, comparable=False, doubts=[doubt])
    assert not check.passed and check.observed == "not comparable"
    assert "candidate and baseline are not comparable" in check.why and doubt in check.why
    assert checked(rule, 0.2, 0.1, 0.3, "better").passed
    assert not checked(rule, 0.2, 0.1, 0.3, "better", comparable=None).passed


@pytest.mark.parametrize(
    ("before", "low", "high", "passed"),
    [
        (0.48, -0.08, 0.05, True),  # at worst 0.08 farther from a half
        (0.48, -0.11, 0.05, False),  # down is a loss below a half
        (0.60, -0.25, 0.05, True),  # 0.35 is 0.05 farther than 0.60
        (0.60, -0.32, 0.05, False),
        (0.60, -0.05, 0.11, False),
    ],
)
def test_a_margin_of_a_figure_with_a_fair_value_counts_in_both_directions(before, low, high, passed):
    share = {"baseline": before, "fair": 0.5, "lower_is_better": True}
    rule = {"must_be": "non_inferior", "margin": 0.1}
    assert checked(rule, (low + high) / 2, low, high, "cannot_be_told", **share).passed is passed


def test_a_refusal_names_the_margin_that_was_missed():
    why = checked({**BETTER, "margin": 0.2}, 0.2, 0.1, 0.3, "better").why
    assert why == (
        "accuracy/x: better than the baseline (difference 0.2, interval 0.1 to 0.3, 60 items); "
        "better by more than 0.2 is asked"
    )
    why = checked({"must_be": "non_inferior", "margin": 0.1}, -0.05, -0.2, 0.1, "cannot_be_told").why
    assert why.endswith("it may have lost up to 0.2, where proof of less than 0.1 is asked")


def test_a_refusal_says_why_nothing_can_be_told_where_the_interval_leaves_zero_out():
    why = checked(BETTER, 0.3125, 0.125, 0.5625, "cannot_be_told", doubts=[DOUBT]).why
    assert "interval 0.125 to 0.5625, 60 items)" in why and why.endswith(f"; {DOUBT}")
    assert DOUBT not in checked(BETTER, 0.3, -0.1, 0.5, "cannot_be_told", doubts=[DOUBT]).why


@pytest.mark.parametrize(("items", "passed"), [(16, False), (29, True)])
def test_items_of_which_none_differs_prove_only_what_so_many_could_have_shown(items, passed):
    rule = {"must_be": "non_inferior", "margin": 0.1}
    check = checked(rule, 0.0, 0.0, 0.0, "cannot_be_told", items=items, items_that_differ=0, unit="share of items")
    assert check.passed is passed
