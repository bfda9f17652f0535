"""Uploading over real HTTP: once is enough, twice is nothing, trouble is outlived or told."""

from __future__ import annotations

import copy
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.access import Accounts, Rule
from tests.cluster.api_server import ApiServer
from tests.cluster.api_server import Fault as ApiFault
from tests.cluster.fake_time import FakeTime
from tests.cluster.kfp_server import Fault, Handler, KfpServer, Refused
from tests.cluster.nodes import Nodes
from tests.cluster.objects import Cluster, Kind
from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate import upload as uploading
from tutelage.orchestrate.kfp_api import KfpApi, KfpError, connect
from tutelage.orchestrate.native import read_compiled
from tutelage.orchestrate.upload import apply, compiled_text, current_commit, upload, upload_text
from tutelage.runtimes.kubernetes.api import Api, ApiError

TEXT = compiled_text("llm_training")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: Any, tmp_path: Path) -> None:
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_COOKIE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as server:
        yield server


def client(server: KfpServer) -> KfpApi:
    """A client whose waits cost nothing."""
    api = KfpApi(server.url, sleep=lambda seconds: None)
    api.healthy()
    return api


def test_a_first_upload_makes_pipeline_and_version_and_a_second_nothing(server: KfpServer) -> None:
    first = upload("llm_training", server.url, commit="a" * 40)
    second = upload("llm_training", server.url, commit="b" * 40)
    assert (first.changed, second.changed) == (True, False)
    assert (first.pipeline_id, first.version_id) == (second.pipeline_id, second.version_id)
    assert first.version == read_compiled(TEXT).version
    assert [version["tags"]["commit"] for version in server.versions.values()] == ["a" * 40]
    assert len(server.pipelines) == 1
    assert server.made("POST", "/pipelines/upload_version") == 1


def test_another_content_is_another_version_of_the_same_pipeline(server: KfpServer) -> None:
    api = client(server)
    texts = [TEXT.replace("defaultValue: 7.0", f"defaultValue: {seed}.0") for seed in range(5)]
    made = [upload_text(api, text, None, None) for text in texts]
    assert len({item.version for item in made}) == len(server.versions) == 5
    assert len(server.pipelines) == 1
    # The server gives pages of two: an old version is found behind the newer ones.
    assert upload_text(api, texts[0], None, None).version_id == made[0].version_id


def holding(server: KfpServer, change: Any) -> None:
    """Change what the server's only version holds, under the name that it has."""
    (version,) = server.versions.values()
    version["pipeline_spec"] = copy.deepcopy(version["pipeline_spec"])
    change(version["pipeline_spec"])


def another_image(spec: dict[str, Any]) -> None:
    executors = spec["pipeline_spec"]["deploymentSpec"]["executors"]
    executors["exec-enforce"]["container"]["image"] = "registry.example.com/other:1"


def another_mount(spec: dict[str, Any]) -> None:
    configs = spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    configs["exec-enforce"].pop("configMapAsVolume")


def another_pipeline(spec: dict[str, Any]) -> None:
    spec["pipeline_spec"]["pipelineInfo"]["name"] = "pipeline/other"


def no_platform(spec: dict[str, Any]) -> None:
    spec.pop("platform_spec")


@pytest.mark.parametrize(
    "change",
    [another_image, another_mount, another_pipeline, no_platform, dict.clear],
    ids=lambda change: change.__name__,
)
def test_another_content_under_the_versions_name_is_refused(server: KfpServer, change: Any) -> None:
    upload("llm_training", server.url)
    holding(server, change)
    with pytest.raises(
        StepFailed, match=f"{read_compiled(TEXT).version} of llm-training is on .* with another content"
    ):
        upload("llm_training", server.url)
    assert len(server.versions) == 1


def test_a_list_without_contents_is_no_proof_of_them(server: KfpServer, monkeypatch: Any) -> None:
    upload("llm_training", server.url)
    whole = KfpApi.versions
    bare = lambda api, pipeline_id: (
        {key: value for key, value in item.items() if key != "pipeline_spec"} for item in whole(api, pipeline_id)
    )
    monkeypatch.setattr(KfpApi, "versions", bare)
    assert not upload("llm_training", server.url).changed
    holding(server, another_image)
    with pytest.raises(StepFailed, match="with another content"):
        upload("llm_training", server.url)


def test_a_pipeline_of_a_namespace_is_known_again(server: KfpServer) -> None:
    server.namespaces = ("team-a",)
    assert upload("llm_training", server.url, namespace="team-a").changed
    assert not upload("llm_training", server.url, namespace="team-a").changed


def test_kfps_own_client_finds_what_was_uploaded(server: KfpServer) -> None:
    made = upload("llm_training", server.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import kfp

        theirs = kfp.Client(host=server.url)
    assert theirs.get_pipeline_id("llm-training") == made.pipeline_id
    versions = theirs.list_pipeline_versions(made.pipeline_id).pipeline_versions
    assert [version.name for version in versions] == [made.version]


def test_two_that_upload_at_once_make_one_version(server: KfpServer) -> None:
    made: list[Any] = []
    threads = [threading.Thread(target=lambda: made.append(upload("llm_training", server.url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 4
    assert len({item.version_id for item in made}) == len(server.versions) == len(server.pipelines) == 1


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_a_server_that_cannot_answer_for_a_while_is_asked_again(server: KfpServer, status: int) -> None:
    api = client(server)
    server.faults.append(Fault(status, times=4))
    assert upload_text(api, TEXT, None, None).changed
    assert len(server.versions) == 1


@pytest.mark.parametrize("status", [0, 504])
def test_a_lost_answer_makes_no_second_version(server: KfpServer, status: int) -> None:
    api = client(server)
    api.create_pipeline({"name": "llm-training", "display_name": "llm-training"})
    server.faults.append(Fault(status, method="POST", after=True))
    made = upload_text(api, TEXT, None, None)
    assert list(server.versions) == [made.version_id]


def test_patience_ends(server: KfpServer) -> None:
    api = client(server)
    times = iter(range(0, 10_000, 10))
    api._now = lambda: float(next(times))
    server.faults.append(Fault(503, times=1000))
    with pytest.raises(KfpError, match="503"):
        upload_text(api, TEXT, None, None)
    assert 3 < len(server.requests) < 30


def test_a_token_comes_from_the_environment_or_a_file_and_is_read_again_when_it_was_rotated(
    server: KfpServer, tmp_path: Path, monkeypatch: Any
) -> None:
    server.token = "right"
    with pytest.raises(KfpError, match="answers 401") as refused:
        connect(server.url)
    assert "KF_PIPELINES_TOKEN" in str(refused.value.hint)
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "right")
    connect(server.url)
    file = tmp_path / "token"
    file.write_text("right\n")
    api = connect(server.url, str(file))
    server.token = "rotated"
    file.write_text("rotated\n")
    assert upload_text(api, TEXT, None, None).changed


def test_nothing_of_a_session_is_written_to_disk(server: KfpServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "authservice_session=secret")
    upload("llm_training", server.url)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


SECRET = "s3cr3t-of-somebody"


@pytest.mark.parametrize("secret", [f"{SECRET}\n{SECRET}", f"{SECRET}\r\nX-Other: 1", f"{SECRET}…", f"{SECRET}\x00"])
@pytest.mark.parametrize("variable", ["KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"])
def test_a_credential_that_no_header_can_carry_is_refused_and_never_shown(
    server: KfpServer, variable: str, secret: str, tmp_path: Path
) -> None:
    # As a command, since what is printed counts: messages, tracebacks and logs.
    environment = {**os.environ, variable: secret.replace("\x00", "\x01"), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", "upload", "llm_training", "--host", server.url, "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert variable in done.stdout and "HTTP header" in done.stdout
    assert SECRET not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert server.requests == []


@pytest.mark.parametrize("content", [b"\xff\xfe" + SECRET.encode(), f"{SECRET}\n{SECRET}\n".encode()])
def test_a_token_file_that_holds_no_token_is_named_and_not_shown(
    server: KfpServer, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=f"token file {file}") as refused:
        connect(server.url, str(file))
    assert SECRET not in str(refused.value) and server.requests == []


def test_white_space_around_a_credential_is_taken_off(server: KfpServer, monkeypatch: Any) -> None:
    server.token = "right"
    monkeypatch.setenv("KF_PIPELINES_TOKEN", " right\r\n")
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "authservice_session=secret\n")
    assert connect(server.url)._headers()["Cookie"] == "authservice_session=secret"


def test_a_server_that_repeats_what_it_was_sent_is_told_without_it(server: KfpServer, monkeypatch: Any) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    server.token = "right"
    monkeypatch.setattr(Handler, "_answer", echo)
    with pytest.raises(KfpError, match="answers 401") as refused:
        connect(server.url)
    assert SECRET not in str(refused.value) and "Bearer …" in str(refused.value)


def echo(handler: Handler, *_: Any) -> Any:
    raise Refused(401, f"not known: {handler.headers['Authorization']}")


def test_a_namespace_is_asked_for_where_the_server_has_several(server: KfpServer) -> None:
    server.namespaces = ("team-a",)
    with pytest.raises(KfpError, match="Namespace is empty"):
        upload("llm_training", server.url)
    with pytest.raises(KfpError, match="not authorized") as refused:
        upload("llm_training", server.url, namespace="team-b")
    assert "right in that namespace" in str(refused.value.hint)
    assert upload("llm_training", server.url, namespace="team-a").changed


def test_an_older_server_refuses_allowed_values_and_takes_a_file_without(server: KfpServer) -> None:
    from tutelage.orchestrate.compile import compile_pipeline
    from tutelage.orchestrate.image_block import Choices

    server.literals = False
    with pytest.raises(KfpError, match='unknown field "literals"'):
        upload("llm_training", server.url)
    text = compile_pipeline("llm_training", Choices(literals=False))
    assert upload_text(client(server), text, None, None).changed


def test_an_unreachable_host_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(KfpError, match="does not answer") as unreachable:
        upload("llm_training", f"http://127.0.0.1:{port}")
    assert "port-forward" in str(unreachable.value.hint)


@pytest.mark.parametrize(
    "host",
    [
        "kubeflow.example.com", "ftp://host", "https://", "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:x",
        "http://host\n.example.com", "http://ho st", "http://höst",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="not an address"):
        upload("llm_training", host)


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInput, match="holds a password") as refused:
        upload("llm_training", "https://someone:hunter2@kubeflow.example.com")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("host", ["ftp://someone:hunter2@host", "http://someone:hunter2@[::1", "someone:hunter2@host"])
def test_no_address_shows_its_password(host: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        upload("llm_training", host)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("end", ["/#/pipelines", "/?state=hunter2"])
def test_the_address_of_a_page_is_refused_without_its_end(end: str) -> None:
    with pytest.raises(InvalidInput, match=r"goes on behind its path, .*'https://kubeflow\.example\.com/'") as refused:
        upload("llm_training", f"https://kubeflow.example.com{end}")
    assert "hunter2" not in str(refused.value)


def test_a_login_page_is_no_answer(server: KfpServer) -> None:
    server.page = "<!doctype html><title>Log in</title>"
    with pytest.raises(KfpError, match="a page, not with data") as login:
        upload("llm_training", server.url)
    assert "KF_PIPELINES_COOKIE" in str(login.value.hint)


def test_a_redirect_to_a_login_is_named_by_its_host_alone(server: KfpServer) -> None:
    server.faults.append(Fault(302))
    with pytest.raises(KfpError, match=r"sends us to dex\.example\.com\n"):
        connect(server.url)


def test_a_certificate_that_nobody_vouches_for_is_refused_and_one_named_is_taken(
    tmp_path: Path, monkeypatch: Any
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    http = HTTPServer(("127.0.0.1", 0), Healthy)
    http.handle_error = lambda *_: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"https://127.0.0.1:{http.server_address[1]}"
    try:
        with pytest.raises(KfpError, match="no trusted connection") as refused:
            connect(url)
        assert "KF_PIPELINES_CA" in str(refused.value.hint)
        monkeypatch.setenv("KF_PIPELINES_CA", str(certificate))
        connect(url)
    finally:
        http.shutdown()
        http.server_close()


def test_a_host_is_needed_and_an_unknown_pipeline_is_told(server: KfpServer) -> None:
    with pytest.raises(InvalidInput, match="no server named"):
        upload("llm_training")
    with pytest.raises(InvalidInput, match="unknown pipeline 'llm-training'"):
        upload("llm-training", server.url)
    assert server.requests == []


def test_ci_says_which_commit_it_is_and_a_changed_work_tree_says_none(tmp_path: Path, monkeypatch: Any) -> None:
    for name in uploading.COMMIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(uploading, "repository_root", lambda: tmp_path)
    assert current_commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "a.yaml").write_text("a")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert current_commit() == head
    (tmp_path / "compiled" / "a.yaml").write_text("b")
    assert current_commit() is None
    monkeypatch.setenv("GITHUB_SHA", "f" * 40)
    assert current_commit() == "f" * 40


PIPELINES = Kind("pipelines.kubeflow.org", "v2beta1", "pipelines", "Pipeline", status=False)
VERSIONS = Kind("pipelines.kubeflow.org", "v2beta1", "pipelineversions", "PipelineVersion")
#: manifests/base/roles/upload.yaml.
UPLOAD_RULES = (
    Rule(("pipelines.kubeflow.org",), ("pipelines", "pipelineversions"), ("create", "get", "list", "update")),
)


class Native:
    """A cluster whose KFP keeps its pipelines as Kubernetes objects."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.cluster = Cluster(self.time, kinds=[PIPELINES, VERSIONS])
        accounts = Accounts()
        accounts.add("right", UPLOAD_RULES)
        accounts.add("reader", (Rule(("pipelines.kubeflow.org",), ("pipelines", "pipelineversions"), ("get",)),))
        self.server = ApiServer(self.cluster, accounts, Nodes(self.cluster))
        self.server.start()

    def connect(self, token: str = "right") -> Api:
        from kubernetes import client

        configuration = client.Configuration(host=self.server.url)
        configuration.api_key["authorization"] = token
        configuration.api_key_prefix["authorization"] = "Bearer"
        return Api(lambda: client.ApiClient(configuration), "team-a", now=self.time.now, sleep=self.time.sleep)

    def objects(self, kind: Kind) -> list[dict[str, Any]]:
        return self.cluster.all(kind, "team-a")


@pytest.fixture
def native() -> Iterator[Native]:
    native = Native()
    yield native
    native.time.close()
    native.server.stop()


def test_native_objects_are_made_once_with_the_commit_that_brought_them(native: Native) -> None:
    first = apply(native.connect(), TEXT, "a" * 40)
    second = apply(native.connect(), TEXT, "b" * 40)
    assert (first.changed, second.changed) == (True, False)
    assert first.version_id == second.version_id
    (version,) = native.objects(VERSIONS)
    assert version["metadata"]["name"] == f"llm-training-{first.version}"
    assert version["metadata"]["annotations"]["tutelage.dev/commit"] == "a" * 40
    assert len(native.objects(PIPELINES)) == 1
    assert native.server.count("update", "pipelineversions") == native.server.count("patch", "pipelineversions") == 0


def test_a_native_version_with_another_content_under_our_name_is_refused(native: Native) -> None:
    apply(native.connect(), TEXT, None)
    (version,) = native.objects(VERSIONS)
    changed = {**version, "spec": {**version["spec"], "pipelineSpec": {"changed": True}}}
    native.cluster.update(VERSIONS, version["metadata"]["name"], "team-a", lambda item: changed)
    with pytest.raises(StepFailed, match="is there with another content"):
        apply(native.connect(), TEXT, None)


def test_a_lost_answer_of_the_api_server_makes_no_second_object(native: Native) -> None:
    native.server.faults.append(ApiFault("lose", verb="create", plural="pipelineversions"))
    assert apply(native.connect(), TEXT, None).changed
    assert len(native.objects(VERSIONS)) == 1


def test_an_account_without_the_right_is_told_so(native: Native) -> None:
    with pytest.raises(ApiError, match="cannot create"):
        apply(native.connect("reader"), TEXT, None)
    assert native.objects(PIPELINES) == []


def test_native_takes_no_host() -> None:
    with pytest.raises(InvalidInput, match="--native takes no --host"):
        upload("llm_training", "http://127.0.0.1:1", native=True)
