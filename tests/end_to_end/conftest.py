"""One tiny run, made once, looked at by many tests."""

from __future__ import annotations

import pytest

from tests.end_to_end.command_line import TinyRun, tutelage


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The tiny recipe, run once from nothing."""
    runs = tmp_path_factory.mktemp("tiny")
    ended = tutelage("run", "recipes/tiny.yaml", "--runs", str(runs), "--json")
    assert ended.exit_code == 0, ended.out + ended.err
    return TinyRun(runs, ended.json)
