"""What passes between components: locations, digests, manifests, the store, and the tables rows stand in."""

from tutelage.contracts.digests import RowsDigest, canonical_json, digest_of, files_digest
from tutelage.contracts.manifest import KINDS, Manifest, PayloadFile, read, verify
from tutelage.contracts.store import Result, Store, new_attempt, step_key

__all__ = [
    "KINDS",
    "Manifest",
    "PayloadFile",
    "Result",
    "RowsDigest",
    "Store",
    "canonical_json",
    "digest_of",
    "files_digest",
    "new_attempt",
    "read",
    "step_key",
    "verify",
]
