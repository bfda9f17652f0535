"""The embedded model registry: one SQLite file whose nouns are those of the Kubeflow Model Registry.

    sqlite3 runs/registry.sqlite 'select name, version, digest from released'

A RegisteredModel has ModelVersions, a version has ModelArtifacts, all LIVE; free facts stand in `custom_properties` as JSON.
A model (by content digest) is registered once under a name: doing it again gives the same version. Any number of processes
may write: transactions take the write lock at their start and wait for each other.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import InvalidInput, StepFailed

BUSY_TIMEOUT_SECONDS = 30.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS registered_models (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT,
    owner TEXT,
    state TEXT NOT NULL DEFAULT 'LIVE' CHECK (state IN ('LIVE', 'ARCHIVED')),
    external_id TEXT UNIQUE,
    custom_properties TEXT NOT NULL DEFAULT '{}',
    create_time_since_epoch INTEGER NOT NULL,
    last_update_time_since_epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS model_versions (
    id INTEGER PRIMARY KEY,
    registered_model_id INTEGER NOT NULL REFERENCES registered_models (id),
    name TEXT NOT NULL,
    description TEXT,
    author TEXT,
    state TEXT NOT NULL DEFAULT 'LIVE' CHECK (state IN ('LIVE', 'ARCHIVED')),
    external_id TEXT NOT NULL,
    custom_properties TEXT NOT NULL DEFAULT '{}',
    create_time_since_epoch INTEGER NOT NULL,
    last_update_time_since_epoch INTEGER NOT NULL,
    UNIQUE (registered_model_id, name),
    UNIQUE (registered_model_id, external_id)
) STRICT;
CREATE TABLE IF NOT EXISTS artifacts (
    id INTEGER PRIMARY KEY,
    model_version_id INTEGER NOT NULL REFERENCES model_versions (id),
    artifact_type TEXT NOT NULL DEFAULT 'model-artifact',
    name TEXT NOT NULL,
    description TEXT,
    uri TEXT NOT NULL,
    model_format_name TEXT,
    model_format_version TEXT,
    state TEXT NOT NULL DEFAULT 'LIVE',
    external_id TEXT,
    custom_properties TEXT NOT NULL DEFAULT '{}',
    create_time_since_epoch INTEGER NOT NULL,
    last_update_time_since_epoch INTEGER NOT NULL,
    UNIQUE (model_version_id, name)
) STRICT;
CREATE VIEW IF NOT EXISTS released AS
    SELECT m.name AS name, v.name AS version, v.external_id AS digest, a.uri AS uri, v.state AS state
    FROM model_versions v JOIN registered_models m ON m.id = v.registered_model_id
    JOIN artifacts a ON a.model_version_id = v.id ORDER BY m.name, v.id;
"""


@dataclass(frozen=True)
class Registered:
    """A version in the registry, and whether it stood there before."""

    name: str
    version: str
    registered_model_id: str
    model_version_id: str
    artifact_id: str
    created: bool


class Registry:
    """The registry in one SQLite file, made on first use. Raises InvalidInput for anything that is no local file."""

    def __init__(self, location: str) -> None:
        if "://" in location and not location.startswith("file://"):
            raise InvalidInput(
                f"registry {location!r} is not a local file",
                hint="set registry to a path, s3:// or minio://, in tutelage.toml",
            )
        self.path = Path(location.removeprefix("file://"))

    def register(
        self, name: str, digest: str, uri: str, *, format_version: str, properties: Mapping[str, Any]
    ) -> Registered:
        """The version of model `digest` under `name`: the one there is, its artifact now at `uri`, or else the next one."""
        now = int(time.time() * 1000)
        with self._transaction() as cursor:
            model = _row(cursor, "SELECT id FROM registered_models WHERE name = ?", name)
            model_id = model["id"] if model else _insert(cursor, "registered_models", now, name=name)
            found = _row(
                cursor,
                "SELECT id, name FROM model_versions WHERE registered_model_id = ? AND external_id = ?",
                model_id,
                digest,
            )
            if found:
                version_id, version = found["id"], str(found["name"])
            else:
                query = "SELECT COUNT(*) + 1 AS next FROM model_versions WHERE registered_model_id = ?"
                version = str(cursor.execute(query, (model_id,)).fetchone()["next"])
                version_id = _insert(
                    cursor, "model_versions", now, registered_model_id=model_id, name=version, external_id=digest,
                    custom_properties=json.dumps(dict(properties), sort_keys=True),
                )  # fmt: skip
            artifact_id = self._artifact(cursor, now, version_id, f"{name}-{version}", digest, uri, format_version)
        return Registered(name, version, str(model_id), str(version_id), str(artifact_id), created=not found)

    def _artifact(
        self, cursor: sqlite3.Cursor, now: int, version_id: int, name: str, digest: str, uri: str, format_version: str
    ) -> int:
        found = _row(cursor, "SELECT id, uri FROM artifacts WHERE model_version_id = ? AND name = ?", version_id, name)
        if found is None:
            return _insert(
                cursor, "artifacts", now, model_version_id=version_id, name=name, uri=uri, external_id=digest,
                model_format_name="safetensors", model_format_version=format_version,
            )  # fmt: skip
        if found["uri"] != uri:
            # The same model in another attempt: the former payload may be gone.
            cursor.execute(
                "UPDATE artifacts SET uri = ?, last_update_time_since_epoch = ? WHERE id = ?", (uri, now, found["id"])
            )
        return int(found["id"])

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Versions of model `name` with their artifact's uri, oldest first; empty for a name nobody registered."""
        query = """
            SELECT v.id, v.name AS version, v.external_id AS digest, v.state, v.custom_properties, a.uri
            FROM model_versions v JOIN registered_models m ON m.id = v.registered_model_id
            JOIN artifacts a ON a.model_version_id = v.id WHERE m.name = ? ORDER BY v.id"""
        with self._transaction() as cursor:
            rows = [dict(row) for row in cursor.execute(query, (name,))]
        return [{**row, "custom_properties": json.loads(row["custom_properties"])} for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """A write transaction: all or nothing, one writer at a time. Raises StepFailed when the file cannot be used."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                _prepare(connection)
                cursor = connection.cursor()
                cursor.execute("BEGIN IMMEDIATE")
                try:
                    yield cursor
                except BaseException:
                    cursor.execute("ROLLBACK")
                    raise
                cursor.execute("COMMIT")
        except sqlite3.Error as error:
            raise StepFailed(
                f"registry {self.path}: {error}", hint="check that it is a writable SQLite file"
            ) from error


def _prepare(connection: sqlite3.Connection) -> None:
    """Write-ahead log and tables. Changing the journal ignores the busy timeout, so two first users try until one has."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _row(cursor: sqlite3.Cursor, query: str, *values: Any) -> sqlite3.Row | None:
    row: sqlite3.Row | None = cursor.execute(query, values).fetchone()
    return row


def _insert(cursor: sqlite3.Cursor, table: str, now: int, **columns: Any) -> int:
    columns |= {"create_time_since_epoch": now, "last_update_time_since_epoch": now}
    names, marks = ", ".join(columns), ", ".join("?" for _ in columns)
    cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values()))  # noqa: S608  (our names)
    return int(cursor.lastrowid or 0)
