"""The Model that a run starts from: brought in from a source, or initialised from a seed with a tokenizer of its own.

Whatever came in, what goes out is the same: a Hugging Face folder with safetensors, a tokenizer and a chat template. Nothing
is loaded before `refuse_unsafe_files` has seen it, and a model that lacks weights is refused, not filled with random ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tutelage.config import Config
from tutelage.contracts import licences, sources
from tutelage.contracts.models import (
    load_model,
    load_tokenizer,
    model_digest,
    refuse_missing_weights,
    refuse_unsafe_files,
)
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput

LOADED_HOW = ("is_local", "local_files_only")
Progress = Callable[[str], None]


def licence_of(fetched: sources.Fetched, declared: str) -> str:
    """The licence that holds for a fetched source. Raises InvalidInput when `metadata` says nothing clear."""
    if declared != licences.FROM_METADATA:
        return declared
    if fetched.licence is None:
        raise InvalidInput(
            f"{fetched.origin}: no clear licence in its metadata",
            hint="read its licence and write the SPDX expression, or NOASSERTION",
        )
    return fetched.licence


class CorpusPart(Config):
    """Text that the tokenizer is trained on."""

    uri: str
    """A path, file://, s3://, hf://datasets/… or wheel://…"""
    licence: str
    """SPDX expression, `metadata` or NOASSERTION."""
    suffixes: tuple[str, ...] = (".py", ".txt", ".md", ".rst")
    """Endings of the files that are read."""

    _uri = field_validator("uri")(sources.checked_uri)
    _licence = field_validator("licence")(licences.declared)


class Initialise(Config):
    """A model with random weights. Defaults give about three million parameters with the vocabulary of 4,096."""

    architecture: Literal["llama"] = "llama"
    """Model class."""
    hidden_size: int = Field(default=192, ge=8)
    """Width of the residual stream."""
    layers: int = Field(default=4, ge=1)
    """Transformer blocks."""
    attention_heads: int = Field(default=6, ge=1)
    """Query heads; hidden_size is divided among them."""
    key_value_heads: int | None = Field(default=None, ge=1)
    """Key and value heads (grouped-query attention); as many as attention_heads when absent."""
    intermediate_size: int = Field(default=512, ge=8)
    """Width of the feed-forward layers."""
    context_length: int = Field(default=512, ge=16)
    """Longest sequence in tokens."""
    tie_embeddings: bool = True
    """Input and output embeddings are one matrix."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of rotary position embeddings."""
    initial_deviation: float = Field(default=0.02, gt=0)
    """Standard deviation of the first weights."""
    vocabulary_size: int = Field(default=4096, ge=300)
    """Entries of the tokenizer, at most: a small corpus may give fewer."""
    tokenizer_corpus: tuple[CorpusPart, ...] = Field(min_length=1)
    """What the tokenizer is trained on. Every file below counts once, in the order of their paths."""

    @model_validator(mode="after")
    def _divides(self) -> Initialise:
        if self.hidden_size % self.attention_heads or (self.hidden_size // self.attention_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not give {self.attention_heads} attention_heads of even width"
            )
        if self.attention_heads % (self.key_value_heads or self.attention_heads):
            raise ValueError(f"attention_heads {self.attention_heads} is no multiple of key_value_heads")
        return self


class BaseModel(Config):
    """Where the base Model comes from: exactly one of `uri` and `initialise`."""

    uri: str | None = None
    """A folder or GGUF file: a path, file://, s3://, hf://org/model@commit or wheel://package==version/path#sha256=…"""
    initialise: Initialise | None = None
    """Random weights and a tokenizer trained at run time."""
    licence: str
    """SPDX expression of the weights (of your own, where they are initialised), `metadata` or NOASSERTION."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the weights on disk. bfloat16 halves space and transfer; float32 for models of a few million
    parameters, whose small updates bfloat16 would round away between phases."""

    _licence = field_validator("licence")(licences.declared)

    @field_validator("uri")
    @classmethod
    def _uri_can_be_parsed(cls, uri: str | None) -> str | None:
        return None if uri is None else sources.checked_uri(uri)

    @model_validator(mode="after")
    def _exactly_one(self) -> BaseModel:
        if (self.uri is None) == (self.initialise is None):
            raise ValueError("takes exactly one of uri and initialise")
        if self.initialise is not None and self.licence == licences.FROM_METADATA:
            raise ValueError("licence `metadata` needs a uri; say under which licence your own weights stand")
        return self


def bring_in(config: BaseModel, seed: int, cache: Path, folder: Path, progress: Progress) -> Result:
    """Write the base Model into `folder` and say what it is. Raises InvalidInput."""
    if config.initialise is not None:
        from tutelage.plan.initialise import initialise

        licence, details = config.licence, initialise(config.initialise, config.dtype, seed, cache, folder, progress)
    else:
        licence, details = _fetch(config, cache, folder, progress)
    refuse_unsafe_files(folder)
    return Result(
        content_digest=model_digest(folder),
        licences={licence: 1},
        details={"objective": None, "stopped": None, "dtype": config.dtype, **details},
    )


def _fetch(config: BaseModel, cache: Path, folder: Path, progress: Progress) -> tuple[str, dict[str, Any]]:
    assert config.uri is not None
    progress(f"fetching {config.uri}")
    fetched = sources.fetch(config.uri, cache)
    licence = licence_of(fetched, config.licence)
    progress("loading")
    gguf = require_loadable(fetched.path, config.uri)
    try:
        model, tokenizer = _load_gguf(gguf, config.dtype) if gguf else _load_folder(fetched.path, config.dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        # Anything a foreign model can be wrong in: no tokenizer, an unknown class, shapes that do not fit.
        raise InvalidInput(f"{config.uri}: transformers cannot load it: {error}", hint="try it by hand") from error
    progress("writing")
    return licence, {"origin": config.uri, "origin_digest": fetched.digest, **save(model, tokenizer, folder)}


def require_loadable(path: Path, uri: str) -> Path | None:
    """The one GGUF file of a fetched model, or None for a folder with safetensors. Raises InvalidInput for anything else."""
    folder = path if path.is_dir() else None
    if folder is not None:
        refuse_unsafe_files(folder)
        if any(folder.glob("*.safetensors")) and (folder / "config.json").is_file():
            return None
    candidates = sorted(folder.rglob("*.gguf")) if folder is not None else [path]
    files = [file for file in candidates if _is_gguf(file)]
    if len(files) == 1:
        return files[0]
    if files:
        raise InvalidInput(f"several GGUF files: {', '.join(file.name for file in files)}", hint="end the uri with one")
    raise InvalidInput(
        f"{uri}: no config.json with safetensors, and no GGUF file",
        hint="convert it with save_pretrained() where you can afford to unpickle it",
    )


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _load_folder(folder: Path, dtype: str) -> tuple[Any, Any]:
    return load_model(folder, dtype), load_tokenizer(folder)


def _load_gguf(file: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, dequantised. GGUF holds numbers and strings only: nothing in it is run."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        dtype=getattr(torch, dtype),
        # Without GgufConfig the model counts as quantised and save_pretrained refuses it.
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        **options,
    )
    model, report = loaded
    refuse_missing_weights(report)
    return model, AutoTokenizer.from_pretrained(str(file.parent), **options)


def save(model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Write model, tokenizer and chat template (ChatML where the model brings none); gives what to say of them."""
    from tutelage.contracts.chat import CHATML

    template = "own"
    if not tokenizer.chat_template:
        tokenizer.chat_template, template = CHATML, "chatml added"
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    # How a tokenizer was loaded is no part of it; left in, the same tokenizer had two digests.
    about = folder / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(about.read_text(encoding="utf-8")).items() if key not in LOADED_HOW}
    about.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600, and steps may run under several accounts
    return {
        "parameters": sum(int(parameter.numel()) for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "chat_template": template,
    }
