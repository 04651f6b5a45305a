"""Brings a store's tables to this version: numbered SQL files, applied once, never changed afterwards."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

import msgspec

from gateway.errors import StoreError
from gateway.traces.sqltext import tokens
from gateway.traces.store import Store

_FILE = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    name       String,
    checksum   String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY name
"""
# What retention_days removes, and the time it counts from. What was learnt stays.
_RETAINED = {
    "traces": "started_at",
    "judgments": "judged_at",
    "feedback": "created_at",
    "traces_by_minute": "minute",
    "blobs": "used_until",
}
_TTL = re.compile(r"\bTTL toDateTime\(\w+\) \+ toIntervalDay\((\d+)\)")


class Migration(msgspec.Struct, frozen=True):
    """One file: its name, and its content."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> list[str]:
        """The statements of the file, without the semicolons between them."""
        ends = [token.start for token in tokens(self.sql) if token.text == ";"]
        starts = [0, *(end + 1 for end in ends)]
        return [self.sql[start:end].strip() for start, end in zip(starts, ends, strict=False)]


def shipped_migrations() -> list[Migration]:
    """The migrations of this version, in order."""
    folder = files("gateway.traces") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if _FILE.match(entry.name))
    return [Migration(name, (folder / name).read_text(encoding="utf-8")) for name in names]


def pending(shipped: list[Migration], applied: dict[str, str]) -> list[Migration]:
    """Those of *shipped* to apply to a store that has *applied* (checksum by name).

    Raises StoreError when a file changed after it was applied, or the store is newer than this version.
    """
    unknown = sorted(applied.keys() - {migration.name for migration in shipped})
    if unknown:
        raise StoreError(
            f"the store has migration {unknown[-1]}, which this version does not know; upgrade tracetune"
        )
    for migration in shipped:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise StoreError(
                f"migration {migration.name} was changed after it was applied to the store; restore the file "
                "and put the change into a new one"
            )
    return [migration for migration in shipped if migration.name not in applied]


def migrate(store: Store, shipped: list[Migration] | None = None) -> list[str]:
    """Apply what is missing and record it; the names of what was applied. Raises StoreError.

    Every statement is safe to repeat, so that one cut off in the middle is simply applied again, and two
    processes may do this at once.
    """
    store.create_database()
    store.command(_RECORD)
    rows = store.query("SELECT name, checksum FROM schema_migrations")
    applied = {row["name"]: row["checksum"] for row in rows}
    missing = pending(shipped or shipped_migrations(), applied)
    for migration in missing:
        for statement in migration.statements():
            store.command(statement)
        row = {"name": migration.name, "checksum": migration.checksum}
        store.insert("schema_migrations", [row], token=f"{migration.name}-{migration.checksum}")
    return [migration.name for migration in missing]


def apply_retention(store: Store, days: int | None) -> None:
    """Let rows older than *days* go, or None: keep all. Does nothing where that is so already."""
    rows = store.query(
        "SELECT name, create_table_query FROM system.tables "
        "WHERE database = currentDatabase() AND name IN {names:Array(String)}",
        {"names": list(_RETAINED)},
    )
    for row in rows:
        found = _TTL.search(row["create_table_query"])
        current = int(found[1]) if found else None
        if current == days:
            continue
        table, column = row["name"], _RETAINED[row["name"]]
        if days is None:
            store.command(f"ALTER TABLE {table} REMOVE TTL")
        else:
            store.command(f"ALTER TABLE {table} MODIFY TTL toDateTime({column}) + INTERVAL {int(days)} DAY")
