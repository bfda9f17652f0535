"""The model as KServe sees it: text in, text out, over the V2 (and V1) inference protocol."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi.concurrency import run_in_threadpool
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput as BadRequest

from tutelage.errors import InvalidInput
from tutelage.serve.engine import Engine, Sampling


class LanguageModel(Model):  # type: ignore[misc]
    """V2: input `text` (BYTES) → output `text`, request parameter `max_tokens`. V1: instances → predictions."""

    def __init__(self, name: str, engine: Engine, maximum_tokens: int) -> None:
        super().__init__(name)
        self._engine, self._maximum_tokens = engine, maximum_tokens
        self.ready = True

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> Any:
        """Greedy continuations of the given texts. Raises kserve's InvalidInput, a 400."""
        if not isinstance(payload, InferRequest):
            texts = payload.get("instances")
            return {"predictions": await run_in_threadpool(self._continued, texts, None)}
        found = [tensor for tensor in payload.inputs if tensor.name == "text"]
        if len(found) != 1 or found[0].datatype != "BYTES":
            raise BadRequest("give one input named 'text' with datatype BYTES")
        texts = [item.decode() if isinstance(item, bytes) else item for item in found[0].data]
        answers = await run_in_threadpool(self._continued, texts, (payload.parameters or {}).get("max_tokens"))
        output = InferOutput(name="text", shape=[len(answers)], datatype="BYTES", data=answers)
        return InferResponse(response_id=payload.id or uuid.uuid4().hex, model_name=self.name, infer_outputs=[output])

    def _continued(self, texts: Any, maximum_tokens: Any) -> list[str]:
        asked = self._maximum_tokens if maximum_tokens is None else maximum_tokens
        if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
            raise BadRequest(f"max_tokens is {asked!r}, accepted: a whole number from 1")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRequest("give a list of texts")
        answers = []
        for text in texts:
            ids = self._engine.text_ids(text)
            try:
                room = self._engine.room(ids)
            except InvalidInput as error:
                raise BadRequest(error.message) from error
            if maximum_tokens is not None and maximum_tokens > room:
                raise BadRequest(f"max_tokens is {maximum_tokens}, and only {room} tokens are left behind the prompt")
            answers.append(self._engine.answer(ids, Sampling(maximum_tokens=min(asked, room))).text)
        return answers
