"""Verdicts that must not open the gate, and what each refusal must say. `enforce`, `register` and `deploy` all face them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.library.release.line import RULES, Line
from tutelage.contracts.store import finish, payload_files
from tutelage.contracts.verdicts import create_key_pair, sign


def _unsigned(line: Line) -> None:
    line.put_verdict(line.verdict() | {"signature": None, "key": None})


def _altered(line: Line) -> None:
    verdict = copy.deepcopy(line.verdict())
    verdict["checks"][0]["observed"] = 1.0
    line.put_verdict(verdict)


def _other_key(line: Line) -> None:
    other = create_key_pair(line.root / "attacker")
    line.put_verdict(sign(line.verdict(), other.private_key))


def _other_key_under_a_trusted_name(line: Line) -> None:
    other = create_key_pair(line.root / "attacker")
    line.put_verdict(sign(line.verdict(), other.private_key) | {"key": line.verdict()["key"]})


def _fail_turned_into_pass(line: Line) -> None:
    line.run("release/decide", {"rules": [*RULES, {"figure": "refusal/harmless", "must_be": "better"}]})
    line.put_verdict(line.verdict() | {"verdict": "PASS", "reasons": []})


def _honest_fail(line: Line) -> None:
    line.alter("model", details={**line.manifests["model"].details, "stopped": "budget"})
    line.run("release/decide", {"rules": RULES})


def _no_verdict(line: Line) -> None:
    line.put(
        "verdict",
        "verdict",
        "release/decide",
        {},
        write=lambda folder: (folder / "other.json").write_text("{}") and None,
    )


def _torn(line: Line) -> None:
    line.put(
        "verdict",
        "verdict",
        "release/decide",
        {},
        write=lambda folder: (folder / "verdict.json").write_text("[") and None,
    )


def _exchanged(line: Line, name: str) -> None:
    line.alter(name, content_digest="f" * 64)


def _weights_exchanged_under_the_approved_digest(line: Line) -> None:
    line.alter("model")
    config = Path(line.manifests["model"].location) / "config.json"
    config.write_text(config.read_text().replace("{", '{"rope_theta": 5, ', 1))
    _manifest_made_to_fit(line, "model")


def _figures_exchanged_under_the_approved_digest(line: Line, name: str, file: str) -> None:
    line.alter(name)
    path = Path(line.manifests[name].location) / file
    body = json.loads(path.read_text())
    body["figures"][0]["baseline" if name == "comparison" else "value"] = 1.01
    path.write_text(json.dumps(body))
    _manifest_made_to_fit(line, name)


def _metrics_exchanged(line: Line) -> None:
    line.alter("candidate", metrics={**line.manifests["candidate"].metrics, "perplexity_pretrain": 1.01})


def _manifest_made_to_fit(line: Line, name: str) -> None:
    """What an attacker with the store's keys does: files listed anew, content digest kept."""
    folder = line.manifests[name].location
    (Path(folder) / "manifest.json").unlink()
    line.manifests[name] = finish(replace(line.manifests[name], files=payload_files(folder)))


ATTACKS: dict[str, tuple[Callable[[Line], None], str]] = {
    "unsigned": (_unsigned, "it is not signed"),
    "altered": (_altered, "its signature does not fit"),
    "signed with another key": (_other_key, "it is signed with unknown key"),
    "another key under a trusted name": (_other_key_under_a_trusted_name, "its signature does not fit"),
    "a FAIL turned into a PASS": (_fail_turned_into_pass, "its signature does not fit"),
    "an honest FAIL": (_honest_fail, "it is a FAIL: training was stopped early (pretrain: budget)"),
    "no verdict": (_no_verdict, "no readable verdict"),
    "a torn verdict": (_torn, "no readable verdict"),
    "replayed on another model": (lambda line: _exchanged(line, "model"), "it is about another model"),
    "replayed on other data": (lambda line: _exchanged(line, "splits"), "it is about another data (splits)"),
    "replayed on another scorecard": (lambda line: _exchanged(line, "candidate"), "it is about another scorecard"),
    "replayed on another comparison": (lambda line: _exchanged(line, "comparison"), "it is about another comparison"),
    "weights exchanged under the approved digest": (
        _weights_exchanged_under_the_approved_digest,
        "the model's files are not the approved model",
    ),
    "scorecard exchanged under the approved digest": (
        lambda line: _figures_exchanged_under_the_approved_digest(line, "candidate", "scorecard.json"),
        "the scorecard's figures are not the approved ones",
    ),
    "comparison exchanged under the approved digest": (
        lambda line: _figures_exchanged_under_the_approved_digest(line, "comparison", "comparison.json"),
        "the comparison's figures are not the approved ones",
    ),
    "other metrics in the scorecard's manifest": (_metrics_exchanged, "names other figures than its payload"),
}
