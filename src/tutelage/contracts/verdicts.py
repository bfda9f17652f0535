"""Verdicts: who may say PASS, of what exactly, and how everyone after the gate checks it for themselves.

A verdict is JSON signed with Ed25519 (RFC 8032) over its canonical form, everything but the signature itself. Its subject
names the model, data, policy, scorecard and comparison by digest, so a valid PASS of another model is worth nothing here.
Public keys come from the installation's folder and never from the verdict: `key` in it only says which of them to try.

    from tutelage.contracts.verdicts import create_key_pair
    create_key_pair(Path("runs/keys"))     # runs/keys/signing.pem (0600), runs/keys/public/<fingerprint>.pem
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.contracts import locations
from tutelage.contracts.digests import canonical_json, digest_of
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.scorecards import require_figures
from tutelage.errors import CorruptPayload, GateRefused, InvalidInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEMA = "tutelage.verdict/1"
VERDICT_NAME = "verdict.json"
#: What a verdict is about; `run` stands beside them and says who decided, and is not compared.
SUBJECT_DIGESTS = ("model", "data", "policy", "scorecard", "comparison")
MAXIMUM_VERDICT_BYTES = 4 * 1024 * 1024
_WORDS = {"data": "data (splits)"}


@dataclass(frozen=True)
class KeyPair:
    """Where a new key pair stands."""

    private_key: Path
    public_keys: Path
    """Folder of trusted public keys; what the setting `public_keys` names."""
    fingerprint: str


def create_key_pair(folder: Path) -> KeyPair:
    """An Ed25519 key pair below `folder`; the one that stands there already, if so. Safe with two writers at once."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public_keys = folder / "signing.pem", folder / "public"
    public_keys.mkdir(parents=True, exist_ok=True)
    if not private.exists():
        data = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write_private(private, data)
    public = load_private_key(private).public_key()
    name = fingerprint(public)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    locations.write_bytes(str(public_keys / f"{name[:16]}.pem"), pem)
    return KeyPair(private, public_keys, name)


def _write_private(path: Path, data: bytes) -> None:
    """Write a private key that nobody else can read at any moment; the first of two writers wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def fingerprint(public_key: Ed25519PublicKey) -> str:
    """Hex sha256 of the raw public key."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The signing key at `path`. Raises InvalidInput when it is missing, open to everybody, elsewhere, or no Ed25519 key.

    A link may lead to a file of the same mounted folder (Kubernetes mounts secrets so), and nowhere else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not path.is_file():
        raise InvalidInput(f"signing key not found: {path}", hint="set signing_key to a private key file (PEM)")
    target = path.resolve()
    if path.is_symlink() and not target.is_relative_to(path.parent.resolve()):
        raise InvalidInput(f"signing key is a link out of its folder: {path}", hint="name the key file itself")
    mode = stat.S_IMODE(target.stat().st_mode)
    if mode & 0o007 and not _is_mounted_secret(path):
        raise InvalidInput(f"signing key is open to everybody: {path} has mode {mode:04o}", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(target.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, PermissionError) as error:
        raise InvalidInput(f"not a readable private key: {path}: {error}", hint="give an unencrypted PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"{path} is a {type(key).__name__}, accepted: Ed25519", hint="create one with Tutelage")
    return key


def _is_mounted_secret(path: Path) -> bool:
    """Whether Kubernetes mounted `path`: a link through `..data`, in a file system that only this pod sees.

    Its mode is 0644 unless the pod says otherwise, which pipelines cannot (kfp-kubernetes 2.17 sets no mode).
    """
    return path.is_symlink() and path.readlink().parts[0] == "..data"


def trusted_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    """Fingerprint → public key, for every `*.pem` in `folder`. Raises InvalidInput for a file that holds no such key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = {}
    for path in sorted(folder.glob("*.pem")) if folder.is_dir() else []:
        try:
            key = load_pem_public_key(path.read_bytes())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidInput(f"not a public key: {path}: {error}", hint="keep only public PEM files there") from error
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidInput(f"{path} is a {type(key).__name__}, accepted: Ed25519")
        keys[fingerprint(key)] = key
    return keys


def subject_of(
    *, run: str, model: Manifest, splits: Manifest, scorecard: Manifest, comparison: Manifest, policy: ReleasePolicy
) -> dict[str, str]:
    """What a verdict on these inputs is about: digests, and the run that decides."""
    return {
        "run": run,
        "model": model.content_digest,
        "data": splits.content_digest,
        "policy": digest_of(policy.values()),
        "scorecard": scorecard.content_digest,
        "comparison": comparison.content_digest,
    }


def sign(verdict: Mapping[str, Any], private_key: Path) -> dict[str, Any]:
    """The verdict with `key` and `signature` set. Raises InvalidInput for an unusable key."""
    key = load_private_key(private_key)
    signed = {**verdict, "key": fingerprint(key.public_key())}
    return {**signed, "signature": base64.b64encode(key.sign(_signed_bytes(signed))).decode()}


def _signed_bytes(verdict: Mapping[str, Any]) -> bytes:
    return canonical_json({name: value for name, value in verdict.items() if name != "signature"})


def content_digest(verdict: Mapping[str, Any]) -> str:
    """Digest of what a verdict says, whichever run said it."""
    subject = {name: value for name, value in verdict["subject"].items() if name != "run"}
    return digest_of({**verdict, "subject": subject, "signature": None})


def read_verdict(manifest: Manifest) -> dict[str, Any]:
    """The verdict in a payload, unverified. Raises GateRefused when there is none that can be read."""
    try:
        data = locations.read_bytes(manifest.file(VERDICT_NAME))
        if len(data) > MAXIMUM_VERDICT_BYTES:
            raise ValueError(f"{len(data)} bytes, accepted: {MAXIMUM_VERDICT_BYTES}")
        verdict = json.loads(data)
        if (
            not isinstance(verdict, dict)
            or verdict.get("schema") != SCHEMA
            or not isinstance(verdict.get("subject"), dict)
        ):
            raise ValueError(f"accepted: {SCHEMA}")
    except (CorruptPayload, FileNotFoundError, ValueError, RecursionError) as error:
        raise GateRefused(f"no readable verdict at {manifest.location}: {error}", hint=_DECIDE_AGAIN) from error
    return verdict


def verify(verdict: Mapping[str, Any], public_keys: Path, expected: Mapping[str, str]) -> None:
    """Raise GateRefused unless `verdict` is a PASS, signed with a trusted key, of exactly the `expected` digests.

    The message names everything that is wrong: signature, key, each foreign digest, and the reasons of a FAIL.
    """
    objections = [*_signature_objections(verdict, public_keys), *_subject_objections(verdict, expected)]
    said = verdict.get("verdict")
    if said == "FAIL":
        reasons = verdict.get("reasons")
        objections.insert(
            0, "it is a FAIL: " + "; ".join(map(str, reasons if isinstance(reasons, list) else ["no reason"]))
        )
    elif said != "PASS":
        objections.insert(0, f"it says {str(said)[:40]!r}, accepted: PASS")
    if objections:
        run = str(verdict.get("subject", {}).get("run", "unknown"))[:80]
        hint = "see the release page for every check" if said == "FAIL" else _DECIDE_AGAIN
        raise GateRefused(f"release refused by the verdict of run {run!r}: " + "; ".join(objections), hint=hint)


_DECIDE_AGAIN = "run release/decide on these inputs, with a signing key whose public key stands in public_keys"


def _signature_objections(verdict: Mapping[str, Any], public_keys: Path) -> list[str]:
    from cryptography.exceptions import InvalidSignature

    signature, name = verdict.get("signature"), verdict.get("key")
    if not isinstance(signature, str) or not isinstance(name, str):
        return ["it is not signed"]
    keys = trusted_keys(public_keys)
    if name not in keys:
        return [f"it is signed with unknown key {name[:16]!r}; {len(keys)} trusted in {public_keys}"]
    try:
        keys[name].verify(base64.b64decode(signature, validate=True), _signed_bytes(verdict))
    except (InvalidSignature, binascii.Error, ValueError, TypeError):
        return ["its signature does not fit: it was altered after signing, or signed with another key"]
    return []


def _subject_objections(verdict: Mapping[str, Any], expected: Mapping[str, str]) -> list[str]:
    subject = verdict.get("subject", {})
    objections = []
    for name in SUBJECT_DIGESTS:
        found = subject.get(name)
        if not isinstance(found, str) or found != expected[name]:
            shown = repr(found[:12]) if isinstance(found, str) else "nothing"
            objections.append(f"it is about another {_WORDS.get(name, name)}: {shown}, not {expected[name][:12]!r}")
    return objections


def require_pass(inputs: Mapping[str, Manifest], policy: ReleasePolicy, public_keys: Path) -> dict[str, Any]:
    """The verdict among `inputs`, once it is proven a valid PASS of the other inputs and of their figures. Raises GateRefused.

    `inputs` has verdict, model, splits, candidate and comparison, as enforce, register and deploy read them.
    """
    verdict = read_verdict(inputs["verdict"])
    expected = subject_of(
        run="",
        model=inputs["model"],
        splits=inputs["splits"],
        scorecard=inputs["candidate"],
        comparison=inputs["comparison"],
        policy=policy,
    )
    verify(verdict, public_keys, expected)
    require_figures(inputs["candidate"], inputs["comparison"])
    return verdict


def require_model(folder: Path, model: Manifest) -> None:
    """Raise GateRefused unless the files in `folder` are the model whose digest the manifest (and so the verdict) names.

    A manifest is not signed: who can write to the store could name an approved digest over other weights.
    """
    from tutelage.contracts.models import model_digest

    found = model_digest(folder)
    if found != model.content_digest:
        raise GateRefused(
            f"the model's files are not the approved model: digest {found[:12]!r}, not {model.content_digest[:12]!r}",
            hint="the payload was exchanged after its evaluation; train and evaluate again",
        )
