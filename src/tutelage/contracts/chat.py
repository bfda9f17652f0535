"""From conversation to token ids: one function for training, evaluation and serving, so that ids are equal in all three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.errors import InvalidInput

Messages = Sequence[Mapping[str, str]]

#: Chat template given to models that bring none; ChatML, as SmolLM2 and Qwen use it.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def prompt_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of a conversation up to where the assistant is to speak: a prefix of `conversation_ids` with its answer."""
    ids, _ = conversation_ids(tokenizer, messages)
    before = _rendered(tokenizer, messages)
    opening = _rendered(tokenizer, messages, add_generation_prompt=True)
    return ids + list(tokenizer(_after(before, opening), add_special_tokens=False)["input_ids"])


def conversation_ids(tokenizer: Any, messages: Messages) -> tuple[list[int], list[bool]]:
    """Token ids of a whole conversation, and which of them the assistant speaks (content and its end mark).

    Each turn is tokenised on its own and the pieces joined, so a prompt's ids are a prefix of the conversation's: cutting
    after re-tokenising moves the border (lm-evaluation-harness, 57% of random splits). Raises InvalidInput for a chat
    template that changes earlier turns when later ones come.
    """
    ids: list[int] = []
    spoken: list[bool] = []
    before = ""
    for index, message in enumerate(messages):
        by_assistant = message["role"] == "assistant"
        if by_assistant:
            opening = _rendered(tokenizer, messages[:index], add_generation_prompt=True)
            _extend(tokenizer, ids, spoken, _after(before, opening), False)
            before = opening
        whole = _rendered(tokenizer, messages[: index + 1])
        _extend(tokenizer, ids, spoken, _after(before, whole), by_assistant)
        before = whole
    return ids, spoken


def _rendered(tokenizer: Any, messages: Messages, *, add_generation_prompt: bool = False) -> str:
    if not messages:
        return ""
    history = [dict(item) for item in messages]
    return str(tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=add_generation_prompt))


def _after(before: str, whole: str) -> str:
    if not whole.startswith(before):
        raise InvalidInput(
            "the chat template changes earlier turns when later ones come",
            hint="use a template whose rendering of a conversation starts with that of its beginning, such as ChatML",
        )
    return whole[len(before) :]


def _extend(tokenizer: Any, ids: list[int], spoken: list[bool], text: str, by_assistant: bool) -> None:
    piece = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids.extend(piece)
    spoken.extend([by_assistant] * len(piece))
