"""Choices that share a pass with their siblings get the log-likelihood they would get alone, in every listed architecture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from tutelage.evaluate.likelihood import Examinee, Passage, likelihoods
from tutelage.evaluate.multiple_choice import choice_likelihoods
from tutelage.evaluate.shared_prompts import ARCHITECTURES, Branching, branch_likelihoods, shareable

CONFIGS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "smollm3": transformers.SmolLM3Config,
}


def model_of(architecture, attention="sdpa", **changes):
    torch.manual_seed(0)
    values = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 0,
        "eos_token_id": 0, "attn_implementation": attention,
    }  # fmt: skip
    if architecture == "mistral":
        values["sliding_window"] = None
    config = CONFIGS[architecture](**values, **changes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def trees():
    random = np.random.default_rng(0)

    def ids(number):
        return random.integers(0, 128, number).tolist()

    return [Branching(ids(3 + 5 * index), [ids(1 + (index + choice) % 4) for choice in range(4)]) for index in range(6)]


def alone(examinee, trees):
    passages = [
        Passage([*tree.prompt, *branch], [False] * len(tree.prompt) + [True] * len(branch))
        for tree in trees
        for branch in tree.branches
    ]
    return [value.log_probability for value in likelihoods(replace(examinee, batch_tokens=1), passages)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_shared_prompt_changes_no_choice(architecture, attention, trees):
    examinee = Examinee(model_of(architecture, attention), None, window=256, batch_tokens=200)
    assert shareable(examinee.model)
    together = [value for tree in branch_likelihoods(examinee, trees) for value in tree]
    np.testing.assert_allclose([value.log_probability for value in together], alone(examinee, trees), rtol=1e-5)
    assert [value.tokens for value in together] == [len(branch) for tree in trees for branch in tree.branches]


def test_a_model_with_a_sliding_window_reads_every_prompt_anew(trees):
    model = model_of("mistral")
    model.config.sliding_window = 8
    assert not shareable(model)
    examinee = Examinee(model, None, window=256, batch_tokens=200)
    found = [value.log_probability for tree in choice_likelihoods(examinee, trees) for value in tree]
    np.testing.assert_allclose(found, alone(examinee, trees), rtol=1e-5)


def test_an_unknown_architecture_is_not_trusted():
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    assert not shareable(transformers.GPT2LMHeadModel(config))


def test_items_that_do_not_fit_are_scored_apart_beside_those_that_do(trees):
    examinee = Examinee(model_of("llama"), None, window=20, batch_tokens=200)
    found = [value for tree in choice_likelihoods(examinee, trees) for value in tree]
    passages = [[*tree.prompt, *branch] for tree in trees for branch in tree.branches]
    cut = [ids[-20:] for ids in passages]
    spoken = [len(branch) for tree in trees for branch in tree.branches]
    expected = likelihoods(
        examinee,
        [Passage(ids, [False] * (len(ids) - said) + [True] * said) for ids, said in zip(cut, spoken, strict=True)],
    )
    assert any(len(ids) > 20 for ids in passages)
    np.testing.assert_allclose(
        [value.log_probability for value in found], [value.log_probability for value in expected], rtol=1e-5
    )
