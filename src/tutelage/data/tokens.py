"""From rows to tokens: documents packed into sequences, conversations with the assistant's tokens marked, preference pairs.

Rows are taken in the order of their ids, so the result does not depend on files, partitions or order of the input. Every row
is either in the tokens or counted under a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.contracts.chat import conversation_ids, prompt_ids

Ids = NDArray[np.int32]
Row = Mapping[str, Any]
ROWS_PER_CALL = 512

#: Said to every model once, by tokenize; the server must turn it into the same ids before it is let to users.
CHAT_PROBE = (
    {"role": "user", "content": "Name three primary colours."},
    {"role": "assistant", "content": "Red, yellow and blue."},
    {"role": "user", "content": "Und auf Deutsch, s'il te plaît? 1 + 1 = 2 ✓"},
)


@dataclass
class Drops:
    """Rows that gave no tokens: counted by reason, and listed."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Row, reason: str, detail: str = "") -> None:
        """Note one row."""
        self.counts[reason] += 1
        self.rows.append({"id": row["id"], "reason": reason, "source": row["source"], "detail": detail})


@dataclass(frozen=True)
class Piece:
    """Tokens of one row, with 1 at those the model is trained to predict."""

    row: str
    ids: Ids
    targets: NDArray[np.int8]


def documents(rows: Sequence[Row], tokenizer: Any, drops: Drops) -> list[Piece]:
    """One piece a text: the tokenizer's own opening, the text, the end mark. Sorted by row id."""
    opening = _opening(tokenizer)
    pieces = []
    for start in range(0, len(rows), ROWS_PER_CALL):
        part = rows[start : start + ROWS_PER_CALL]
        encoded = tokenizer([row["text"] or "" for row in part], add_special_tokens=False, verbose=False)["input_ids"]
        for row, ids in zip(part, encoded, strict=True):
            if not ids:
                drops.add(row, "empty")
                continue
            whole = np.array([*opening, *ids, tokenizer.eos_token_id], dtype=np.int32)
            pieces.append(Piece(row["id"], whole, np.ones(len(whole), dtype=np.int8)))
    return sorted(pieces, key=lambda piece: piece.row)


def _opening(tokenizer: Any) -> list[int]:
    """The begin mark, where the tokenizer puts one before every text."""
    return [tokenizer.bos_token_id] if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] else []


def conversations(rows: Sequence[Row], tokenizer: Any, maximum_tokens: int, drops: Drops) -> list[Piece]:
    """One piece a conversation, targets where the assistant speaks. Sorted by row id."""
    pieces = []
    for row in rows:
        ids, spoken = conversation_ids(tokenizer, row["messages"] or [])
        if not any(spoken):
            drops.add(row, "no_completion")
        elif len(ids) > maximum_tokens:
            drops.add(row, "too_long", f"{len(ids)} tokens, at most {maximum_tokens}")
        else:
            pieces.append(Piece(row["id"], np.array(ids, dtype=np.int32), np.array(spoken, dtype=np.int8)))
    return sorted(pieces, key=lambda piece: piece.row)


def pairs(rows: Sequence[Row], tokenizer: Any, maximum_tokens: int, drops: Drops) -> Iterator[dict[str, Any]]:
    """One row of Tokens a preference pair, in the order of row ids."""
    index = 0
    for row in sorted(rows, key=lambda row: str(row["id"])):
        answers = [row["chosen"] or [], row["rejected"] or []]
        if any([message["role"] for message in answer] != ["assistant"] for answer in answers):
            drops.add(row, "answer_not_one_turn", "chosen and rejected must be one assistant message each")
            continue
        prompt = row["prompt"] or []
        opening = prompt_ids(tokenizer, prompt)
        chosen, rejected = (conversation_ids(tokenizer, [*prompt, *answer])[0][len(opening) :] for answer in answers)
        longest = len(opening) + max(len(chosen), len(rejected))
        if chosen == rejected:
            drops.add(row, "same_answers")
        elif longest > maximum_tokens:
            drops.add(row, "too_long", f"{longest} tokens, at most {maximum_tokens}")
        else:
            yield {
                "index": index, "row": row["id"], "prompt_ids": opening, "chosen_ids": chosen, "rejected_ids": rejected,
            }  # fmt: skip
            index += 1


def split_and_pack(pieces: Iterable[Piece], sequence_length: int) -> Iterator[list[Piece]]:
    """Sequences of exactly `sequence_length` tokens (the last may be shorter); a piece that does not fit goes on in the next.

    No token is lost, but the first of a continued part is no target, since what came before it stands in another sequence.
    """
    sequence: list[Piece] = []
    room = sequence_length
    for piece in pieces:
        start = 0
        while start < len(piece.ids):
            part = slice(start, start + room)
            sequence.append(Piece(piece.row, piece.ids[part], piece.targets[part]))
            start += len(sequence[-1].ids)
            room -= len(sequence[-1].ids)
            if room == 0:
                yield sequence
                sequence, room = [], sequence_length
    if sequence:
        yield sequence


def pack_whole(pieces: Iterable[Piece], sequence_length: int, open_sequences: int = 64) -> Iterator[list[Piece]]:
    """Sequences of at most `sequence_length` tokens holding whole pieces: each goes where least room is left.

    Best fit among the `open_sequences` youngest; deterministic in the order of pieces.
    """
    bins: list[tuple[int, list[Piece]]] = []
    for piece in pieces:
        fitting = [position for position, (room, _) in enumerate(bins) if room >= len(piece.ids)]
        if fitting:
            best = min(fitting, key=lambda position: bins[position][0])
            room, sequence = bins[best]
            sequence.append(piece)
            bins[best] = (room - len(piece.ids), sequence)
            continue
        if len(bins) == open_sequences:
            yield bins.pop(0)[1]
        bins.append((sequence_length - len(piece.ids), [piece]))
    yield from (sequence for _, sequence in bins)


def sequence_rows(sequences: Iterable[Sequence[Piece]], *, with_targets: bool) -> Iterator[dict[str, Any]]:
    """Rows of Tokens for packed sequences."""
    for index, sequence in enumerate(sequences):
        row: dict[str, Any] = {
            "index": index,
            "rows": [piece.row for piece in sequence],
            "input_ids": np.concatenate([piece.ids for piece in sequence]),
            "lengths": np.array([len(piece.ids) for piece in sequence], dtype=np.int32),
        }
        if with_targets:
            row["targets"] = np.concatenate([piece.targets for piece in sequence])
        yield row


def chat_probe(tokenizer: Any) -> dict[str, Any]:
    """A fixed conversation and its token ids, by which a server shows that it tokenises as training did."""
    messages = [dict(message) for message in CHAT_PROBE]
    return {"messages": messages, "token_ids": prompt_ids(tokenizer, messages)}
