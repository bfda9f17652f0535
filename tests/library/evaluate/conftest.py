"""The tiny model that evaluation is tested on, made once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.library.evaluate.tiny import tiny_model, tiny_tokenizer
from tutelage.evaluate.examine import threads
from tutelage.evaluate.likelihood import Examinee


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    return tiny_model(len(tokenizer))


@pytest.fixture
def examinee(model: Any, tokenizer: Any) -> Examinee:
    return Examinee(model, tokenizer, window=256, batch_tokens=1024)
