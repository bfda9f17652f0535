"""Tokens on disk: written, mapped again, and a digest that does not see how they lie in files."""

from pathlib import Path

import numpy as np
import pytest

from tutelage.contracts import RowsDigest, tokens


def sequence(index: int, *lengths: int) -> dict[str, object]:
    ids = np.arange(sum(lengths), dtype=np.int32) + 100 * index
    return {"index": index, "rows": [f"row-{index}"], "input_ids": ids, "lengths": np.array(lengths, dtype=np.int32)}


def test_what_is_written_is_mapped_again(tmp_path: Path) -> None:
    rows = [sequence(0, 3, 2), sequence(1, 4), sequence(2, 1, 1, 1)]
    assert tokens.write(rows, tmp_path, "pretrain", RowsDigest()) == 3
    table = tokens.TokenTable(tmp_path, "pretrain")
    assert len(table) == 3
    assert table.sizes("input_ids").tolist() == [5, 4, 3]
    assert [table.column("lengths", row).tolist() for row in range(3)] == [[3, 2], [4], [1, 1, 1]]
    assert table.column("input_ids", 2).tolist() == [200, 201, 202]


def test_the_digest_does_not_depend_on_batches_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [sequence(index, 2, 3) for index in range(11)]
    first, second = RowsDigest(), RowsDigest()
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    tokens.write(rows, tmp_path / "one", "pretrain", first)
    monkeypatch.setattr(tokens, "ROWS_PER_BATCH", 2)
    monkeypatch.setattr(tokens, "ROWS_PER_FILE", 4)
    tokens.write(rows, tmp_path / "many", "pretrain", second)
    assert first.hexdigest() == second.hexdigest()
    assert len(list((tmp_path / "many").iterdir())) == 3
    one, many = (tokens.TokenTable(tmp_path / name, "pretrain") for name in ("one", "many"))
    assert [one.column("input_ids", row).tolist() for row in range(11)] == [
        many.column("input_ids", row).tolist() for row in range(11)
    ]


def test_a_border_moved_between_documents_changes_the_digest() -> None:
    one, other = (
        tokens.canonical_bytes("pretrain", sequence(0, 3, 2)),
        tokens.canonical_bytes("pretrain", sequence(0, 2, 3)),
    )
    assert one != other


def test_a_phase_without_files_has_no_rows(tmp_path: Path) -> None:
    table = tokens.TokenTable(tmp_path, "sft")
    assert len(table) == 0
    assert table.sizes("input_ids").tolist() == []
