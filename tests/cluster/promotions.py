"""A stage for promotions: a cluster with KServe over HTTP, a folder of records, and what was said and asked.

stage = Stage(site, folder); stage.serve(OLD)
stage.half(NEW, run="run-2")          # all that a launcher has done that is killed while it waits for the stable name
stage.promote(THIRD, refuse(STABLE))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.cluster import adapters, rollouts
from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.objects import INFERENCESERVICE, POD, Object
from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes import promotion, promotion_records
from tutelage.runtimes.kubernetes.inferenceservice import InferenceService
from tutelage.runtimes.kubernetes.names import Owner
from tutelage.runtimes.kubernetes.promotion import Probe
from tutelage.runtimes.kubernetes.promotion_records import Record
from tutelage.runtimes.kubernetes.readiness import Patience
from tutelage.runtimes.kubernetes.replacing import release_of

OLD, NEW, THIRD = "a" * 64, "b" * 64, "c" * 64
SMOKE = adapters.service().name
STABLE = "tutelage-model"
Lives = Callable[[Object], Any]


class Stage:
    """A cluster with KServe, and what promotion did on it."""

    def __init__(self, site: Site, folder: Path, life: Lives = lambda service: rollouts.SERVES) -> None:
        self.site, self.records = site, str(folder / "records")
        self.kserve = rollouts.StandardMode(site.nodes, INFERENCESERVICE, life=life)
        self.patience = Patience(now=site.time.now, sleep=site.time.sleep, start_seconds=900)
        self.asked: list[tuple[str, list[str]]] = []
        self.told: list[str] = []

    # What is promoted.

    def service(
        self, digest: str, run: str = "run-1", *, owned: bool = True, take_over: bool = False
    ) -> InferenceService:
        made = adapters.service(digest=digest, settings=adapters.SETTINGS | {"deployment": {"take_over": take_over}})
        owner = Owner(name="wf", uid=self.site.workflow["metadata"]["uid"]) if owned else None
        return replace(made, identity=replace(made.identity, run=run, owner=owner))

    def release(self, digest: str) -> str:
        return self.service(digest).promoted().release

    def ask(self, address: str) -> None:
        """A probe: notes whom it asked, and which models stood behind the name at that moment."""
        name = address.removeprefix("http://").split("-predictor.")[0]
        self.asked.append((name, self.behind(name)))

    def deploy(self, digest: str, probe: Probe | None = None, run: str = "run-1") -> str:
        return promotion.deploy(
            self.site.api, self.service(digest, run), probe or self.ask, records=self.records, patience=self.patience,
            tell=self.told.append,
        )  # fmt: skip

    def promote(self, digest: str, probe: Probe | None = None, run: str = "run-1") -> str:
        """The second half of `deploy`: no smoke deployment."""
        return promotion.promote(
            self.site.api, self.service(digest, run), probe or self.ask, records=self.records, patience=self.patience,
            tell=self.told.append,
        )  # fmt: skip

    def serve(self, digest: str, change: Callable[[Object], Any] = lambda body: None) -> Object:
        """What an earlier run promoted long ago."""
        body = self.service(digest, run="run-0").promoted().body
        change(body)
        self.site.cluster.create(INFERENCESERVICE, body, NAMESPACE)
        self.site.time.sleep(60)
        assert self.behind(STABLE) == [digest[:1]]
        return self.stable()

    def half(self, digest: str, run: str = "run-1", *, owned: bool = True) -> None:
        """A process that is killed runs no handler: only its record and what it had put are left."""
        stable, api = self.service(digest, run, owned=owned).promoted(), self.site.api
        found = api.get(stable.resource, STABLE)
        promotion._begin(found, stable, self.records, self.told.append)
        promotion._take_over(api, stable, found, self.patience)
        assert release_of(self.stable()) == stable.release

    def recover(self, run: str = "run-1") -> None:
        """The exit handler's part."""
        for wait in promotion.recover(self.site.api, STABLE, self.records, run=run, tell=self.told.append):
            wait(self.patience)

    # What is there.

    def behind(self, name: str) -> list[str]:
        pods = self.site.cluster.all(POD, NAMESPACE)
        mine = [item for item in pods if item["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == name]
        return sorted({item["spec"]["containers"][0]["args"][3][:1] for item in mine if rollouts.is_ready(item)})

    def stable(self) -> Object:
        found: Object = self.site.cluster.get(INFERENCESERVICE, STABLE, NAMESPACE)
        return found

    def recorded(self) -> list[Record]:
        return promotion_records.read(self.records, self.told.append)[0]

    def left(self) -> list[str]:
        self.site.time.sleep(60)
        return [name for name in self.site.cluster.everything(NAMESPACE) if name.startswith("InferenceService/")]


def written(found: Object) -> Object:
    """What is ours to write of an object."""
    parts = {part: found["metadata"].get(part, {}) for part in ("labels", "annotations")}
    return {"spec": found["spec"], **parts}


def refuse(*names: str) -> Probe:
    """A probe that does not hold at endpoints of these names."""

    def probe(address: str) -> None:
        if any(name in address for name in names):
            raise StepFailed("required probes failed: generate")

    return probe


def crashing(digest: str, *names: str) -> Lives:
    """Pods of this model crash under these names."""

    def life(service: Object) -> Any:
        its = service["spec"]["predictor"]["containers"][0]["args"][3] == digest
        return rollouts.CRASHES if its and service["metadata"]["name"] in names else rollouts.SERVES

    return life
