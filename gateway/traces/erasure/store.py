"""Takes rows out of the store so that their bytes are gone from its disk, and everybody else's are safe.

A deletion rewrites the parts that have such rows; the old ones would stay for minutes. They may go at once
here, because the new ones are synced first: the settings below see to that for as long as this takes.
Statements name rows by their ids alone: the store keeps the text of a deletion, and it shall name nobody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from gateway.errors import OperationError, StoreRefusedError
from gateway.traces.batches import parts_of
from gateway.traces.erasure.blob_owners import owned_by_sql
from gateway.traces.erasure.erasures import Owner
from gateway.traces.layout import ONE_SERVER, Layout
from gateway.traces.store import Store
from gateway.traces.types import BLOBS

IDS_PER_STATEMENT = 5_000  # 200 KB: a statement may have 256 KB
PASSES = 5  # rows that an insert under way still brings are deleted by the next one
INSERTS_WAIT_S = 600.0  # for the store to end inserts that whoever sent them may have given up
MUTATION_WAIT_S = 3600.0  # for the store to rewrite what it has; it goes on by itself if we stop waiting
PARTS_WAIT_S = 600.0  # for statements that still read old parts; replicated tables look every five minutes
_POLL_S = 0.1
_SYNCED = (
    "old_parts_lifetime = 0, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1"
)
_RESET = "old_parts_lifetime, min_rows_to_fsync_after_merge, min_compressed_bytes_to_fsync_after_merge"
# Tables that have rows of a trace, by its id.
_BY_TRACE = ("judgments", "judged_minutes", "labels")
_KEYS = {"feedback": "feedback_id", BLOBS: "blob"}
_UNKNOWN_PARTITION = "1900"  # dropping one that is not there only makes the table look for old parts

Tell = Callable[[str], None]


class StoredRows:
    """The rows of some owners in the store."""

    def __init__(self, store: Store, owners: Sequence[Owner], layout: Layout = ONE_SERVER) -> None:
        self._store = store
        self._layout = layout
        self._where = " OR ".join(f"({_is(owner)})" for owner in owners)
        present = store.query("SELECT name FROM system.tables WHERE database = currentDatabase()")
        names = {row["name"] for row in present}
        self._tables = [name for name in ("traces", "feedback", *_BY_TRACE, BLOBS) if name in names]
        self._altered = [layout.rows_of(table) for table in self._tables]

    def clients(self) -> list[str]:
        """The clients that have traces of the owners."""
        rows = self._store.query(f"SELECT DISTINCT client FROM traces WHERE {self._where} ORDER BY client")  # noqa: S608
        return [row["client"] for row in rows]

    def traces(self) -> list[tuple[str, str, str]]:
        """Id, client and session of each trace."""
        rows = self._store.query(f"SELECT trace_id, client, session FROM traces WHERE {self._where}")  # noqa: S608
        return [(row["trace_id"], row["client"], row["session"]) for row in rows]

    def wait_for_inserts(self, tell: Tell) -> None:
        """Until the inserts that the store is at work on are over.

        Who sends rows gives up a store that hangs, which may have all of them by then, and store them when it
        goes on. Raises OperationError when that is not over in time.
        """
        deadline = time.monotonic() + INSERTS_WAIT_S
        left = running = self._inserts()
        while left:
            if time.monotonic() >= deadline:
                raise OperationError(
                    f"the store is still at work on {len(left)} inserts after {INSERTS_WAIT_S:g} s; see why, "
                    "and repeat this"
                )
            tell(f"{len(left)} inserts that the store is at work on")
            time.sleep(_POLL_S)
            left = running & self._inserts()

    def _inserts(self) -> set[str]:
        rows = self._store.query(
            f"SELECT query_id FROM {self._layout.everywhere('system.processes')} "  # noqa: S608
            "WHERE query_kind = 'Insert' AND current_database = currentDatabase()"
        )
        return {row["query_id"] for row in rows}

    def unnamed(self, sessions: Sequence[tuple[str, str]]) -> int:
        """How many traces without a subject are in *sessions*, which are pairs of client and session."""
        total = 0
        for part in parts_of(sessions, IDS_PER_STATEMENT):
            pairs = ", ".join(f"({_text(client)}, {_text(session)})" for client, session in part)
            rows = self._store.query(
                f"SELECT count() AS n FROM traces WHERE subject IS NULL AND (client, session) IN ({pairs}) "  # noqa: S608
                f"AND NOT ifNull({self._where}, false)"
            )
            total += int(rows[0]["n"])
        return total

    def erase(
        self,
        traces: Sequence[str],
        sessions: Sequence[tuple[str, str]],
        owned: Sequence[str],
        until_us: int,
        tell: Tell,
    ) -> dict[str, int]:
        """Delete *traces* and the owners' others, with all that is about them; how many rows of which table.

        Feedback on *sessions* as a whole goes too, if it came before *until_us*, and blobs of the owners that
        the digests *owned* name. Raises OperationError when the store is not done in time; StoreError.
        """
        removed = dict.fromkeys(self._tables, 0)
        known = list(traces)
        for _ in range(PASSES):
            known += sorted({trace for trace, _, _ in self.traces()} - set(known))
            rows = self._rows_of(known, sessions, owned, until_us)
            if not any(rows.values()):
                break
            with _synced(self._store, self._altered):
                # Traces last: by them all the rest is found again, should this be killed.
                for table in sorted(rows, key=lambda name: name == "traces"):
                    removed[table] += self._delete(table, rows[table], tell)
                self._clear_old_parts(tell)
        else:
            raise OperationError(
                f"rows of them kept coming through {PASSES} passes; see that no other gateway writes to this "
                "store with an older version, and repeat the command"
            )
        return removed

    def clear(self, tell: Tell) -> None:
        """Have old parts gone that an earlier try may have left."""
        with _synced(self._store, self._altered):
            self._clear_old_parts(tell)

    def _rows_of(
        self, traces: Sequence[str], sessions: Sequence[tuple[str, str]], owned: Sequence[str], until_us: int
    ) -> dict[str, list[str]]:
        """The ids of the rows to delete, by table."""
        found: dict[str, list[str]] = {}
        for table in self._tables:
            if table == "feedback":
                found[table] = self._feedback(traces, sessions, until_us)
            elif table == BLOBS:
                rows = self._store.query(f"SELECT DISTINCT blob FROM {BLOBS} WHERE {owned_by_sql(owned)}")  # noqa: S608
                found[table] = [row["blob"] for row in rows]
            else:
                found[table] = self._present(table, "trace_id", traces)
        return found

    def _present(self, table: str, key: str, ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        for part in parts_of(ids, IDS_PER_STATEMENT):
            where = f"{key} IN ({_list(part)})"
            rows = self._store.query(f"SELECT DISTINCT {key} AS id FROM {table} WHERE {where}")  # noqa: S608
            found += [row["id"] for row in rows]
        return found

    def _feedback(
        self, traces: Sequence[str], sessions: Sequence[tuple[str, str]], until_us: int
    ) -> list[str]:
        conditions = [f"trace_id IN ({_list(part)})" for part in parts_of(traces, IDS_PER_STATEMENT)]
        for part in parts_of(sessions, IDS_PER_STATEMENT):
            pairs = ", ".join(f"({_text(client)}, {_text(session)})" for client, session in part)
            conditions.append(
                f"trace_id IS NULL AND session IS NOT NULL AND (client, assumeNotNull(session)) IN ({pairs}) "
                f"AND created_at <= fromUnixTimestamp64Micro({until_us}, 'UTC')"
            )
        found: list[str] = []
        for condition in conditions:
            rows = self._store.query(f"SELECT DISTINCT feedback_id AS id FROM feedback WHERE {condition}")  # noqa: S608
            found += [row["id"] for row in rows]
        return sorted(set(found))

    def _delete(self, table: str, ids: Sequence[str], tell: Tell) -> int:
        """Delete the rows of *table* with these ids, on every part; how many there were."""
        if not ids:
            return 0
        key = _KEYS.get(table, "trace_id")
        count = 0
        for part in parts_of(ids, IDS_PER_STATEMENT):
            where = f"{key} IN ({_list(part)})"
            count += int(self._store.query(f"SELECT count() AS n FROM {table} WHERE {where}")[0]["n"])  # noqa: S608
            # Not waited for one by one: deletions that wait together rewrite each part once.
            self._store.command(f"ALTER TABLE {self._layout.rows_of(table)} DELETE WHERE {where}")
        self._await_mutations(table, tell)
        return count

    def _await_mutations(self, table: str, tell: Tell) -> None:
        deadline = time.monotonic() + MUTATION_WAIT_S
        while True:
            rows = self._store.query(
                "SELECT sum(parts_to_do) AS parts, count() AS n, max(latest_fail_reason) AS failed "  # noqa: S608
                f"FROM {self._layout.everywhere('system.mutations')} "
                "WHERE database = currentDatabase() AND table = {table:String} AND NOT is_done",
                {"table": self._layout.data_table(table)},
            )
            if not rows[0]["n"]:
                return
            if rows[0]["failed"]:
                raise OperationError(
                    f"the store cannot rewrite {table}: {rows[0]['failed'][:300]}; mend that and repeat this"
                )
            if time.monotonic() >= deadline:
                raise OperationError(
                    f"the store is still rewriting {table} after {MUTATION_WAIT_S:g} s; repeat this later"
                )
            tell(f"{table}: {rows[0]['parts']} parts to rewrite")
            time.sleep(_POLL_S)

    def _clear_old_parts(self, tell: Tell) -> None:
        """Until no part that is out of use now is on disk any more."""
        deadline = time.monotonic() + PARTS_WAIT_S
        old = self._old_parts()
        while old:
            for table in self._tables:
                if any(self._layout.data_table(table) == of for of, _ in old):
                    altered = self._layout.rows_of(table)
                    self._store.command(f"ALTER TABLE {altered} DROP PARTITION ID '{_UNKNOWN_PARTITION}'")
            left = old & self._old_parts()
            if left == old:
                time.sleep(_POLL_S)
            old = left
            if old and time.monotonic() >= deadline:
                raise OperationError(
                    f"the store still has {len(old)} old parts on disk after {PARTS_WAIT_S:g} s; a long "
                    "statement may be reading them: repeat this later"
                )
            tell(f"{len(old)} old parts to remove")

    def _old_parts(self) -> set[tuple[str, str]]:
        rows = self._store.query(
            f"SELECT table, name FROM {self._layout.everywhere('system.parts')} "  # noqa: S608
            "WHERE database = currentDatabase() AND NOT active AND table IN {tables:Array(String)}",
            {"tables": [self._layout.data_table(table) for table in self._tables]},
        )
        return {(row["table"], row["name"]) for row in rows}


@contextlib.contextmanager
def _synced(store: Store, tables: Sequence[str]) -> Iterator[None]:
    """New parts are on disk before old ones go, and these go when they are out of use.

    *tables* as an ALTER names them.
    """
    for table in tables:
        store.command(f"ALTER TABLE {table} MODIFY SETTING {_SYNCED}")
    try:
        yield
    finally:
        for table in tables:
            with contextlib.suppress(StoreRefusedError):  # where they were never set, there is none to reset
                store.command(f"ALTER TABLE {table} RESET SETTING {_RESET}")


def _is(owner: Owner) -> str:
    return f"client = {_text(owner.client)} AND {owner.kind} = {_text(owner.name)}"


def _list(values: Iterable[str]) -> str:
    return ", ".join(_text(value) for value in values)


def _text(value: str) -> str:
    """*value* as a string of SQL."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
