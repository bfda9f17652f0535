from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.verdicts import create_key_pair, load_private_key, sign, trusted_keys, verify
from tutelage.errors import GateRefused, InvalidInput

SUBJECT = {
    "run": "r",
    "model": "m" * 64,
    "data": "d" * 64,
    "policy": "p" * 64,
    "scorecard": "s" * 64,
    "comparison": "c" * 64,
}
PASS = {"schema": "tutelage.verdict/1", "verdict": "PASS", "reasons": [], "checks": [], "subject": SUBJECT}


@pytest.fixture
def keys(tmp_path: Path):
    return create_key_pair(tmp_path / "keys")


def test_a_key_pair_is_private_and_made_once(keys, tmp_path):
    assert keys.private_key.stat().st_mode & 0o777 == 0o600
    again = create_key_pair(tmp_path / "keys")
    assert again == keys
    assert list(trusted_keys(keys.public_keys)) == [keys.fingerprint]
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in keys.public_keys.iterdir())


def test_a_signed_pass_verifies(keys):
    verify(sign(PASS, keys.private_key), keys.public_keys, SUBJECT)


def test_the_signature_covers_every_field_but_itself(keys):
    signed = sign(PASS, keys.private_key)
    for name in signed:
        if name == "signature":
            continue
        changed = signed | {name: {**SUBJECT, "run": "other"} if name == "subject" else "changed"}
        with pytest.raises(GateRefused):
            verify(changed, keys.public_keys, SUBJECT)
    with pytest.raises(GateRefused, match="signature does not fit"):
        verify(signed | {"note": "added"}, keys.public_keys, SUBJECT)


def test_a_key_that_travels_with_the_verdict_is_not_trusted(keys, tmp_path):
    other = create_key_pair(tmp_path / "other")
    pem = next(other.public_keys.iterdir()).read_text()
    with pytest.raises(GateRefused, match="unknown key"):
        verify(sign(PASS | {"public_key": pem}, other.private_key), keys.public_keys, SUBJECT)


@pytest.mark.parametrize("signature", ["", "!!!", "AAAA", 7, None, ["x"]])
def test_a_signature_that_is_none_is_refused(keys, signature):
    with pytest.raises(GateRefused):
        verify(sign(PASS, keys.private_key) | {"signature": signature}, keys.public_keys, SUBJECT)


def test_a_new_key_beside_the_old_one_keeps_old_verdicts_valid(keys, tmp_path):
    signed = sign(PASS, keys.private_key)
    for path in create_key_pair(tmp_path / "new").public_keys.iterdir():
        (keys.public_keys / path.name).write_bytes(path.read_bytes())
    verify(signed, keys.public_keys, SUBJECT)


def test_a_private_key_must_be_private_and_where_it_says(keys, tmp_path):
    link = tmp_path / "elsewhere" / "link.pem"
    link.parent.mkdir()
    link.symlink_to(keys.private_key)
    with pytest.raises(InvalidInput, match="link out of its folder"):
        load_private_key(link)
    keys.private_key.chmod(0o604)
    with pytest.raises(InvalidInput, match="open to everybody"):
        load_private_key(keys.private_key)
    with pytest.raises(InvalidInput, match="not found"):
        load_private_key(tmp_path / "none.pem")


def test_a_key_mounted_by_kubernetes_is_accepted(keys):
    folder = keys.private_key.parent / "mounted"
    (folder / "..2026").mkdir(parents=True)
    keys.private_key.rename(folder / "..2026" / "key.pem")
    # The mode that Kubernetes gives where nobody sets one.
    (folder / "..2026" / "key.pem").chmod(0o644)
    (folder / "..data").symlink_to("..2026")
    (folder / "key.pem").symlink_to("..data/key.pem")
    load_private_key(folder / "key.pem")


def test_keys_of_another_kind_are_refused(keys, tmp_path):
    pem = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "ec.pem"
    path.write_bytes(pem)
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match="accepted: Ed25519"):
        load_private_key(path)
    path.write_text("no key")
    with pytest.raises(InvalidInput, match="not a readable private key"):
        load_private_key(path)
    (keys.public_keys / "junk.pem").write_text("no key")
    with pytest.raises(InvalidInput, match="not a public key"):
        verify(sign(PASS, keys.private_key), keys.public_keys, SUBJECT)


def test_equal_policies_have_equal_digests_however_they_were_written():
    written = ReleasePolicy.model_validate_json('{"rules": [{"figure": "a", "maximum": 1}]}')
    spelled = ReleasePolicy.model_validate_json(
        '{"rules": [{"figure": "a", "maximum": 1.0, "margin": 0}], "name": "model"}'
    )
    assert written.values() == spelled.values()
