"""Brings a store's tables to this version: numbered SQL files, applied once, never changed afterwards.

`0001_traces.sql` goes forward, `0001_traces.down.sql` takes it back. Going back keeps every row that the
former tables have a place for; the file says what goes.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from importlib.resources import files
from typing import Any

import msgspec

from gateway.errors import StoreError
from gateway.traces.layout import ONE_SERVER, Layout
from gateway.traces.sqltext import tokens
from gateway.traces.store import Store

_FILE = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_RECORDED = "schema_migrations"
RECORD = f"""
CREATE TABLE IF NOT EXISTS {_RECORDED}
(
    name       String,
    checksum   String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY name
"""


class Migration(msgspec.Struct, frozen=True):
    """One file: its name, its content, and the content of its reverse; None where it has none."""

    name: str
    sql: str
    down: str | None = None

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> list[str]:
        """The statements of the file, without the semicolons between them."""
        return _statements(self.sql)

    def reverse(self) -> list[str]:
        """The statements that take it back. Raises StoreError where nobody wrote them."""
        if self.down is None:
            raise StoreError(f"migration {self.name} has no reverse; restore a backup of the store")
        return _statements(self.down)


def shipped_migrations() -> list[Migration]:
    """The migrations of this version, in order."""
    folder = files("gateway.traces") / "migrations"
    found = {entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.is_file()}
    return [
        Migration(name, found[name], found.get(name.removesuffix(".sql") + ".down.sql"))
        for name in sorted(found)
        if _FILE.match(name)
    ]


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


def migrate(
    store: Store, shipped: list[Migration] | None = None, *, layout: Layout = ONE_SERVER
) -> list[str]:
    """Apply what is missing and record it; the names of what was applied. Raises StoreError.

    Every statement is safe to repeat, so that one cut off in the middle is simply applied again, and two
    processes may do this at once.
    """
    if layout.cluster is not None:
        check_cluster(layout.cluster, store.servers_of(layout.cluster))
    store.create_database(layout.on_cluster)
    _run(store, layout, [RECORD])
    missing = pending(shipped or shipped_migrations(), applied_migrations(store))
    for migration in missing:
        _run(store, layout, migration.statements())
        row = {"name": migration.name, "checksum": migration.checksum}
        # A token of its own each time: what was taken back may be applied again.
        store.insert(_RECORDED, [row], token=uuid.uuid4().hex)
    return [migration.name for migration in missing]


def check_cluster(name: str, servers: list[dict[str, Any]]) -> None:
    """Whether rows can be kept on *servers* (of `system.clusters`), once each. Raises StoreError."""
    if not servers:
        raise StoreError(
            f"the server knows no cluster {name!r}; the table system.clusters lists those that it knows - at "
            "`$.store.cluster`"
        )
    shards = {row["shard_num"] for row in servers}
    if len(servers) > len(shards) and not all(row.get("internal_replication", 1) for row in servers):
        raise StoreError(
            f"cluster {name!r} would store each row once per replica and replicate it besides; set "
            "internal_replication to true in the servers' remote_servers"
        )


def step_back(
    store: Store, to: int, shipped: list[Migration] | None = None, *, layout: Layout = ONE_SERVER
) -> list[str]:
    """Take back every migration whose number is above *to*, newest first; their names. Raises StoreError.

    Nothing else may use the store meanwhile: this version would apply them again. All that can be refused is
    refused before anything is taken back. One cut off in the middle is safe to repeat.
    """
    known = {migration.name: migration for migration in shipped or shipped_migrations()}
    applied = applied_migrations(store)
    pending(list(known.values()), applied)
    back = [known[name] for name in sorted(applied, reverse=True) if int(name[:4]) > to]
    rendered = [
        [part for statement in migration.reverse() for part in layout.render(statement)] for migration in back
    ]
    for migration, statements in zip(back, rendered, strict=True):
        for statement in statements:
            store.command(statement)
        store.command(
            f"ALTER TABLE {layout.rows_of(_RECORDED)} DELETE WHERE name = '{migration.name}' "
            "SETTINGS mutations_sync = 2"
        )
    return [migration.name for migration in back]


def applied_migrations(store: Store) -> dict[str, str]:
    """What the store has, checksum by name. Raises StoreError, also where it was never migrated."""
    rows = store.query(f"SELECT name, checksum FROM {_RECORDED}")  # noqa: S608 -- a name of ours
    return {row["name"]: row["checksum"] for row in rows}


def _run(store: Store, layout: Layout, statements: list[str]) -> None:
    for statement in statements:
        for rendered in layout.render(statement):
            store.command(rendered)


def _statements(sql: str) -> list[str]:
    ends = [token.start for token in tokens(sql) if token.text == ";"]
    starts = [0, *(end + 1 for end in ends)]
    return [sql[start:end].strip() for start, end in zip(starts, ends, strict=False)]
