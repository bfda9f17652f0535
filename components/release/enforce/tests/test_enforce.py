from pathlib import Path

import pytest

from tests.library.release.attacks import ATTACKS
from tests.library.release.line import RULES, Line, make_line
from tutelage.errors import GateRefused, InvalidInput


@pytest.fixture
def line(tmp_path: Path) -> Line:
    line = make_line(tmp_path)
    line.run("release/decide", {"rules": RULES})
    return line


def test_a_valid_pass_opens_the_gate_again_and_again(line):
    for _ in range(2):
        assert line.run("release/enforce", {"rules": RULES}) == {}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_gate_stays_shut_for(line, attack):
    prepare, said = ATTACKS[attack]
    prepare(line)
    with pytest.raises(GateRefused) as refused:
        line.run("release/enforce", {"rules": RULES})
    assert said in refused.value.message and refused.value.exit_code == 3


def test_a_pass_under_another_policy_is_refused(line):
    with pytest.raises(GateRefused, match="it is about another policy"):
        line.run("release/enforce", {"rules": RULES, "accept_budget_stop": True})


def test_every_foreign_digest_is_named_at_once(line):
    for name in ("model", "splits", "comparison"):
        line.alter(name, content_digest="e" * 64)
    with pytest.raises(GateRefused) as refused:
        line.run("release/enforce", {"rules": RULES})
    for word in ("another model", "another data", "another comparison", "'eeeeeeeeeeee'"):
        assert word in refused.value.message


def test_the_refusal_names_the_run_that_decided(line):
    line.alter("model", content_digest="e" * 64)
    with pytest.raises(GateRefused, match=line.verdict()["subject"]["run"]):
        line.run("release/enforce", {"rules": RULES})


def test_without_public_keys_nothing_is_trusted(line, tmp_path):
    line.settings["public_keys"] = str(tmp_path / "empty")
    with pytest.raises(GateRefused, match="0 trusted"):
        line.run("release/enforce", {"rules": RULES})
    del line.settings["public_keys"]
    with pytest.raises(InvalidInput, match="public_keys"):
        line.run("release/enforce", {"rules": RULES})
