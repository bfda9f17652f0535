"""What every test of the repository shares: the S3 server, hypothesis profiles, what a missing Java means, who runs with whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from tutelage.errors import MissingTool
from tutelage.runtimes.spark import require_java

pytest_plugins = ["tests.s3"]

# Other work on the machine must not turn a slow example into a failure.
settings.register_profile("tutelage", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("tutelage")


#: Tests of this folder look at one run of the tiny recipe, which takes minutes.
ONE_RUN = "tests/end_to_end/"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one worker, and the tests of one run to the same."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return ONE_RUN if file.startswith(ONE_RUN) else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first, for those who share the work; skip tests marked `java` where there is none, saying what to do."""
    items.sort(key=lambda item: not item.nodeid.startswith(ONE_RUN))
    try:
        require_java()
    except MissingTool as error:
        for item in items:
            if item.get_closest_marker("java"):
                item.add_marker(pytest.mark.skip(reason=str(error)))
