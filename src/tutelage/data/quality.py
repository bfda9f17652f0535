"""Quality rules: each a function of a text and the thresholds that gives None, or the reason to drop it.

Thresholds and rules follow Gopher (Rae et al. 2021, arXiv:2112.11446, table A1) where named; the floor of 50 words is ours to
lower, since documentation is made of short pieces. Prose rules are for prose: code and conversations are not judged by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field, model_validator

from tutelage.config import Config
from tutelage.contracts.tables import text_of

#: Languages, as sources declare them, that are code.
CODE_LANGUAGES = frozenset(
    {"python", "c", "c++", "java", "javascript", "typescript", "go", "rust", "sql", "shell", "r", "julia"}
)


class Quality(Config):
    """Thresholds of the quality rules."""

    minimum_words: int = Field(default=10, ge=0)
    """Fewest words of a document (Gopher: 50)."""
    maximum_words: int = Field(default=100_000, ge=1)
    """Most words of a document or example (Gopher)."""
    minimum_mean_word_length: float = Field(default=3.0, ge=0)
    """Shortest mean word of prose, in characters (Gopher)."""
    maximum_mean_word_length: float = Field(default=10.0, gt=0)
    """Longest mean word of prose, in characters (Gopher)."""
    maximum_symbol_ratio: float = Field(default=0.1, ge=0)
    """Most hashes and ellipses per word of prose (Gopher); the ellipses of doctest's continuation lines do not count."""
    minimum_alphabetic_words: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of words with a letter in prose (Gopher: 0.8; formulas and examples in documentation need less)."""
    maximum_repeated_lines: float = Field(default=0.3, ge=0, le=1)
    """Largest share of non-empty lines that repeat an earlier one in prose (Gopher)."""

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Quality:
        if self.minimum_words > self.maximum_words:
            raise ValueError("minimum_words is above maximum_words")
        if self.minimum_mean_word_length > self.maximum_mean_word_length:
            raise ValueError("minimum_mean_word_length is above maximum_mean_word_length")
        return self


Rule = Callable[[str, list[str], Quality], str | None]
_DOCTEST_CONTINUATION = re.compile(r"^[ \t]*\.\.\.(?=\s|$)", flags=re.MULTILINE)
_SYMBOL = re.compile(r"#|\.\.\.|…")
_MARK = re.compile(r"[^\w]+")


def too_few_words(text: str, words: list[str], quality: Quality) -> str | None:
    """Fewer words than a document has."""
    return "too_few_words" if len(words) < quality.minimum_words else None


def too_many_words(text: str, words: list[str], quality: Quality) -> str | None:
    """More words than a document has."""
    return "too_many_words" if len(words) > quality.maximum_words else None


def odd_word_length(text: str, words: list[str], quality: Quality) -> str | None:
    """Words too short or too long on average, lines of underscores and the like left out: no running text."""
    lengths = [len(word) for word in words if not _MARK.fullmatch(word)]
    if not lengths:
        return "odd_word_length"
    mean = sum(lengths) / len(lengths)
    return None if quality.minimum_mean_word_length <= mean <= quality.maximum_mean_word_length else "odd_word_length"


def too_many_symbols(text: str, words: list[str], quality: Quality) -> str | None:
    """Too many hashes or ellipses: tag clouds, cut-off teasers."""
    symbols = len(_SYMBOL.findall(_DOCTEST_CONTINUATION.sub("", text)))
    return "too_many_symbols" if symbols > quality.maximum_symbol_ratio * max(1, len(words)) else None


def too_few_letters(text: str, words: list[str], quality: Quality) -> str | None:
    """Too few words with a letter: tables of numbers."""
    with_letter = sum(1 for word in words if any(map(str.isalpha, word)))
    return "too_few_letters" if with_letter < quality.minimum_alphabetic_words * len(words) else None


def repeated_lines(text: str, words: list[str], quality: Quality) -> str | None:
    """The same lines again and again."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    repeated = len(lines) - len(set(lines))
    return "repeated_lines" if repeated > quality.maximum_repeated_lines * max(1, len(lines)) else None


PROSE_RULES: tuple[Rule, ...] = (
    too_few_words, too_many_words, odd_word_length, too_few_letters, too_many_symbols, repeated_lines,
)  # fmt: skip
CODE_RULES: tuple[Rule, ...] = (too_few_words, too_many_words)
EXAMPLE_RULES: tuple[Rule, ...] = (too_many_words,)


def refusal(row: Mapping[str, Any], quality: Quality) -> str | None:
    """None, or the first reason to drop the row; rules are those of its phase, and of code where it is code."""
    if row["phase"] == "pretrain":
        text = str(row["text"] or "")
        rules = CODE_RULES if row["language"] in CODE_LANGUAGES else PROSE_RULES
    else:
        if reason := broken_example(row):
            return reason
        text, rules = text_of(row), EXAMPLE_RULES
    words = text.split()
    return next((reason for rule in rules if (reason := rule(text, words, quality))), None)


def broken_example(row: Mapping[str, Any]) -> str | None:
    """A conversation nothing can be learnt from: no answer, an empty turn, or two answers that are the same."""
    if row["phase"] == "dpo":
        if row["chosen"] == row["rejected"]:
            return "equal_answers"
        answers, turns = (row["chosen"], row["rejected"]), [*row["prompt"], *row["chosen"], *row["rejected"]]
        complete = bool(row["prompt"]) and all(answers)
    else:
        turns = row["messages"] or []
        complete = bool(turns) and turns[-1]["role"] == "assistant"
    if not complete:
        return "no_answer"
    return "empty_turn" if any(not turn["content"].strip() for turn in turns) else None
