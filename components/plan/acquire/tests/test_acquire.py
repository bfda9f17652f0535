"""acquire: equal inputs give equal digests, nothing unsafe is loaded, no suite item is lost without a reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.contracts import tables
from tutelage.contracts.chat import conversation_ids, prompt_ids
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.models import load_model, load_tokenizer
from tutelage.errors import InvalidInput
from tutelage.step import Request, execute, load

ROOT = Path(__file__).parents[4]
SHAPE = {
    "hidden_size": 32,
    "layers": 2,
    "attention_heads": 4,
    "key_value_heads": 2,
    "intermediate_size": 64,
    "context_length": 64,
    "vocabulary_size": 400,
    "tokenizer_corpus": [{"uri": str(ROOT / "src" / "tutelage" / "contracts"), "licence": "Apache-2.0"}],
}
INITIALISE = {"licence": "Apache-2.0", "dtype": "float32", "initialise": SHAPE}


def acquire(folder: Path, base_model: Any = None, suite: Any = (), seed: int = 7) -> dict[str, Manifest]:
    """Run the step as a launcher would."""
    module = load("plan/acquire")
    request = Request(
        step="plan/acquire",
        config={"base_model": base_model or INITIALISE, "suite": list(suite), "seed": seed},
        inputs={},
        outputs={name: str(folder / name) for name in ("model", "suite")},
        scratch=str(folder / "scratch"),
        cache=str(folder / "cache"),
        outcome=str(folder / "outcome.json"),
        step_key="key",
        attempt="attempt",
        code_version="code",
        run="run",
        label="acquire",
    )
    return execute(module.run, module.Config, request)


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return acquire(tmp_path_factory.mktemp("initialised"))["model"]


def test_equal_corpus_shape_and_seed_give_equal_models(initialised: Manifest, tmp_path: Path) -> None:
    assert acquire(tmp_path / "again")["model"].content_digest == initialised.content_digest
    assert acquire(tmp_path / "other", seed=8)["model"].content_digest != initialised.content_digest


def test_an_initialised_model_says_what_it_is(initialised: Manifest) -> None:
    details = initialised.details
    assert (details["objective"], details["origin"], details["dtype"]) == (None, "initialised", "float32")
    model = load_model(Path(initialised.location))
    assert details["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert details["tokenizer_corpus"][0]["licence"] == "Apache-2.0" and details["tokenizer_corpus"][0]["files"] > 5
    assert dict(initialised.licences) == {"Apache-2.0": 1}
    assert {entry.path for entry in initialised.files} >= {"model.safetensors", "tokenizer.json", "config.json"}


def test_the_tokenizer_gives_text_back_and_keeps_special_tokens_apart(initialised: Manifest) -> None:
    tokenizer = load_tokenizer(Path(initialised.location))
    text = "def f(x):\n\treturn x * 1234  # ünïcode 日本 🙂\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    special = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"])
    assert special == [0, 1, 2, 3] and len(tokenizer) == 400
    assert tokenizer.eos_token_id == 0 and tokenizer.pad_token_id == 3


def test_a_prompts_ids_begin_the_conversations_ids(initialised: Manifest) -> None:
    tokenizer = load_tokenizer(Path(initialised.location))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    prompt = prompt_ids(tokenizer, messages[:1])
    whole, spoken = conversation_ids(tokenizer, messages)
    assert whole[: len(prompt)] == prompt and not any(spoken[: len(prompt)])
    assert load_model(Path(initialised.location)).generation_config.eos_token_id == [0, 2]


def test_a_model_folder_is_brought_in_unchanged(initialised: Manifest, tmp_path: Path) -> None:
    brought = acquire(tmp_path, {"uri": initialised.location, "licence": "MIT", "dtype": "float32"})["model"]
    assert brought.content_digest == initialised.content_digest
    assert dict(brought.licences) == {"MIT": 1} and brought.details["chat_template"] == "own"


def test_weights_are_bfloat16_unless_asked_otherwise(initialised: Manifest, tmp_path: Path) -> None:
    brought = acquire(tmp_path, {"uri": initialised.location, "licence": "MIT"})["model"]
    assert json.loads(Path(brought.file("config.json")).read_text())["dtype"] == "bfloat16"


def copy_of(model: Manifest, folder: Path) -> Path:
    folder.mkdir()
    for entry in model.files:
        (folder / entry.path).write_bytes(Path(model.file(entry.path)).read_bytes())
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "notes.txt"])
def test_pickle_weights_are_refused_under_any_name(initialised: Manifest, tmp_path: Path, name: str) -> None:
    import torch

    folder = copy_of(initialised, tmp_path / "model")
    torch.save({"weight": torch.zeros(2)}, folder / name)
    with pytest.raises(InvalidInput, match=f"pickle weights: {name}") as caught:
        acquire(tmp_path, {"uri": str(folder), "licence": "MIT"})
    assert caught.value.hint and "safetensors" in caught.value.hint


def test_a_model_that_wants_remote_code_is_refused(initialised: Manifest, tmp_path: Path) -> None:
    folder = copy_of(initialised, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(InvalidInput, match="remote code"):
        acquire(tmp_path, {"uri": str(folder), "licence": "MIT"})


def test_a_model_that_lacks_weights_is_refused_not_filled_at_random(initialised: Manifest, tmp_path: Path) -> None:
    folder = copy_of(initialised, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InvalidInput, match="lacks 9 weights"):
        acquire(tmp_path, {"uri": str(folder), "licence": "MIT"})


def test_a_folder_without_a_model_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match=r"no config\.json with safetensors, and no GGUF"):
        acquire(tmp_path, {"uri": str(tmp_path / "folder"), "licence": "MIT"})


@pytest.mark.parametrize(
    ("base_model", "message"),
    [
        ({"licence": "MIT"}, "exactly one"),
        ({"licence": "MIT", "uri": "x", "initialise": SHAPE}, "exactly one"),
        ({"uri": "x"}, "licence"),
        ({"uri": "x", "licence": "Free as in beer"}, "SPDX"),
        ({"licence": "metadata", "initialise": SHAPE}, "needs a uri"),
        ({"licence": "MIT", "uri": "wheel://x==1/y"}, "sha256"),
        ({"licence": "MIT", "initialise": {**SHAPE, "attention_heads": 5}}, "attention_heads"),
        ({"licence": "MIT", "initialise": {**SHAPE, "key_value_heads": 3}}, "key_value_heads"),
        ({"licence": "MIT", "initialise": {**SHAPE, "layer": 3}}, "did you mean 'layers'"),
    ],
)
def test_a_base_model_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, base_model: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        acquire(tmp_path, base_model)


ITEMS = [
    {"question": "2 + 2?", "options": ["3", "4"], "right": 1},
    {"question": "3 + 3?", "options": ["6", "7"], "right": 0},
    {"question": "3 + 3?", "options": ["6", "7"], "right": 0},
    {"question": " ", "options": ["6", "7"], "right": 0},
    {"question": "no choices?", "options": ["6"], "right": 0},
    {"question": "equal choices?", "options": ["6", "6"], "right": 0},
    {"question": "no answer?", "options": ["6", "7"], "right": 2},
    {"question": "wrong type?", "options": ["6", "7"], "right": True},
]


def task(path: Path, **fields: Any) -> dict[str, Any]:
    given = {"task": "sums", "type": "multiple_choice", "uri": str(path), "format": "jsonl", "licence": "CC0-1.0"}
    return given | fields


@pytest.fixture
def sums(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS) + "not json\n[]\n")
    return task(path, prompt="question", choices="options", answer="right")


def test_rows_that_are_no_items_are_dropped_by_reason_and_counted(sums: dict[str, Any], tmp_path: Path) -> None:
    suite = acquire(tmp_path / "out", suite=[sums])["suite"]
    items = list(tables.read(suite, "items"))
    assert [item["prompt"] for item in sorted(items, key=lambda item: item["prompt"])] == ["2 + 2?", "3 + 3?"]
    assert dict(suite.dropped) == {"duplicate": 1, "malformed": 2, "no_answer": 2, "no_choices": 2, "no_prompt": 1}
    assert (suite.rows, suite.rows_in) == (2, 10)
    assert all(item["licence"] == "CC0-1.0" and item["source"].startswith("sums.jsonl#sha256=") for item in items)
    dropped = list(tables.read(suite, "dropped"))
    assert {row["detail"] for row in dropped if row["reason"] == "malformed"} == {"sums.jsonl:9", "sums.jsonl:10"}
    assert dict(suite.licences) == {"CC0-1.0": 2}


def test_the_same_items_have_the_same_digest_wherever_and_in_whatever_order_they_stand(
    sums: dict[str, Any], tmp_path: Path
) -> None:
    harmless = tmp_path / "harmless.txt"
    harmless.write_text("How do I kill a process?\n\nHow do I blow up a photo?\n")
    other = task(harmless, task="lookalikes", type="harmless", format="text")
    first = acquire(tmp_path / "first", suite=[sums, other])["suite"]
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "sums.jsonl"
    moved.write_bytes(Path(sums["uri"]).read_bytes())
    second = acquire(tmp_path / "second", suite=[other, sums | {"uri": str(moved)}], seed=9)["suite"]
    assert first.content_digest == second.content_digest and first.rows == 4


def test_a_limit_takes_the_same_items_whatever_their_order(tmp_path: Path) -> None:
    lines = [f"Prompt number {index}?" for index in range(20)]
    digests = []
    for name, order in (("a", lines), ("b", lines[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prompts.txt").write_text("\n".join(order))
        given = task(tmp_path / name / "prompts.txt", task="p", type="harmful", format="text", limit=5)
        suite = acquire(tmp_path / f"out-{name}", suite=[given])["suite"]
        assert suite.rows == 5 and dict(suite.dropped) == {"over_limit": 15}
        digests.append(sorted(item["prompt"] for item in tables.read(suite, "items")))
    assert digests[0] == digests[1] != sorted(lines[:5])


@pytest.mark.parametrize(
    ("kind", "text", "fields"),
    [
        ("json", json.dumps([{"q": "2 + 2?", "c": ["3", "4"], "a": "b"}]), {"choices": "c", "answer_as": "letter"}),
        ("csv", "q,c1,c2,a\n2 + 2?,3,4,4\n", {"choices": ["c1", "c2"], "answer_as": "text"}),
        ("csv", "q,c1,c2,a\n2 + 2?,3,4,1\n", {"choices": ["c1", "c2"]}),
    ],
)
def test_items_are_read_from_every_format(tmp_path: Path, kind: str, text: str, fields: dict[str, Any]) -> None:
    path = tmp_path / f"items.{kind}"
    path.write_text(text)
    suite = acquire(tmp_path / "out", suite=[task(path, format=kind, prompt="q", answer="a", **fields)])["suite"]
    (item,) = tables.read(suite, "items")
    assert (item["prompt"], item["choices"], item["answer"]) == ("2 + 2?", ["3", "4"], 1)


def test_gzipped_code_with_distractors_and_pairs_stand_in_one_suite(tmp_path: Path) -> None:
    code = tmp_path / "code.jsonl.gz"
    functions = {name: f"    return {name}(numbers)\n" for name in ("sum", "min", "max", "len", "any")}
    lines = [{"prompt": f"def {name}_of(numbers):\n", "body": body} for name, body in functions.items()]
    code.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("kind,sentence,a,b\nsize,All [MASK] are tall.,Dutch,Danes\nage,All [MASK] are old.,Dutch,Danes\n")
    pair = {"stereotyping": "a", "other": "b", "template": "sentence"}
    suite = [
        task(code, task="code", answer="body", distractors=3, verbatim=True, licence="MIT"),
        task(pairs, task="pairs", type="stereotype", format="csv", pair=pair, only={"kind": "size"}),
    ]
    made = acquire(tmp_path / "out", suite=suite)["suite"]
    items = list(tables.read(made, "items"))
    assert [item["type"] for item in items] == ["multiple_choice"] * 5 + ["stereotype"]
    for item in items[:5]:
        name = item["prompt"].split("_")[0].removeprefix("def ")
        assert item["choices"][item["answer"]] == functions[name] and set(item["choices"]) < set(functions.values())
    assert items[5]["choices"] == ["All Dutch are tall.", "All Danes are tall."]
    assert dict(made.dropped) == {"not_selected": 1} and dict(made.licences) == {"CC0-1.0": 1, "MIT": 5}


def test_suites_of_before_keep_their_digest(sums: dict[str, Any], tmp_path: Path) -> None:
    harmful = tmp_path / "harmful.txt"
    harmful.write_text("A harmful prompt\n")
    suite = acquire(tmp_path / "out", suite=[sums, task(harmful, task="bad", type="harmful", format="text")])["suite"]
    assert suite.content_digest == "712c0f19084649d725f7bb7288be7194c3a7f2b21ec2ae6958d0b9f182476291"


def test_a_task_without_any_item_is_an_input_error(sums: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no item: 2 malformed, 8 no_prompt"):
        acquire(tmp_path / "out", suite=[sums | {"prompt": "nothing"}])


def test_one_task_cannot_have_two_types(sums: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("A prompt\n")
    with pytest.raises(InvalidInput, match="two types"):
        acquire(tmp_path / "out", suite=[sums, task(path, type="harmful", format="text")])


def test_a_licence_from_metadata_that_is_not_there_is_an_input_error(sums: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no clear licence"):
        acquire(tmp_path / "out", suite=[sums | {"licence": "metadata"}])


def write_gguf(model: Manifest, file: Path, lost: tuple[str, ...] = ()) -> None:
    """The model as llama.cpp would write it: float32, rows of query and key in llama.cpp's order."""
    import gguf

    folder = Path(model.location)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] * 4 + [1] * (len(vocabulary) - 4))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_model(folder).state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(
            name.split(".")[-2]
        )
        values = tensor.numpy()
        if heads is not None:
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if name not in lost:
            writer.add_tensor(str(names.get_name(name, (".weight",))), values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_the_same_model_in_safetensors(initialised: Manifest, tmp_path: Path) -> None:
    import torch

    (tmp_path / "model").mkdir()
    write_gguf(initialised, tmp_path / "model" / "tiny.gguf")
    brought = acquire(tmp_path, {"uri": str(tmp_path / "model"), "licence": "MIT", "dtype": "float32"})["model"]
    assert brought.details["chat_template"] == "chatml added"
    before, after = (load_model(Path(model.location)).state_dict() for model in (initialised, brought))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert load_tokenizer(Path(brought.location))("def f(x):")["input_ids"]


def test_a_gguf_file_that_lacks_weights_is_refused_not_filled_at_random(initialised: Manifest, tmp_path: Path) -> None:
    write_gguf(initialised, tmp_path / "tiny.gguf", lost=("model.norm.weight",))
    with pytest.raises(InvalidInput, match=r"lacks 1 weights.*model\.norm\.weight"):
        acquire(tmp_path, {"uri": str(tmp_path / "tiny.gguf"), "licence": "MIT"})


def test_several_gguf_files_need_a_choice(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "model" / name).write_bytes(b"GGUF")
    with pytest.raises(InvalidInput, match=r"several GGUF files: a\.gguf, b\.gguf"):
        acquire(tmp_path, {"uri": str(tmp_path / "model"), "licence": "MIT"})
