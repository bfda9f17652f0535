"""A Kubeflow of this machine, for what nobody can try without a cluster: `make e2e` as a whole.

    with StandIn(folder, store="s3://bucket/store") as kubeflow:
        kubeflow.environment          # KUBECONFIG, KF_PIPELINES_ENDPOINT …: what tests/cluster/e2e.py reads

Real: the compiled pipeline as it was uploaded (run by kfp.local, a process a task), every step, Spark, torchrun, the model
server, the object store, and all of Tutelage. Played: the scheduler, the operators and KFP's own server; and the API server,
unless a real one is given (control_plane.py), which then has the roles of `manifests/` and enforces *restricted* pods. A job's
pods are processes of this machine. All tasks of a run share one pod object, since kfp.local gives them one environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from tests.cluster import rollouts
from tests.cluster.access import Accounts
from tests.cluster.api_server import ApiServer
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_time import FakeTime
from tests.cluster.kfp_server import KfpServer
from tests.cluster.kubelet import Kubelet
from tests.cluster.local_pods import ROOT, LocalPods
from tests.cluster.manifests import overlay
from tests.cluster.more_operators import SparkOperator
from tests.cluster.nodes import Nodes
from tests.cluster.objects import INFERENCESERVICE, POD, PYTORCHJOB, SPARKAPPLICATION, WORKFLOW, Cluster, Object
from tests.cluster.operators import Action, Life, TrainingOperator, schedule, start
from tests.cluster.real_cluster import RealCluster, RealTime
from tests.cluster.real_site import RUN_ACCOUNT, make_namespace
from tests.s3 import free_ports
from tutelage.contracts.verdicts import create_key_pair
from tutelage.orchestrate.tasks import tasks_of
from tutelage.runtimes.kubernetes.pods import container_security_context, pod_security_context
from tutelage.runtimes.leash import leash

NAMESPACE = "team"
#: A loopback address that is not the one a step falls back to: what is asked there was meant.
SERVING_HOST = "127.0.0.2"
SERVING_SECONDS = 300.0
STEP_SECONDS = 0.05
SPEED = 4.0
#: What Argo leaves a task between SIGTERM and SIGKILL.
GRACE_SECONDS = 30.0
EXIT_HANDLER = "clean"
STATES = {"started": "RUNNING", "finished": "SUCCEEDED", "failed": "FAILED"}


class PassingTime(FakeTime):
    """The cluster's time passes whether somebody waits or not, faster than ours: those who work do so in real time."""

    def _move(self) -> None:
        while not self._closed:
            time.sleep(STEP_SECONDS)
            with self.lock:
                self.seconds += STEP_SECONDS * SPEED
                self._act()
                self.changed.notify_all()


class PlayedServer:
    """Our fake API server, as a cluster for a StandIn."""

    authority: Path | None = None
    token = "first"

    def __init__(self) -> None:
        self.time = PassingTime()
        self.cluster = Cluster(self.time)
        self.nodes = Nodes(self.cluster)
        accounts = Accounts()
        accounts.add(self.token)
        self.server = ApiServer(self.cluster, accounts, self.nodes)
        self.server.start()
        self.url = self.server.url

    def close(self) -> None:
        self.time.close()
        self.server.stop()


class RealServer:
    """A real API server, with a namespace and the roles that the prod overlay gives."""

    def __init__(self, plane: ControlPlane) -> None:
        make_namespace(plane, NAMESPACE, overlay("prod"))
        self.time = RealTime(SPEED)
        self.cluster = RealCluster(plane, NAMESPACE, self.time)
        self.nodes = Nodes(self.cluster)  # type: ignore[arg-type]
        self.kubelet = Kubelet(plane, self.nodes)
        self.kubelet.start()
        self.url, self.authority = plane.url, plane.authority
        self.token = plane.token_of(NAMESPACE, RUN_ACCOUNT)

    def close(self) -> None:
        self.time.close()
        self.kubelet.stop()


class StandIn:
    """Everything that has to be there before `make e2e` can begin."""

    def __init__(self, folder: Path, store: str, plane: ControlPlane | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.store = folder, store
        self.server: Any = RealServer(plane) if plane else PlayedServer()
        self.time, self.cluster, self.nodes = self.server.time, self.server.cluster, self.server.nodes
        self.pods = LocalPods(self.nodes, folder / "pods")
        TrainingOperator(self.nodes, PYTORCHJOB, life=lambda job, index: self.pods.life(index))
        SparkOperator(self.nodes, SPARKAPPLICATION, life=self.pods.spark_life)
        self.serving = Serving(self.nodes, INFERENCESERVICE, pods=self.pods)
        self.workflows = Workflows(self)
        self.keys = create_key_pair(folder / "keys")
        self.kfp = KfpServer(runner=self.workflows)

    def __enter__(self) -> Self:
        self.kfp.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.workflows.close()
        self.kfp.__exit__()
        self.pods.close()
        self.server.close()

    @property
    def environment(self) -> dict[str, str]:
        """What `make e2e` wants to know."""
        return {
            "KUBECONFIG": str(self.kubeconfig()), "KF_PIPELINES_ENDPOINT": self.kfp.url,
            "TUTELAGE_E2E_NAMESPACE": NAMESPACE, "TUTELAGE_E2E_REGISTRY": "tutelage", "TUTELAGE_E2E_STORE": self.store,
        }  # fmt: skip

    def kubeconfig(self) -> Path:
        """A file by which clients find the API server."""
        file = self.folder / "kubeconfig"
        authority = {"certificate-authority": str(self.server.authority)} if self.server.authority else {}
        body = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": self.server.url, **authority}}],
            "users": [{"name": "me", "user": {"token": self.server.token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(body))
        return file

    def settings(self) -> Path:
        """The settings that pods of tasks mount."""
        file = self.folder / "settings.json"
        body = {
            "runs": str(self.folder / "tasks"), "store": self.store, "processes": 2, "spark_cores": 2,
            "signing_key": str(self.keys.private_key), "public_keys": str(self.keys.public_keys),
            "cluster": {"namespace": NAMESPACE, "training_workers": 1, "spark_executors": 1, "clocks": {"run_seconds": 10**9}},
        }  # fmt: skip
        file.write_text(json.dumps(body))
        return file

    def everything(self) -> list[str]:
        """What stands in the namespace, pods of Kubeflow's own tasks left out."""
        return [name for name in self.cluster.everything(NAMESPACE) if not name.startswith(("Workflow/", "Pod/task-"))]


@dataclass
class Serving(rollouts.StandardMode):
    """KServe whose predictors are real model servers: Ready once they answer, at an address of this machine."""

    pods: LocalPods | None = None
    ports: dict[str, int] = field(default_factory=dict)
    """Service → port of its newest pod."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.life = self._life

    def _life(self, service: Object) -> Life:
        (port,) = free_ports(1)
        self.ports[service["metadata"]["name"]] = port
        works: Action = lambda nodes, pod: self._serve(pod, port)
        return [(1, schedule), (2, start), (3, works)]

    def _serve(self, pod: Object, port: int) -> None:
        assert self.pods is not None
        self.pods.serve(pod, SERVING_HOST, port)
        threading.Thread(target=self._ready_when_it_answers, args=(pod, port), daemon=True).start()

    def _ready_when_it_answers(self, pod: Object, port: int) -> None:
        until = time.monotonic() + SERVING_SECONDS
        while time.monotonic() < until and self.nodes.alive(pod):
            try:
                with urllib.request.urlopen(f"http://{SERVING_HOST}:{port}/v2/health/ready", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        else:
            return
        with self.cluster.time.lock:
            if self.nodes.alive(pod):
                rollouts.serve(self.nodes, pod)

    def address_of(self, service: Object) -> str:
        return f"http://{SERVING_HOST}:{self.ports[service['metadata']['name']]}"


class Workflows:
    """What KFP's API server asks Argo for: runs of compiled pipelines, each with a Workflow and a process."""

    def __init__(self, kubeflow: StandIn) -> None:
        self.kubeflow = kubeflow
        self.runs: dict[str, Workflow] = {}

    def start(self, run_id: str, documents: list[dict[str, Any]], parameters: Mapping[str, Any]) -> None:
        """Begin a run."""
        self.runs[run_id] = Workflow(self.kubeflow, run_id, documents, parameters)

    def state(self, run_id: str) -> dict[str, Any]:
        """The run's state and its tasks', as KFP shows them."""
        return self.runs[run_id].state()

    def terminate(self, run_id: str) -> None:
        """End a run's task; its exit handler still runs."""
        self.runs[run_id].terminate()

    def close(self) -> None:
        """End all of them."""
        for run in self.runs.values():
            run.close()


class Workflow:
    """One run: kfp.local in a process."""

    def __init__(
        self, kubeflow: StandIn, run_id: str, documents: list[dict[str, Any]], parameters: Mapping[str, Any]
    ) -> None:
        self.kubeflow, self.run_id = kubeflow, run_id
        self.folder = kubeflow.folder / "workflows" / run_id
        self.folder.mkdir(parents=True)
        self.compiled = self.folder / "pipeline.yaml"
        self.compiled.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        (self.folder / "parameters.json").write_text(json.dumps(dict(parameters)))
        self.names = {task.label: task.name for task in tasks_of(self.compiled)}
        self.cancelled = False
        self.code: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.pod = self._pod()
        # A leash ends its process with the thread that started it: this one waits for it.
        self.thread = threading.Thread(target=self._run, name=f"workflow-{run_id[:8]}", daemon=True)
        self.thread.start()

    def _pod(self) -> str:
        """The pod that stands for every task's, owned by the run's Workflow."""
        cluster, short = self.kubeflow.cluster, self.run_id[:8]
        body = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": f"wf-{short}"},
            "spec": {},
        }
        workflow = cluster.create(WORKFLOW, body, NAMESPACE)
        metadata = {
            "name": f"task-{short}", "labels": {"pipeline/runid": self.run_id, "workflows.argoproj.io/workflow": f"wf-{short}"},
            "ownerReferences": [{
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": f"wf-{short}",
                "uid": workflow["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True,
            }],
        }  # fmt: skip
        container = {"name": "main", "image": "tutelage/python", "securityContext": container_security_context()}
        spec = {
            "containers": [container], "restartPolicy": "Never", "securityContext": pod_security_context(),
            "serviceAccountName": RUN_ACCOUNT,
        }  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        return str(cluster.create(POD, pod, NAMESPACE)["metadata"]["name"])

    def _run(self) -> None:
        for folder in ("kfp", "tmp"):
            (self.folder / folder).mkdir()
        environment = {
            **os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false",
            "TMPDIR": str(self.folder / "tmp"), "KUBECONFIG": str(self.kubeflow.kubeconfig()),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KFP_POD_NAME": self.pod,
            # As pipelines/platform.py has it in the environment of every task's pod.
            "TUTELAGE_RUN": self.run_id, "TUTELAGE_SETTINGS": str(self.kubeflow.settings()),
        }  # fmt: skip
        for variable in ("TUTELAGE_RUN_FOLDER", "TUTELAGE_SUPERVISOR"):
            environment.pop(variable, None)
        words = [str(self.compiled), str(self.folder / "parameters.json"), str(self.folder / "kfp")]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                leash([sys.executable, "-m", "tutelage.orchestrate.kfp_process", *words]),
                env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.code = self.process.wait()

    def state(self) -> dict[str, Any]:
        """What KFP would show."""
        tasks = {self.names[label]: state for label, state in self._tasks().items()}
        if self.code is None:
            return {"state": "CANCELING" if self.cancelled else "RUNNING", "tasks": tasks}
        ended = "SUCCEEDED" if self.code == 0 else "CANCELED" if self.cancelled else "FAILED"
        return {"state": ended, "tasks": tasks}

    def _tasks(self) -> dict[str, str]:
        file = self.kubeflow.folder / "tasks" / self.run_id / "events.jsonl"
        events = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return {event["task"]: STATES[event["event"]] for event in events if event["event"] in STATES}

    def terminate(self) -> None:
        """SIGTERM to what runs, SIGKILL after the grace time; the exit handler is let alone."""
        self.cancelled = True
        threading.Thread(target=self._end_tasks, daemon=True).start()

    def _end_tasks(self) -> None:
        told: dict[int, float] = {}
        while self.code is None:
            for task in self._task_processes():
                since = told.setdefault(task.pid, time.monotonic())
                try:
                    task.kill() if time.monotonic() - since > GRACE_SECONDS else task.terminate()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.5)

    def _task_processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True) if self.process else ():
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            ours = "kfp.dsl.executor_main" in words and Path(words[0]).name.startswith("python")
            if ours and words[-1] != EXIT_HANDLER:
                found.append(process)
        return found

    def close(self) -> None:
        """Leave no process behind."""
        if self.process is not None and self.code is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True)]:
                process.kill()
            self.process.kill()
        self.thread.join(30)
