"""Settings: bounds, key pairs, and paths that mean the same wherever the command is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.errors import InvalidInput
from tutelage.runtimes.settings import read_settings


def written(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "tutelage.toml").write_text(text)
    return str(folder / "tutelage.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("processes = 0", "processes"), ("spark_cores = 0", "spark_cores"), ("spark_memory = '2 GB'", "spark_memory"),
        ("spark_memory = '2g --conf x=y'", "spark_memory"), ("signing_key = 'a.pem'", "public_keys is missing"),
        ("public_keys = 'keys'", "signing_key is missing"), ("prcesses = 2", "did you mean 'processes'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_hold_are_refused(tmp_path, text, message):
    with pytest.raises(InvalidInput, match=message):
        read_settings(written(tmp_path, text))


@pytest.mark.parametrize("memory", ["2g", "512m", "16G"])
def test_memory_is_a_number_with_a_unit(tmp_path, memory):
    assert read_settings(written(tmp_path, f"spark_memory = '{memory}'")).spark_memory == memory


def test_relative_places_start_at_the_settings_file(tmp_path, monkeypatch):
    text = """
runs = "here"
store = "payloads"
registry = "models.sqlite"
signing_key = "keys/signing.pem"
public_keys = "keys/public"
"""
    file = written(tmp_path / "installation", text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = read_settings(file)
    folder = tmp_path / "installation"
    assert settings.runs == str(folder / "here") and settings.store == str(folder / "payloads")
    assert settings.registry == str(folder / "models.sqlite")
    assert settings.signing_key == str(folder / "keys" / "signing.pem")
    assert settings.public_keys == str(folder / "keys" / "public")


def test_places_elsewhere_and_absolute_ones_stay_as_they_are(tmp_path):
    settings = read_settings(written(tmp_path, 'runs = "/data/runs"\nstore = "s3://bucket/store"'))
    assert (settings.runs, settings.store, settings.registry) == ("/data/runs", "s3://bucket/store", None)
