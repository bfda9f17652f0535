"""Everything one model is measured on: held-out rows of every phase, then every task of the suite.

What cannot be measured is named with the reason, what is left out by a limit is counted, and seconds go to observations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.contracts import tables
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.models import load_model, load_tokenizer
from tutelage.errors import InvalidInput
from tutelage.evaluate.heldout import chosen_ids, heldout_rows
from tutelage.evaluate.likelihood import Examinee, Progress, window_of
from tutelage.evaluate.multiple_choice import measure_task
from tutelage.evaluate.perplexity import measure_phase
from tutelage.evaluate.refusals import LOWER_IS_BETTER, measure_refusals
from tutelage.evaluate.scorecard import Measured
from tutelage.evaluate.stereotypes import measure_pairs

#: What is ranked by likelihood, and how.
RANKED = {"multiple_choice": measure_task, "stereotype": measure_pairs}
SUITE_TYPES = (*RANKED, *LOWER_IS_BETTER)
Observe = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is measured; equal on both sides of a comparison."""

    seed: int
    heldout_rows: int
    suite_items: int | None
    row_tokens: int
    new_tokens: int
    examples: int


def load_examinee(folder: Path, dtype: str, row_tokens: int, batch_tokens: int, progress: Progress) -> Examinee:
    """The model of `folder`, ready to be examined, on the accelerator where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(folder, dtype).to(device).eval()
    window = window_of(model, row_tokens)
    return Examinee(model, load_tokenizer(folder), window, max(batch_tokens, window), progress)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run PyTorch on `number` CPU threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def examine(examinee: Examinee, splits: Manifest, suite: Manifest, limits: Limits, observe: Observe) -> Measured:
    """All figures of a model. Raises InvalidInput for suite items that cannot be used."""
    measured = Measured()
    started = time.monotonic()
    rows, heldout = heldout_rows(splits, limits.heldout_rows, limits.seed)
    for phase in (phase for phase in tables.PHASES if phase in heldout):
        measured.add(
            measure_phase(_on(examinee, f"held-out {phase}"), phase, rows[phase], heldout[phase], limits.row_tokens)
        )
    for phase in sorted(set(heldout) - set(tables.PHASES)):
        measured.leave_out(f"perplexity/{phase}", f"{heldout[phase]} held-out rows of a phase that is not measured")
    seconds = time.monotonic() - started
    scored = sum(entry.get("tokens_scored", 0) for entry in measured.coverage.values())
    observe(heldout_seconds=round(seconds, 3), heldout_tokens_per_second=round(scored / max(seconds, 1e-9), 1))
    _examine_suite(examinee, suite, limits, measured, observe)
    return measured


def _examine_suite(examinee: Examinee, suite: Manifest, limits: Limits, measured: Measured, observe: Observe) -> None:
    tasks = _tasks(suite)
    started = time.monotonic()
    choices = 0
    for (kind, task), items in sorted(tasks.items()):
        if kind in RANKED:
            chosen = _choose(items, limits)
            measured.add(RANKED[kind](_on(examinee, task), task, chosen, len(items)))
            choices += sum(len(item["choices"]) for item in chosen)
    if not any(kind == "multiple_choice" for kind, _ in tasks):
        measured.leave_out("accuracy", "the suite has no multiple_choice items")
    seconds = time.monotonic() - started
    observe(multiple_choice_seconds=round(seconds, 3), choices_per_second=round(choices / max(seconds, 1e-9), 1))
    started = time.monotonic()
    for kind in LOWER_IS_BETTER:
        items = sorted(
            (item for key in tasks if key[0] == kind for item in tasks[key]), key=lambda item: str(item["id"])
        )
        if not items or not examinee.tokenizer.chat_template:
            no_items = f"the suite has no {kind} prompts"
            measured.leave_out(f"refusal/{kind}", "the tokenizer has no chat template" if items else no_items)
            continue
        chosen = _choose(items, limits)
        asked = _on(examinee, f"refusal/{kind}")
        measured.add(measure_refusals(asked, kind, chosen, len(items), limits.new_tokens, limits.examples))
    observe(refusal_seconds=round(time.monotonic() - started, 3))


def _on(examinee: Examinee, what: str) -> Examinee:
    """The same examinee, whose progress says what it is measured on."""
    return replace(examinee, progress=lambda done, total, unit: examinee.progress(done, total, f"{unit} of {what}"))


def _tasks(suite: Manifest) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(type, task) → items, sorted by id."""
    tasks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item in sorted(tables.read(suite, "items"), key=lambda item: str(item["id"])):
        if item["type"] not in SUITE_TYPES:
            raise InvalidInput(
                f"suite item {item['id']} has type {item['type']!r}", hint=f"accepted: {', '.join(SUITE_TYPES)}"
            )
        tasks.setdefault((item["type"], item["task"]), []).append(item)
    return tasks


def _choose(items: list[dict[str, Any]], limits: Limits) -> list[Mapping[str, Any]]:
    wanted = set(chosen_ids((str(item["id"]) for item in items), limits.suite_items, limits.seed))
    return [item for item in items if str(item["id"]) in wanted]
