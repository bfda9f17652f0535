"""How fast a model is measured, beside transformers one text at a time and lm-evaluation-harness in batches.

    python -m benchmarks.evaluation            (or: make bench AREA=evaluation)

One JSON object a row on stdout. Everything runs on one thread and is timed in CPU-seconds, so that other work on the machine
matters little. lm-evaluation-harness (0.4.13) is compared where it is installed; `pip install --no-deps lm-eval==0.4.13` into an
environment of its own that sees this one is enough.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.library.evaluate.tiny import PARAGRAPHS, suite_items, tiny_model, tiny_tokenizer
from tutelage.evaluate.likelihood import Examinee, Passage, likelihoods
from tutelage.evaluate.multiple_choice import branchings, choice_likelihoods, spoken_choice

ROUNDS = 3
Scores = Sequence[float]


def seconds_of(work: Callable[[], Scores]) -> tuple[float, Scores]:
    """The least CPU-seconds of three rounds after one to warm up, and what the work gave."""
    scores = work()
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        scores = work()
        times.append(time.process_time() - started)
    return min(times), scores


def show(row: str, amount: int, unit: str, ours: tuple[float, Scores], peer: tuple[float, Scores], note: str) -> None:
    """Print one row; the note ends with how far the two sides' log-likelihoods lie apart."""
    apart = max(abs(first - second) for first, second in zip(ours[1], peer[1], strict=True))
    record = {
        "row": row, "ours": round(amount / ours[0], 1), "peer": round(amount / peer[0], 1),
        "ratio": round(peer[0] / ours[0], 2), "unit": unit,
        "note": f"{note}; log-likelihoods differ by {apart:.1e} nats at most",
    }  # fmt: skip
    print(json.dumps(record), flush=True)


@torch.inference_mode()
def one_by_one(examinee: Examinee, passages: Sequence[Passage]) -> list[float]:
    """The straightforward way: transformers' own loss, a text at a time."""
    sums = []
    for passage in passages:
        labels = [token if said else -100 for token, said in zip(passage.ids, passage.predicted, strict=True)]
        loss = examinee.model(input_ids=torch.tensor([passage.ids]), labels=torch.tensor([labels])).loss
        sums.append(-loss.item() * passage.targets)
    return sums


def harness(examinee: Examinee) -> Any | None:
    """lm-evaluation-harness around the same model, or None where it is not installed."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        print(f"lm-evaluation-harness left out: {error}", file=sys.stderr)
        return None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(
        pretrained=examinee.model, tokenizer=examinee.tokenizer, batch_size=16, max_length=examinee.window, device="cpu"
    )


def bench_perplexity(examinee: Examinee, lm: Any | None) -> None:
    """Held-out texts of 40 to 400 tokens."""
    texts = [text for text in PARAGRAPHS if 200 < len(text) < 1600][:120]
    encoded = [examinee.tokenizer(text)["input_ids"] for text in texts]
    passages = [Passage(ids, [False] + [True] * (len(ids) - 1)) for ids in encoded]
    tokens = sum(passage.targets for passage in passages)
    ours = seconds_of(lambda: [value.log_probability for value in likelihoods(examinee, passages)])
    peer = seconds_of(lambda: one_by_one(examinee, passages))
    unit = "tokens per CPU-second"
    show("perplexity against transformers", tokens, unit, ours, peer, f"{len(texts)} texts, one at a time with labels")
    if lm is None:
        return
    from lm_eval.api.instance import Instance

    # It begins every text with the end-of-text token and predicts the first token too.
    start = examinee.tokenizer.eos_token_id
    prefixed = [Passage([start, *ids], [False] + [True] * len(ids)) for ids in encoded]
    tokens = sum(passage.targets for passage in prefixed)
    requests = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    ours = seconds_of(lambda: [value.log_probability for value in likelihoods(examinee, prefixed)])
    peer = seconds_of(lambda: lm.loglikelihood_rolling(requests, disable_tqdm=True))
    show("perplexity against lm-eval", tokens, unit, ours, peer, "loglikelihood_rolling, batches of 16")


def bench_multiple_choice(examinee: Examinee, lm: Any | None) -> None:
    """Items of a prompt of 200 characters with four choices each."""
    items = [item for item in suite_items(100, 0) if item["type"] == "multiple_choice"]

    def ours_once() -> list[float]:
        trees, _ = branchings(examinee, items)
        return [value.log_probability for tree in choice_likelihoods(examinee, trees) for value in tree]

    def one_at_a_time() -> list[float]:
        trees, _ = branchings(examinee, items)
        passages = [
            Passage([*tree.prompt, *branch], [False] * len(tree.prompt) + [True] * len(branch))
            for tree in trees
            for branch in tree.branches
        ]
        return one_by_one(examinee, passages)

    ours = seconds_of(ours_once)
    unit = "items per CPU-second"
    show(
        "multiple choice against transformers",
        len(items),
        unit,
        ours,
        seconds_of(one_at_a_time),
        "400 choices, one at a time",
    )
    if lm is None:
        return
    from lm_eval.api.instance import Instance

    pairs = [(item["prompt"], spoken_choice(item["prompt"], choice)) for item in items for choice in item["choices"]]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    peer = seconds_of(lambda: [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)])
    show("multiple choice against lm-eval", len(items), unit, ours, peer, "loglikelihood, batches of 16")


def main() -> None:
    """Print all rows."""
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer(4096, PARAGRAPHS[:1500])
    model = tiny_model(len(tokenizer), hidden=256, layers=6)
    examinee = Examinee(model, tokenizer, window=512, batch_tokens=4096)
    lm = harness(examinee)
    bench_perplexity(examinee, lm)
    bench_multiple_choice(examinee, lm)


if __name__ == "__main__":
    main()
