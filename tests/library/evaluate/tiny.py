"""A Llama of a few hundred thousand random weights with a byte-level BPE of its own, and rows and items to measure it on.

Weights are drawn wider than usual, so that log-probabilities differ between tokens as a trained model's do.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.contracts import locations, store, tables
from tutelage.contracts.chat import CHATML
from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.models import model_digest

#: Paragraphs of the Python language reference, which every interpreter carries.
PARAGRAPHS = [
    " ".join(paragraph.split())
    for topic in sorted(pydoc_data.topics.topics)
    for paragraph in pydoc_data.topics.topics[topic].split("\n\n")
    if len(paragraph) > 120
]


def tiny_tokenizer(vocabulary: int = 512, texts: Sequence[str] = PARAGRAPHS[:200]) -> Any:
    """A byte-level BPE with ChatML's marks and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=marks,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    return fast


def tiny_model(vocabulary: int, *, seed: int = 0, hidden: int = 64, layers: int = 2, positions: int = 512) -> Any:
    """A Llama with random weights, ready to be evaluated."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions, initializer_range=0.15,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save_model(folder: Path, model: Any, tokenizer: Any) -> Manifest:
    """A finished Model payload in `folder`."""
    folder.mkdir(parents=True)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return finished("model", folder, model_digest(folder))


def save_table(folder: Path, kind: str, name: str, rows: Sequence[Mapping[str, Any]], schema: Any) -> Manifest:
    """A finished payload of one table in `folder`."""
    digest = tables.write(rows, str(folder), name, schema).hexdigest()
    return finished(kind, folder, digest)


def finished(kind: str, folder: Path, content_digest: str) -> Manifest:
    """The manifest of the payload in `folder`, written."""
    where = locations.normalise(str(folder))
    manifest = Manifest(
        kind=kind, location=where, content_digest=content_digest, files=store.payload_files(where), step="test/test",
        step_key=digest_of(where)[:32], attempt="test", config={}, seed=None, code_version="test", inputs={},
        input_manifests={}, run="test", output=kind,
    )  # fmt: skip
    return store.finish(manifest)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def heldout_row(phase: str, identifier: str, **content: Any) -> dict[str, Any]:
    """A held-out row; `content` is text, messages, or prompt, chosen and rejected."""
    empty = dict.fromkeys(("text", "messages", "prompt", "chosen", "rejected", "language"))
    provenance = {"source": "test", "licence": "PSF-2.0", "group": identifier, "metadata": "{}", "split": "heldout"}
    return {**empty, **provenance, "id": identifier, "phase": phase, **content}


def heldout_rows_of(number: int, words: int = 60) -> list[dict[str, Any]]:
    """`number` rows for each phase, of at most `words` words a text."""
    texts = [" ".join(text.split()[:words]) for text in PARAGRAPHS]
    rows = []
    for index in range(number):
        first, second, third = texts[index], texts[index + number], texts[index + 2 * number]
        question = [turn("user", f"Explain: {first[:80]}")]
        rows.append(heldout_row("pretrain", f"p{index:04d}", text=first))
        rows.append(heldout_row("sft", f"s{index:04d}", messages=[*question, turn("assistant", second)]))
        pair = {"chosen": [turn("assistant", second)], "rejected": [turn("assistant", third[: 40 + index])]}
        rows.append(heldout_row("dpo", f"d{index:04d}", prompt=question, **pair))
    return rows


def suite_items(questions: int, prompts: int) -> list[dict[str, Any]]:
    """`questions` multiple-choice items of one task, and `prompts` prompts each to refuse and to answer."""
    fixed = {"source": "test", "licence": "CC0-1.0", "language": "en"}
    items: list[dict[str, Any]] = []
    for index in range(questions):
        choices = [PARAGRAPHS[index + 100 * number][: 10 + 7 * number] for number in (4, 5, 6, 7)]
        prompt = f"{PARAGRAPHS[index][:200]}\nAnswer:"
        items.append({**fixed, "id": f"q{index:03d}", "task": "topics", "type": "multiple_choice", "prompt": prompt,
                      "choices": choices, "answer": index % 4})  # fmt: skip
    for kind in ("harmful", "harmless"):
        for index in range(prompts):
            text = " ".join(PARAGRAPHS[index].split()[: 4 + index % 9])
            items.append({**fixed, "id": f"{kind}{index:03d}", "task": kind, "type": kind, "prompt": f"How about {text}?",
                          "choices": None, "answer": None})  # fmt: skip
    return items
