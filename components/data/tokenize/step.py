"""Tokenise the training rows: documents packed, conversations packed with completion masks, preference pairs as they are.

    python components/data/tokenize/step.py --in splits=SPLITS --in model=MODEL --out tokens=/tmp/tokens \
        --set pretrain.sequence_length=512
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from tutelage.config import Config as BaseConfig
from tutelage.contracts import Result, RowsDigest, tables
from tutelage.errors import InvalidInput
from tutelage.step import Context, main

#: Longest sequence that is chosen when none is asked for.
DEFAULT_SEQUENCE_LENGTH = 2048


class PhaseTokens(BaseConfig):
    """How the rows of one phase become token ids."""

    sequence_length: int | None = Field(default=None, ge=8)
    """Tokens of a sequence (pretrain, sft), or of prompt and answer (dpo); the model's context, at most 2,048, when absent."""


class Config(BaseConfig):
    """What tokenize is asked to do, phase by phase."""

    pretrain: PhaseTokens = PhaseTokens()
    """Documents: packed, split where they do not fit."""
    sft: PhaseTokens = PhaseTokens()
    """Conversations: packed whole; dropped and counted where longer than a sequence."""
    dpo: PhaseTokens = PhaseTokens()
    """Preference pairs: not packed; dropped and counted where longer than a sequence."""


def run(config: Config, context: Context) -> dict[str, Result]:
    """Read Splits and the model's tokenizer, write Tokens."""
    from tutelage.contracts.models import load_tokenizer, tokenizer_digest
    from tutelage.data import tokens

    folder = context.input_path("model")
    tokenizer = load_tokenizer(folder)
    _require(tokenizer)
    lengths = _sequence_lengths(config, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    rows, drops, read = _training_rows(context)
    digest = RowsDigest()
    details: dict[str, Any] = {
        "phases": {},
        "vocabulary": len(tokenizer),
        "tokenizer": tokenizer_digest(folder),
        "chat_probe": tokens.chat_probe(tokenizer),
    }
    for done, phase in enumerate(tables.PHASES):
        context.progress(done, len(tables.PHASES), "phases")
        if rows[phase]:
            facts = _write_phase(phase, rows[phase], tokenizer, lengths[phase], drops, digest, context)
            details["phases"][phase] = {"sequence_length": lengths[phase], **facts}
    tables.write(
        sorted(drops.rows, key=lambda row: row["id"]), str(context.outputs["tokens"].path), "dropped", tables.DROPPED
    )
    context.progress(len(tables.PHASES), len(tables.PHASES), "phases")
    kept = read - sum(drops.counts.values())
    dropped_ids = {row["id"] for row in drops.rows}
    licences = Counter(str(row["licence"]) for part in rows.values() for row in part if row["id"] not in dropped_ids)
    return {
        "tokens": Result(
            content_digest=digest.hexdigest(),
            rows=kept,
            rows_in=read,
            dropped=dict(sorted(drops.counts.items())),
            licences=dict(sorted(licences.items())),
            metrics={f"tokens_{phase}": facts["tokens"] for phase, facts in details["phases"].items()},
            details=details,
        )
    }


def _require(tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        raise InvalidInput(
            "the model's tokenizer has no end-of-sequence token", hint="name one in tokenizer_config.json"
        )
    if not tokenizer.chat_template:
        raise InvalidInput("the model's tokenizer has no chat template", hint="acquire gives one to models without")


def _sequence_lengths(config: Config, model_config: Mapping[str, Any]) -> dict[str, int]:
    """Phase → tokens of a sequence. Raises InvalidInput where that is more than the model can attend to."""
    context_length = model_config.get("max_position_embeddings")
    lengths = {}
    for phase in tables.PHASES:
        asked = getattr(config, phase).sequence_length
        if asked is not None and context_length is not None and asked > context_length:
            raise InvalidInput(
                f"{phase}.sequence_length is {asked}, the model's context is {context_length} tokens",
                hint=f"choose {context_length} or less, or leave it out",
            )
        lengths[phase] = asked or min(DEFAULT_SEQUENCE_LENGTH, context_length or DEFAULT_SEQUENCE_LENGTH)
    return lengths


def _training_rows(context: Context) -> tuple[dict[str, list[dict[str, Any]]], Any, int]:
    """Rows to train on by phase, the drops so far (held-out rows), and how many rows were read."""
    from tutelage.data import tokens

    rows: dict[str, list[dict[str, Any]]] = {phase: [] for phase in tables.PHASES}
    drops = tokens.Drops()
    read = 0
    columns = ["id", "phase", "text", "messages", "prompt", "chosen", "rejected", "source", "licence", "split"]
    for row in tables.read(context.inputs["splits"], columns=columns):
        read += 1
        if row["split"] == "train":
            rows[row["phase"]].append(row)
        else:
            drops.add(row, "held_out", "evaluated from Splits")
    return rows, drops, read


def _write_phase(
    phase: str,
    rows: list[dict[str, Any]],
    tokenizer: Any,
    sequence_length: int,
    drops: Any,
    digest: RowsDigest,
    context: Context,
) -> dict[str, int]:
    """Write one phase's tokens. Gives rows, sequences, tokens, target tokens and, for pretrain, documents split."""
    from tutelage.contracts import tokens as table
    from tutelage.data import tokens

    before = sum(drops.counts.values())
    facts: Counter[str] = Counter()
    if phase == "dpo":
        made = tokens.pairs(rows, tokenizer, sequence_length, drops)
    elif phase == "sft":
        pieces = tokens.conversations(rows, tokenizer, sequence_length, drops)
        made = tokens.sequence_rows(tokens.pack_whole(pieces, sequence_length), with_targets=True)
    else:
        pieces = tokens.documents(rows, tokenizer, drops)
        made = tokens.sequence_rows(tokens.split_and_pack(pieces, sequence_length), with_targets=False)
    sequences = table.write(_counted(phase, made, facts), context.outputs["tokens"].path, phase, digest)
    facts["rows"] = len(rows) - (sum(drops.counts.values()) - before)
    facts["sequences"] = sequences
    if phase == "pretrain":
        facts["continued_in_next_sequence"] = facts.pop("pieces", 0) - facts["rows"]
    facts.pop("pieces", None)
    return dict(sorted(facts.items()))


def _counted(phase: str, made: Iterator[dict[str, Any]], facts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The same rows, with tokens and targets counted on the way."""
    for row in made:
        if phase == "dpo":
            answers = len(row["chosen_ids"]) + len(row["rejected_ids"])
            facts["tokens"] += 2 * len(row["prompt_ids"]) + answers
            facts["targets"] += answers
        else:
            facts["pieces"] += len(row["lengths"])
            facts["tokens"] += len(row["input_ids"])
            targets = row["targets"].sum(dtype=int) if phase == "sft" else len(row["input_ids"]) - len(row["lengths"])
            facts["targets"] += int(targets)
        yield row


if __name__ == "__main__":
    main(run, Config)
