"""A Model on disk: a Hugging Face directory with safetensors only, tokenizer and chat template inside.

Loaded here and nowhere else, so that one place refuses pickle and remote code for training, evaluation and serving alike.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zipfile
from pathlib import Path
from typing import Any

from tutelage.contracts.digests import digest_of, files_digest
from tutelage.errors import InvalidInput

#: Endings of files that are pickles, or that loaders unpickle.
PICKLE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".msgpack", ".npy", ".npz"}
)
#: What decides how the tensors are used: another rope_theta or end token is another model.
CONFIGURATION_FILES = ("config.json", "generation_config.json")
#: Keys of those files that say who wrote them, not what the model does.
WRITERS_MARKS = frozenset({"transformers_version", "_name_or_path", "_from_model_config"})
#: safetensors dtype → torch's name for it.
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
#: End of a turn in ChatML, for models whose configuration names another end token.
CHATML_END = "<|im_end|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def refuse_unsafe_files(folder: Path) -> None:
    """Raise InvalidInput when a model folder holds pickle weights or code, whatever the files are called."""
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in PICKLE_SUFFIXES or _is_pickle(path):
            raise InvalidInput(
                f"base model holds pickle weights: {name}",
                hint="unpickling runs code; convert to safetensors with save_pretrained() on a machine you can lose",
            )
        if path.suffix.lower() == ".py":
            raise InvalidInput(
                f"base model holds code: {name}", hint="models that need trust_remote_code are not loaded"
            )
    config = folder / "config.json"
    if config.is_file() and "auto_map" in json.loads(config.read_text()):
        raise InvalidInput(
            "config.json asks for remote code (auto_map)", hint="use a model class that transformers has"
        )


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    # PROTO opcode of protocols 2 to 5, or a zip archive (torch.save) that holds a data.pkl.
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if head == b"PK\x03\x04" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return False


def model_digest(folder: Path) -> str:
    """Content digest of a model: its tensors by name, dtype, shape and bytes, its configuration, tokenizer and template.

    How tensors are spread over files, which library version wrote them, and what else stands in the folder, does not matter.
    Files are read without torch, since gates ask for this digest and must answer fast.
    """
    parts: list[tuple[str, str]] = []
    for file in sorted(folder.rglob("*.safetensors")):
        parts.extend(_tensor_digests(file))
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            parts.append((f"file:{name}", hashlib.sha256((folder / name).read_bytes()).hexdigest()))
    for name in CONFIGURATION_FILES:
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text())
            parts.append((f"file:{name}", digest_of({key: values[key] for key in values if key not in WRITERS_MARKS})))
    return files_digest(parts)


def _tensor_digests(file: Path) -> list[tuple[str, str]]:
    """(tensor:name, sha256 over dtype, shape and bytes) of every tensor in a safetensors file."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        parts = []
        for name, entry in sorted(header.items()):
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            dtype = TORCH_NAMES.get(entry["dtype"], entry["dtype"])
            digest = hashlib.sha256(f"torch.{dtype}{tuple(entry['shape'])}".encode())
            with memoryview(data) as view, view[begin:end] as tensor:
                digest.update(tensor)
            parts.append((f"tensor:{name}", digest.hexdigest()))
    return parts


def tokenizer_digest(folder: Path) -> str:
    """Digest of the files that decide how a Model folder's text becomes ids."""
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return files_digest([(name, hashlib.sha256((folder / name).read_bytes()).hexdigest()) for name in present])


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Model folder (transformers.PreTrainedTokenizerFast), offline and without remote code."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def refuse_missing_weights(report: Any) -> None:
    """Raise InvalidInput when transformers' loading report names weights it did not find.

    transformers fills them with random numbers and goes on.
    """
    absent = sorted(report["missing_keys"]) + sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if absent:
        raise InvalidInput(
            f"model lacks {len(absent)} weights that its config.json promises, the first is {absent[0]}",
            hint="config.json and weights belong to different models, or a file is missing",
        )


def load_model(folder: Path, dtype: str = "float32") -> Any:
    """The causal language model of a Model folder (transformers.PreTrainedModel) in `dtype`; safetensors only."""
    import torch
    from transformers import AutoModelForCausalLM

    refuse_unsafe_files(folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, report = loaded
    refuse_missing_weights(report)
    return model


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids at which generation stops: those of the generation config, the tokenizer's end mark, and ChatML's end of a turn."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = {*(configured if isinstance(configured, list | tuple) else [configured]), tokenizer.eos_token_id}
    ends.add(tokenizer.get_vocab().get(CHATML_END))
    return frozenset(int(end) for end in ends if end is not None)
