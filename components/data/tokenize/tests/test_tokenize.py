"""tokenize as launch() runs it, on rows of all phases."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.training import SENTENCES, FakeArtifact, build_tokenizer, put_model, put_splits, row, sample_rows, use_runs
from tutelage.contracts import tables
from tutelage.contracts.chat import prompt_ids
from tutelage.contracts.models import load_tokenizer
from tutelage.contracts.tokens import TokenTable
from tutelage.errors import InvalidInput
from tutelage.runtimes import launch


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FakeArtifact:
    return put_model(tmp_path_factory.mktemp("base"), build_tokenizer(SENTENCES, 300))


def tokenize(runs: Path, base: FakeArtifact, rows: list[dict[str, Any]], **config: Any) -> FakeArtifact:
    made = FakeArtifact(str(runs / "tokens.json"))
    splits = put_splits(runs, rows)
    launch("data/tokenize", inputs={"splits": splits, "model": base}, outputs={"tokens": made}, config=config)
    return made


def test_every_row_is_tokenised_or_counted(tmp_path: Path, base: FakeArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    use_runs(tmp_path, monkeypatch)
    rows = [*sample_rows(12), row("pretrain", text="")]
    made = tokenize(tmp_path, base, rows, pretrain={"sequence_length": 64}).manifest
    assert made.rows_in == len(rows) == 40
    assert made.dropped == {"empty": 1, "held_out": 3}
    assert made.rows == 36
    assert made.licences == {"CC0-1.0": 36}
    assert sorted(item["reason"] for item in tables.read(made, "dropped")) == ["empty", *["held_out"] * 3]
    phases = made.details["phases"]
    assert {name: facts["rows"] for name, facts in phases.items()} == {"pretrain": 12, "sft": 12, "dpo": 12}
    assert made.metrics["tokens_pretrain"] == phases["pretrain"]["tokens"]
    assert len(TokenTable(Path(made.location), "pretrain")) == phases["pretrain"]["sequences"]


def test_held_out_rows_are_not_among_the_tokens(
    tmp_path: Path, base: FakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runs(tmp_path, monkeypatch)
    made = tokenize(
        tmp_path, base, [row("pretrain", "heldout", text="secret answer"), row("pretrain", text="a lesson")]
    )
    table = TokenTable(Path(made.manifest.location), "pretrain")
    tokenizer = load_tokenizer(Path(base.manifest.location))
    assert [tokenizer.decode(table.column("input_ids", index)) for index in range(len(table))] == [
        "a lesson<|endoftext|>"
    ]


def test_tokens_do_not_depend_on_the_order_of_rows(
    tmp_path: Path, base: FakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sample_rows(12)
    shuffled = random.Random(1).sample(rows, len(rows))
    digests = []
    for name, these in (("one", rows), ("other", shuffled)):
        (tmp_path / name).mkdir()
        use_runs(tmp_path / name, monkeypatch)
        digests.append(tokenize(tmp_path / name, base, these).manifest.content_digest)
    assert digests[0] == digests[1]


def test_a_sequence_longer_than_the_context_is_refused(
    tmp_path: Path, base: FakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runs(tmp_path, monkeypatch)
    with pytest.raises(InvalidInput, match=r"sft.sequence_length is 512, the model's context is 256"):
        tokenize(tmp_path, base, sample_rows(2), sft={"sequence_length": 512})


def test_the_chat_probe_is_what_the_tokenizer_says(
    tmp_path: Path, base: FakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runs(tmp_path, monkeypatch)
    probe = tokenize(tmp_path, base, sample_rows(2)).manifest.details["chat_probe"]
    assert probe["token_ids"] == prompt_ids(load_tokenizer(Path(base.manifest.location)), probe["messages"])
