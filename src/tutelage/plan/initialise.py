"""A model from nothing: a byte-level BPE tokenizer trained on a pinned corpus, and seeded random weights.

Equal corpus, Config and seed give equal files: texts are read in the order of their paths, and weights come from a generator
of their own. Tokens: `<|endoftext|>` ends a document (eos), `<|im_start|>` and `<|im_end|>` frame turns (ChatML), `<|pad|>` is
none of them, so that padding never stands for the end. Generation stops at the end of a document or of a turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.contracts import sources
from tutelage.errors import InvalidInput
from tutelage.plan.base_model import CorpusPart, Initialise, Progress, licence_of, save

END_OF_TEXT, TURN_START, TURN_END, PADDING = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


def initialise(
    config: Initialise, dtype: str, seed: int, cache: Path, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write a model and its tokenizer into `folder`; gives what to say of them. Raises InvalidInput."""
    corpus = []
    texts: list[str] = []
    for part in config.tokenizer_corpus:
        progress(f"fetching {part.uri}")
        fetched = sources.fetch(part.uri, cache)
        licence = licence_of(fetched, part.licence)
        found, not_utf8 = read_texts(fetched, part)
        texts += found
        facts = {"files": len(found), "not_utf8": not_utf8}
        corpus.append({"uri": part.uri, "licence": licence, "digest": fetched.digest, **facts})
    progress("training the tokenizer")
    tokenizer = train_tokenizer(texts, config)
    progress("drawing weights")
    details = save(random_model(config, tokenizer, dtype, seed), tokenizer, folder)
    return {"origin": "initialised", "tokenizer_corpus": corpus, **details, "chat_template": "chatml"}


def read_texts(fetched: sources.Fetched, part: CorpusPart) -> tuple[list[str], int]:
    """Texts of the corpus' files, sorted by path, and how many files are no UTF-8. Raises InvalidInput when no text is left."""
    files = fetched.files(part.suffixes)
    texts = []
    for _, path in files:
        try:
            texts.append(path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            continue
    if not texts:
        found = f"none of {len(files)} is UTF-8" if files else f"suffixes it looks for: {', '.join(part.suffixes)}"
        raise InvalidInput(f"{part.uri}: no file for the tokenizer", hint=found)
    return texts, len(files) - len(texts)


def train_tokenizer(texts: list[str], config: Initialise) -> Any:
    """A transformers.PreTrainedTokenizerFast: byte-level BPE, each digit on its own (Singh and Strouse, 2024)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tutelage.contracts.chat import CHATML

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        additional_special_tokens=[TURN_START, TURN_END],
        model_max_length=config.context_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHATML,
    )


def random_model(config: Initialise, tokenizer: Any, dtype: str, seed: int) -> Any:
    """A transformers.LlamaForCausalLM whose weights depend on shape and seed alone."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    end, turn_end = tokenizer.convert_tokens_to_ids([END_OF_TEXT, TURN_END])
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.attention_heads,
        num_key_value_heads=config.key_value_heads or config.attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=config.tie_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        initializer_range=config.initial_deviation,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(shape)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=end, eos_token_id=[end, turn_end], pad_token_id=tokenizer.pad_token_id
    )
    return model.to(getattr(torch, dtype))
