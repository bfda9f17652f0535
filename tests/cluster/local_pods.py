"""Pods of the fake cluster that really work: the command of a pod runs as a process of this machine, against the same store.

    pods = LocalPods(site.nodes, folder)
    site.train(lambda job, index: pods.life(index))          # PyTorchJob: the pod's own torchrun
    site.spark(lambda application, role: pods.spark_life(application, role))

What the container prints stands in the pod's log, its exit code and its termination message in the pod's status. A pod that is
deleted takes its process along.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from tests.cluster.nodes import Nodes
from tests.cluster.objects import POD, Change, Object
from tests.cluster.operators import Action, Life, schedule, start
from tests.s3 import free_ports
from tutelage.runtimes.kubernetes.pods import CACHE
from tutelage.runtimes.leash import leash
from tutelage.runtimes.settings import Settings
from tutelage.runtimes.spark import spark_environment
from tutelage.step import repository_root
from tutelage.step.context import CACHE_VARIABLE

ROOT = repository_root()


class LocalPods:
    """Starts processes for pods, and tells the cluster how they end."""

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        self.nodes, self.folder = nodes, folder
        self.started: list[str] = []
        """Names of pods whose command was started."""
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._followers: list[threading.Thread] = []
        folder.mkdir(parents=True, exist_ok=True)
        nodes.cluster.watchers.append(self._seen)

    def _seen(self, change: Change) -> None:
        metadata = change.after["metadata"]
        process = self._processes.get(metadata.get("uid", "")) if change.kind is POD else None
        if process is not None and change.what == "DELETED":
            _end(process)

    def close(self) -> None:
        """Leave no process behind."""
        for process in self._processes.values():
            _end(process)
        for follower in self._followers:
            follower.join(30)

    def life(self, index: int) -> Life:
        """A training worker: the pod's command, as the operator would start it, the endpoint of worker 0 in its environment."""
        (port,) = free_ports(1)
        meeting = {"PET_RDZV_ENDPOINT": f"127.0.0.1:{port}", "GLOO_SOCKET_IFNAME": "lo"}
        works: Action = lambda nodes, pod: self.run(pod, _words(pod), _environment(pod) | meeting)
        return [(1, schedule), (2, start), (3, works)]

    def spark_life(self, application: Object, role: str) -> Life:
        """The driver runs the application's file with a local session; its executors only stand there."""
        if role != "driver":
            return [(1, schedule), (2, start)]
        spec = application["spec"]
        words = [sys.executable, spec["mainApplicationFile"].removeprefix("local://"), *spec["arguments"]]
        given = {
            entry["name"]: entry["value"]
            for entry in spec["driver"]["template"]["spec"]["containers"][0]["env"]
            if "value" in entry and not entry["name"].startswith("PYSPARK")
        }
        session = spark_environment(Settings(spark_cores=1, spark_memory="1g"), self.folder)
        works: Action = lambda nodes, pod: self.run(pod, words, given | session)
        return [(1, schedule), (2, start), (3, works)]

    def serve(self, pod: Object, host: str, port: int) -> None:
        """A predictor: its model server, listening there and not on the pod's own network."""
        words = [word.replace(CACHE, str(self.folder / pod["metadata"]["name"])) for word in _words(pod)]
        for flag, value in (("--host", host), ("--port", str(port))):
            words[words.index(flag) + 1] = value
        self.run(pod, words, _environment(pod))

    def run(self, pod: Object, words: list[str], environment: dict[str, str]) -> None:
        """Start a pod's command; a thread brings what it prints and how it ends to the cluster."""
        name = pod["metadata"]["name"]
        message = self.folder / f"{name}.termination-log"
        own = {
            **os.environ, **environment, "TMPDIR": str(self.folder), "HOME": str(self.folder),
            "TUTELAGE_TERMINATION_LOG": str(message), CACHE_VARIABLE: str(self.folder / name / "cache"),
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        }  # fmt: skip
        for variable in ("KUBECONFIG", "TUTELAGE_SETTINGS", "TUTELAGE_RUN", "TUTELAGE_RUN_FOLDER"):
            own.pop(variable, None)
        process = subprocess.Popen(
            leash(words), env=own, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip
        self.started.append(name)
        self._processes[pod["metadata"]["uid"]] = process
        follower = threading.Thread(target=self._follow, args=(pod, process, message), daemon=True)
        follower.start()
        self._followers.append(follower)

    def _follow(self, pod: Object, process: subprocess.Popen[str], message: Path) -> None:
        assert process.stdout is not None
        with process.stdout as printed:
            for line in printed:
                with self.nodes.cluster.time.lock:
                    if self.nodes.alive(pod):
                        self.nodes.say(pod, line.rstrip("\n"))
        code = process.wait()
        typed = message.read_text() if message.is_file() else None
        with self.nodes.cluster.time.lock:
            if self.nodes.alive(pod):
                self.nodes.finish(pod, code if code >= 0 else 128 - code, None, typed)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill it and what it started."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()


def _words(pod: Object) -> list[str]:
    container = pod["spec"]["containers"][0]
    command, *rest = [*container.get("command", []), *container.get("args", [])]
    return [sys.executable if command in ("python", "python3") else command, *rest]


def _environment(pod: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"] if "value" in entry}
