"""What a promotion replaced, in the store until it has succeeded: a launcher that is killed half-way leaves it to others.

    scratch/promotions/NAMESPACE/NAME/RUN.json      the run and its Workflow, the release it puts, the spec to go back to

Written before the stable name is touched and removed last of all, so a record always means: not known to serve. Each run has a
file of its own, which no other run overwrites; several may promote at once. In the store, never an annotation: KServe copies
those to pods, so a change of one starts a roll-out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tutelage.contracts import locations
from tutelage.errors import StoreError
from tutelage.runtimes.kubernetes.jobs import Object
from tutelage.runtimes.kubernetes.names import Identity, Owner, label_value

#: How a person is told of something that went another way than it should.
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One promotion that has not succeeded (yet)."""

    location: str
    """Its file."""
    run: str
    """KFP's run id."""
    owner: Owner | None
    """The run's Workflow."""
    release: str
    """What the run puts under the stable name."""
    before: Object | None
    """Spec, labels and annotations last known to serve there; None where nothing was."""


def folder_of(store_root: str, namespace: str, name: str) -> str:
    """Where the records of a stable name lie."""
    return locations.join(store_root, "scratch", "promotions", namespace, name)


def location_of(records: str, run: str) -> str:
    """The file of a run."""
    return locations.join(records, f"{label_value(run)}.json")


def new_record(records: str, identity: Identity, release: str, before: Object | None) -> Record:
    """The record of a promotion that begins, not yet written."""
    location = location_of(records, identity.run)
    return Record(location=location, run=identity.run, owner=identity.owner, release=release, before=before)


def write(record: Record) -> None:
    """Put it into the store. Raises StoreError."""
    owner = record.owner and {"name": record.owner.name, "uid": record.owner.uid}
    content = {"run": record.run, "owner": owner, "release": record.release, "before": record.before}
    locations.write_bytes(record.location, json.dumps(content).encode())


def read(records: str, tell: Tell) -> tuple[list[Record], list[str]]:
    """Every record that can be read, and locations of those that are torn. Raises StoreError where the store does not answer.

    One that is torn, or that may not be read, is told and passed over.
    """
    found, torn = [], []
    for name, _ in locations.list_files(records):
        location = locations.join(records, name)
        try:
            found.append(_record(location, json.loads(locations.read_bytes(location))))
        except FileNotFoundError:
            # Its run has ended since it was listed.
            continue
        except (ValueError, KeyError, TypeError) as error:
            torn.append(location)
            tell(f"{location} is no record of a promotion, so what it was to keep is not known: {error!r}")
        except (StoreError, OSError) as error:
            tell(f"{location} cannot be read, so what it keeps is not known: {error}")
    return found, torn


def remove(records: Iterable[Record]) -> None:
    """Remove them from the store. Raises StoreError."""
    for record in records:
        locations.remove(record.location)


def _record(location: str, content: Any) -> Record:
    """Raises KeyError, TypeError for what is none."""
    before, owner = content["before"], content["owner"]
    if before is not None:
        before = {"metadata": dict(before["metadata"]), "spec": dict(before["spec"])}
    return Record(
        location=location, run=str(content["run"]), release=str(content["release"]), before=before,
        owner=Owner(name=str(owner["name"]), uid=str(owner["uid"])) if owner is not None else None,
    )  # fmt: skip
