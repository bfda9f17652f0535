from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.data.personal_data import EXAMPLE_CHARACTERS, example, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("john.doe+x@mail.example.co.uk, x@uni-köln.de.", "<EMAIL>, <EMAIL>."),
        ("Sindre <sindre@example.com>", "Sindre <<EMAIL>>"),
        ("_ann@example.com_ and __ann@firma.io__.", "<EMAIL>_ and <EMAIL>__."),
        ("ann@example.com(work), ann@example.com_bob", "<EMAIL>(work), <EMAIL>_bob"),
        ("ann\uff20example.com ann&#64;example.com ann&#x40;example.com", "<EMAIL> <EMAIL> <EMAIL>"),
        ("ann [at] example [dot] com, ann(AT)mail.example.org", "<EMAIL>, <EMAIL>"),
        ("mailto:ann%40example.com and ann@x.xn--p1ai.", "mailto:<EMAIL> and <EMAIL>."),
        ("+49 (0)30 1234567 / (555) 123-4567 / 555-123-4567 / 030/1234567", "<PHONE> / <PHONE> / <PHONE> / <PHONE>"),
        ("DE89 3704 0044 0532 0130 00 BIC COBADEFF", "<IBAN> BIC COBADEFF"),
        ("GB82WEST12345698765432", "<IBAN>"),
        ("4111 1111 1111 1111, 378282246310005", "<CARD>, <CARD>"),
        ("93.184.216.34 and 2001:4860:4860:0:0:0:0:8888", "<IP_ADDRESS> and <IP_ADDRESS>"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key <API_KEY>."),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nend", "<PRIVATE_KEY>\nend"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEcut", "<PRIVATE_KEY>"),
    ],
)
def test_personal_data_is_replaced_by_its_type(text, masked):
    assert mask(text)[0] == masked
    assert not mask(masked)[1]


@pytest.mark.parametrize(
    "text",
    [
        "A@B.dot(x) and a @ b.T", "@decorator.of_mine", "@property", "a@b", "q@k.transpose_(0, 1)", "X@model.coef_",
        "X@model.coef_.T", "x@self.weight_matrix", "arr[@] file.txt", "g(at)\nself.value = 3", "f(at) = 1", "row[at] .x",
        "look (at least) here.now", "DE88 3704 0044 0532 0130 00", "4111 1111 1111 1112",
        "192.168.1.1 10.0.0.1 127.0.0.1", "version 1.2.3.4", "a[1:2:3] at 12:30:45", "3.14159265358979", "+1.2345678901",
        "0 0 0 4 5 6 7 0 0 0 1 2 3 4 0 0", "2024-01-02", "0000 0001 0010", "task-skipping-is-not-a-key-of-anything",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text):
    assert mask(text) == (text, {})


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "+1 ",
        "a.@",
        "1:",
        "1 ",
        "AB12",
        "x@a.",
        "-----BEGIN PRIVATE KEY-----",
        "1.1.",
        "_a@a.",
        "__a@b.c_",
        "a [at] b.",
        "a[at]",
        "a&#64;",
        "a%40a.",
        "a@xn--",
        "a@b.com_",
        "a [at] b [dot] ",
    ],
)
def test_masking_takes_linear_time(piece):
    started = time.process_time()
    mask(piece * (200_000 // len(piece)))
    assert time.process_time() - started < 5


@given(st.text(alphabet="aB1 @.+-:<>()é", max_size=200), st.text(alphabet="aB1 @.+-:<>()é", max_size=200))
def test_examples_hold_no_personal_data_and_no_unknown_word(before, after):
    masked, _ = mask(f"{before} jane.doe@example.org {after}")
    shown = example(masked)
    assert shown is None or (len(shown) <= EXAMPLE_CHARACTERS and not mask(shown)[1] and "jane" not in shown)


def test_examples_show_words_that_are_nobodys_name_and_the_shape_of_others():
    assert example("please contact Jane Doe by email: <EMAIL> 42") == "please contact Xxxx Xxx by email: <EMAIL> 00"
