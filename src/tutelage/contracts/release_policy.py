"""The release policy: what a model must be for a PASS. Read by `decide`, and its digest by everything that trusts a verdict.

policy:
  release:
    unlicensed_sources: drop
    rules:
      - {figure: perplexity/pretrain, must_be: better}
      - {figure: accuracy/arithmetic, minimum: 0.3, must_be: non_inferior, margin: 0.05}
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tutelage.config import Config


class Rule(Config):
    """One demand on one figure of the scorecard; all bounds given must hold."""

    figure: str
    """Name of a figure, for example perplexity/pretrain, accuracy/arithmetic or refusal/harmful."""
    maximum: float | None = None
    """The candidate's figure may be at most this."""
    minimum: float | None = None
    """The candidate's figure must be at least this."""
    must_be: Literal["better", "non_inferior", "not_worse"] | None = None
    """Against the baseline, over the whole confidence interval: better (proven), non_inferior (proven to lose less than
    `margin`), or not_worse (the interval does not lie wholly on the worse side: too few items pass without proof)."""
    margin: float = Field(default=0.0, ge=0.0)
    """In the difference's unit: `better` by more than this, `non_inferior` by less than this. `not_worse` takes none."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Rule:
        if self.maximum is None and self.minimum is None and self.must_be is None:
            raise ValueError(f"rule on {self.figure!r} asks for nothing; give maximum, minimum or must_be")
        if self.margin and self.must_be is None:
            raise ValueError(f"rule on {self.figure!r} has a margin and no must_be; a margin belongs to must_be")
        if self.must_be == "not_worse" and self.margin:
            raise ValueError(
                f"rule on {self.figure!r} asks for not_worse with margin {self.margin:g}; not_worse takes none: "
                f"write must_be: non_inferior with that margin, which asks for proof"
            )
        if self.must_be == "non_inferior" and not self.margin:
            raise ValueError(
                f"rule on {self.figure!r} asks for non_inferior without a margin; say how much may be lost"
            )
        return self


class ReleasePolicy(Config):
    """What a run's policy says of release. Every field counts: another value is another policy, and needs a new verdict."""

    name: str = Field(default="model", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Name under which a released model is registered and served; lower-case letters, digits and hyphens."""
    unlicensed_sources: Literal["refuse", "drop"] = "refuse"
    """Rows dropped because nobody knows their licence: refuse the release, or let it go on without them."""
    accept_budget_stop: bool = False
    """Whether a model whose training stopped at its budget may be released."""
    rules: tuple[Rule, ...] = ()
    """Demands on figures. A policy without any cannot PASS."""
