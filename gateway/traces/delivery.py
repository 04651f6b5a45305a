"""Puts the rows of one spool file into the store, each exactly once, whatever happened to earlier tries.

The rows of a table in a file are one insert, always the same, under a token made of the file's name:
repeated, it adds nothing. Where an earlier try may have ended anywhere (a connection broke, a process was
killed), what is there is asked for afterwards, because a store killed in the middle may remember a token
without its rows. A row that the store cannot take is found by halving, and set aside with the reason.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from gateway.errors import StoreRefusedError

Rows = list[dict[str, Any]]

IDS_PER_QUERY = 200  # ids travel in the URL
SETTLE_S = 1.0  # an insert whose connection broke may still be running in the store
_IDENTITY = {"traces": ("trace_id", "started_at"), "feedback": ("feedback_id", "created_at")}
_MEMORY_LIMIT = 241  # ClickHouse's code: half as many rows need half as much


class InsertsRows(Protocol):
    """What delivery needs of `gateway.traces.store.Store`."""

    def insert(self, table: str, rows: Rows, *, token: str) -> None: ...

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]: ...


def deliver(
    store: InsertsRows, table: str, rows: Rows, token: str, *, suspect: bool, settle_s: float = SETTLE_S
) -> list[tuple[Any, str]]:
    """Insert *rows*; those that cannot be stored come back with the reason.

    `suspect`: an earlier try may have got anywhere. Raises StoreError when the store is at fault and not a
    row; then the same call again, as suspect, is safe.
    """
    refused: list[tuple[Any, str]] = []
    if suspect and table in _IDENTITY:
        missing = missing_rows(store, table, rows)
        if len(missing) < len(rows):
            # Part of them is there: halves of an earlier try, or an insert that is just being finished.
            time.sleep(settle_s)
            rows = missing_rows(store, table, missing)
            token = f"{token}+{_digest(table, rows)}"
    if rows:
        _deliver(store, table, rows, token, 0, refused)
        if suspect:
            poison = [row for row, _ in refused]
            _restore_missing(store, table, [row for row in rows if row not in poison], token, settle_s)
    return refused


def _digest(table: str, rows: Rows) -> str:
    """The same rows have the same digest, so that inserting them twice at once still stores them once."""
    key = _IDENTITY[table][0]
    return hashlib.sha256("\0".join(row[key] for row in rows).encode()).hexdigest()[:16]


def _deliver(
    store: InsertsRows, table: str, rows: Rows, token: str, start: int, refused: list[tuple[Any, str]]
) -> None:
    try:
        store.insert(table, rows, token=token)
    except StoreRefusedError as error:
        if not (error.about_data or error.code == _MEMORY_LIMIT) or (len(rows) == 1 and not error.about_data):
            raise
        if len(rows) == 1:
            refused.append((rows[0], str(error)))
            return
        middle = len(rows) // 2
        stem = token.partition("/")[0]
        for first, part in ((start, rows[:middle]), (start + middle, rows[middle:])):
            # The halves are the same at every try, and so are their tokens.
            _deliver(store, table, part, f"{stem}/{first}-{first + len(part)}", first, refused)


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
    for part in _parts(rows):
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


def _parts(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), IDS_PER_QUERY):
        yield rows[start : start + IDS_PER_QUERY]
