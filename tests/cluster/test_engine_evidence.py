"""The engine and what pods say of themselves: odd lines in their logs, words in their errors, ends that they brought about."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.bench import Site, prints
from tests.cluster.nodes import Nodes
from tests.cluster.objects import Object
from tests.cluster.operators import Action, Life, finish, say, schedule, start, unschedulable
from tutelage.runtimes.kubernetes import launching
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.logs import TaskLog
from tutelage.runtimes.kubernetes.sparkapplication import SparkApplication
from tutelage.step.resources import Resources

RUNS: Life = [(1.0, schedule), (2.0, start), (3.0, prints("step 0"))]
SPARK_NEEDS = Resources(requests={"cpu": "1", "memory": "2Gi"}, limits={"cpu": "1", "memory": "2Gi"})
NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


# --- what they print ---


def chatty(site: Site, *lines: str) -> Callable[[Object, int], Life]:
    """Workers of which the first prints `lines` among others, and then ends well."""

    def life(job: Object, index: int) -> Life:
        said: Life = [(4 + 0.1 * number, say(line)) for number, line in enumerate(lines)] if index == 0 else []
        after: Life = [(5 + step, prints(f"step {step}")) for step in range(1, 4)]
        end: Life = [(14, site.leaves()), (14.5, finish(0))] if index == 0 else [(14.2, finish(0))]
        return [*RUNS, *said, *after, *end]

    return life


def test_a_line_that_looks_like_an_event_and_is_none_costs_no_line_of_the_log(site: Site) -> None:
    site.train(chatty(site, '{"time": 1, "fields": {"event": 2}}', '{"time": 2, "event": ["progress"]}'))
    passed: list[str] = []
    ended = site.run(passed=lambda event: passed.append(event["event"]))
    site.check(ended, Phase.SUCCEEDED)
    assert passed == [] and site.said("warning") == []


def test_an_event_that_cannot_be_passed_on_costs_no_line_of_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def full(event: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    site.train(chatty(site, '{"time": 1, "event": "progress", "done": 1}'))
    with caplog.at_level(logging.WARNING, "tutelage"):
        site.check(site.run(passed=full), Phase.SUCCEEDED)
    assert "No space left on device" in caplog.text


def test_a_log_that_cannot_be_written_is_said_to_lack_its_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write = TaskLog.write

    def broken(self: TaskLog, where: str, line: bytes) -> None:
        if line.endswith(b"step 2"):
            raise KeyError("a bug")
        write(self, where, line)

    monkeypatch.setattr(TaskLog, "write", broken)
    site.train(chatty(site))
    assert site.run().phase is Phase.SUCCEEDED
    assert "the end of a log could not be read" in str(site.said("warning"))


# --- what they say of their end ---


def fails(site: Site, code: int, **outcome: Any) -> Callable[[Object, int], Life]:
    """Rank 0 leaves an outcome in the store and on its container; its peer ends with it."""
    message = json.dumps({"schema": "tutelage.outcome/1", **outcome})

    def life(job: Object, index: int) -> Life:
        if index:
            return [*RUNS, (5.2, finish(1))]
        return [*RUNS, (4, site.leaves(**outcome)), (5, finish(code, "Error", message))]

    return life


def test_a_refused_input_whose_words_name_a_connection_stays_a_refused_input(site: Site) -> None:
    cause = "source https://data.example/x: Connection reset by peer"
    site.train(fails(site, 2, outcome="invalid", cause=cause, hint="fix the uri", kind="data"))
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.DATA)
    told = launching.outcome_of(ended)
    assert (told["outcome"], told["cause"], told["hint"]) == ("invalid", cause, "fix the uri")
    assert launching.EXIT_CODES[told["outcome"]] == 2


def test_an_error_of_the_step_is_told_in_its_words_with_its_hint(site: Site) -> None:
    cause = "s3://bucket/x cannot be read: Connection refused by http://store:9000"
    site.train(fails(site, 1, outcome="failed", cause=cause, hint="check AWS_ENDPOINT_URL", kind=None))
    told = launching.outcome_of(site.run())
    assert (told["cause"], told["hint"]) == (cause, "check AWS_ENDPOINT_URL")


def test_a_rank_that_only_followed_is_quoted_where_nobody_says_more(site: Site) -> None:
    cause = "rank 0 lost its peers: Connection closed by peer [10.0.0.7]:4711"
    site.train(fails(site, 1, outcome="failed", cause=cause, hint=None, kind=None))
    told = launching.outcome_of(site.run())
    assert told["kind"] == "unknown" and told["cause"].endswith(f"the step's last words: {cause}")


@pytest.mark.parametrize(
    "words",
    ["ValueError: cannot parse row: 'we ran out of memory at the shop'", "KeyError: 'OutOfMemoryError'"],
)
def test_words_out_of_data_are_no_cause(site: Site, words: str) -> None:
    site.train(fails(site, 1, outcome="failed", cause=words, hint=None, kind=None))
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.UNKNOWN)
    assert ended.cause is not None and ended.cause.message == words


def evicted_for(message: str) -> Action:
    """The kubelet ends the pod for what it did."""

    def act(nodes: Nodes, pod: Object) -> None:
        nodes.finish(pod, 137, "Error")
        nodes.set(pod, lambda status: status.update(phase="Failed", reason="Evicted", message=message))

    return act


@pytest.mark.parametrize(
    ("message", "kind", "hint"),
    [
        ('Usage of EmptyDir volume "shared-memory" exceeds the limit "8Gi". ', CauseKind.OUT_OF_MEMORY, "shared_memory"),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. ",
            CauseKind.INVALID_SPEC, "limits.ephemeral-storage",
        ),
        ('Container pytorch exceeded its local ephemeral storage limit "1Gi". ', CauseKind.INVALID_SPEC, "ephemeral"),
    ],
)  # fmt: skip
def test_a_pod_that_was_evicted_for_what_it_used_is_not_tried_again(
    site: Site, message: str, kind: CauseKind, hint: str
) -> None:
    site.train(lambda job, index: [*RUNS, (5, evicted_for(message))] if index == 0 else RUNS)
    ended = site.run(relaunches=2)
    site.check(ended, Phase.FAILED, kind, attempts=1)
    assert ended.cause is not None and hint in str(ended.cause.hint)


# --- what they waited for ---


def test_ranks_that_never_met_for_want_of_a_node_say_so(site: Site) -> None:
    error = "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError"
    site.train(lambda job, index: [(1, unschedulable)] if index else [*RUNS, (620, finish(1, "Error", error))])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.UNSCHEDULABLE)
    assert ended.cause is not None
    assert NO_NODE in ended.cause.message and "RendezvousTimeoutError" in ended.cause.message


def test_a_job_that_runs_too_long_names_the_worker_that_no_node_takes(site: Site) -> None:
    site.train(lambda job, index: [(1, unschedulable)] if index else RUNS)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.UNSCHEDULABLE)
    assert ended.cause is not None and "run_seconds" in ended.cause.message and NO_NODE in ended.cause.message


def test_an_error_of_the_step_is_no_matter_of_nodes(site: Site) -> None:
    wrong = "ValueError: no such column"
    site.job = spark(site)
    ends = [(20, site.leaves("failed", cause=wrong)), (21, finish(1))]
    site.spark(lambda item, role: [*RUNS, *ends] if role == "driver" else [(1, unschedulable)])
    ended = site.run()
    assert ended.cause is not None and (ended.cause.kind, ended.cause.message) == (CauseKind.UNKNOWN, wrong)


def spark(site: Site) -> SparkApplication:
    return SparkApplication(
        identity=site.job.identity, namespace=site.namespace, settings=site.settings, needs=SPARK_NEEDS,
        image="tutelage/python-spark:1", requests=str(site.folder / "requests"),
    )  # fmt: skip


def test_executors_that_no_node_takes_end_with_the_start_clock(site: Site) -> None:
    site.job = spark(site)
    site.spark(lambda item, role: RUNS if role == "driver" else [(1, unschedulable)])
    ended = site.run(clocks=site.clocks(run_seconds=86_400.0))
    site.check(ended, Phase.FAILED, CauseKind.UNSCHEDULABLE)
    assert ended.cause is not None and "start_seconds" in ended.cause.message and NO_NODE in ended.cause.message
    assert 600 <= site.time.seconds < 800
    assert any(fields.get("reason") == "ExecutorsPending" for fields in site.said("progress"))


def test_one_executor_that_runs_is_enough_and_a_late_job_names_the_other(site: Site) -> None:
    site.job, made = spark(site), []

    def life(item: Object, role: str) -> Life:
        made.append(role)
        return RUNS if len(made) < 3 else [(1, unschedulable)]

    site.spark(life)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.UNSCHEDULABLE)
    assert ended.cause is not None and "run_seconds" in ended.cause.message and NO_NODE in ended.cause.message
    assert 1800 <= site.time.seconds < 2100


def test_executors_that_a_node_takes_late_are_no_failure(site: Site) -> None:
    site.job = spark(site)
    ends: Life = [(500, site.leaves()), (501, finish(0))]
    late: Life = [(1, unschedulable), (400, schedule), (402, start), (403, prints("step 0"))]
    site.spark(lambda item, role: [*RUNS, *ends] if role == "driver" else late)
    site.check(site.run(), Phase.SUCCEEDED)
    assert 90 < site.used.spent["run"] < 200, "waiting for executors spends the start clock"
