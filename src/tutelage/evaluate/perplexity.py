"""Held-out perplexity, bits per byte and preference accuracy.

- `perplexity/<phase>`: exponential of the mean negative log-likelihood per predicted token. pretrain: every token of the
  text but the first, which has no context (where the tokenizer puts a start token in front, every token); sft: what the
  assistant says, and its end mark; dpo: the chosen answer.
- `bits_per_byte/<phase>`: the same sum in bits over the UTF-8 bytes it predicts, comparable between tokenizers.
- `preference_accuracy/dpo`: share of pairs in which the chosen answer has the higher log-probability **per token**; the sum
  prefers whatever is shorter (Meng et al., SimPO, 2024). By sums: alternative `raw`. A tie counts as not preferred.

Texts longer than the model's window are scored in windows, each beginning with the last token of the one before, so that
every token is predicted once (lm-evaluation-harness, rolling log-likelihood with a context of one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.contracts.chat import Messages, conversation_ids, prompt_ids
from tutelage.evaluate.likelihood import Examinee, Likelihood, Passage, likelihoods
from tutelage.evaluate.scorecard import EXPONENTIAL, Item, Measured

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """A row made ready to be scored: its passages, the bytes they predict, and tokens that were cut off."""

    passages: Sequence[Passage]
    size: int
    tokens_cut: int = 0


def measure_phase(examinee: Examinee, phase: str, rows: Sequence[Row], heldout: int, maximum_tokens: int) -> Measured:
    """Figures of one phase's held-out `rows`, chosen among `heldout`; coverage says what was left out."""
    measured = Measured()
    names = [f"perplexity/{phase}", f"bits_per_byte/{phase}"] + ["preference_accuracy/dpo"] * (phase == "dpo")
    why = _why_not(examinee, phase, rows)
    readings = [] if why else [_read(examinee, phase, row, maximum_tokens) for row in rows]
    scored = score_readings(examinee, readings)
    items = [(str(row["id"]), reading, total) for row, reading, total in zip(rows, readings, scored, strict=False)]
    usable = [entry for entry in items if entry[2].tokens and entry[1].size]
    measured.coverage[names[0]] = {
        "rows_heldout": heldout,
        "rows_scored": len(usable),
        "rows_beyond_limit": heldout - len(rows),
        "rows_without_tokens_to_predict": len(rows) - len(usable),
        "tokens_scored": sum(total.tokens for _, _, total in usable),
        "tokens_cut": sum(reading.tokens_cut for reading in readings),
    }
    if not usable:
        for name in names:
            measured.leave_out(name, why or f"none of {len(rows)} held-out rows has a token to predict")
        return measured
    measured.add_figure(
        names[0], [Item(key, -total.mean, total.tokens) for key, _, total in usable],
        lower_is_better=True, unit="perplexity per token", statistic=EXPONENTIAL,
    )  # fmt: skip
    bits = [Item(key, -total.log_probability / math.log(2) / read.size, read.size) for key, read, total in usable]
    measured.add_figure(names[1], bits, lower_is_better=True, unit="bits per byte")
    if phase == "dpo":
        _add_preferences(examinee, rows, {key: total for key, _, total in usable}, measured)
    return measured


def _why_not(examinee: Examinee, phase: str, rows: Sequence[Row]) -> str | None:
    if not rows:
        return f"no held-out rows of phase {phase}"
    if phase != "pretrain" and not examinee.tokenizer.chat_template:
        return "the model's tokenizer has no chat template"
    return None


def _read(examinee: Examinee, phase: str, row: Row, maximum_tokens: int) -> Reading:
    if phase == "pretrain":
        return read_text(examinee, str(row["text"] or ""), maximum_tokens)
    if phase == "sft":
        return read_conversation(examinee, (), row["messages"] or ())
    return read_conversation(examinee, row["prompt"] or (), row["chosen"] or ())


def score_readings(examinee: Examinee, readings: Sequence[Reading]) -> list[Likelihood]:
    """The Likelihood of each reading, over all its passages."""
    found = iter(likelihoods(examinee, [passage for reading in readings for passage in reading.passages]))
    return [sum((next(found) for _ in reading.passages), Likelihood(0.0, 0)) for reading in readings]


def read_text(examinee: Examinee, text: str, maximum_tokens: int) -> Reading:
    """A plain text as the tokenizer itself encodes it, cut after `maximum_tokens`, in windows."""
    encoded = examinee.tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"][:maximum_tokens], encoded["offset_mapping"][:maximum_tokens]
    if len(ids) < 2:
        return Reading((), 0)
    first, last = offsets[0][1], max(end for _, end in offsets)
    step = examinee.window - 1
    windows = [ids[start : start + examinee.window] for start in range(0, len(ids) - 1, step)]
    passages = [Passage(window, [False] + [True] * (len(window) - 1)) for window in windows]
    return Reading(passages, len(text[first:last].encode()), len(encoded["input_ids"]) - len(ids))


def read_conversation(examinee: Examinee, prompt: Messages, answer: Messages) -> Reading:
    """A conversation in which what the assistant says in `answer` is predicted; its last `window` tokens."""
    ids, spoken = conversation_ids(examinee.tokenizer, [*prompt, *answer])
    if prompt:
        before = len(prompt_ids(examinee.tokenizer, prompt))
        spoken = [said and position >= before for position, said in enumerate(spoken)]
    size = sum(len(turn["content"].encode()) for turn in answer if turn["role"] == "assistant")
    cut = max(0, len(ids) - examinee.window)
    if any(spoken[: cut + 1]):
        kept = [token for token, said in zip(ids[cut + 1 :], spoken[cut + 1 :], strict=True) if said]
        size = len(examinee.tokenizer.decode(kept, skip_special_tokens=True).encode())
    return Reading([Passage(ids[cut:], spoken[cut:])], size, cut)


def _add_preferences(
    examinee: Examinee, rows: Sequence[Row], chosen: Mapping[str, Likelihood], measured: Measured
) -> None:
    pairs = [row for row in rows if str(row["id"]) in chosen]
    readings = [read_conversation(examinee, row["prompt"] or (), row["rejected"] or ()) for row in pairs]
    rejected = score_readings(examinee, readings)
    both = [
        (str(row["id"]), chosen[str(row["id"])], other)
        for row, other in zip(pairs, rejected, strict=True)
        if other.tokens
    ]
    measured.coverage["preference_accuracy/dpo"] = {
        "pairs": len(pairs),
        "pairs_scored": len(both),
        "pairs_without_rejected_tokens": len(pairs) - len(both),
        "tokens_cut_from_rejected": sum(reading.tokens_cut for reading in readings),
    }
    if not both:
        return measured.leave_out("preference_accuracy/dpo", "no held-out pair has a rejected answer to score")
    raw = sum(first.log_probability > other.log_probability for _, first, other in both) / len(both)
    measured.add_figure(
        "preference_accuracy/dpo", [Item(key, float(first.mean > other.mean)) for key, first, other in both],
        lower_is_better=False, unit="share of pairs", alternatives={"raw": raw},
    )  # fmt: skip
    return None
