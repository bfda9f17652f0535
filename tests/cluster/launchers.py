"""Launchers of a training step on the fake cluster: several at once, of one run or of several, and such as die at a call.

watch = Watch(site)
first = Launcher(site)
first.api.die_at = ("delete", "after")     # raises Killed there, and leaves everything as it is
first.start(); first.join()
assert watch.together == set()             # no two launches ever worked at once
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.bench import Site
from tests.cluster.objects import POD, Change, Object
from tests.cluster.operators import Action, Life, finish, schedule, start
from tests.contracts import payloads
from tutelage.runtimes.kubernetes import launching
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.names import NAME_LABEL
from tutelage.step import Request
from tutelage.step.cluster import fetch, leave

KEY = payloads.KEY


class Killed(BaseException):
    """The launcher's pod is gone: nothing of it runs any more."""


class MortalApi(Api):
    """An API client whose process dies before or after a call of some name."""

    die_at: tuple[str, str] | None = None

    def create(self, *arguments: Any) -> Object:
        return self._call("create", super().create, *arguments)

    def delete(self, *arguments: Any) -> bool:
        return self._call("delete", super().delete, *arguments)

    def _call(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        if self.die_at == (name, "before"):
            raise Killed
        answer = method(*arguments)
        if self.die_at == (name, "after"):
            raise Killed
        return answer


class Launcher:
    """One launcher's pod: `launching.run` in a thread of its own."""

    def __init__(self, site: Site, *, run: str = "run-1", name: str = "first", **options: Any) -> None:
        self.site, self.run, self.options = site, run, options
        self.folder = site.folder / name
        self.folder.mkdir()
        (self.folder / "events.jsonl").touch()
        self.api = MortalApi(site.connect()._load, site.namespace, now=site.time.now, sleep=site.time.sleep)
        self.code: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def request(self) -> Request:
        return Request(
            step="train/train", config={"seed": 1}, inputs={}, outputs={"trained": "set by launching"},
            scratch=str(Path(self.site.store.root) / "scratch" / "runs" / self.run / KEY), cache="",
            outcome=str(self.folder / "outcome.json"), step_key=KEY, attempt="of-the-launcher", code_version="c0de",
            run=self.run, label="train-sft", events=str(self.folder / "events.jsonl"),
        )  # fmt: skip

    def start(self) -> Launcher:
        self._thread.start()
        return self

    def join(self) -> Launcher:
        """Wait for its end: of this time, so that the cluster's goes on."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "the launcher does not end"
        return self

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self.code = launching.run(
                self.request(), self.folder / "log", self.site.store, self.site.settings, api=self.api,
                clocks=self.site.clocks(), **self.options,
            )  # fmt: skip
        except BaseException as error:
            self.error = error

    @property
    def outcome(self) -> dict[str, Any]:
        outcome: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        return outcome

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]


class Watch:
    """Which jobs had a working pod at the same time."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.together: set[tuple[str, ...]] = set()
        self.longest_seconds = 0.0
        """How long several worked at the same time without a break."""
        self._since: float | None = None
        site.cluster.watchers.append(self._seen)

    def _seen(self, change: Change) -> None:
        if change.kind is not POD:
            return
        working = {
            pod["metadata"]["labels"].get(NAME_LABEL, "")
            for pod in self.site.cluster.all(POD, self.site.namespace)
            if pod.get("status", {}).get("phase") == "Running"
        }
        now = self.site.time.seconds
        if len(working) > 1:
            self.together.add(tuple(sorted(working)))
            self._since = now if self._since is None else self._since
        elif self._since is not None:
            self.longest_seconds, self._since = max(self.longest_seconds, now - self._since), None


def read(pod: Object) -> Request:
    """The request that the pod's command names, as the entry point fetches it."""
    return fetch(pod["spec"]["containers"][0]["command"][-1])


def made(site: Site) -> list[str]:
    """Names of the jobs that were created, in order."""
    calls = [call for call in site.server.calls if call.verb == "create" and call.kind.plural == "pytorchjobs"]
    return [call.body["metadata"]["name"] for call in calls]


def left_in_store(site: Site) -> list[str]:
    root = Path(site.store.root) / "scratch"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def trains(
    site: Site, *, until: float = 20, writes: Callable[[Request], None] | None = None
) -> Callable[[Object, int], Life]:
    """Workers that end well after `until` seconds; rank 0 writes the model of its request's attempt, and `writes` before."""

    def act(nodes: Any, pod: Object) -> None:
        request = read(pod)
        payloads.finished(
            site.store.root, attempt=request.attempt, kind="model", output="trained", step="train/train", rows=None
        )
        leave(request, None)

    def life(job: Object, index: int) -> Life:
        if index:
            return [(1, schedule), (2, start), (until - 1, finish(0))]
        early: Action = lambda nodes, pod: writes(read(pod)) if writes else None
        return [(1, schedule), (2, start), (5, early), (until, act), (until + 1, finish(0))]

    return life
