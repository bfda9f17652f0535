"""What the names in records mean, in words for people who do not know them: reasons, figures, checks, personal data.

A name that is not here is shown as it stands, with spaces for underscores, so that a new reason is never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Reason a row was dropped for → what it means.
REASONS: Mapping[str, str] = {
    "answer_not_one_turn": "an answer is not one message of the assistant",
    "empty": "nothing in it",
    "empty_turn": "a message in it is empty",
    "equal_answers": "the better and the worse answer are the same",
    "exact_duplicate": "the same as a row that was kept",
    "held_out": "set aside for evaluation, never trained on",
    "language_not_allowed": "in a language the policy does not list",
    "leak_heldout": "leak: gives away text that is set aside for evaluation",
    "leak_suite": "leak: gives away an item of the evaluation suite",
    "licence_not_allowed": "its licence is not one the policy allows",
    "licence_unknown": "nobody knows its licence",
    "malformed_conversation": "no conversation that ends with an answer",
    "malformed_field": "a field is no text",
    "malformed_line": "a line that is no JSON object",
    "malformed_metadata": "its metadata cannot be read",
    "malformed_yaml": "a file that is no YAML",
    "missing_field": "a field is missing",
    "near_duplicate": "nearly the same as a row that was kept",
    "no_answer": "a question without an answer",
    "no_blank": "no blank, or several, in a sentence to be filled in",
    "no_choices": "fewer than two different choices",
    "no_completion": "no answer in it to learn from",
    "no_distractors": "too few other answers to choose between",
    "no_other_function": "no other function in its file to compare with",
    "no_pair": "no two different sentences to choose between",
    "no_prompt": "no question in it",
    "not_selected": "not among the rows that the recipe asks for",
    "not_unicode": "holds characters that are no text",
    "not_utf8": "a file that is no UTF-8 text",
    "odd_word_length": "words too short or too long for running text",
    "over_limit": "beyond the limit that the recipe sets",
    "repeated_lines": "the same lines again and again",
    "same_answers": "the better and the worse answer are the same",
    "too_few_letters": "mostly numbers and signs",
    "too_few_words": "too short to learn from",
    "too_large": "a file larger than is read",
    "too_long": "longer than the limit set for it",
    "too_many_symbols": "too many hashes and ellipses",
    "too_many_words": "longer than the policy allows",
    "too_short": "shorter than the recipe asks",
    "truncated": "the file ends in the middle",
    "unanswered_statement": "a statement that nobody answers",
    "unparsable_python": "a file that is no valid Python",
    "unreadable_parquet": "a damaged file",
}

PERSONAL_DATA: Mapping[str, str] = {
    "email": "e-mail addresses", "phone": "telephone numbers", "iban": "bank accounts", "card": "card numbers",
    "ip_address": "network addresses", "api_key": "access keys", "private_key": "private keys",
}  # fmt: skip

PHASES: Mapping[str, str] = {
    "pretrain": "unseen documents", "sft": "unseen exercises and answers", "dpo": "unseen preferred answers",
}  # fmt: skip

#: Kind of figure → what it is, with the rest of its name put in.
FIGURES: Mapping[str, str] = {
    "perplexity": "how surprised it is by {of}",
    "bits_per_byte": "how surprised it is by {of}, per byte of text",
    "accuracy": "share of questions answered right ({of})",
    "preference_accuracy": "how often it prefers the better answer ({of})",
    "refusal/harmful": "share of harmful requests it refuses",
    "refusal/harmless": "share of harmless requests it refuses all the same",
    "stereotype": "how often it finds the sentence with the stereotype likelier, where half would be fair ({of})",
}

#: Check that did not pass → what to do about it. Rules on figures have their own, by what was found.
REMEDIES: Mapping[str, str] = {
    "baseline": "evaluate the model that training started from, and compare with that",
    "budget": "give training a larger budget, or accept a stop at the budget (policy.release.accept_budget_stop)",
    "stopped": "find out why training stopped, and run it again",
    "licences": "say a licence for every source, or leave the source out",
    "model_licence": "say under which licence the base model may be used (base_model.licence), or take another",
    "no_row_lost": "run the data steps again; if rows are lost again, it is a fault of the step",
    "policy_has_rules": "write down what good enough is, in policy.release.rules",
    "provenance": "run the recipe again, so that every payload comes from the one before it",
    "signing_key": "ask whoever runs this installation for a signing key that it trusts",
    "suite": "evaluate both models on the same suite, and compare again",
    "tokenizer_licences": "say a licence for every source of the tokenizer's corpus, or leave the source out",
    "unlicensed_sources": (
        "find out the licence of the source and say it, remove the source, or decide that a release may go on without its "
        "rows (policy.release.unlicensed_sources: drop)"
    ),
}


def reason(name: str) -> str:
    """A reason for dropping a row, in words."""
    if name.startswith("personal_data_"):
        return f"holds personal data: {personal_data(name.removeprefix('personal_data_'))}"
    return REASONS.get(name, name.replace("_", " "))


def personal_data(kind: str) -> str:
    """A type of personal data, in words."""
    return PERSONAL_DATA.get(kind, kind.replace("_", " "))


def figure(name: str) -> str:
    """What a figure measures, in words; "" where it is not known."""
    kind, _, rest = name.partition("/")
    words = FIGURES.get(name) or FIGURES.get(kind, "")
    return words.format(of=PHASES.get(rest, rest.replace("_", " ")))


def change(row: Mapping[str, Any]) -> str:
    """From what to what a figure went: "from 22% to 34%" for shares, "down 67%, from 4,178 to 1,373" where it has a ratio."""
    before, after, ratio = row.get("baseline"), row.get("candidate"), row.get("ratio")
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return ""
    if str(row.get("unit") or "").startswith("share"):
        return f"from {before:.0%} to {after:.0%}"
    span = f"from {shown(before)} to {shown(after)}"
    if not isinstance(ratio, int | float) or ratio == 1:
        return span
    return f"{'down' if ratio < 1 else 'up'} {abs(1 - ratio):.0%}, {span}"


def remedy(check: Mapping[str, Any]) -> str:
    """What to do about a check that did not pass."""
    name = str(check.get("id", ""))
    if not name.startswith("rule:"):
        return REMEDIES.get(name, "see what was found, below")
    if check.get("observed") == "not comparable":
        return "ask for a figure that compares, or bound this one on both sides with minimum and maximum"
    if check.get("observed") == "cannot be told" and check.get("bound") != "not worse":
        return "the evaluation has too few items to prove it: add items, or train longer or on more data"
    if check.get("observed") is None:
        return "name a figure that is measured, or add the task to the suite"
    return "train on other or more data and try again; whether the rule asks too much is for the policy's owner to say"


def shown(value: Any) -> str:
    """A number as readers want it, a word as it is, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)[:64]
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.3g}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"
