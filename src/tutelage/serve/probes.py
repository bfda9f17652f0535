"""What a deployed model must answer before anybody may use it: one probe for each promise of the endpoint.

Results hold figures and verdicts on answers, never a prompt or an answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import Field

from tutelage.config import Config
from tutelage.contracts.refusals import is_refusal
from tutelage.serve.smoke import Server

ProbeName = Literal[
    "server_ready", "model_ready", "v2_infer", "openai_models", "openai_chat", "token_ids", "refusal", "latency"
]
REQUIRED: tuple[ProbeName, ...] = (
    "server_ready", "model_ready", "v2_infer", "openai_models", "openai_chat", "token_ids", "latency",
)  # fmt: skip
CHAT = [{"role": "user", "content": "Say hello."}]
OK = 200


class Probes(Config):
    """The run's policy.deployment."""

    required: tuple[ProbeName, ...] = REQUIRED
    """Probes that must pass; the others are run and reported."""
    requests: int = Field(default=5, ge=1, le=1000)
    """Requests whose latency is measured, one after another."""
    maximum_new_tokens: int = Field(default=8, ge=1, le=1024)
    """Tokens asked for in each request."""
    maximum_p95_seconds: float | None = Field(default=None, gt=0)
    """Longest 95th percentile of latency that passes; measured and reported only when absent."""
    harmful_prompts: int = Field(default=2, ge=0, le=100)
    """Harmful prompts of the suite, first by id, that the refusal probe asks."""
    startup_timeout_seconds: float = Field(default=180.0, gt=0)
    """Longest time until the server is ready."""
    request_timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest time until a request is answered."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of the server."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one probe found."""

    name: str
    passed: bool
    why: str
    figures: Mapping[str, float | str | bool] = field(default_factory=dict)
    """Equal in equal deployments."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Seconds; outside every digest."""

    def values(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A server, and what is known of the model it should be serving."""

    server: Server
    name: str
    digest: str
    chat_probe: Mapping[str, Any] | None
    """Conversation and token ids as training saw them."""
    harmful: Sequence[Mapping[str, Any]]
    """Suite items, sorted by id."""
    probes: Probes

    def chat(self, messages: Sequence[Mapping[str, str]], **more: Any) -> dict[str, Any]:
        """Body of a chat request."""
        limits = {"max_tokens": self.probes.maximum_new_tokens, "temperature": 0}
        return {"model": self.name, "messages": list(messages), **limits, **more}


def run_probes(deployed: Deployed, progress: Callable[[int, int], None]) -> list[Probe]:
    """Every probe in order. Raises StepFailed when the server stops answering at all."""
    found = []
    for index, probe in enumerate(PROBES):
        found.append(probe(deployed))
        progress(index + 1, len(PROBES))
    return found


def _server_ready(deployed: Deployed) -> Probe:
    reply = deployed.server.get("/v2/health/ready", deployed.probes.startup_timeout_seconds)
    passed = reply.status == OK and reply.body == {"ready": True}
    measured = {"startup_seconds": round(reply.seconds, 3)}
    return Probe(name="server_ready", passed=passed, why=_said(passed, reply.status), measured=measured)


def _model_ready(deployed: Deployed) -> Probe:
    reply = deployed.server.get(f"/v2/models/{deployed.name}/ready")
    passed = reply.status == OK and _at(reply.body, "ready") is True
    return Probe(name="model_ready", passed=passed, why=_said(passed, reply.status))


def _v2_infer(deployed: Deployed) -> Probe:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Hello"]}
    body = {"id": "probe", "inputs": [tensor], "parameters": {"max_tokens": deployed.probes.maximum_new_tokens}}
    reply = deployed.server.post(f"/v2/models/{deployed.name}/infer", body)
    data = _at(reply.body, "outputs", 0, "data")
    passed = reply.status == OK and isinstance(data, list) and len(data) == 1 and isinstance(data[0], str)
    return Probe(name="v2_infer", passed=passed, why=_said(passed, reply.status))


def _openai_models(deployed: Deployed) -> Probe:
    reply = deployed.server.get("/openai/v1/models")
    entries = _at(reply.body, "data") or []
    served = {_at(entry, "id"): _at(entry, "root") for entry in entries} if isinstance(entries, list) else {}
    passed = reply.status == OK and served == {deployed.name: deployed.digest}
    why = "the approved model is served, by digest" if passed else f"another model is served, status {reply.status}"
    return Probe(name="openai_models", passed=passed, why=why)


def _openai_chat(deployed: Deployed) -> Probe:
    replies = [deployed.server.post("/openai/v1/chat/completions", deployed.chat(CHAT)) for _ in range(2)]
    answers = [_at(reply.body, "choices", 0, "message", "content") for reply in replies]
    usage = _at(replies[0].body, "usage") or {}
    counted = usage.get("total_tokens") == usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
    answered = all(reply.status == OK for reply in replies) and isinstance(answers[0], str) and counted
    passed = answered and answers[0] == answers[1]
    why = _said(passed, replies[0].status) if passed or not answered else "two equal greedy requests gave two answers"
    return Probe(name="openai_chat", passed=passed, why=why)


def _token_ids(deployed: Deployed) -> Probe:
    if not deployed.chat_probe:
        why = "the model carries no chat_probe, so nobody knows how it was trained to read a conversation"
        return Probe(name="token_ids", passed=False, why=why)
    body = {"model": deployed.name, "messages": deployed.chat_probe["messages"]}
    reply = deployed.server.post("/tokenize", body)
    found, expected = _at(reply.body, "tokens"), list(deployed.chat_probe["token_ids"])
    passed = reply.status == OK and found == expected
    why = (
        f"{len(expected)} token ids equal those of training"
        if passed
        else "a conversation becomes other token ids than in training"
    )
    return Probe(name="token_ids", passed=passed, why=why)


def _refusal(deployed: Deployed) -> Probe:
    items = deployed.harmful[: deployed.probes.harmful_prompts]
    if not items:
        return Probe(name="refusal", passed=False, why="the suite holds no harmful prompt to ask")
    refused = {}
    for item in items:
        body = deployed.chat([{"role": "user", "content": item["prompt"]}])
        answer = _at(deployed.server.post("/openai/v1/chat/completions", body).body, "choices", 0, "message", "content")
        refused[str(item["id"])] = isinstance(answer, str) and is_refusal(answer)
    count = sum(refused.values())
    why = f"{count} of {len(refused)} harmful prompts were refused"
    return Probe(name="refusal", passed=count == len(refused), why=why, figures=refused)


def _latency(deployed: Deployed) -> Probe:
    firsts, totals = [], []
    for _ in range(deployed.probes.requests):
        body = deployed.chat(CHAT, stream=True)
        times = [seconds for seconds, _ in deployed.server.events("/openai/v1/chat/completions", body)]
        # The first event says who speaks; the next is the first that came out of the model.
        firsts.append(times[min(1, len(times) - 1)])
        totals.append(times[-1])
    p95 = _quantile(totals, 0.95)
    bound = deployed.probes.maximum_p95_seconds
    passed = bound is None or p95 <= bound
    why = "measured" if bound is None else f"the 95th percentile is {'within' if passed else 'above'} {bound:g} s"
    measured = {
        "p50_seconds": round(statistics.median(totals), 4),
        "p95_seconds": round(p95, 4),
        "first_token_p50_seconds": round(statistics.median(firsts), 4),
    }
    return Probe(name="latency", passed=passed, why=why, measured=measured)


def _quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: a value that was really seen."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _said(passed: bool, status: int) -> str:
    return "answered as it should" if passed else f"answered otherwise than it should, status {status}"


def _at(value: Any, *path: str | int) -> Any:
    """What stands at `path` in a JSON value, None where there is nothing."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


PROBES: tuple[Callable[[Deployed], Probe], ...] = (
    _server_ready, _model_ready, _v2_infer, _openai_models, _openai_chat, _token_ids, _refusal, _latency,
)  # fmt: skip
