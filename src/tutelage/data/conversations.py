"""Rows of JSONL and Parquet sources in the forms Hugging Face libraries use, brought into one: lists of {role, content}.

Accepted: `text`; `messages`; `prompt` + `completion`; `prompt` + `chosen` + `rejected`, each a string or a conversation;
`chosen` + `rejected` that both begin with the prompt (TRL's implicit prompt).
https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tutelage.data.sources import Fields, Phase

Turns = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")


class NotARow(ValueError):
    """A record that gives no row; `reason` is what it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


def content_of(record: Mapping[str, Any], phase: Phase, fields: Fields) -> dict[str, Any]:
    """The row's content: `text`, `messages`, or `prompt`, `chosen` and `rejected`. Raises NotARow."""
    if phase == "pretrain":
        return {"text": _text(record, fields.text)}
    if phase == "sft":
        return {"messages": _example(record, fields)}
    return _preference(record, fields)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = _field(record, name)
    if not isinstance(value, str):
        raise NotARow("malformed_field", f"{name} is no string")
    if not value.strip():
        raise NotARow("empty", name)
    return value


def _field(record: Mapping[str, Any], name: str) -> Any:
    value = record.get(name)
    if value is None:
        raise NotARow("missing_field", name)
    return value


def _example(record: Mapping[str, Any], fields: Fields) -> Turns:
    if record.get(fields.messages) is None and record.get(fields.completion) is not None:
        turns = _turns(record, fields.prompt, "user") + _turns(record, fields.completion, "assistant")
    else:
        turns = _turns(record, fields.messages, None)
    if turns[-1]["role"] != "assistant":
        raise NotARow("malformed_conversation", "the assistant does not speak last")
    return turns


def _preference(record: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    chosen, rejected = _turns(record, fields.chosen, "assistant"), _turns(record, fields.rejected, "assistant")
    if record.get(fields.prompt) is not None:
        prompt = _turns(record, fields.prompt, "user")
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt or prompt[-1]["role"] == "assistant":
        raise NotARow("malformed_conversation", "no prompt before the answers")
    if any(answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant" for answer in (chosen, rejected)):
        raise NotARow("malformed_conversation", "an answer is not the assistant's")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _turns(record: Mapping[str, Any], name: str, speaker: str | None) -> Turns:
    """The conversation in field `name`; a string is what `speaker` says (None: strings are not accepted)."""
    value = _field(record, name)
    if isinstance(value, str) and speaker is not None:
        value = [{"role": speaker, "content": value}]
    if not isinstance(value, list) or not value:
        raise NotARow("malformed_conversation", f"{name} is no list of turns")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise NotARow(
                "malformed_conversation", f"{name} holds a turn without role ({', '.join(ROLES)}) and content"
            )
        if not turn["content"].strip():
            raise NotARow("empty", name)
        turns.append({"role": turn["role"], "content": turn["content"]})
    return turns


def metadata_of(record: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """The fields kept as metadata. Raises NotARow for values that are no strings, numbers, booleans or null."""
    kept = {name: record.get(name) for name in fields.metadata if name in record}
    for name, value in kept.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
            raise NotARow("malformed_metadata", name)
    return kept
