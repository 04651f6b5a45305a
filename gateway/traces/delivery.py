"""Puts the rows of one spool file into the store, each exactly once, whatever happened to earlier tries.

The rows of a table in a file are one insert, always the same, under a token made of the file's name:
repeated, it adds nothing but what is missing in the views behind the table. Where an earlier try may have
ended anywhere (a connection broke, a process was killed), what is there is asked for afterwards, because a
store killed in the middle may remember a token without its rows; and before, where the token may be forgotten
or parts were sent under others. A row that the store cannot take is found by halving, and set aside with the
reason.

Whose fault a refusal is, its code tells; where it does not, the other rows do: what is refused alone while
others are taken is the row's own fault.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gateway.errors import StoreRefusedError
from gateway.traces.batches import parts_of

Rows = list[dict[str, Any]]

IDS_PER_QUERY = 200  # ids travel in the URL
SETTLE_S = 1.0  # an insert whose connection broke may still be running in the store
DOUBTFUL_AT_MOST = 8  # so many rows refused one by one and none taken: it is not a few rows, it is the store
_IDENTITY = {"traces": ("trace_id", "started_at"), "feedback": ("feedback_id", "created_at")}
_MEMORY_LIMIT = 241  # ClickHouse's code: half as many rows need half as much


class InsertsRows(Protocol):
    """What delivery needs of `gateway.traces.store.Store`."""

    def insert(self, table: str, rows: Rows, *, token: str) -> None: ...

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]: ...


def deliver(
    store: InsertsRows,
    table: str,
    rows: Rows,
    token: str,
    *,
    suspect: bool,
    in_parts: bool = False,
    go_in_parts: Callable[[], None] = lambda: None,
    settle_s: float = SETTLE_S,
    blame_rows: bool = False,
) -> list[tuple[Any, str]]:
    """Insert *rows*; those that cannot be stored come back with the reason.

    `suspect`: an earlier try may have got anywhere. `in_parts`: it may have sent parts, or the store may have
    forgotten the token; `go_in_parts` is called before this try sends some. `blame_rows`: a refusal whose
    code does not tell is the rows' fault, even where all of them are refused. Raises StoreError when the
    store is at fault and not a row, and StoreRefusedError when nothing tells; then the same call again, as
    suspect, is safe.
    """
    delivery = _Delivery(store, table, blame_rows=blame_rows, go_in_parts=go_in_parts)
    if suspect and table in _IDENTITY:
        if not in_parts and _went_whole(store, table, rows, token):
            _restore_missing(store, table, rows, token, settle_s)
            return []
        go_in_parts()
        missing = missing_rows(store, table, rows)
        if len(missing) < len(rows):
            # Part of them is there: halves of an earlier try, or an insert that is just being finished.
            time.sleep(settle_s)
            rows = missing_rows(store, table, missing)
            token = f"{token}+{_digest(table, rows)}"
            delivery.took_some = True
    if rows:
        refused = delivery.run(rows, token)
        if suspect:
            poison = [row for row, _ in refused]
            _restore_missing(store, table, [row for row in rows if row not in poison], token, settle_s)
        return refused
    return []


def _went_whole(store: InsertsRows, table: str, rows: Rows, token: str) -> bool:
    """Insert all of *rows* again. False: they are refused now, and what is there has to be asked first."""
    try:
        store.insert(table, rows, token=token)
    except StoreRefusedError as error:
        if _may_halve(error):
            return False
        raise
    return True


def _may_halve(error: StoreRefusedError) -> bool:
    return error.code == _MEMORY_LIMIT or not error.about_store


class _Delivery:
    """One try at some rows, in halves where they are refused."""

    def __init__(
        self, store: InsertsRows, table: str, *, blame_rows: bool, go_in_parts: Callable[[], None]
    ) -> None:
        self._store = store
        self._table = table
        self._blame_rows = blame_rows
        self._go_in_parts = go_in_parts
        self._refused: list[tuple[Any, str]] = []
        self._doubtful: list[tuple[Any, StoreRefusedError]] = []
        self.took_some = False  # the store takes rows: what it refuses alone is a row's fault

    def run(self, rows: Rows, token: str) -> list[tuple[Any, str]]:
        """Those of *rows* that the store refuses, with the reason. Raises StoreError."""
        self._insert(rows, token, token.partition("/")[0])
        if self._doubtful and not (self.took_some or self._blame_rows):
            raise self._doubtful[0][1]
        return [*self._refused, *((row, str(error)) for row, error in self._doubtful)]

    def _insert(self, rows: Rows, token: str, stem: str) -> None:
        try:
            self._store.insert(self._table, rows, token=token)
        except StoreRefusedError as error:
            if not _may_halve(error):
                raise
            self._go_in_parts()
            rows = self._without_those_taken(rows)
            if len(rows) == 1:
                self._refuse(rows[0], error)
                return
            middle = len(rows) // 2
            for part in filter(None, (rows[:middle], rows[middle:])):
                self._insert(part, f"{stem}/{_digest(self._table, part)}", stem)
        else:
            self.took_some = True

    def _without_those_taken(self, rows: Rows) -> Rows:
        """Those of refused *rows* that are not there: a view may refuse what the table has taken."""
        if self._table not in _IDENTITY:
            return rows
        missing = missing_rows(self._store, self._table, rows)
        self.took_some |= len(missing) < len(rows)
        return missing

    def _refuse(self, row: dict[str, Any], error: StoreRefusedError) -> None:
        if error.about_store:
            raise error
        if error.about_data:
            self._refused.append((row, str(error)))
            return
        self._doubtful.append((row, error))
        if len(self._doubtful) >= DOUBTFUL_AT_MOST and not (self.took_some or self._blame_rows):
            raise error


def _digest(table: str, rows: Rows) -> str:
    """The same rows have the same digest, so that inserting them twice at once still stores them once."""
    if table in _IDENTITY:
        key = _IDENTITY[table][0]
        return hashlib.sha256("\0".join(row[key] for row in rows).encode()).hexdigest()[:16]
    return hashlib.sha256(msgspec.msgpack.encode(rows)).hexdigest()[:16]


def _restore_missing(store: InsertsRows, table: str, rows: Rows, token: str, settle_s: float) -> None:
    if table not in _IDENTITY:
        # These rows replace their equals, so that inserting them again is safe and asking is not needed.
        store.insert(table, rows, token=f"{token}+{time.time_ns()}")
        return
    missing = missing_rows(store, table, rows)
    if missing:
        time.sleep(settle_s)
        missing = missing_rows(store, table, missing)
    if missing:
        store.insert(table, missing, token=f"{token}+{time.time_ns()}")


def missing_rows(store: InsertsRows, table: str, rows: Rows) -> Rows:
    """Those of *rows* whose id is not in *table*."""
    key, at = _IDENTITY[table]
    missing: Rows = []
    for part in parts_of(rows, IDS_PER_QUERY):
        found = store.query(
            f"SELECT {key} FROM {table} WHERE {key} IN {{ids:Array(String)}} "  # noqa: S608 -- names of ours
            f"AND {at} BETWEEN {{first:DateTime64(6, 'UTC')}} AND {{last:DateTime64(6, 'UTC')}}",
            {
                "first": min(row[at] for row in part),
                "last": max(row[at] for row in part),
                "ids": [row[key] for row in part],
            },
        )
        present = {row[key] for row in found}
        missing += [row for row in part if row[key] not in present]
    return missing
