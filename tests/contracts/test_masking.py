"""What is masked in messages, lineage and pages, and what only looks as if it had to be."""

import json
import time

import pytest

from tutelage.contracts.masking import mask, mask_values

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_addresses_and_credentials_are_masked():
    text = "jane.doe+x@mail.example.org wrote to https://user:word@host.example/path@v2, see model@main"
    assert mask(text) == "[e-mail] wrote to https://[credentials]@host.example/path@v2, see model@main"


@pytest.mark.parametrize("password", ["w@rd", "a:b@c:d", "?x@y"])
def test_a_password_that_holds_an_at_sign_is_masked_whole(password):
    assert mask(f"https://user:{password}@host/x") == "https://[credentials]@host/x"


@pytest.mark.parametrize(
    "uri", [f"hf://gpt2@{COMMIT}", f"hf://datasets/org/name@{COMMIT}/a.json", f"hf://a/b@{COMMIT}"]
)
def test_a_commit_of_a_hub_is_no_credential(uri):
    assert mask(f"from {uri}, then") == f"from {uri}, then"


@pytest.mark.parametrize(
    "uri", [f"https://token@{COMMIT}", f"hf://user:word@{COMMIT}", f"hf://token@{COMMIT}.example.org"]
)
def test_what_only_looks_like_a_commit_is_masked(uri):
    assert "[credentials]@" in mask(uri)


@pytest.mark.parametrize(
    "key",
    ["sk-" + "a1B2" * 8, "AKIA" + "A1B2" * 4, "ghp_" + "a1B2" * 9, "hf_" + "abCD" * 9, "glpat-" + "a1-_" * 5,
     "npm_" + "a1B2" * 9, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlIQ"],
)  # fmt: skip
def test_access_keys_are_masked_wherever_they_stand(key):
    assert mask(f"key: {key}") == "key: [key]"
    assert mask(f'"{key}", then {key}') == '"[key]", then [key]'


@pytest.mark.parametrize(
    "text", ["task-sft-with-a-very-long-name-indeed", "sk-short", "risk-free-of-any-doubt-whatsoever", COMMIT]
)
def test_what_only_begins_like_an_access_key_stays(text):
    assert mask(text) == text


def test_values_are_masked_one_by_one_so_that_json_stays_json():
    values = {"text": "x\nbob@example.com", "list": ["\tamy@example.com", 1, None], "bob@example.com": {"seed": 7}}
    found = mask_values(values)
    assert found == {"text": "x\n[e-mail]", "list": ["\t[e-mail]", 1, None], "[e-mail]": {"seed": 7}}
    assert json.loads(json.dumps(found)) == found


def test_a_long_text_without_an_address_takes_no_time():
    started = time.monotonic()
    assert mask("a" * 300_000) == "a" * 300_000
    assert mask("://" + "a" * 300_000) == "://" + "a" * 300_000
    assert time.monotonic() - started < 2
