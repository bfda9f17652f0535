from __future__ import annotations

import random

from tutelage.data.leaks import LEAK_HELDOUT, LEAK_SUITE, Index, protect

TEXT = "Seven brown foxes jumped over the wall behind the old mill before anybody in the village was awake"
PROMPT = "Write the body of this Python function that has a docstring below."


def index_of(*texts, kind=LEAK_SUITE):
    protected = [protect(f"text{number:03d}", kind, text, 5) for number, text in enumerate(texts)]
    return Index([text for text in protected if text is not None], 5, 0.5)


def test_half_of_the_sequences_make_a_leak_and_less_do_not():
    words = TEXT.split()
    index = index_of(TEXT)
    assert index.match(" ".join(words[:12])).containment >= 0.5
    assert index.match(" ".join(words[:8])) is None
    assert index.match("Something else was said about foxes and walls and mills and villages") is None


def test_long_documents_around_a_text_do_not_hide_it():
    assert index_of(TEXT).match("filler " * 20_000 + TEXT + " filler" * 20_000).containment == 1


def test_templates_alone_prove_nothing():
    chance = random.Random(0)
    texts = [f"{PROMPT} " + " ".join(f"w{chance.randrange(10**6)}" for _ in range(8)) for _ in range(40)]
    index = index_of(*texts)
    assert index.match(PROMPT) is None
    assert index.match(f"{PROMPT} and something new") is None
    assert index.match(texts[7]).id == "text007"


def test_protected_texts_that_are_all_template_are_still_protected():
    index = index_of(*[TEXT] * 30)
    assert index.match(TEXT) is not None


def test_an_item_of_the_suite_is_named_before_a_held_out_row():
    suite, heldout = protect("b", LEAK_SUITE, TEXT, 5), protect("a", LEAK_HELDOUT, TEXT, 5)
    assert Index([heldout, suite], 5, 0.5).match(TEXT).kind == LEAK_SUITE


def test_texts_without_words_protect_nothing_and_match_nothing():
    assert protect("x", LEAK_SUITE, "--- !", 5) is None
    assert index_of().match(TEXT) is None
    assert index_of(TEXT).match("") is None
