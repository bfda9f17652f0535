"""What a source of rows says of itself: where it is, its licence, its format, and what one row of it is."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tutelage.config import Config
from tutelage.contracts import licences, sources
from tutelage.contracts.tables import RESERVED

Phase = Literal["pretrain", "sft", "dpo"]
Format = Literal[
    "text", "markdown", "python_source", "python_docstrings", "python_functions", "jsonl", "parquet", "chatterbot_yaml"
]

#: Files that a format takes from a folder, and the phases it can feed.
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "text": (".txt", ".rst"),
    "markdown": (".md", ".markdown"),
    "python_source": (".py",),
    "python_docstrings": (".py",),
    "python_functions": (".py",),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz"),
    "parquet": (".parquet",),
    "chatterbot_yaml": (".yml", ".yaml"),
}
PHASES: dict[Format, tuple[Phase, ...]] = {
    "text": ("pretrain",),
    "markdown": ("pretrain",),
    "python_source": ("pretrain",),
    "python_docstrings": ("pretrain",),
    "python_functions": ("sft", "dpo"),
    "jsonl": ("pretrain", "sft", "dpo"),
    "parquet": ("pretrain", "sft", "dpo"),
    "chatterbot_yaml": ("sft", "dpo"),
}
#: Formats whose records stand for themselves, so that a row, not a file, is what may not be torn apart.
RECORDS = ("jsonl", "parquet", "chatterbot_yaml")
CODE_FORMATS = ("python_source", "python_functions")


class Fields(Config):
    """Names of the fields of a JSONL or Parquet source. Defaults are those of Hugging Face libraries."""

    text: str = "text"
    """Document, for phase pretrain."""
    messages: str = "messages"
    """Conversation, for phase sft: a list of {role, content}."""
    prompt: str = "prompt"
    """Prompt, for phases sft (beside `completion`) and dpo: a string or a list of {role, content}."""
    completion: str = "completion"
    """Answer to `prompt` where a row of phase sft has no `messages`."""
    chosen: str = "chosen"
    """Better answer, for phase dpo."""
    rejected: str = "rejected"
    """Worse answer, for phase dpo."""
    licence: str | None = None
    """Licence of the row; the source's where absent or empty."""
    group: str | None = None
    """What belongs together and must not be split: a conversation's user, a book. Recorded as a hash."""
    language: str | None = None
    """Language of the row; the source's where absent or empty."""
    metadata: tuple[str, ...] = ()
    """Fields kept as metadata: strings, numbers, true, false, null. Not `canned`, `component` and `occurrence`: those are
    written by data steps."""

    @field_validator("metadata")
    @classmethod
    def _leave_reserved_names_alone(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted(set(names) & set(RESERVED)):
            raise ValueError(
                f"metadata cannot be called {', '.join(taken)}: data steps write {', '.join(RESERVED)} themselves; "
                "rename the field in the file, or leave it out"
            )
        return names


class Preference(Config):
    """How prompts without a preference become pairs: what should be refused, and what should be answered."""

    prefer: Literal["refusal", "answer"]
    """refusal: a refusal is chosen, an answer rejected. answer: the row's own answer is chosen, a refusal rejected."""
    refusals: tuple[str, ...] = Field(min_length=1)
    """Refusals; each prompt gets one of them, by a hash of its text."""
    answers: tuple[str, ...] = ()
    """Compliant answers to prompts that come with none, chosen likewise. Only for `prefer: refusal`."""

    @field_validator("refusals", "answers")
    @classmethod
    def _are_said(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(text.strip() for text in texts):
            raise ValueError("an empty text cannot be an answer")
        return texts

    @model_validator(mode="after")
    def _answers_are_used(self) -> Preference:
        if self.answers and self.prefer == "answer":
            raise ValueError("answers given for prefer: answer, which takes the answers of the rows")
        return self


class Source(Config):
    """One source of rows for one phase."""

    name: str = Field(min_length=1, max_length=60)
    """What reports call it."""
    uri: str
    """A path, file://, s3://, hf://datasets/org/name@commit or wheel://package==version/path#sha256=…"""
    phase: Phase
    """pretrain, sft or dpo."""
    licence: str
    """SPDX expression, `metadata` (what the wheel or the hub's card declares), or NOASSERTION where nobody says."""
    format: Format
    """text, markdown, python_source, python_docstrings, python_functions, jsonl, parquet or chatterbot_yaml."""
    language: str | None = None
    """Language of the rows; by default `python` for code and `en` for everything else."""
    group_by: Literal["file", "package", "row"] | None = None
    """What may not be torn apart when splitting: a file, the whole source, or nothing (row).
    By default `row` for jsonl, parquet and chatterbot_yaml, `file` for the rest."""
    include: tuple[str, ...] = ()
    """Patterns of paths below `uri` to take, all when empty; `*` matches slashes too."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths below `uri` to leave out."""
    limit: int | None = Field(default=None, ge=1)
    """Rows at most. Whole files are taken in the order of a hash of their names; of the last, rows in the order of their ids."""
    minimum_characters: int = Field(default=1, ge=1)
    """Shorter docstrings and functions are passed over. Only for the two python formats that select."""
    maximum_characters: int | None = Field(default=None, ge=1)
    """Longer docstrings and functions are passed over. Only for the two python formats that select."""
    fields: Fields = Fields()
    """Field names. Only for jsonl and parquet."""
    preference: Preference | None = None
    """Make pairs of prompts that should be refused or answered. Only for phase dpo of jsonl, parquet (fields `prompt` and,
    where there are answers, `completion`) and chatterbot_yaml, which needs it there."""

    _uri = field_validator("uri")(sources.checked_uri)
    _licence = field_validator("licence")(licences.declared)

    @model_validator(mode="after")
    def _fits_together(self) -> Source:
        if self.phase not in PHASES[self.format]:
            raise ValueError(f"format {self.format} cannot feed phase {self.phase}, accepted: {PHASES[self.format]}")
        tabular = self.format in ("jsonl", "parquet")
        selects = self.format in ("python_docstrings", "python_functions")
        if self.fields != Fields() and not tabular:
            raise ValueError(f"fields given for format {self.format}, accepted for jsonl and parquet")
        if self.preference is not None and (self.phase != "dpo" or self.format not in RECORDS):
            raise ValueError(f"preference given for phase {self.phase} of {self.format}, accepted: dpo of {RECORDS}")
        if self.preference is None and self.phase == "dpo" and self.format == "chatterbot_yaml":
            raise ValueError("conversations have no rejected answers; say what is preferred under preference")
        if (self.minimum_characters != 1 or self.maximum_characters is not None) and not selects:
            raise ValueError(
                f"minimum_characters or maximum_characters given for format {self.format}, which takes all"
            )
        return self

    def takes(self, path: str) -> bool:
        """Whether the file at `path` (relative to `uri`) belongs to the source."""
        if not path.lower().endswith(SUFFIXES[self.format]):
            return False
        wanted = not self.include or any(fnmatchcase(path, pattern) for pattern in self.include)
        return wanted and not any(fnmatchcase(path, pattern) for pattern in self.exclude)

    @property
    def origin(self) -> str:
        """What provenance begins with: the URI without its pin; for paths the source's name, since a digest may not depend on
        where files stand (the manifest's Config has the path)."""
        return self.name if sources.parse(self.uri).scheme == "file" else self.uri.partition("#")[0].rstrip("/")

    @property
    def row_language(self) -> str:
        """Language of rows that do not say."""
        return self.language or ("python" if self.format in CODE_FORMATS else "en")

    @property
    def grouping(self) -> str:
        """What is kept together: file, package or row."""
        return self.group_by or ("row" if self.format in RECORDS else "file")
