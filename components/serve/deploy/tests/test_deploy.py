import json
from pathlib import Path

import psutil
import pytest

from tests.library.release.attacks import ATTACKS
from tests.library.release.line import RULES, Line, make_line
from tests.library.serve.tiny_model import write_tiny_model
from tutelage.errors import GateRefused, StepFailed

CONFIG = {"release": {"rules": RULES}}


def servers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "tutelage.serve.server" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def released(root: Path) -> Line:
    line = make_line(root, write_tiny_model)
    line.run("release/decide", {"rules": RULES})
    line.run("release/register", {"rules": RULES})
    return line


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> Line:
    line = released(tmp_path_factory.mktemp("line"))
    line.run("serve/deploy", CONFIG)
    return line


def test_a_released_model_is_served_probed_and_taken_down(deployed):
    report = json.loads((Path(deployed.manifests["deployment"].location) / "deployment.json").read_text())
    probes = {probe["name"]: probe for probe in report["probes"]}
    assert list(probes) == [
        "server_ready", "model_ready", "v2_infer", "openai_models", "openai_chat", "token_ids", "refusal", "latency",
    ]  # fmt: skip
    failed = [probe["why"] for probe in report["probes"] if not probe["passed"]]
    assert failed == ["0 of 1 harmful prompts were refused"]
    assert (probes["refusal"]["required"], probes["refusal"]["figures"]) == (False, {"h1": False})
    assert report["measured"]["latency"]["p50_seconds"] <= report["measured"]["latency"]["p95_seconds"]
    assert report["measured"]["latency"]["first_token_p50_seconds"] <= report["measured"]["latency"]["p50_seconds"]
    assert report["version"] == "1" and report["model"] == deployed.manifests["model"].content_digest
    assert servers() == []


def test_the_report_holds_no_prompt_and_its_digest_no_seconds(deployed):
    text = (Path(deployed.manifests["deployment"].location) / "deployment.json").read_text()
    assert "hurt the cat" not in text and "hello" not in text.lower()
    observations = json.loads((Path(deployed.manifests["deployment"].location) / "observations.json").read_text())
    assert observations["latency_p95_seconds"] > 0 and observations["server_ready_startup_seconds"] > 0
    events = (deployed.root / "events.jsonl").read_text()
    assert "probe refusal: 0 of 1 harmful prompts were refused" in events and "hurt the cat" not in events


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_server_is_started_for(deployed, attack, monkeypatch):
    # Attacks put payloads aside, they change none: the line can be put back.
    monkeypatch.setattr(deployed, "manifests", dict(deployed.manifests))
    monkeypatch.setattr("tutelage.serve.smoke.served", None)
    prepare, said = ATTACKS[attack]
    prepare(deployed)
    with pytest.raises(GateRefused) as refused:
        deployed.run("serve/deploy", CONFIG)
    assert said in refused.value.message


def test_a_registration_of_another_model_is_refused(deployed, monkeypatch):
    monkeypatch.setattr(deployed, "manifests", dict(deployed.manifests))

    def other(folder: Path) -> None:
        (folder / "registration.json").write_text('{"model": "0"}')

    deployed.put("registration", "registration", "release/register", {}, write=other)
    with pytest.raises(GateRefused, match="the registration is of another model"):
        deployed.run("serve/deploy", CONFIG)


def test_a_required_probe_that_fails_fails_the_step_and_stops_the_server(deployed, monkeypatch):
    monkeypatch.setattr(deployed, "manifests", dict(deployed.manifests))
    model = deployed.manifests["model"]
    probe = {**model.details["chat_probe"], "token_ids": [1, 2, 3]}
    deployed.alter("model", details={**model.details, "chat_probe": probe})
    config = {**CONFIG, "probes": {"required": ["token_ids", "refusal"], "requests": 1}}
    with pytest.raises(StepFailed) as failed:
        deployed.run("serve/deploy", config)
    assert "token_ids: a conversation becomes other token ids than in training" in failed.value.message
    assert "refusal: 0 of 1 harmful prompts were refused" in failed.value.message
    assert servers() == []


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path):
    def asks_for_remote_code(folder: Path) -> None:
        (folder / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')

    line = make_line(tmp_path, asks_for_remote_code)
    line.run("release/decide", {"rules": RULES})
    line.run("release/register", {"rules": RULES})
    with pytest.raises(StepFailed) as failed:
        line.run("serve/deploy", CONFIG)
    assert "the server broke off GET /v2/health/ready" in failed.value.message
    assert "exited with code 1" in failed.value.message and "asks for remote code" in failed.value.message
    assert servers() == []


def test_a_server_that_takes_too_long_is_taken_down(deployed):
    with pytest.raises(StepFailed, match=r"did not answer GET /v2/health/ready within 0\.2 s"):
        deployed.run("serve/deploy", {**CONFIG, "probes": {"startup_timeout_seconds": 0.2}})
    assert servers() == []
