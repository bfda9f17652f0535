"""Multiple choice by log-likelihood: the choice that the model finds most likely after the prompt is its answer.

The figure `accuracy/<task>` divides each choice's log-likelihood by the choice's UTF-8 bytes (`acc_norm` of
lm-evaluation-harness), which keeps short choices from winning by being short and does not depend on the tokenizer; by plain
sums it stands beside it as alternative `raw`. Prompt and choice are tokenised apart: cutting after tokenising the whole
moves the border (57% of random splits). White space between them belongs to the choice, unless the tokenizer would never
put the border there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutelage.errors import InvalidInput
from tutelage.evaluate.likelihood import Examinee, Likelihood, Passage, likelihoods
from tutelage.evaluate.scorecard import Item, Measured
from tutelage.evaluate.shared_prompts import Branching, branch_likelihoods, shareable

SuiteItem = Mapping[str, Any]


def measure_task(examinee: Examinee, task: str, items: Sequence[SuiteItem], available: int) -> Measured:
    """The accuracy on `items` of one task, chosen among `available`. Raises InvalidInput for an item without answer."""
    measured = Measured()
    for item in items:
        _check(item)
    trees, cut = branchings(examinee, items)
    scores = choice_likelihoods(examinee, trees)
    right = [answer_of(item, row) == item["answer"] for item, row in zip(items, scores, strict=True)]
    raw = [answer_of(item, row, by_length=False) == item["answer"] for item, row in zip(items, scores, strict=True)]
    measured.add_figure(
        f"accuracy/{task}",
        [Item(str(item["id"]), float(hit)) for item, hit in zip(items, right, strict=True)],
        lower_is_better=False,
        unit="share of items",
        alternatives={
            "raw": sum(raw) / len(raw),
            "chance": sum(1 / len(item["choices"]) for item in items) / len(items),
        },
    )
    measured.coverage[f"accuracy/{task}"] = {
        "items": available,
        "items_scored": len(items),
        "items_beyond_limit": available - len(items),
        **cut,
    }
    return measured


def answer_of(item: SuiteItem, scores: Sequence[Likelihood], *, by_length: bool = True) -> int:
    """Index of the likeliest choice, by log-likelihood per byte or by its sum; the first among equals."""
    return int(np.argmax(per_byte(item, scores) if by_length else [score.log_probability for score in scores]))


def per_byte(item: SuiteItem, scores: Sequence[Likelihood]) -> list[float]:
    """Log-likelihood of each choice divided by its UTF-8 bytes."""
    sizes = [len(choice.encode()) for choice in item["choices"]]
    return [score.log_probability / size for score, size in zip(scores, sizes, strict=True)]


def _check(item: SuiteItem) -> None:
    choices, answer = item["choices"] or (), item["answer"]
    if len(choices) < 2 or answer is None or not 0 <= answer < len(choices):
        raise InvalidInput(
            f"suite item {item['id']} of task {item['task']!r} has {len(choices)} choices and answer {answer}",
            hint="a multiple_choice item needs two choices or more and the index of the right one",
        )
    if any(not choice for choice in choices):
        raise InvalidInput(f"suite item {item['id']} of task {item['task']!r} has an empty choice")


def choice_likelihoods(examinee: Examinee, trees: Sequence[Branching]) -> list[list[Likelihood]]:
    """The Likelihood of each choice after its prompt; a prompt is read once where the model allows it and all fits."""
    sharing = shareable(examinee.model)
    shared = [index for index, tree in enumerate(trees) if sharing and not any(_overflows(examinee, tree))]
    apart = sorted(set(range(len(trees))) - set(shared))
    found = dict(zip(shared, branch_likelihoods(examinee, [trees[index] for index in shared]), strict=True))
    passages = [_passage(examinee, trees[index].prompt, choice) for index in apart for choice in trees[index].branches]
    one_by_one = iter(likelihoods(examinee, passages))
    found |= {index: [next(one_by_one) for _ in trees[index].branches] for index in apart}
    return [found[index] for index in range(len(trees))]


def branchings(examinee: Examinee, items: Sequence[SuiteItem]) -> tuple[list[Branching], dict[str, int]]:
    """Each item's prompt and choices as ids; how many choices lose the beginning of their prompt, or their own end."""
    tokenizer = examinee.tokenizer
    borders = [border(tokenizer, item["prompt"], item["choices"]) for item in items]
    before = [item["prompt"][:end] for item, end in zip(items, borders, strict=True)]
    prompts = tokenizer(before, verbose=False)["input_ids"]
    texts = [
        spoken_choice(item["prompt"], choice)[end - len(item["prompt"].rstrip()) :]
        for item, end in zip(items, borders, strict=True)
        for choice in item["choices"]
    ]
    choices = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    # An empty prompt is legitimate (minimal pairs); its choices then follow the token that begins or ends a text.
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    trees, choices_cut = [], 0
    for item, prompt in zip(items, prompts, strict=True):
        branches = [next(choices) for _ in item["choices"]]
        choices_cut += sum(len(branch) > examinee.window - 1 for branch in branches)
        trees.append(Branching(prompt or [start], [branch[: examinee.window - 1] for branch in branches]))
    prompts_cut = sum(sum(_overflows(examinee, tree)) for tree in trees)
    return trees, {"choices_with_prompt_cut": prompts_cut, "choices_cut": choices_cut}


def _overflows(examinee: Examinee, tree: Branching) -> list[bool]:
    """For each choice, whether it does not fit into the window together with the whole prompt."""
    return [len(tree.prompt) + len(branch) > examinee.window for branch in tree.branches]


def _passage(examinee: Examinee, prompt: Sequence[int], choice: Sequence[int]) -> Passage:
    """The choice after as much of the prompt's end as the window leaves room for."""
    kept = prompt[-(examinee.window - len(choice)) :]
    return Passage([*kept, *choice], [False] * len(kept) + [True] * len(choice))


def spoken_choice(prompt: str, choice: str) -> str:
    """The choice as it follows the prompt's last word: after the white space of either, or a space where neither has any.

    Nothing is taken away, since the indentation of code counts. A text without a prompt begins with the choice itself.
    """
    ending = prompt[len(prompt.rstrip()) :]
    apart = not prompt or ending or choice[:1].isspace()
    return ending + choice if apart else f" {choice}"


def border(tokenizer: Any, prompt: str, choices: Sequence[str]) -> int:
    """How many characters of the prompt are read; white space after them is predicted together with the choice.

    There the tokens of many vocabularies begin, with a space or a line feed. Others join a line feed with the mark before it
    (three quotes, as in Llama 3 and Qwen): then only the very end of the prompt gives the tokens of the text as a whole. The
    border, which all choices share, stands where it does so for most of them.
    """
    stripped = len(prompt.rstrip())
    if stripped in (0, len(prompt)):
        return stripped
    return max((stripped, len(prompt)), key=lambda end: _unbroken(tokenizer, prompt, end, choices))


def _unbroken(tokenizer: Any, prompt: str, end: int, choices: Sequence[str]) -> int:
    """For how many choices the tokens before and after `end` are together those of prompt and choice as a whole."""
    texts = [prompt[:end], *(prompt[end:] + choice for choice in choices), *(prompt + choice for choice in choices)]
    first, *rest = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return sum(first + after == whole for after, whole in zip(rest, rest[len(choices) :], strict=False))
