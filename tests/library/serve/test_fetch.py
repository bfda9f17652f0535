"""What a server in a pod does first: fetch its Model from the store, and refuse whatever is not that Model."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contracts.payloads import manifest_for
from tests.library.serve.tiny_model import write_tiny_model
from tutelage.contracts import store
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.models import model_digest
from tutelage.errors import CorruptPayload, InvalidInput
from tutelage.serve.server import soundness


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("store") / "model" / "key" / "1"
    write_tiny_model(folder)
    made = manifest_for(str(folder), "key", "1", kind="model", output="trained", content_digest=model_digest(folder))
    return store.finish(made)


def test_the_model_is_fetched_whole_and_its_digest_given(released, tmp_path):
    assert soundness(tmp_path / "model", released.uri, released.content_digest) == released.content_digest
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(item.path for item in released.files)


def test_another_model_than_the_released_one_is_refused(released, tmp_path):
    with pytest.raises(InvalidInput, match="expected ffffffffffff"):
        soundness(tmp_path / "model", released.uri, "f" * 64)


def test_a_file_that_differs_from_the_manifest_is_refused(released, tmp_path):
    copied = tmp_path / "store" / "model" / "key" / "1"
    shutil.copytree(Path(released.location), copied)
    with (copied / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(CorruptPayload, match=r"config\.json"):
        soundness(tmp_path / "model", str(copied / "manifest.json"), released.content_digest)


def test_a_pickle_is_refused_though_a_manifest_lists_it(tmp_path):
    folder = tmp_path / "store"
    write_tiny_model(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    made = store.finish(manifest_for(str(folder), "key", "1", kind="model", output="trained"))
    with pytest.raises(InvalidInput, match="pytorch_model"):
        soundness(tmp_path / "model", made.uri, None)


def test_a_manifest_of_something_else_is_refused(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "rows.parquet").write_bytes(b"rows")
    made = store.finish(manifest_for(str(folder), "key", "1"))
    with pytest.raises(InvalidInput, match="describes a documents"):
        soundness(tmp_path / "model", made.uri, None)


def test_the_server_answers_as_in_a_pod(released, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tutelage.serve.server",
        "--manifest",
        released.uri,
        "--digest",
        released.content_digest,
    ]
    command += ["--model", str(tmp_path / "model"), "--name", "tiny", "--threads", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert ask(port, process) == {"ready": True}
    finally:
        process.kill()
        process.communicate()


def ask(port: int, process: subprocess.Popen[str]) -> object:
    """What /v2/health/ready says at last."""
    for _ in range(600):
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
        try:
            connection.request("GET", "/v2/health/ready")
            return json.loads(connection.getresponse().read())
        except ConnectionError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise AssertionError("no answer")
