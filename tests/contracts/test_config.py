"""Configs take what Kubeflow, YAML and the command line hand over, and name every mistake at once."""

from __future__ import annotations

import datetime as dt
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from tutelage.config import (
    MAXIMUM_EXACT_INTEGER,
    Config,
    Seed,
    build,
    integral_floats_to_ints,
    merge,
    parse_assignments,
    problems_of,
)
from tutelage.errors import InvalidInput


class Metric(StrEnum):
    LOSS = "loss"
    ACCURACY = "accuracy"


class Rule(Config):
    """A nested config."""

    figure: str
    """Name."""
    maximum: float | None = None
    """Bound."""


class Example(Config):
    """Every kind of field."""

    epochs: int = 1
    """An int."""
    learning_rate: float = 5e-4
    """A float."""
    name: str = "plain"
    """A string."""
    shuffle: bool = False
    """A bool."""
    seed: Seed = 0
    """A seed."""
    languages: tuple[str, ...] = ()
    """A tuple."""
    sizes: tuple[int, ...] = ()
    """Ints in a tuple."""
    objective: Literal["sft", "dpo"] = "sft"
    """A choice."""
    metric: Metric = Metric.LOSS
    """An enum."""
    rules: tuple[Rule, ...] = ()
    """Nested, many."""
    rule: Rule | None = None
    """Nested, one."""
    words: Annotated[int, Field(ge=5, le=10)] = 7
    """Bounded."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Anything."""


def messages(values: Any, where: str = "") -> list[str]:
    return [f"{problem}; {problem.hint}" for problem in problems_of(Example, values, where)]


@given(st.integers(-MAXIMUM_EXACT_INTEGER, MAXIMUM_EXACT_INTEGER))
def test_an_integral_float_is_an_int(number):
    assert build(Example, {"epochs": float(number)}).epochs == number
    assert type(build(Example, {"epochs": float(number)}).epochs) is int
    assert build(Example, {"epochs": number}) == build(Example, {"epochs": float(number)})


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()))
def test_a_float_with_a_fraction_is_no_int(number):
    assert len(messages({"epochs": number})) == 1


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_any_finite_number_is_a_float(number):
    assert build(Example, {"learning_rate": number}).learning_rate == float(number)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "3"), ("epochs", True), ("epochs", None), ("epochs", 3.5), ("epochs", [3]),
        ("epochs", float("nan")), ("epochs", float("inf")), ("learning_rate", "0.1"), ("learning_rate", float("nan")),
        ("learning_rate", float("-inf")), ("learning_rate", True), ("name", 3), ("name", None), ("name", True), ("shuffle", 1),
        ("shuffle", "true"), ("shuffle", "no"), ("shuffle", 0.0), ("seed", -1), ("seed", 2**53), ("seed", 1.5),
        ("languages", "en"), ("languages", [1]), ("sizes", [1, 2.5]), ("objective", "rlhf"), ("metric", "speed"),
        ("rules", {"figure": "x"}), ("rules", [{}]), ("rules", [{"figure": 3}]), ("rule", []), ("words", 4), ("words", 11.0),
        ("extra", []),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_field_and_value(field, value):
    found = problems_of(Example, {field: value})
    assert len(found) == 1
    assert found[0].where.startswith(field)
    with pytest.raises(InvalidInput) as caught:
        build(Example, {field: value})
    assert field in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"languages": ["en", "de"]}, {"sizes": [1.0, 2]}, {"metric": "accuracy"}, {"rules": [{"figure": "x", "maximum": 3}]},
        {"rule": {"figure": "x"}}, {"seed": float(MAXIMUM_EXACT_INTEGER)}, {"words": 5.0}, {"extra": {"a": [1, {"b": None}]}},
        {"rule": None}, {},
    ],
)  # fmt: skip
def test_what_kubeflow_and_yaml_hand_over_is_taken(values):
    as_struct = json.loads(json.dumps(values), parse_int=float)
    assert build(Example, values) == build(Example, as_struct)


def test_the_largest_seed_is_exact_and_the_next_is_refused():
    assert build(Example, {"seed": float(2**53 - 1)}).seed == 2**53 - 1
    assert problems_of(Example, {"seed": float(2**53)})


def test_every_mistake_is_named_at_once():
    values = {"epochs": "3", "learning_rat": 1, "rules": [{"figur": "x"}, {"figure": "y", "maximum": "z"}], "words": 99}
    found = messages(values, "finetuning")
    assert len(found) == 6
    text = "\n".join(found)
    for part in ("finetuning.epochs", "finetuning.learning_rat", "finetuning.rules[0].figure", "finetuning.rules[0].figur:",
                 "finetuning.rules[1].maximum", "finetuning.words"):  # fmt: skip
        assert part in text
    with pytest.raises(InvalidInput, match="finetuning: 6 problems") as caught:
        build(Example, values, "finetuning")
    assert len(caught.value.problems) == 6


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    assert "did you mean 'learning_rate'?" in messages({"learning_rat": 1})[0]
    assert "did you mean 'figure'?" in messages({"rule": {"figure": "x", "figur": 1}})[0]
    assert "did you mean 'maximum'?" in messages({"rules": [{"figure": "x", "maximun": 1}]})[0]
    assert "accepted: epochs, " in messages({"zzz": 1})[0]


@pytest.mark.parametrize(
    "values", [None, [], "text", 3, [1, 2], {1: 2}, {"extra": {1, 2}}, {"name": b"bytes"}, object()]
)
def test_what_is_no_mapping_of_plain_values_is_a_problem_and_no_crash(values):
    assert problems_of(Example, values)
    with pytest.raises(InvalidInput):
        build(Example, values)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
                    | st.dictionaries(st.sampled_from([*Example.model_fields]), inner, max_size=3), max_leaves=8))  # fmt: skip
def test_anything_either_builds_or_has_problems(values):
    if problems_of(Example, values):
        with pytest.raises(InvalidInput):
            build(Example, values)
    else:
        config = build(Example, values)
        assert build(Example, config.values()) == config, "what stands in a manifest builds the same Config again"


def test_values_hold_defaults_and_are_json():
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Example.model_fields.items()}
    as_json = {"languages": [], "sizes": [], "rules": [], "metric": "loss"}
    assert build(Example, {}).values() == defaults | as_json
    assert json.loads(json.dumps(build(Example, {}).values())) == build(Example, {}).values()


def test_a_config_is_frozen_keyword_only_and_documented():
    config = Example(epochs=2)
    with pytest.raises(ValidationError):
        config.epochs = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Example(2)  # type: ignore[call-arg]
    assert Example.model_fields["epochs"].description == "An int."


def test_a_rule_over_several_fields_is_a_problem_like_any_other():
    class Bounds(Config):
        """Two fields that must agree."""

        low: int
        """Low."""
        high: int
        """High."""

        @model_validator(mode="after")
        def ordered(self) -> Bounds:
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    problem = problems_of(Bounds, {"low": 3, "high": 2}, "bounds")[0]
    assert problem.where == "bounds"
    assert problem.message.startswith("low is above high; got")


def test_a_long_value_is_shortened_in_the_message():
    message = messages({"epochs": "x" * 10_000})[0]
    assert len(message) < 300
    assert message.endswith("None")


@given(st.floats(allow_nan=False) | st.integers() | st.text(max_size=4) | st.booleans() | st.none())
def test_only_whole_floats_change(value):
    changed = integral_floats_to_ints({"a": [value]})["a"][0]
    assert changed == value
    assert isinstance(changed, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], {}),
        (["seed=7"], {"seed": 7}),
        (["a.b.c=1.5", "a.b.d=x", "a.e=[1, 2]"], {"a": {"b": {"c": 1.5, "d": "x"}, "e": [1, 2]}}),
        (["a=true", "b=null", "c=", "d='7'", "e={x: 1}"], {"a": True, "b": None, "c": None, "d": "7", "e": {"x": 1}}),
        (["a=b=c"], {"a": "b=c"}),
        (["a=1", "a=2"], {"a": 2}),
    ],
)
def test_assignments_are_yaml_at_a_path(assignments, expected):
    assert parse_assignments(assignments) == expected


@pytest.mark.parametrize(
    "assignments", [["seed"], ["=7"], [""], ["a=1", "a.b=2"], ["a=[1"], ["a=: :"], ["a..b=1"], [".a=1"]]
)
def test_what_is_no_assignment_is_refused_with_a_hint(assignments):
    with pytest.raises(InvalidInput) as caught:
        parse_assignments(assignments)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["sources[0].limit=5"], {"sources": [{"name": "a", "limit": 5}, {"name": "b"}]}),
        (["sources[1].fields.text=body", "sources[1].limit=5"],
         {"sources": [{"name": "a"}, {"name": "b", "limit": 5, "fields": {"text": "body"}}]}),
        (["sources[0]={name: c}"], {"sources": [{"name": "a"} | {"name": "c"}, {"name": "b"}]}),
        (["sources[1]=7"], {"sources": [{"name": "a"}, 7]}),
        (["sources=[{name: x}]", "sources[0].limit=5"], {"sources": [{"name": "x", "limit": 5}]}),
        (["grid[0][1]=9"], {"sources": [{"name": "a"}, {"name": "b"}], "grid": [[1, 9], [3]]}),
    ],
)  # fmt: skip
def test_an_entry_of_a_list_is_set_at_the_place_that_messages_write(assignments, expected):
    base = {"sources": [{"name": "a"}, {"name": "b"}], "grid": [[1, 2], [3]]}
    assert merge(base, parse_assignments(assignments)) == {"grid": [[1, 2], [3]], **expected}
    assert base == {"sources": [{"name": "a"}, {"name": "b"}], "grid": [[1, 2], [3]]}


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("sources[2].limit=5", "there is no entry [2], the list has 2 entries", "the last [1]"),
        ("sources.0.limit=5", "'sources.0.limit' counts an entry of a list with a dot", "write sources[0].limit=…"),
        ("sources.0=5", "with a dot", "write sources[0]=…"),
        ("policy[0].limit=5", "policy is a mapping and has no entries", "policy.split"),
        ("seed[0]=5", "seed is a plain value", "seed=[…]"),
        ("suite[0].limit=5", "suite is not set", "suite=[…]"),
        ("sources[-1].limit=5", "not an assignment", "key=value"),
        ("sources[x].limit=5", "not an assignment", "key=value"),
        ("sources[0=5", "not an assignment", "key=value"),
        ("[0].limit=5", "not an assignment", "key=value"),
        ("empty[0]=5", "the list has 0 entries", "set the list whole"),
    ],
)
def test_an_entry_that_is_not_there_is_refused_with_what_is(assignment, message, hint):
    base = {"sources": [{}, {}], "policy": {"split": {}}, "seed": 7, "empty": []}
    with pytest.raises(InvalidInput) as caught:
        merge(base, parse_assignments([assignment]))
    assert message in caught.value.message and hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "assignments", [["a[0]=1", "a.b=2"], ["a.b=2", "a[0]=1"], ["a=[1]", "a.b=2"], ["a=[1]", "a[1]=2"]]
)
def test_a_place_cannot_be_a_list_and_a_mapping(assignments):
    with pytest.raises(InvalidInput) as caught:
        parse_assignments(assignments)
    assert caught.value.hint


def test_merging_lays_changes_over_mappings_and_replaces_the_rest():
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2], "f": 3}
    changes = {"a": {"c": {"x": 4}}, "e": [9], "f": {"g": 1}}
    assert merge(base, changes) == {"a": {"b": 1, "c": {"d": 2, "x": 4}}, "e": [9], "f": {"g": 1}}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2], "f": 3}
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_what_json_has_no_word_for_is_told_where_it_stands_beside_all_other_mistakes():
    values = {
        "name": dt.date(2024, 1, 1),
        "epochs": "3",
        "rules": [{"figure": {"a"}, "maximun": 1}],
        "extra": {"deep": [b"x"], dt.date(2024, 1, 2): 1},
    }
    found = {problem.where: problem.message for problem in problems_of(Example, values, "finetuning")}
    assert set(found) == {
        "finetuning.name", "finetuning.epochs", "finetuning.rules[0].figure", "finetuning.rules[0].maximun",
        "finetuning.extra.deep[0]", "finetuning.extra.2024-01-02",
    }  # fmt: skip
    assert problems_of(Example, dt.date(2024, 1, 1), "seed")[0].where == "seed"
    with pytest.raises(InvalidInput, match="6 problems"):
        build(Example, values, "finetuning")
