"""Packing, masks and drops of tokenize, on a real tokenizer and small real text."""

from typing import Any

import numpy as np
import pytest

from tests.training import SENTENCES, build_tokenizer, row, sample_rows, turn
from tutelage.contracts.chat import prompt_ids
from tutelage.data import tokens


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(SENTENCES, 300)


def pieces_of(*lengths: int) -> list[tokens.Piece]:
    made, start = [], 0
    for number, length in enumerate(lengths):
        ids = np.arange(start, start + length, dtype=np.int32)
        made.append(tokens.Piece(f"row-{number}", ids, np.ones(length, dtype=np.int8)))
        start += length
    return made


def test_split_packing_keeps_every_token_once_and_fills_every_sequence() -> None:
    sequences = list(tokens.split_and_pack(pieces_of(5, 17, 1, 9), 8))
    assert [sum(len(piece.ids) for piece in sequence) for sequence in sequences] == [8, 8, 8, 8]
    flat = np.concatenate([piece.ids for sequence in sequences for piece in sequence])
    assert flat.tolist() == list(range(32))


def test_whole_packing_never_cuts_a_piece_and_never_overfills() -> None:
    pieces = pieces_of(5, 3, 6, 2, 8, 1)
    sequences = list(tokens.pack_whole(pieces, 8))
    assert all(sum(len(piece.ids) for piece in sequence) <= 8 for sequence in sequences)
    assert sorted(piece.row for sequence in sequences for piece in sequence) == [piece.row for piece in pieces]
    assert len(sequences) == 4


def test_documents_end_with_the_end_mark_and_stand_in_the_order_of_ids(tokenizer: Any) -> None:
    rows = [row("pretrain", text=text, id=name) for text, name in zip(SENTENCES[:3], ("c", "a", "b"), strict=True)]
    pieces = tokens.documents(rows, tokenizer, tokens.Drops())
    assert [piece.row for piece in pieces] == ["a", "b", "c"]
    assert all(piece.ids[-1] == tokenizer.eos_token_id for piece in pieces)
    assert tokenizer.decode(pieces[2].ids[:-1]) == SENTENCES[0]


def test_an_empty_document_is_dropped_and_counted(tokenizer: Any) -> None:
    drops = tokens.Drops()
    assert tokens.documents([row("pretrain", text="")], tokenizer, drops) == []
    assert drops.counts == {"empty": 1}


def test_only_what_the_assistant_says_is_a_target(tokenizer: Any) -> None:
    messages = [turn("system", "Be brief."), turn("user", "Hi."), turn("assistant", "Yes."), turn("user", "Why?")]
    messages.append(turn("assistant", "Because."))
    [piece] = tokens.conversations([row("sft", messages=messages)], tokenizer, 256, tokens.Drops())
    spoken = tokenizer.decode(piece.ids[piece.targets == 1])
    assert spoken == "Yes.<|im_end|>\nBecause.<|im_end|>\n"


def test_conversations_too_long_or_without_answer_are_dropped_and_counted(tokenizer: Any) -> None:
    drops = tokens.Drops()
    rows = [
        row("sft", messages=[turn("user", "Hi."), turn("assistant", "word " * 300)]),
        row("sft", messages=[turn("user", "Hi.")]),
        row("sft", messages=[]),
    ]
    assert tokens.conversations(rows, tokenizer, 64, drops) == []
    assert drops.counts == {"too_long": 1, "no_completion": 2}
    assert "word" not in str(drops.rows)


def test_a_pair_has_the_prompt_that_a_server_would_be_sent(tokenizer: Any) -> None:
    pair = next(item for item in sample_rows(1) if item["phase"] == "dpo")
    [made] = tokens.pairs([pair], tokenizer, 256, tokens.Drops())
    assert made["prompt_ids"] == prompt_ids(tokenizer, pair["prompt"])
    assert tokenizer.decode(made["chosen_ids"]) == pair["chosen"][0]["content"] + "<|im_end|>\n"
    assert tokenizer.decode(made["rejected_ids"]) == "No idea at all.<|im_end|>\n"


def test_pairs_that_cannot_be_learned_are_dropped_and_counted(tokenizer: Any) -> None:
    drops = tokens.Drops()
    prompt, good = [turn("user", "Hi.")], [turn("assistant", "Yes.")]
    rows = [
        row("dpo", prompt=prompt, chosen=good, rejected=good),
        row("dpo", prompt=prompt, chosen=good, rejected=[turn("assistant", "no " * 200)]),
        row("dpo", prompt=prompt, chosen=[*good, turn("user", "Why?")], rejected=good),
        row("dpo", prompt=prompt, chosen=[], rejected=good),
    ]
    assert list(tokens.pairs(rows, tokenizer, 64, drops)) == []
    assert drops.counts == {"same_answers": 1, "too_long": 1, "answer_not_one_turn": 2}


def test_the_chat_probe_ends_where_the_assistant_is_to_speak(tokenizer: Any) -> None:
    probe = tokens.chat_probe(tokenizer)
    assert tokenizer.decode(probe["token_ids"]).endswith("<|im_start|>assistant\n")
