"""Java is found by one rule, and its version is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.contracts.java import require_java
from tutelage.errors import MissingTool


def java_that_says(folder: Path, text: str, code: int = 0) -> None:
    (folder / "bin").mkdir()
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    java.chmod(0o755)


@pytest.mark.parametrize("version", ["17.0.12", "21", "17-ea", "21.0.4"])
def test_java_that_is_new_enough_is_taken(tmp_path, monkeypatch, version):
    java_that_says(tmp_path, f'openjdk version "{version}" 2024-07-16')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    require_java()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('java version "1.8.0_422"', "is version 8"), ('openjdk version "11.0.24"', "is version 11"),
        ("The operation couldn\u2019t be completed. Unable to locate a Java Runtime.", "does not tell its version"),
    ],
)  # fmt: skip
def test_java_that_is_too_old_or_a_stub_is_refused(tmp_path, monkeypatch, said, message):
    java_that_says(tmp_path, said)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingTool, match=message) as caught:
        require_java()
    assert "openjdk-17" in (caught.value.hint or "")


def test_no_java_at_all_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingTool, match="has no bin/java"):
        require_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="Java 17 or later: no java on PATH"):
        require_java()
