import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from tutelage.contracts.models import end_token_ids, model_digest

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float16)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"rope_theta": 1, "transformers_version": "5.0"}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_shards_and_the_writers_version_do_not_change_a_models_digest(model):
    digest = model_digest(model)
    (model / "model.safetensors").unlink()
    for index, (name, tensor) in enumerate(TENSORS.items()):
        save_file({name: tensor}, model / f"model-{index}.safetensors")
    (model / "config.json").write_text(json.dumps({"transformers_version": "6.0", "rope_theta": 1}, indent=4))
    (model / "README.md").write_text("words")
    assert model_digest(model) == digest


@pytest.mark.parametrize("change", ["tensor", "shape", "configuration", "tokenizer", "hidden tensor"])
def test_what_a_model_does_is_in_its_digest(model, change):
    digest = model_digest(model)
    if change == "tensor":
        save_file({**TENSORS, "b": np.zeros(4, dtype=np.float16)}, model / "model.safetensors")
    elif change == "shape":
        save_file({**TENSORS, "a": TENSORS["a"].reshape(3, 2)}, model / "model.safetensors")
    elif change == "configuration":
        (model / "config.json").write_text(json.dumps({"rope_theta": 2, "transformers_version": "5.0"}))
    elif change == "tokenizer":
        (model / "tokenizer.json").write_text('{"a": 1}')
    else:
        (model / "inner").mkdir()
        save_file(TENSORS, model / "inner" / "model.safetensors")
    assert model_digest(model) != digest


def test_torch_writes_and_we_read_the_same_digest_without_torch(model):
    code = (
        "import sys; from pathlib import Path; from tutelage.contracts.models import model_digest;"
        f"print(model_digest(Path({str(model)!r})), 'torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [model_digest(model), "False"]


@pytest.mark.parametrize(("configured", "ends"), [(None, {0, 2}), (5, {0, 2, 5}), ([5, 6], {0, 2, 5, 6}), (0, {0, 2})])
def test_generation_stops_at_every_end_that_configuration_tokenizer_and_chat_name(configured, ends):
    from tokenizers import Tokenizer, models
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    words = {"<|endoftext|>": 0, "a": 1, "<|im_end|>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")), eos_token="<|endoftext|>"
    )
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=configured))
    assert end_token_ids(model, tokenizer) == ends
