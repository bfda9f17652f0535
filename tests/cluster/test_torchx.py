"""The `kubeflow` scheduler of TorchX: found by name, the same job as the engine's, and TorchX's verbs over HTTP."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import adapters, valid
from tests.cluster.bench import NAMESPACE, Site, prints
from tests.cluster.objects import PYTORCHJOB
from tests.cluster.operators import finish, schedule, start
from tests.cluster.restricted import violations
from tutelage.errors import InvalidInput
from tutelage.runtimes.appdef import ENVIRONMENT
from tutelage.runtimes.kubernetes import pytorchjob
from tutelage.runtimes.kubernetes.torchx_scheduler import BACKEND, KubeflowScheduler

GROUP = "torchx.schedulers"


def appdef(processes: int = 1, **more: Any) -> Any:
    job = adapters.training(adapters.MANY_NEEDS | more)
    return pytorchjob.appdef_for_cluster(
        "train-sft", job.name, job.request, job.image, job.needs, job.settings, processes
    )


def elsewhere() -> Any:
    """An AppDef as TorchX's own component makes it."""
    from torchx.components.dist import torchrun

    return torchrun(
        "--epochs", "1", script="train.py", image="registry.example.com/other:1", j="2x4", cpu=2, gpu=1, memMB=4096
    )


def scheduler(site: Site | None = None) -> KubeflowScheduler:
    settings = adapters.settings_of(adapters.SETTINGS)
    return KubeflowScheduler("tests", settings=settings, api=site.api if site else None)


def test_torchx_finds_it_by_its_name() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    value = project["project"]["entry-points"][GROUP][BACKEND]
    made = EntryPoint(BACKEND, value, GROUP).load()("tests")
    assert isinstance(made, KubeflowScheduler) and made.backend == BACKEND


def test_loading_it_loads_no_kubernetes_client() -> None:
    # TorchX loads every scheduler that it finds, on laptops too.
    program = "import sys, tutelage.runtimes.kubernetes.torchx_scheduler; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_the_engine_and_torchx_render_the_same_job() -> None:
    ours = adapters.training(adapters.MANY_NEEDS).body["spec"]
    theirs = scheduler().submit_dryrun(appdef(), {}).request.body["spec"]
    mine, its = (spec["pytorchReplicaSpecs"]["Worker"] for spec in (ours, theirs))
    (container,), (other,) = (each["template"]["spec"]["containers"] for each in (mine, its))
    assert container["command"] == other["command"]
    assert container["resources"] == other["resources"]
    added = [entry for entry in other["env"] if entry not in container["env"]]
    assert [entry["name"] for entry in added] == ["TORCHX_RANK0_HOST"]
    assert mine["replicas"] == its["replicas"] and ours["nprocPerNode"] == theirs["nprocPerNode"]


def test_laptop_and_cluster_share_ranks_and_environment() -> None:
    (role,) = appdef().roles
    assert ENVIRONMENT.items() <= role.env.items()
    assert role.args[role.args.index("--max-restarts") + 1] == "0"
    assert role.max_retries == 0 and role.num_replicas == 3
    assert role.resource.gpu == 2 and role.resource.devices == {"example.com/fabric": 1}


def test_an_appdef_of_somebody_else_becomes_a_sound_job_too() -> None:
    request = scheduler().submit_dryrun(elsewhere(), {"queue": "theirs"}).request
    assert valid.refused(request.body) == []
    worker = request.body["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert list(violations(worker["template"]["spec"])) == []
    (container,) = worker["template"]["spec"]["containers"]
    assert worker["replicas"] == 2
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4096Mi", "nvidia.com/gpu": "1"}
    hosts = [entry["value"] for entry in container["env"] if entry["name"] == "TORCHX_RANK0_HOST"]
    assert hosts == [f"{request.body['metadata']['name']}-worker-0"]
    assert request.body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "theirs"
    assert "PyTorchJob" in str(request), "torchx run --dryrun shows it"


def test_an_app_of_two_roles_is_refused() -> None:
    app = appdef()
    app.roles.append(app.roles[0])
    with pytest.raises(InvalidInput, match="one role"):
        scheduler().submit_dryrun(app, {})


def test_torchx_starts_describes_lists_reads_and_cancels_a_job(site: Site) -> None:
    from torchx.specs import AppState

    site.train(lambda job, index: [(1, schedule), (2, start), (3, prints("step 1")), (300, finish(0))])
    runs = scheduler(site)
    handle = runs.submit(appdef(), {})
    namespace, _, name = handle.partition(":")
    assert namespace == NAMESPACE
    site.time.sleep(20)
    seen = runs.describe(handle)
    assert seen is not None and seen.state is AppState.RUNNING
    assert [replica.state for replica in seen.roles_statuses[0].replicas] == [AppState.RUNNING] * 3
    assert [(item.app_id, item.state) for item in runs.list({})] == [(handle, AppState.RUNNING)]
    assert [line.rsplit(" ", 2)[1:] for line in runs.log_iter(handle, "worker", k=1)] == [["step", "1\n"]]
    assert list(runs.log_iter(handle, "worker", k=1, regex="step 2")) == []
    runs.cancel(handle)
    site.time.sleep(60)
    assert site.cluster.find(PYTORCHJOB, name, NAMESPACE) is None
    assert runs.describe(handle) is None
    runs.cancel(handle)


def test_a_handle_of_another_scheduler_is_refused(site: Site) -> None:
    with pytest.raises(InvalidInput, match="no job of kubeflow"):
        scheduler(site).describe("name-without-namespace")
