"""The engine's client against a server that refuses, resets, expires, restarts and rotates tokens."""

from __future__ import annotations

import json
import logging
import time
import traceback
from pathlib import Path

import pytest

from tests.cluster.api_server import Fault
from tests.cluster.bench import NAMESPACE, Site, prints
from tests.cluster.objects import PYTORCHJOB as JOBS
from tests.cluster.objects import Refused
from tests.cluster.operators import finish, schedule, start
from tutelage.runtimes.kubernetes.api import POD, PYTORCHJOB, SPARKAPPLICATION, Api, ApiError

#: As a kube-apiserver answers between its first open port and the moment it has read the roles.
DENIED = Refused(
    403, "Forbidden",
    'pytorchjobs.kubeflow.org "x" is forbidden: User "system:serviceaccount:team:run" cannot get resource "pytorchjobs" in API '
    'group "kubeflow.org" in the namespace "team"',
)  # fmt: skip


def test_what_is_not_there_is_none_and_what_nobody_serves_is_an_error(site: Site) -> None:
    site.cluster.kinds.remove(next(kind for kind in site.cluster.kinds if kind.kind == "SparkApplication"))
    assert site.api.get(PYTORCHJOB, "none") is None
    assert site.api.delete(PYTORCHJOB, "none") is False
    with pytest.raises(ApiError) as told:
        site.api.get(SPARKAPPLICATION, "none")
    assert (told.value.status, told.value.reason) == (404, "OperatorMissing")


def test_a_create_whose_reply_is_lost_is_not_sent_again(site: Site) -> None:
    site.server.faults.append(Fault("lose", "create"))
    with pytest.raises(ApiError) as told:
        site.api.create(PYTORCHJOB, site.job.body)
    assert told.value.reason == "ReplyLost"
    assert site.server.count("create", "pytorchjobs") == 1 and site.api.get(PYTORCHJOB, site.job.name) is not None


def test_deletion_spares_another_object_of_the_name(site: Site) -> None:
    site.api.create(PYTORCHJOB, site.job.body)
    assert site.api.delete(PYTORCHJOB, site.job.name, uid="another") is False
    made = site.api.get(PYTORCHJOB, site.job.name)
    assert made is not None and site.api.delete(PYTORCHJOB, site.job.name, uid=made["metadata"]["uid"]) is True


def test_a_patch_is_merged(site: Site) -> None:
    site.api.create(PYTORCHJOB, site.job.body)
    patched = site.api.patch(PYTORCHJOB, site.job.name, {"metadata": {"labels": {"a": "b"}}})
    assert patched["metadata"]["labels"]["a"] == "b" and "tutelage.dev/run" in patched["metadata"]["labels"]


def test_a_watch_that_is_left_early_gives_its_connection_up(site: Site) -> None:
    made = site.api.create(PYTORCHJOB, site.job.body)
    site.api.patch(PYTORCHJOB, site.job.name, {"metadata": {"labels": {"a": "b"}}})
    watch = site.api.watch(PYTORCHJOB, site.job.name, made["metadata"]["resourceVersion"])
    assert next(watch).type == "MODIFIED"
    assert len(site.server.http.connections) == 1
    watch.close()
    until = time.monotonic() + 5
    while site.server.http.connections and time.monotonic() < until:
        time.sleep(0.02)
    assert not site.server.http.connections


def test_a_watch_sees_a_deletion_and_an_old_version_is_expired(site: Site) -> None:
    made = site.api.create(PYTORCHJOB, site.job.body)
    since = made["metadata"]["resourceVersion"]
    site.time.after(70, lambda: site.cluster.delete(JOBS, site.job.name, NAMESPACE))
    types = [event.type for event in site.api.watch(PYTORCHJOB, site.job.name, since, timeout_seconds=100)]
    assert types == ["BOOKMARK", "DELETED"]
    site.server.expire_watches()
    with pytest.raises(ApiError) as told:
        list(site.api.watch(PYTORCHJOB, site.job.name, since))
    assert told.value.status == 410
    site.server.faults.append(Fault("refuse", "watch", answer=site.cluster.expired()))
    with pytest.raises(ApiError) as told:
        list(site.api.watch(PYTORCHJOB, site.job.name, since))
    assert told.value.status == 410


def test_a_watch_that_is_reset_just_ends(site: Site) -> None:
    made = site.api.create(PYTORCHJOB, site.job.body)
    site.api.patch(PYTORCHJOB, site.job.name, {"metadata": {"labels": {"a": "b"}}})
    site.server.faults.append(Fault("cut", "watch", after=1))
    events = list(site.api.watch(PYTORCHJOB, site.job.name, made["metadata"]["resourceVersion"]))
    # A reset may take with it what was sent before.
    assert [event.type for event in events] in ([], ["MODIFIED"])


def test_pages_of_a_list_are_put_together(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.runtimes.kubernetes.api.PAGE", 2)
    for number in range(5):
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"p{number}", "labels": {"a": "b"}},
            "spec": {"containers": []},
        }
        site.cluster.create(next(kind for kind in site.cluster.kinds if kind.kind == "Pod"), body, NAMESPACE)
    assert [pod["metadata"]["name"] for pod in site.api.list(POD, "a=b")] == [f"p{number}" for number in range(5)]
    assert site.server.count("list", "pods") == 3


def test_the_budget_of_retries_ends_and_waits_are_those_asked_for(site: Site) -> None:
    busy = Refused(429, "TooManyRequests", "slow down", retry_after=40)
    site.server.faults.append(Fault("refuse", times=1000, answer=busy))
    with pytest.raises(ApiError, match="slow down"):
        site.api.get(PYTORCHJOB, "x")
    assert 400 < site.time.seconds <= 700 and site.server.count("get", "pytorchjobs") <= 16


def test_a_token_that_is_no_longer_accepted_is_told_with_a_hint(site: Site) -> None:
    site.accounts.rotate("first", "second")
    with pytest.raises(ApiError) as told:
        site.api.get(PYTORCHJOB, "x")
    assert told.value.status == 401 and told.value.hint and set(site.server.statuses) == {401}
    assert len(site.server.statuses) >= 2 and site.time.seconds <= 30


SECRET = "s3cr3t-of-the-run"


@pytest.mark.parametrize("token", [f"{SECRET}\n{SECRET}", f"{SECRET}\r\nX-Other: 1", f"{SECRET}…", f"{SECRET}\x01"])
def test_a_token_that_no_header_can_carry_is_refused_at_once_and_never_shown(
    site: Site, token: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    site.token.write_bytes(token.encode())
    with pytest.raises(ApiError, match="the token for the API server holds a line break") as refused:
        site.connect().get(PYTORCHJOB, "x")
    shown = "".join(traceback.format_exception(refused.value)) + caplog.text + "".join(capsys.readouterr())
    assert SECRET not in shown
    assert site.server.statuses == [] and site.time.seconds < 1


def test_a_token_file_that_ends_in_a_newline_is_a_token(site: Site) -> None:
    site.token.write_text("first\n")
    assert site.connect().get(PYTORCHJOB, "x") is None


def test_a_token_that_was_read_while_it_was_written_is_read_again(site: Site) -> None:
    site.token.write_text("fir\nst")
    api = site.connect()
    site.token.write_text("first")
    assert api.get(PYTORCHJOB, "x") is None


def test_a_server_that_has_just_started_denies_what_it_soon_allows(site: Site) -> None:
    site.server.faults.append(Fault("refuse", "get", times=3, answer=DENIED))
    assert site.api.get(PYTORCHJOB, "x") is None
    assert site.server.statuses == [403, 403, 403, 404]


def test_what_is_denied_for_long_is_believed(site: Site) -> None:
    site.server.faults.append(Fault("refuse", "get", times=1000, answer=DENIED))
    with pytest.raises(ApiError, match="cannot get resource"):
        site.api.get(PYTORCHJOB, "x")
    assert 10 < site.time.seconds <= 30


def test_what_a_quota_or_a_webhook_denies_is_believed_at_once(site: Site) -> None:
    denied = Refused(403, "Forbidden", "exceeded quota: team, requested: pods=1, used: pods=1, limited: pods=1")
    site.server.faults.append(Fault("refuse", "create", times=1000, answer=denied))
    with pytest.raises(ApiError, match="exceeded quota"):
        site.api.create(PYTORCHJOB, site.job.body)
    assert site.server.statuses == [403]


def test_a_log_keeps_time_stamps_and_drops_half_a_line(site: Site) -> None:
    site.train(lambda job, index: [(1, schedule), (2, start), (3, prints("one")), (4, prints("two")), (5, finish(0))])
    site.api.create(PYTORCHJOB, site.job.body)
    site.time.sleep(10)
    pod = f"{site.job.name}-worker-0"
    lines = list(site.api.log(pod, "pytorch"))
    assert [line.split(b" ")[-1] for line in lines] == [b"one", b"two"] and lines[0].startswith(b"2026-03-01T12:00:")
    site.server.faults.append(Fault("cut", "get", "pods", "log", after=1))
    assert list(site.api.log(pod, "pytorch")) in ([], lines[:1])


def test_a_client_is_made_from_kubeconfig(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kubeconfig"
    user = {"name": "run", "user": {"tokenFile": str(site.token)}}
    cluster = {"name": "fake", "cluster": {"server": site.server.url}}
    context = {"name": "it", "context": {"cluster": "fake", "user": "run", "namespace": NAMESPACE}}
    whole = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [user],
        "contexts": [context],
        "current-context": "it",
    }
    file.write_text(json.dumps(whole))
    monkeypatch.setenv("KUBECONFIG", str(file))
    api = Api.connect(now=site.time.now, sleep=site.time.sleep)
    assert api.namespace == NAMESPACE and api.get(PYTORCHJOB, "x") is None
    site.accounts.rotate("first", "second")
    site.token.write_text("second")
    assert api.get(PYTORCHJOB, "x") is None
