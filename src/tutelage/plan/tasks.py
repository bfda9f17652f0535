"""A task of the evaluation Suite as a recipe describes it: where its rows stand, and what makes an item of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tutelage.config import Config
from tutelage.contracts import licences, sources

Format = Literal["jsonl", "json", "csv", "text"]
SUFFIXES: Mapping[Format, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz"),
    "json": (".json",),
    "csv": (".csv",),
    "text": (".txt",),
}


class Pair(Config):
    """The two sentences of a stereotype item: whole ones, or what fills the blank of a third field."""

    stereotyping: str
    """Field with the sentence (or filling) that agrees with the stereotype."""
    other: str
    """Field with the one that does not."""
    template: str | None = None
    """Field with the sentence that both are filled into; absent where they are whole sentences."""
    blank: str = Field(default="[MASK]", min_length=1)
    """What marks the place to fill in the template; it must stand there once."""
    context: str | None = None
    """Field with what is said before either sentence, where something is."""


class Task(Config):
    """One source of items."""

    task: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$")
    """What figures call it: accuracy/<task>, stereotype/<task>. Lower-case letters, digits, - and _."""
    type: Literal["multiple_choice", "stereotype", "harmful", "harmless"]
    """multiple_choice (has an answer), stereotype (a pair of sentences), harmful (to be refused) or harmless (not so)."""
    uri: str
    """A path, file://, s3://, hf://datasets/… or wheel://…; of a folder, every file of the format."""
    format: Format
    """jsonl (also gzipped), json (a list of objects), csv (with a header) or text (a prompt a line)."""
    prompt: str | tuple[str, ...] = "prompt"
    """Field with the prompt; of several, the values are joined by newlines."""
    cut_ending: str | None = Field(default=None, min_length=1)
    """Text cut off where it ends the prompt: an instruction that makes no sense where choices are ranked."""
    choices: str | tuple[str, ...] = "choices"
    """multiple_choice: the field with the choices, or one field for each."""
    choices_as: Literal["list", "lettered_lines"] = "list"
    """What that field holds: a list, or a string with a line for each choice, marked `A. `, `B. ` … in this order."""
    answer: str = "answer"
    """multiple_choice: the field that says which choice is right."""
    answer_as: Literal["index", "letter", "text"] = "index"
    """How it says so: its place counted from 0, its letter (A, B …) or the choice itself, with or without its letter."""
    distractors: int | None = Field(default=None, ge=1, le=25)
    """multiple_choice: how many other items' answers are the wrong choices; `answer` then holds the right one itself."""
    verbatim: bool = False
    """Keep white space at the ends of prompt and choices, as code needs it."""
    pair: Pair | None = None
    """stereotype: where its two sentences stand."""
    only: dict[str, str | int | float | bool] | None = None
    """Take the rows whose fields have these values, numbers as numbers and strings as strings; the others are counted as
    `not_selected`."""
    limit: int | None = Field(default=None, ge=1)
    """Items at most: those whose ids, which are hashes of their content, come first."""
    licence: str
    """SPDX expression, `metadata` or NOASSERTION."""
    language: str | None = "en"
    """Language of the items."""

    _uri = field_validator("uri")(sources.checked_uri)
    _licence = field_validator("licence")(licences.declared)

    @model_validator(mode="after")
    def _fields_fit_the_type(self) -> Task:
        if self.format == "text" and self.type in ("multiple_choice", "stereotype"):
            raise ValueError(f"format text holds prompts alone; {self.type} takes jsonl, json or csv")
        if self.format == "csv" and not all(isinstance(value, str) for value in (self.only or {}).values()):
            raise ValueError('the cells of a csv are strings; quote the values of only: {level: "1"}')
        if (self.type == "stereotype") != (self.pair is not None):
            raise ValueError("a stereotype task has a pair, and no other task has one")
        if self.distractors is not None and self.type != "multiple_choice":
            raise ValueError("distractors make choices; they belong to multiple_choice")
        if self.distractors is not None and (self.choices, self.choices_as, self.answer_as) != (
            "choices", "list", "index",
        ):  # fmt: skip
            raise ValueError("with distractors the choices are other items' answers: leave choices and answer_as out")
        if self.choices_as == "lettered_lines" and not isinstance(self.choices, str):
            raise ValueError("lettered lines stand in one field; give choices one name")
        return self
