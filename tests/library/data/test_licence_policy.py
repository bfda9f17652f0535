from __future__ import annotations

import pytest

from tutelage.contracts.licences import normalise
from tutelage.data.licences import PERMISSIVE, refusal

ALLOWED = frozenset(PERMISSIVE)


def test_every_licence_of_the_default_is_spelled_as_spdx_spells_it():
    assert [normalise(name) for name in PERMISSIVE] == list(PERMISSIVE)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("MIT", None), ("mit", None), ("MIT OR GPL-3.0-only", None), ("(MIT AND ISC) OR GPL-3.0-only", None),
        ("Apache-2.0 WITH LLVM-exception", None), ("MIT AND GPL-3.0-only", "licence_not_allowed"),
        ("GPL-3.0-or-later", "licence_not_allowed"), ("CC-BY-NC-4.0", "licence_not_allowed"),
        ("CC-BY-SA-4.0", "licence_not_allowed"), ("LicenseRef-ours", "licence_not_allowed"), ("BSD", "licence_unknown"),
        ("", "licence_unknown"), (None, "licence_unknown"), ("NOASSERTION", "licence_unknown"), ("MIT OR", "licence_unknown"),
    ],
)  # fmt: skip
def test_expressions_are_judged_by_their_parts(expression, reason):
    assert refusal(expression, ALLOWED) == reason


def test_a_licence_with_its_exception_can_be_allowed_alone():
    allowed = frozenset({"GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-ours"})
    assert refusal("GPL-2.0-only WITH Classpath-exception-2.0", allowed) is None
    assert refusal("GPL-2.0-only", allowed) == "licence_not_allowed"
    assert refusal("LicenseRef-ours", allowed) is None
