"""Fixtures of the tests against a cluster: a fake one, and a real control plane where its binaries are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import control_plane, schemas
from tests.cluster.bench import Site
from tests.cluster.control_plane import ControlPlane
from tests.cluster.real_site import RealSite, install_crds


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A cluster with a server, a store and a client; jobs go to no queue."""
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def queued_site(tmp_path: Path) -> Iterator[Site]:
    """The same, with jobs that a queue must admit."""
    site = Site(tmp_path, queue="team")
    yield site
    site.close()


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane with the official definitions of our kinds. Skips where binaries or definitions are missing."""
    binaries = control_plane.assets()
    if binaries is None:
        pytest.skip(f"no control plane: {control_plane.VARIABLE} names no folder with etcd and kube-apiserver")
    if schemas.folder() is None:
        pytest.skip(f"no official definitions: set {schemas.VARIABLE} to the folder that holds them")
    plane = ControlPlane(binaries, tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        install_crds(plane, "PyTorchJob", "SparkApplication", "InferenceService", "Workflow")
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def real_site(plane: ControlPlane, tmp_path: Path) -> Iterator[RealSite]:
    """A namespace of the real control plane, a store and a client as the run's account."""
    site = RealSite(plane, tmp_path)
    yield site
    site.close()
