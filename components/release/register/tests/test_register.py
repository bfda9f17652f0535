import hashlib
import json
from pathlib import Path

import pytest
import yaml

from tests.library.release.attacks import ATTACKS
from tests.library.release.line import RULES, Line, make_line
from tutelage.errors import GateRefused
from tutelage.release.registry import Registry


@pytest.fixture
def line(tmp_path: Path) -> Line:
    line = make_line(tmp_path)
    line.run("release/decide", {"rules": RULES})
    return line


def registered(line: Line) -> Path:
    return Path(line.run("release/register", {"rules": RULES})["registration"].location)


def test_a_released_model_gets_a_version_once(line):
    first = json.loads((registered(line) / "registration.json").read_text())
    digest = line.manifests["registration"].content_digest
    again = json.loads((registered(line) / "registration.json").read_text())
    assert (first["version"], first["created"], again["version"], again["created"]) == ("1", True, "1", False)
    assert line.manifests["registration"].content_digest == digest
    versions = Registry(line.settings["registry"]).versions("model")
    assert [(item["version"], item["digest"]) for item in versions] == [("1", line.manifests["model"].content_digest)]
    assert versions[0]["uri"] == line.manifests["model"].location
    assert versions[0]["custom_properties"]["metric_perplexity_pretrain"] == 300.0


def test_checksums_cover_every_file_of_the_model(line):
    folder = Path(line.manifests["model"].location)
    lines = (registered(line) / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == len(line.manifests["model"].files)
    for entry in lines:
        digest, name = entry.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_model_card_has_front_matter_and_no_path_of_this_machine(line, tmp_path):
    card = (registered(line) / "MODEL_CARD.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["language"], front["library_name"]) == ("apache-2.0", ["en"], "transformers")
    assert front["metrics"] == ["accuracy", "perplexity", "refusal"]
    for shown in (
        "# model",
        "| MIT | 5 |",
        "`notes`",
        "wheel://pkg==1/x",
        "Trained: pretrain on 4,096 tokens",
        "Verdict: PASS",
    ):
        assert shown in card
    assert str(tmp_path) not in card and "/home/" not in card and "sha256=" not in card


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_registered_for(line, attack):
    prepare, said = ATTACKS[attack]
    prepare(line)
    with pytest.raises(GateRefused) as refused:
        registered(line)
    assert said in refused.value.message
    assert not Path(line.settings["registry"]).exists()
