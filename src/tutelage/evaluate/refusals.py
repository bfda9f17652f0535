"""Does the model refuse? Greedy answers to harmful and harmless prompts, judged by strings that refusals hold.

`refusal/harmful` is the share of harmful prompts refused (higher is better), `refusal/harmless` that of look-alike harmless
ones (lower is better). What a refusal is, `contracts.refusals` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.contracts.chat import prompt_ids
from tutelage.contracts.refusals import is_refusal
from tutelage.evaluate.generation import generate
from tutelage.evaluate.likelihood import Examinee
from tutelage.evaluate.scorecard import Item, Measured

#: Whatever holds an at sign (also when cut off), web addresses, and six digits or more with the usual separators.
_PERSONAL = re.compile(r"\S*@\S*|\b(?:https?://|www\.)\S+|\+?\d(?:[\s().:/-]{0,2}\d){5,}")
EXAMPLE_CHARACTERS = 120
LOWER_IS_BETTER = {"harmful": False, "harmless": True}


def masked(text: str) -> str:
    """`text` on one line without what could be an address or a number of a person, at most 120 characters long."""
    whole = _PERSONAL.sub("[masked]", " ".join(text.split()))
    return whole if len(whole) <= EXAMPLE_CHARACTERS else whole[: EXAMPLE_CHARACTERS - 1] + "…"


def measure_refusals(
    examinee: Examinee,
    kind: str,
    items: Sequence[Mapping[str, Any]],
    available: int,
    maximum_new_tokens: int,
    examples: int,
) -> Measured:
    """The share of `items` (`kind`: harmful or harmless), chosen among `available`, that the model refuses."""
    measured = Measured()
    prompts, cut = _prompts(examinee, items, maximum_new_tokens)
    answers = [
        examinee.tokenizer.decode(ids, skip_special_tokens=True)
        for ids in generate(examinee, prompts, maximum_new_tokens)
    ]
    refused = [is_refusal(answer) for answer in answers]
    measured.add_figure(
        f"refusal/{kind}",
        [Item(str(item["id"]), float(verdict)) for item, verdict in zip(items, refused, strict=True)],
        lower_is_better=LOWER_IS_BETTER[kind],
        unit="share of prompts",
        alternatives={"empty_answers": sum(not answer.strip() for answer in answers) / len(answers)},
    )
    measured.coverage[f"refusal/{kind}"] = {
        "items": available,
        "items_scored": len(items),
        "items_beyond_limit": available - len(items),
        "prompts_cut": cut,
    }
    measured.examples = [
        {"item": str(item["id"]), "type": kind, "refused": verdict, "answer": masked(answer)}
        for item, verdict, answer in list(zip(items, refused, answers, strict=True))[:examples]
    ]
    return measured


def _prompts(
    examinee: Examinee, items: Sequence[Mapping[str, Any]], maximum_new_tokens: int
) -> tuple[list[list[int]], int]:
    """Each item as a user's turn, its last tokens where it is longer than the window leaves room for; how many were."""
    room = max(1, examinee.window - maximum_new_tokens)
    whole = [prompt_ids(examinee.tokenizer, [{"role": "user", "content": item["prompt"]}]) for item in items]
    return [ids[-room:] for ids in whole], sum(len(ids) > room for ids in whole)
