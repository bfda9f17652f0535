"""What every test of the repository shares: the S3 server, hypothesis profiles, and what a missing Java means."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tutelage.errors import MissingTool
from tutelage.runtimes.spark import require_java

pytest_plugins = ["tests.s3"]

# Other work on the machine must not turn a slow example into a failure.
settings.register_profile("tutelage", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("tutelage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `java` where there is none, with what to do as the reason."""
    try:
        require_java()
    except MissingTool as error:
        for item in items:
            if item.get_closest_marker("java"):
                item.add_marker(pytest.mark.skip(reason=str(error)))
