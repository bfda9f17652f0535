"""The language model behind the routes: conversation → token ids → text, one token at a time.

Greedy unless a temperature is asked for; with one, the seed decides. Each request has a cache of its own, so requests may run
side by side. Token ids come from `contracts.chat`, as in training and evaluation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.contracts.chat import prompt_ids
from tutelage.contracts.models import end_token_ids, load_model, load_tokenizer
from tutelage.errors import InvalidInput

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is made."""

    maximum_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A piece of an answer: new text (perhaps none yet), tokens so far, and in the last piece why it ended."""

    text: str
    tokens: int
    finish_reason: str | None = None


class Engine:
    """A model and its tokenizer, ready to answer."""

    def __init__(self, folder: Path, *, threads: int, dtype: str = "float32") -> None:
        """Load the Model in `folder`. Raises InvalidInput for pickle or remote code."""
        torch.set_num_threads(threads)
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model(folder, dtype).eval()
        self.window = int(getattr(self.model.config, "max_position_embeddings", 0) or 2048)
        self._end = end_token_ids(self.model, self.tokenizer)
        # Fast tokenizers raise "Already borrowed" when two threads set them up at once.
        self._tokenizer_lock = threading.Lock()

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation up to where the assistant speaks. Raises InvalidInput without a chat template."""
        if not self.tokenizer.chat_template:
            raise InvalidInput("the model has no chat template", hint="use /openai/v1/completions")
        with self._tokenizer_lock:
            return prompt_ids(self.tokenizer, messages)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text, with the special tokens the tokenizer adds."""
        with self._tokenizer_lock:
            return list(self.tokenizer(text)["input_ids"])

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens fit behind `ids`. Raises InvalidInput when none does, or there is nothing to go on."""
        if not ids:
            raise InvalidInput("the prompt is empty", hint="give at least one token")
        if len(ids) >= self.window:
            raise InvalidInput(f"the prompt has {len(ids)} tokens, accepted: fewer than {self.window}")
        return self.window - len(ids)

    def answer(self, ids: Sequence[int], sampling: Sampling) -> Piece:
        """The whole answer at once."""
        pieces = list(self.stream(ids, sampling))
        return Piece("".join(piece.text for piece in pieces), pieces[-1].tokens, pieces[-1].finish_reason)

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """The answer piece by piece, one for each token; text is held back while a stop string could still begin in it."""
        hold = max((len(stop) for stop in sampling.stop), default=1) - 1
        made: list[int] = []
        given = 0
        reason = "length"
        for token in self._tokens(ids, sampling):
            if token in self._end:
                reason = "stop"
                break
            made.append(token)
            text = self.tokenizer.decode(made, skip_special_tokens=True)
            cut = min((text.find(stop) for stop in sampling.stop if stop in text), default=-1)
            if cut >= 0:
                yield Piece(text[given:cut], len(made), "stop")
                return
            # A character of several bytes may still be incomplete.
            safe = len(text) - hold if not text.endswith(REPLACEMENT) else min(given, len(text))
            if safe > given:
                yield Piece(text[given:safe], len(made))
                given = safe
            else:
                yield Piece("", len(made))
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        yield Piece(text[given:], len(made), reason)

    def _tokens(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        generator = torch.Generator().manual_seed(sampling.seed)
        step = torch.tensor([list(ids)])
        cache = None
        for _ in range(sampling.maximum_tokens):
            with torch.inference_mode():
                output = self.model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            token = _pick(output.logits[0, -1].float(), sampling, generator)
            yield token
            step = torch.tensor([[token]])


def _pick(logits: Any, sampling: Sampling, generator: Any) -> int:
    """The next token: the likeliest, or drawn from the nucleus of `top_p` (Holtzman et al., 2020)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    ordered, order = probabilities.sort(descending=True, stable=True)
    # The likeliest token stays, however small top_p is.
    ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
    return int(order[torch.multinomial(ordered, 1, generator=generator)])
