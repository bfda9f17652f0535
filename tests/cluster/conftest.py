"""Fixtures of the tests against a fake cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bench import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A cluster with a server, a store and a client; jobs go to no queue."""
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def queued_site(tmp_path: Path) -> Iterator[Site]:
    """The same, with jobs that a queue must admit."""
    site = Site(tmp_path, queue="team")
    yield site
    site.close()
