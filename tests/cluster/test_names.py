"""Names, labels and hashes that retries of a task's pod agree on."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tutelage.runtimes.kubernetes.names import (
    HASH_ANNOTATION,
    RELAUNCH_LABEL,
    RUN_LABEL,
    Identity,
    Owner,
    job_name,
    label_value,
    metadata,
    spec_hash,
)

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
RUN = "8c1f0f4e-2b1d-4a39-9a55-9f2f6b9d1c55"


@given(run=st.text(max_size=80), task=st.text(max_size=80), iteration=st.text(max_size=40), relaunch=st.integers(0, 99))
def test_every_name_is_a_dns_label_with_room_for_what_operators_append(
    run: str, task: str, iteration: str, relaunch: int
) -> None:
    name = job_name(run, task, iteration, relaunch)
    assert DNS_1035.fullmatch(name) and len(name) <= 45


def test_a_name_is_the_same_for_every_try_and_another_for_everything_else() -> None:
    names = [
        job_name(RUN, "train-sft", "1"),
        job_name(RUN, "train-sft", "2"),
        job_name(RUN, "train-dpo", "1"),
        job_name(RUN.replace("8", "9"), "train-sft", "1"),
        job_name(RUN, "train-sft", "1", 1),
        job_name(RUN, "train-sft", "1", 2),
        # Runs whose first characters agree, and tasks whose ends are cut off.
        job_name(RUN + "x", "train-sft", "1"),
        job_name(RUN, "train-sft-with-a-long-name-a"),
        job_name(RUN, "train-sft-with-a-long-name-b"),
    ]
    assert len(set(names)) == len(names)
    assert job_name(RUN, "train-sft", "1") == names[0]
    assert names[0].startswith("train-sft-8c1f0f4e-") and names[4] == f"{names[0]}-r1"


@given(st.text(max_size=100))
def test_every_label_value_is_accepted_by_kubernetes(text: str) -> None:
    value = label_value(text)
    assert LABEL.fullmatch(value) and len(value) <= 63


def test_label_values_that_must_change_stay_apart() -> None:
    assert label_value(RUN) == RUN
    assert label_value("run of today") != label_value("run-of-today")
    assert len({label_value("a" * 70), label_value("a" * 71), label_value("ä"), label_value("ö")}) == 4


def test_the_spec_hash_is_blind_for_what_kueue_writes_and_for_nothing_else() -> None:
    spec = {"runPolicy": {"suspend": True, "cleanPodPolicy": "None"}, "replicas": 2}
    admitted = {"runPolicy": {"suspend": False, "cleanPodPolicy": "None"}, "replicas": 2}
    assert spec_hash(spec) == spec_hash(admitted) == spec_hash({**spec, "suspend": True})
    changed = [
        {**spec, "replicas": 3}, {**spec, "runPolicy": {"suspend": True, "cleanPodPolicy": "All"}}, {**spec, "more": None},
    ]  # fmt: skip
    assert len({spec_hash(other) for other in [spec, *changed]}) == 4
    assert spec_hash(spec, {"kueue.x-k8s.io/queue-name": "a"}) != spec_hash(spec, {"kueue.x-k8s.io/queue-name": "b"})


def test_metadata_names_run_relaunch_hash_and_an_owner_that_blocks_nothing() -> None:
    identity = Identity(run=RUN, task="train-sft", step="train/train", owner=Owner(name="wf", uid="u-1"))
    first = metadata(identity, "team", {"a": 1}, labels={"kueue.x-k8s.io/queue-name": "q", RUN_LABEL: "spoofed"})
    again = metadata(identity.relaunched(2), "team", {"a": 1}, labels={"kueue.x-k8s.io/queue-name": "q"})
    assert first["labels"][RUN_LABEL] == RUN and first["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert (first["labels"][RELAUNCH_LABEL], again["labels"][RELAUNCH_LABEL]) == ("0", "2")
    assert again["name"] == f"{first['name']}-r2"
    (owner,) = first["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (
        "Workflow",
        "u-1",
        False,
        False,
    )
    assert first["annotations"][HASH_ANNOTATION] == spec_hash(
        {"a": 1}, {"kueue.x-k8s.io/queue-name": "q", RUN_LABEL: "spoofed"}
    )
    assert "ownerReferences" not in metadata(Identity(run=RUN, task="t"), "team", {})
