"""Rows of JSONL and Parquet sources in the forms Hugging Face libraries use, brought into one: lists of {role, content}.

Accepted: `text`; `messages`; `prompt` + `completion`; `prompt` + `chosen` + `rejected`, each a string or a conversation;
`chosen` + `rejected` that both begin with the prompt (TRL's implicit prompt); with a Preference, `prompt` alone or with
`completion`.
https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.contracts.digests import canonical_json
from tutelage.contracts.tables import CANNED
from tutelage.data.sources import Fields, Phase, Preference

Turns = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")


class NotARow(ValueError):
    """A record that gives no row; `reason` is what it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


def content_of(
    record: Mapping[str, Any], phase: Phase, fields: Fields, preference: Preference | None = None
) -> dict[str, Any]:
    """The row's content: `text`, `messages`, or `prompt`, `chosen` and `rejected`. Raises NotARow."""
    if phase == "pretrain":
        return {"text": _text(record, fields.text)}
    if phase == "sft":
        return {"messages": _example(record, fields)}
    return _preference(record, fields) if preference is None else _made_pair(record, fields, preference)


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


def _made_pair(record: Mapping[str, Any], fields: Fields, preference: Preference) -> dict[str, Any]:
    """A pair of a prompt and what is preferred. Prompts get their refusal by hash: the same one wherever they are read."""
    prompt = _turns(record, fields.prompt, "user")
    if prompt[-1]["role"] == "assistant":
        raise NotARow("malformed_conversation", "the assistant speaks last in the prompt")
    refusal = [{"role": "assistant", "content": _picked(preference.refusals, prompt)}]
    if has_answer(record, fields, preference):
        answer = _turns(record, fields.completion, "assistant")
    else:
        answer = [{"role": "assistant", "content": _picked(preference.answers, prompt)}]
    chosen, rejected = (refusal, answer) if preference.prefer == "refusal" else (answer, refusal)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def has_answer(record: Mapping[str, Any], fields: Fields, preference: Preference) -> bool:
    """Whether a prompt is paired with an answer of its own rather than with one of the canned ones."""
    return record.get(fields.completion) is not None or not preference.answers


def canned(record: Mapping[str, Any], fields: Fields, preference: Preference | None) -> dict[str, str]:
    """The metadata of a made pair: which of its answers are canned."""
    if preference is None:
        return {}
    if not has_answer(record, fields, preference):
        return {CANNED: "chosen,rejected"}
    return {CANNED: "chosen" if preference.prefer == "refusal" else "rejected"}


def _picked(texts: Sequence[str], prompt: Turns) -> str:
    try:
        identity = canonical_json(prompt)
    except UnicodeEncodeError:
        raise NotARow("not_unicode", "lone surrogates") from None
    return texts[int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") % len(texts)]


def conversation_of(statements: Any, answered: Phase) -> dict[str, Any]:
    """A record of a list of statements that user and assistant make in turn: `messages`, or `prompt` and `completion`.

    A last statement that nobody answers is left out. Raises NotARow.
    """
    if not isinstance(statements, list) or len(statements) < 2:
        raise NotARow("malformed_conversation", "no list of two statements or more")
    if not all(isinstance(statement, str) for statement in statements):
        raise NotARow("malformed_conversation", "a statement is no text")
    paired = statements[: len(statements) // 2 * 2]
    turns = [
        {"role": "assistant" if place % 2 else "user", "content": statement.strip()}
        for place, statement in enumerate(paired)
    ]
    return {"messages": turns} if answered == "sft" else {"prompt": turns[:-1], "completion": turns[-1:]}


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
