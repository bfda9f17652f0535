"""Routes under /openai/v1 in the shape of OpenAI's API, and /tokenize in that of vLLM's.

    curl 127.0.0.1:8080/openai/v1/chat/completions -H 'content-type: application/json' \
        -d '{"model": "model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}'

KServe's own OpenAI routes need vllm, which cannot share our environment. What we do not do (tools, several choices, log
probabilities) is refused with an error that names the field, never ignored.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tutelage.errors import InvalidInput
from tutelage.serve.engine import Engine, Piece, Sampling

DEFAULT_MAXIMUM_TOKENS = 256
MAXIMUM_BODY_BYTES = 1_000_000
Stop = Annotated[str, Field(min_length=1, max_length=100)]


class _Body(BaseModel):
    """Every body names the model, and holds nothing that we do not know."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str


BodyType = TypeVar("BodyType", bound=_Body)


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["system", "user", "assistant"]
    content: str


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class _Request(_Body):
    """What both kinds of completion take. Fields with a single accepted value are those clients send without meaning them."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Literal[1] = 1
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0

    def sampling(self, room: int) -> Sampling:
        """How the answer is made, where `room` tokens are left. Raises InvalidInput when more are asked for."""
        asked = self.max_tokens
        if asked is not None and asked > room:
            raise InvalidInput(f"max_tokens is {asked}, and only {room} tokens are left behind the prompt")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            maximum_tokens=asked if asked is not None else min(room, DEFAULT_MAXIMUM_TOKENS),
            temperature=self.temperature, top_p=self.top_p, seed=self.seed or 0, stop=stop,
        )  # fmt: skip


class ChatRequest(_Request):
    """Body of /openai/v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] = False

    def sampling(self, room: int) -> Sampling:
        """As for any completion; `max_completion_tokens` is the newer word for `max_tokens`."""
        newer = self.max_completion_tokens
        return super(ChatRequest, self.model_copy(update={"max_tokens": newer} if newer else {})).sampling(room)


class CompletionRequest(_Request):
    """Body of /openai/v1/completions."""

    prompt: str
    echo: Literal[False] = False
    logprobs: None = None


class TokenizeRequest(_Body):
    """Body of /tokenize: a conversation or plain text."""

    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    prompt: str | None = None


class _Refused(Exception):
    """A request that cannot be served, as it is told to the client."""

    def __init__(self, status: int, message: str, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error"
        body = {"error": {"message": message, "type": kind, "param": field, "code": code}}
        self.response = JSONResponse(body, status_code=status)


def routes(engine: Engine, name: str, digest: str) -> APIRouter:
    """The routes, answering as model `name`."""
    served = _Served(engine, name, digest)
    router = APIRouter()
    for path, endpoint in (
        ("/openai/v1/chat/completions", served.chat),
        ("/openai/v1/completions", served.complete),
        ("/tokenize", served.tokenize),
    ):
        router.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    router.add_api_route("/openai/v1/models", served.models, methods=["GET"], response_model=None)
    return router


class _Served:
    """One model behind the routes."""

    def __init__(self, engine: Engine, name: str, digest: str) -> None:
        self.engine, self.name, self.digest = engine, name, digest

    async def chat(self, request: Request) -> Response:
        return await self._answered(request, ChatRequest, self._chat)

    async def complete(self, request: Request) -> Response:
        return await self._answered(request, CompletionRequest, self._complete)

    async def tokenize(self, request: Request) -> Response:
        return await self._answered(request, TokenizeRequest, self._tokenize)

    async def models(self) -> dict[str, Any]:
        # `root` is where vLLM too says which weights stand behind a name.
        entry = {"id": self.name, "object": "model", "created": 0, "owned_by": "tutelage", "root": self.digest}
        return {"object": "list", "data": [{**entry, "max_model_len": self.engine.window}]}

    async def _answered(
        self, request: Request, kind: type[BodyType], answer: Callable[[BodyType], Response]
    ) -> Response:
        try:
            body = await _parsed(request, kind)
            if body.model != self.name:
                message = f"model {body.model[:80]!r} does not exist; served: {self.name!r}"
                raise _Refused(404, message, "model", "model_not_found")
            return await run_in_threadpool(answer, body)
        except _Refused as refused:
            return refused.response
        except InvalidInput as error:
            return _Refused(400, error.message).response

    def _chat(self, body: ChatRequest) -> Response:
        ids = self.engine.chat_ids([message.model_dump() for message in body.messages])
        return _completion(self.engine, ids, body, self.name, chat=True)

    def _complete(self, body: CompletionRequest) -> Response:
        return _completion(self.engine, self.engine.text_ids(body.prompt), body, self.name, chat=False)

    def _tokenize(self, body: TokenizeRequest) -> Response:
        if (body.messages is None) == (body.prompt is None):
            raise _Refused(400, "give messages or prompt, and not both", "messages")
        conversation = [message.model_dump() for message in body.messages or []]
        ids = self.engine.chat_ids(conversation) if conversation else self.engine.text_ids(body.prompt or "")
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": self.engine.window})


async def _parsed(request: Request, kind: type[BodyType]) -> BodyType:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAXIMUM_BODY_BYTES:
            raise _Refused(413, f"the request is longer than {MAXIMUM_BODY_BYTES:,} bytes")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        message = f"{field}: {first['msg']}" if field else first["msg"]
        raise _Refused(400, message[0].lower() + message[1:], field) from error


def _completion(engine: Engine, ids: Sequence[int], body: _Request, name: str, *, chat: bool) -> Response:
    sampling = body.sampling(engine.room(ids))
    frame = _Frame(name, chat)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = frame.events(engine.stream(ids, sampling), len(ids), usage=usage)
        return StreamingResponse(events, media_type="text/event-stream")
    return JSONResponse(frame.whole(engine.answer(ids, sampling), len(ids)))


class _Frame:
    """What stands around the text in a response: id, object, model, choices, usage."""

    def __init__(self, name: str, chat: bool) -> None:
        self.chat = chat
        self.id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        self.name, self.created = name, int(time.time())

    def whole(self, piece: Piece, prompt_tokens: int) -> dict[str, Any]:
        """The response to a request without `stream`."""
        said = {"message": {"role": "assistant", "content": piece.text}} if self.chat else {"text": piece.text}
        choice = {"index": 0, **said, "finish_reason": piece.finish_reason, "logprobs": None}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": _usage(prompt_tokens, piece.tokens)}

    def events(self, pieces: Iterator[Piece], prompt_tokens: int, *, usage: bool) -> Iterator[str]:
        """Server-sent events, ended by [DONE]."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        tokens = 0
        if self.chat:
            yield self._event(
                kind, [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
            )
        for piece in pieces:
            tokens = piece.tokens
            if piece.text or piece.finish_reason:
                said = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
                yield self._event(kind, [{"index": 0, **said, "finish_reason": piece.finish_reason}])
        if usage:
            yield self._event(kind, [], usage=_usage(prompt_tokens, tokens))
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name}

    def _event(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**self._head(kind), 'choices': choices, **more}, ensure_ascii=False)}\n\n"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
