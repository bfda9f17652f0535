import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from tutelage.errors import InvalidInput, StepFailed
from tutelage.release.registry import Registry


def register(path: str, digest: str, name: str = "model") -> tuple[str, bool]:
    made = Registry(path).register(name, digest, f"/store/{digest}", format_version="transformers", properties={"a": 1})
    return made.version, made.created


def _write(path: str, start: int, done) -> None:
    done.put([register(path, f"digest-{(start + index) % 12}") for index in range(12)])


def test_two_writers_at_once_lose_nothing_and_agree(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    path = str(tmp_path / "new" / "registry.sqlite")
    writers = [context.Process(target=_write, args=(path, start, done)) for start in (0, 6)]
    for writer in writers:
        writer.start()
    results = [done.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join()
    versions = Registry(path).versions("model")
    assert sorted(int(item["version"]) for item in versions) == list(range(1, 13))
    assert len({item["digest"] for item in versions}) == 12
    assert sum(created for result in results for _, created in result) == 12


def test_the_same_model_under_two_names_has_a_version_in_each(tmp_path: Path):
    path = str(tmp_path / "registry.sqlite")
    assert register(path, "a", "one") == ("1", True)
    assert register(path, "a", "two") == ("1", True)
    assert register(path, "b", "one") == ("2", True)
    assert register(path, "a", "one") == ("1", False)


def test_a_payload_that_moved_is_found_at_its_new_place(tmp_path: Path):
    registry = Registry(str(tmp_path / "registry.sqlite"))
    for uri in ("/old", "/new"):
        registry.register("model", "a", uri, format_version="transformers", properties={})
    assert [item["uri"] for item in registry.versions("model")] == ["/new"]


def test_names_are_data_and_never_sql(tmp_path: Path):
    path = str(tmp_path / "registry.sqlite")
    evil = "x'); DROP TABLE model_versions; --"
    register(path, evil)
    assert Registry(path).versions("model")[0]["digest"] == evil


def test_an_error_inside_a_transaction_leaves_nothing_behind(tmp_path: Path):
    registry = Registry(str(tmp_path / "registry.sqlite"))
    with pytest.raises(StepFailed, match="registry"):
        registry.register("model", "a", None, format_version="transformers", properties={})
    assert registry.versions("model") == []


def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path):
    (tmp_path / "registry.sqlite").write_text("not a database at all, just some words in a file" * 20)
    with pytest.raises(StepFailed, match=r"registry\.sqlite"):
        register(str(tmp_path / "registry.sqlite"), "a")
    with pytest.raises(InvalidInput, match="not a local file"):
        Registry("https://registry.example")


def test_tables_speak_the_language_of_the_kubeflow_registry(tmp_path: Path):
    register(str(tmp_path / "registry.sqlite"), "a")
    connection = sqlite3.connect(tmp_path / "registry.sqlite")
    try:
        row = connection.execute("SELECT state, artifact_type, model_format_name FROM artifacts").fetchone()
        assert row == ("LIVE", "model-artifact", "safetensors")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()
