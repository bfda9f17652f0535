"""What makes an item of a row: its prompt, its choices and the place of the right one, or the reason why it is none."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from tutelage.plan.tasks import Pair, Task

#: A longer number is the index of no choice, and Python refuses to read one of 4,300 digits.
_INDEX_DIGITS = 9
_LETTERED = re.compile(r"([A-Z])[.)][ \t]+(.*)")


@dataclass(frozen=True)
class Content:
    """What an item says. Of a stereotype item the first choice is the stereotyping sentence."""

    prompt: str
    choices: list[str] | None = None
    answer: int | None = None


def content_of(task: Task, row: Mapping[str, Any]) -> Content | str:
    """The item that a row holds, or the reason why it holds none. With distractors it has the right choice alone."""
    if not all(_is_equal(row.get(name), value) for name, value in (task.only or {}).items()):
        return "not_selected"
    if task.pair is not None:
        return _pair_content(task.pair, row)
    prompt = _prompt(task, row)
    if prompt is None:
        return "no_prompt"
    if task.type != "multiple_choice":
        return Content(prompt)
    if task.distractors is not None:
        right = row.get(task.answer)
        return Content(prompt, [_trimmed(task, right)], 0) if _says_something(right) else "no_answer"
    choices = _choices(task, row)
    if choices is None:
        return "no_choices"
    answer = _answer(task, row, choices)
    return Content(prompt, choices, answer) if answer is not None else "no_answer"


def _is_equal(found: Any, wanted: str | float | bool) -> bool:
    """Equal in kind and value: true is not 1, and "1" is not 1, but 1.0 is."""
    if isinstance(found, bool) or isinstance(wanted, bool) or isinstance(found, str) or isinstance(wanted, str):
        return type(found) is type(wanted) and found == wanted
    return bool(found == wanted)


def _says_something(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _trimmed(task: Task, text: Any) -> str:
    return str(text) if task.verbatim else str(text).strip()


def _prompt(task: Task, row: Mapping[str, Any]) -> str | None:
    names = ("prompt",) if task.format == "text" else _names(task.prompt)
    parts = [row.get(name) for name in names]
    if not all(_says_something(part) for part in parts):
        return None
    prompt = "\n".join(_trimmed(task, part) for part in parts)
    if task.cut_ending is not None:
        # What comes before the ending ends the prompt now, so its white space goes unless white space counts.
        prompt = _trimmed(task, prompt.removesuffix(_trimmed(task, task.cut_ending)))
    return prompt if prompt.strip() else None


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _choices(task: Task, row: Mapping[str, Any]) -> list[str] | None:
    """At least two different non-empty choices, or None."""
    found = row.get(task.choices) if isinstance(task.choices, str) else [row.get(name) for name in task.choices]
    if task.choices_as == "lettered_lines":
        found = lettered_choices(found) if isinstance(found, str) else None
    if not isinstance(found, list) or not all(_says_something(choice) for choice in found):
        return None
    choices = [_trimmed(task, choice) for choice in found]
    return choices if len(choices) >= 2 and len(set(choices)) == len(choices) else None


def lettered_choices(text: str) -> list[str] | None:
    """The choices of "A. a marsh\\nB. a tundra", or None where a line does not begin with the letter that is due."""
    choices = []
    for place, line in enumerate(text.strip().split("\n")):
        marked = _LETTERED.fullmatch(line)
        if marked is None or ord(marked[1]) - ord("A") != place:
            return None
        choices.append(marked[2])
    return choices


def _answer(task: Task, row: Mapping[str, Any], choices: list[str]) -> int | None:
    """Place of the right choice, or None when the row does not name one."""
    value = row.get(task.answer)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if task.answer_as == "text":
        return _place_of(task, text, choices)
    text = text.strip()
    if task.answer_as == "letter":
        # Not every letter has one capital: that of ß is SS.
        place = ord(text.upper()) - ord("A") if len(text) == 1 and text.isascii() else -1
    else:
        place = int(text) if text.isascii() and text.isdigit() and len(text) <= _INDEX_DIGITS else -1
    return place if 0 <= place < len(choices) else None


def _place_of(task: Task, text: str, choices: Sequence[str]) -> int | None:
    """Place of the choice that `text` is; among lettered lines its own letter may stand before it."""
    marked = _LETTERED.fullmatch(text.strip()) if task.choices_as == "lettered_lines" else None
    if marked is not None:
        place = ord(marked[1]) - ord("A")
        if place < len(choices) and choices[place] == _trimmed(task, marked[2]):
            return place
    trimmed = _trimmed(task, text)
    return choices.index(trimmed) if trimmed in choices else None


def _pair_content(pair: Pair, row: Mapping[str, Any]) -> Content | str:
    """Both sentences, the stereotyping one first, after their context."""
    context = "" if pair.context is None else row.get(pair.context)
    if not isinstance(context, str) or (pair.context is not None and not context.strip()):
        return "no_prompt"
    sentences = [row.get(pair.stereotyping), row.get(pair.other)]
    if not all(_says_something(sentence) for sentence in sentences):
        return "no_pair"
    filled = [str(sentence).strip() for sentence in sentences]
    if pair.template is not None:
        template = row.get(pair.template)
        if not isinstance(template, str) or template.count(pair.blank) != 1:
            return "no_blank"
        filled = [template.replace(pair.blank, filling).strip() for filling in filled]
    return Content(context.strip(), filled, 0) if filled[0] != filled[1] else "no_pair"


def with_distractors(task: str, contents: Sequence[Content], number: int) -> list[Content | None]:
    """Each content with `number` other answers as wrong choices, None where there are not as many.

    Those nearest in UTF-8 bytes are taken, so that length gives nothing away; among equally near ones, and for the order of
    the choices, a hash of the content decides, so the order of rows does not matter. What differs from a right answer in
    case and white space alone is no wrong choice, and every answer to the same prompt is a right one.
    """
    known: dict[str, str] = {}
    right: dict[str, set[str]] = {}
    for content in contents:
        for answer in content.choices or ():
            key = _alike(answer)
            known[key] = min(answer, known.get(key, answer))
            right.setdefault(_alike(content.prompt), set()).add(key)
    pool = sorted(((len(answer.encode()), key, answer) for key, answer in known.items()))
    lengths = [length for length, _, _ in pool]
    return [
        _distracted(task, content, pool, lengths, number, right.get(_alike(content.prompt), set()))
        for content in contents
    ]


def _alike(text: str) -> str:
    return " ".join(text.casefold().split())


def _distracted(
    task: str,
    content: Content,
    pool: Sequence[tuple[int, str, str]],
    lengths: Sequence[int],
    number: int,
    also_right: AbstractSet[str],
) -> Content | None:
    (right,) = content.choices or ("",)
    if len(pool) - len(also_right) < number:
        return None
    own = len(right.encode())
    # More than asked for: the right answers may all be among them.
    reach = _distance_of_nearest(lengths, own, number + len(also_right))
    near = pool[bisect_left(lengths, own - reach) : bisect_right(lengths, own + reach)]
    salt = f"{task}\0{content.prompt}\0{right}\0"
    ranked = sorted(
        (abs(length - own), _hash(salt + answer), answer) for length, key, answer in near if key not in also_right
    )
    wrong = [answer for _, _, answer in ranked[:number]]
    ordered = sorted([right, *wrong], key=lambda choice: _hash(f"{salt}place\0{choice}"))
    return Content(content.prompt, ordered, ordered.index(right))


def _distance_of_nearest(lengths: Sequence[int], own: int, number: int) -> int:
    """How far from `own` the `number` nearest of the sorted `lengths` reach."""
    low = high = bisect_left(lengths, own)
    distance = 0
    for _ in range(number):
        below = own - lengths[low - 1] if low > 0 else None
        above = lengths[high] - own if high < len(lengths) else None
        if above is None or (below is not None and below < above):
            low, distance = low - 1, max(distance, below or 0)
        else:
            high, distance = high + 1, max(distance, above)
    return distance


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
