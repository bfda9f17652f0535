"""A fake cluster, a store and an engine on top of both: what the rows of `test_engine_*.py` run on.

site = Site(folder)
site.train(lambda index: working(index))          # what the workers of a PyTorchJob do
ended = site.run()                                # run_to_end over real HTTP, in the cluster's time
site.check(ended)                                 # nothing orphaned, every line once, no success without a manifest
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.access import Accounts
from tests.cluster.api_server import ApiServer
from tests.cluster.fake_time import FakeTime
from tests.cluster.more_operators import SparkOperator
from tests.cluster.nodes import Nodes
from tests.cluster.objects import PYTORCHJOB, SPARKAPPLICATION, WORKFLOW, Cluster, Object
from tests.cluster.operators import Action, Kueue, Life, TrainingOperator, finish, schedule, start
from tests.contracts import payloads
from tutelage.contracts import locations
from tutelage.contracts.store import Store
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.engine import Cancel, Collected, Ended, run_to_end
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.names import Identity, Owner
from tutelage.runtimes.kubernetes.pytorchjob import PyTorchJob
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.step.resources import Resources

NAMESPACE = "team"
OUTPUTS = {"documents": "documents"}
NEEDS = Resources(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "1", "memory": "1Gi"})
#: Limits of the rows, in the cluster's seconds.
LIMITS = {"queue_seconds": None, "start_seconds": 600.0, "run_seconds": 1800.0, "grace_seconds": 60.0}


def prints(text: str) -> Action:
    """The container prints a line that no other prints."""
    return lambda nodes, pod: nodes.say(pod, f"{pod['metadata']['name']} {pod['metadata']['uid'][:8]} {text}")


class Site:
    """Everything a row needs."""

    def __init__(self, folder: Path, *, queue: str | None = None, workers: int = 2) -> None:
        self.folder = folder
        self.token = folder / "token"
        self.set_up()
        workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "wf"}, "spec": {}}
        self.workflow = self.cluster.create(WORKFLOW, workflow, self.namespace)
        self.store = Store(str(folder / "store"))
        self.log_file = folder / "train.log"
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.prepared: list[str] = []
        self.cancel = Cancel()
        self.settings = ClusterSettings(namespace=self.namespace, queue=queue, training_workers=workers)
        identity = Identity(
            run="run-1", task="train-sft", iteration=payloads.KEY, step="train/train",
            owner=Owner(name="wf", uid=self.workflow["metadata"]["uid"]),
        )  # fmt: skip
        self.job: Any = PyTorchJob(
            identity=identity, namespace=self.namespace, settings=self.settings, needs=NEEDS, image="tutelage/python-torch:1",
            requests=str(folder / "requests"),
        )  # fmt: skip
        self.kueue = Kueue(self.cluster)
        self.api = self.connect()

    def set_up(self) -> None:
        """The cluster: its time, its API server, and the token of the run's account."""
        self.namespace = NAMESPACE
        self.time: Any = FakeTime()
        self.cluster: Any = Cluster(self.time)
        self.nodes = Nodes(self.cluster)
        self.accounts = Accounts()
        self.accounts.add("first")
        self.token.write_text("first")
        self.server = ApiServer(self.cluster, self.accounts, self.nodes)
        self.server.start()

    def close(self) -> None:
        self.time.close()
        self.server.stop()
        assert self.time.errors == []

    def connect(self) -> Api:
        """A client that reads its token from a file, as from the mount of a service account."""

        def load() -> Any:
            from kubernetes import client

            configuration = client.Configuration(host=self.server.url)
            configuration.api_key["authorization"] = self.token.read_text()
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.connection_pool_maxsize = 64
            return client.ApiClient(configuration)

        return Api(load, self.namespace, now=self.time.now, sleep=self.time.sleep)

    # What pods do.

    def train(self, life: Callable[[Object, int], Life]) -> TrainingOperator:
        """A training operator whose workers live as `life(job, index)` says."""
        return TrainingOperator(self.nodes, PYTORCHJOB, life=life)

    def spark(self, life: Callable[[Object, str], Life]) -> SparkOperator:
        """A Spark operator whose pods live as `life(application, role)` says."""
        return SparkOperator(self.nodes, SPARKAPPLICATION, life=life)

    def leaves(self, outcome: str = "done", *, manifest: bool = True, job: str | None = None, **more: Any) -> Action:
        """Rank 0 writes payload, manifest and outcome.json."""

        def act(nodes: Nodes, pod: Object) -> None:
            if outcome == "done" and manifest:
                payloads.finished(self.store.root)
            body = {"outcome": outcome, "cause": None, "hint": None} | more
            name = job or pod["metadata"]["labels"]["tutelage.dev/job"]
            locations.write_bytes(self.outcome_of(name), json.dumps(body).encode())

        return act

    def outcome_of(self, name: str) -> str:
        return str(self.folder / "outcomes" / f"{name}.json")

    def working(self, job: Object, index: int) -> Life:
        """A worker that starts, prints for ten seconds and ends well; worker 0 leaves what rank 0 leaves."""
        life: list[tuple[float, Action]] = [(1, schedule), (2, start)]
        life += [(3 + step, prints(f"step {step}")) for step in range(10)]
        life += [(14, self.leaves()), (14.5, finish(0))] if index == 0 else [(14.2, finish(0))]
        return life

    # The engine.

    def collect(self, job: Any) -> Collected:
        """What a launcher would find: outcome.json and verified manifests."""
        place = Path(self.outcome_of(job.name))
        outcome = json.loads(place.read_text()) if place.is_file() else None
        found = self.store.find(OUTPUTS, payloads.KEY)
        done = outcome is not None and outcome["outcome"] == "done"
        problem = None if done and found else "no outcome.json" if outcome is None else "no verified manifest"
        return Collected(complete=problem is None, outcome=outcome, problem=problem)

    def clocks(self, **limits: Any) -> Clocks:
        return Clocks(**{**LIMITS, **limits}, now=self.time.now, sleep=self.time.sleep)

    def run(self, *, clocks: Clocks | None = None, **options: Any) -> Ended:
        """The engine, from ensure to clean."""
        self.used = clocks or self.clocks()
        return run_to_end(
            self.job, self.api, clocks=self.used, log_file=self.log_file, collect=self.collect, cancel=self.cancel,
            event=lambda name, **fields: self.events.append((name, fields)),
            prepare=lambda job: self.prepared.append(job.name), **options,
        )  # fmt: skip

    def cancel_now(self) -> None:
        """What a signal handler does, while the engine waits."""
        threading.Thread(target=self.cancel.request, daemon=True).start()

    # What must hold.

    def check(
        self, ended: Ended, phase: Phase, cause: Any = None, *, left: tuple[str, ...] = (), attempts: int = 1
    ) -> None:
        """Phase, cause, attempts, what is left on the cluster, every printed line once, success only with a manifest."""
        assert (ended.phase, ended.cause and ended.cause.kind, ended.attempts) == (phase, cause, attempts), ended
        if phase is Phase.SUCCEEDED:
            assert ended.outcome is not None and ended.outcome["outcome"] == "done"
            assert self.store.find(OUTPUTS, payloads.KEY) is not None
        self.check_log()
        self.check_left(*left)

    def check_left(self, *names: str) -> None:
        """After the garbage collector had its time, nothing is left but the Workflow and `names`."""
        self.time.sleep(40)
        assert sorted(self.cluster.everything(self.namespace)) == sorted([*names, "Workflow/wf"])

    def check_log(self) -> None:
        """Every line that a container printed stands in the task's log once, those of a pod in order."""
        text = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        times = {line: sum(written.endswith(line) for written in text) for line in self.nodes.printed}
        assert {line: count for line, count in times.items() if count != 1} == {}
        for pod in {line.rsplit(" step", 1)[0] for line in self.nodes.printed if " step" in line}:
            printed = [line for line in self.nodes.printed if line.startswith(pod)]
            assert [line for written in text for line in printed if written.endswith(line)] == printed

    def said(self, name: str) -> list[dict[str, Any]]:
        """The events of a name."""
        return [fields for event, fields in self.events if event == name]
