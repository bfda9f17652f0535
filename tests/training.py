"""Small real inputs for training: a Llama of a few thousand weights with a tokenizer of its own, rows, and KFP artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tutelage.contracts import tables
from tutelage.contracts.chat import CHATML
from tutelage.contracts.manifest import Manifest, read
from tutelage.contracts.models import model_digest
from tutelage.contracts.store import Result, Store, finish, new_attempt, payload_files

SENTENCES = (
    "Return a list of the files in a folder, sorted by name.",
    "Raise ValueError when the argument is not a positive number.",
    "The quick brown fox jumps over the lazy dog and reads the manual.",
    "A generator yields one line after another until the file ends.",
    "Dictionaries keep the order in which their keys were added.",
)


@dataclass
class FakeArtifact:
    """The part of a KFP artifact that launch() uses."""

    path: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        return read(self.path)


def build_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with ChatML marks and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=marks[0], pad_token=marks[0], chat_template=CHATML
    )


def build_model(folder: Path, tokenizer: Any, *, width: int = 32, layers: int = 2, context: int = 256) -> None:
    """A Llama with random weights and its tokenizer, as acquire leaves them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # Threads that wait for each other spin: on a busy machine two are many times slower than one.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def put(runs: Path, kind: str, name: str, result: Result, fill: Any) -> FakeArtifact:
    """A finished payload in the store of `runs` that no step made; `fill(folder)` writes its files."""
    attempt = new_attempt()
    location = Store(str(runs / "store")).attempt(kind, name, attempt)
    Path(location).mkdir(parents=True)
    fill(Path(location))
    manifest = finish(
        Manifest(
            kind=kind, location=location, content_digest=result.content_digest, files=payload_files(location),
            step="tests/put", step_key=name, attempt=attempt, config={}, seed=None, code_version="tests", inputs={},
            input_manifests={}, run="tests", output=name, rows=result.rows, licences=result.licences,
            details=result.details,
        )
    )  # fmt: skip
    return FakeArtifact(manifest.uri)


def put_model(runs: Path, tokenizer: Any, **shape: int) -> FakeArtifact:
    """A base Model in the store."""
    folder = runs / "built"
    build_model(folder, tokenizer, **shape)
    result = Result(content_digest=model_digest(folder), licences={"Apache-2.0": 1}, details={"objective": None})
    return put(
        runs, "model", "base", result, lambda place: [item.rename(place / item.name) for item in folder.iterdir()]
    )


def put_splits(runs: Path, rows: Sequence[Mapping[str, Any]], name: str = "splits") -> FakeArtifact:
    """Splits in the store."""
    written: list[Any] = []
    digest = tables.RowsDigest()
    digest.update(rows)
    result = Result(content_digest=digest.hexdigest(), rows=len(rows))
    return put(
        runs, "splits", name, result,
        lambda place: written.append(tables.write(rows, str(place), "rows", tables.SPLIT_ROWS)),
    )  # fmt: skip


def row(phase: str, split: str = "train", **content: Any) -> dict[str, Any]:
    """One row of Splits."""
    made = {name: content.get(name) for name in ("text", "messages", "prompt", "chosen", "rejected")}
    made |= {
        "phase": phase,
        "source": "tests",
        "licence": "CC0-1.0",
        "group": "tests",
        "language": "en",
        "metadata": "{}",
    }
    return {**made, "id": content.get("id") or tables.row_id(made), "split": split}


def turn(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


def sample_rows(count: int = 12) -> list[dict[str, Any]]:
    """Rows of all phases, `count` each, and one held out for each."""
    rows = []
    for number in range(count + 1):
        split = "train" if number < count else "heldout"
        text = f"{number}: " + " ".join(SENTENCES[(number + step) % len(SENTENCES)] for step in range(1 + number % 3))
        question, answer = f"What is {number} plus one?", f"It is {number + 1}. {SENTENCES[number % len(SENTENCES)]}"
        rows.append(row("pretrain", split, text=text))
        rows.append(row("sft", split, messages=[turn("user", question), turn("assistant", answer)]))
        rows.append(
            row(
                "dpo",
                split,
                prompt=[turn("user", question)],
                chosen=[turn("assistant", answer)],
                rejected=[turn("assistant", "No idea at all.")],
            )
        )
    return rows


def use_runs(runs: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Point launch() at `runs` as its installation."""
    file = runs / "settings.json"
    file.write_text(json.dumps({"runs": str(runs), **settings}))
    monkeypatch.setenv("TUTELAGE_SETTINGS", str(file))
    monkeypatch.delenv("TUTELAGE_RUN_FOLDER", raising=False)
