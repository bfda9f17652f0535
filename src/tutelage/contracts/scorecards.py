"""What a Scorecard and a Comparison are held to: their content digest can be worked out again from the payload.

A manifest is not signed, so who can write to the store could keep an approved digest over other figures. Whoever trusts a
verdict works the digests out again, as `verdicts.require_model` does for weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.contracts import tables
from tutelage.contracts.digests import RowsDigest, digest_of
from tutelage.contracts.manifest import Manifest, read_json
from tutelage.errors import GateRefused


def scorecard_digest(body: Mapping[str, Any], items_digest: str) -> str:
    """Content digest of a Scorecard: `scorecard.json` and the digest of its item rows."""
    return digest_of({"scorecard": body, "items": items_digest})


def require_figures(scorecard: Manifest, comparison: Manifest) -> None:
    """Raise GateRefused unless both payloads are what their manifests' digests, and so the verdict, say."""
    body = read_json(scorecard, "scorecard.json")
    items = RowsDigest()
    items.update(tables.read(scorecard, "items"))
    metrics = {figure["name"].replace("/", "_"): figure["value"] for figure in body["figures"]}
    compared = read_json(comparison, "comparison.json")
    for what, manifest, found in (
        ("scorecard", scorecard, scorecard_digest(body, items.hexdigest())),
        ("comparison", comparison, digest_of(compared)),
    ):
        if found != manifest.content_digest:
            raise GateRefused(
                f"the {what}'s figures are not the approved ones: digest {found[:12]!r}, "
                f"not {manifest.content_digest[:12]!r}",
                hint="the payload was changed after the decision; evaluate and decide again",
            )
    if dict(scorecard.metrics) != metrics:
        raise GateRefused(
            "the scorecard's manifest names other figures than its payload", hint="evaluate and decide again"
        )
