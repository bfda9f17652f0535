"""What launches and sharing rest on, on a real API server: who wins a create, marks by merge-patch, and the rights they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.launchers import Launcher, left_in_store, trains
from tests.cluster.objects import PYTORCHJOB
from tests.cluster.operators import finish, schedule, start
from tests.cluster.real_site import RealSite
from tutelage.runtimes.kubernetes.engine import cancel_run
from tutelage.runtimes.kubernetes.names import ATTEMPT_ANNOTATION, HOLDS_ANNOTATION, KEPT_LABEL

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(autouse=True)
def _no_pod_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("TUTELAGE_TERMINATION_LOG", str(tmp_path / "termination-log"))


def test_two_runs_do_the_work_once_and_a_second_launcher_of_one_spoils_nothing(real_site: RealSite) -> None:
    site = real_site
    site.train(trains(site, until=40))
    first, other = (Launcher(site, run=run, name=run, shared=True).start() for run in ("run-1", "run-2"))
    again = Launcher(site, run="run-1", name="again", shared=True).start()
    holders: list[str] = []
    while not holders:
        site.time.sleep(1)
        jobs = site.cluster.all(PYTORCHJOB, site.namespace)
        holders = [job["metadata"]["name"] for job in jobs if HOLDS_ANNOTATION in job["metadata"]["annotations"]]
    assert len(holders) == 1 and all(ATTEMPT_ANNOTATION in job["metadata"]["annotations"] for job in jobs)
    ended = [launcher.join() for launcher in (first, other, again)]
    assert [(launcher.error, launcher.code) for launcher in ended] == [(None, 0)] * 3
    assert len({launcher.outcome["attempt"] for launcher in ended}) == 1
    assert left_in_store(site) == []
    site.check_left()


def test_a_kept_job_is_marked_and_outlives_the_exit_handler(real_site: RealSite) -> None:
    site = real_site
    site.train(lambda job, index: [(1, schedule), (2, start), (5, finish(1))])
    ended = site.run(keep_failed=True)
    (job,) = site.cluster.all(PYTORCHJOB, site.namespace)
    assert ended.kept == (site.job.name,) and job["metadata"]["labels"][KEPT_LABEL] == "true"
    assert cancel_run(site.api, "run-1", clocks=site.clocks()) == ([], [])
    assert site.cluster.all(PYTORCHJOB, site.namespace) != []
