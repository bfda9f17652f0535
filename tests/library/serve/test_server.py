import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.library.serve.tiny_model import write_tiny_model
from tutelage.contracts.models import model_digest
from tutelage.serve.smoke import Server, masked, served

CHAT = "/openai/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def server(model):
    with served(model, "tiny", threads=1, timeout_seconds=60) as server:
        assert server.get("/v2/health/ready").body == {"ready": True}
        yield server


def chat(server: Server, **fields):
    return server.post(CHAT, {"model": "tiny", "messages": MESSAGES, "max_tokens": 6, **fields})


def test_the_server_listens_on_loopback_alone(server):
    process = psutil.Process(server.process.pid)
    # psutil 6 renamed it.
    connections = (getattr(process, "net_connections", None) or process.connections)("inet")
    assert {connection.laddr.ip for connection in connections} == {"127.0.0.1"}


def test_the_server_sees_neither_credentials_nor_the_home_they_stand_in(model, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with served(model, "tiny", threads=1, timeout_seconds=60) as server:
        seen = psutil.Process(server.process.pid).environ()
        assert "AWS_SECRET_ACCESS_KEY" not in seen and seen["HOME"] != str(Path.home())
        assert list(Path(seen["HOME"]).iterdir()) == []
        assert server.get("/v2/health/ready").body == {"ready": True}
    assert not Path(seen["HOME"]).exists()


def test_models_are_listed_by_name_and_digest(server, model):
    entry = server.get("/openai/v1/models").body["data"][0]
    assert (entry["id"], entry["root"]) == ("tiny", model_digest(model))


def test_kserves_own_protocols_answer(server):
    assert server.get("/v2/models/tiny/ready").body == {"name": "tiny", "ready": True}
    assert server.get("/v2/models/other/ready").status == 404
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["hello", "the cat"]}
    reply = server.post("/v2/models/tiny/infer", {"inputs": [tensor], "parameters": {"max_tokens": 3}})
    assert reply.status == 200 and len(reply.body["outputs"][0]["data"]) == 2
    for body in ({"inputs": [{**tensor, "name": "x"}]}, {"inputs": [tensor], "parameters": {"max_tokens": 9999}}):
        assert server.post("/v2/models/tiny/infer", body).status == 400
    assert len(server.post("/v1/models/tiny:predict", {"instances": ["hello"]}).body["predictions"]) == 1


def test_a_chat_answer_is_greedy_counted_and_repeatable(server):
    first, second = chat(server).body, chat(server).body
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    usage = first["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 6 and first["choices"][0]["finish_reason"] in {"stop", "length"}


def test_the_seed_decides_what_is_drawn(server):
    answers = [chat(server, temperature=2.0, seed=seed).body["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_an_answer_ends_before_a_stop_string(server):
    whole = chat(server, temperature=1.5, seed=5, max_tokens=30).body["choices"][0]["message"]["content"]
    stop = whole[5:7]
    reply = chat(server, temperature=1.5, seed=5, max_tokens=30, stop=[stop]).body["choices"][0]
    assert reply["message"]["content"] == whole[: whole.index(stop)] and reply["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", [None, ["zz"]])
def test_a_stream_says_what_the_whole_answer_says(server, stop):
    fields = {"temperature": 1.5, "seed": 5, "max_tokens": 20, **({"stop": stop} if stop else {})}
    whole = chat(server, **fields).body
    body = {"model": "tiny", "messages": MESSAGES, **fields, "stream": True, "stream_options": {"include_usage": True}}
    events = [event for _, event in server.events(CHAT, body)]
    text = "".join(event["choices"][0]["delta"]["content"] for event in events if event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == whole["usage"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_plain_completions_answer(server):
    reply = server.post("/openai/v1/completions", {"model": "tiny", "prompt": "the cat", "max_tokens": 4})
    assert reply.status == 200 and isinstance(reply.body["choices"][0]["text"], str)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "other"}, 404, "does not exist; served: 'tiny'"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 100000}, 400, "tokens are left behind the prompt"),
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 2}, 400, "n: "),
        ({"tools": []}, 400, "tools"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, 400, "accepted: fewer than 256"),
        ({"messages": [{"role": "user", "content": "x" * 1_100_000}]}, 413, "longer than"),
    ],
)
def test_a_request_that_cannot_be_served_is_told_why(server, change, status, said):
    reply = chat(server, **change)
    assert reply.status == status
    assert said in reply.body["error"]["message"] and reply.body["error"]["type"] == "invalid_request_error"


def test_requests_side_by_side_get_the_answers_they_get_alone(server):
    from concurrent.futures import ThreadPoolExecutor

    def ask(seed: int) -> str:
        return chat(server, temperature=1.0, seed=seed, max_tokens=12).body["choices"][0]["message"]["content"]

    alone = [ask(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone


def test_the_server_dies_with_a_parent_that_is_killed(model):
    code = (
        "import sys, time; from pathlib import Path; from tutelage.serve.smoke import served\n"
        f"with served(Path({str(model)!r}), 'tiny', threads=1, timeout_seconds=60) as server:\n"
        "    print(server.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    child.wait(timeout=10)


def test_what_a_server_wrote_is_shown_without_addresses_and_secrets():
    text = masked("mail a.b@c.org key hf_abcdefghijklmnop at https://user:word@host/x token=abc123 done")
    assert text == "mail [e-mail] key [masked] at https://[credentials]@host/x token=[masked] done"


def test_deploying_loads_neither_torch_nor_kserve_into_the_step():
    code = (
        "import sys, json; from tutelage.step import load; load('serve/deploy'); import tutelage.serve.smoke;"
        "print(json.dumps([name for name in ('torch', 'kserve', 'transformers', 'kfp') if name in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == []
