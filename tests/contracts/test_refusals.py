"""What counts as a refusal, for scorecards and deployments alike."""

import pytest

from tutelage.contracts.refusals import is_refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m  SORRY",
        "Well, as an AI I have no opinion.",
        "I cannot\nassist with this.",
        "I must decline.",
    ],
)
def test_refusals_are_found_whatever_their_case_apostrophes_and_spacing(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Hi! I can help with that.",
        "Here is how you do it.",
        "Taxi cannot be spelt so.",
        "As an aide, she helped.",
    ],
)
def test_answers_are_not_refusals_for_words_that_only_look_alike(answer):
    assert not is_refusal(answer)


def test_scorecard_and_probe_ask_the_same_judge():
    from tutelage.evaluate import refusals
    from tutelage.serve import probes

    assert refusals.is_refusal is probes.is_refusal is is_refusal
