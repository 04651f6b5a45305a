"""The record of who was shown what people wrote: table `body_reads`, written before anything is shown.

Whoever shows a body to a person (a command, the dashboard, an export) calls `record_read` first, and shows
nothing where that raises. Judges and the learner read bodies for no person's eyes, and are not recorded.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

from gateway.errors import OperationError, StoreError
from gateway.traces.sqltext import tokens

MAX_IDS_PER_ROW = 10_000  # of traces; a larger read is told in several rows

Purpose = Literal["show", "tail", "export", "sql", "dashboard", "label", "try"]

# Tables that hold what people wrote, and functions that read tables by a pattern.
_TABLES_WITH_BODIES = ("traces", "judgments", "feedback", "blobs", "merge")
# A judge's reason, and the detail behind it, may quote what it judged.
_BODY_COLUMNS = frozenset({"request", "response", "reason", "detail", "text", "content", "columns"})
_AGGREGATES = "_by_minute"  # in the names of tables that count, and have no text


class Reader(msgspec.Struct, frozen=True):
    """Who reads: the user of the operating system, or a client key's name, and from which machine."""

    who: str
    host: str


class BodyRead(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `body_reads`. `statement`: the shape of one of `tracetune sql`, which names no traces."""

    read_id: str
    at: datetime
    who: str
    host: str
    purpose: Purpose
    trace_ids: list[str]
    statement: str | None = None


class KeepsReads(Protocol):
    """What the record needs of `gateway.traces.store.Store`."""

    def insert(self, table: str, rows: Sequence[msgspec.Struct], *, token: str) -> None: ...


def local_reader() -> Reader:
    """The user who runs this process, as the system knows him: no environment variable is asked."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"  # in a container, users may have no name
    return Reader(name, socket.gethostname())


def record_read(
    store: KeepsReads,
    reader: Reader,
    purpose: Purpose,
    trace_ids: Sequence[str],
    *,
    statement: str | None = None,
    at: datetime | None = None,
) -> None:
    """Put down that *reader* is about to be shown the bodies of *trace_ids*. Call it before showing any.

    Raises OperationError, one line, where the store does not take it; then nothing may be shown.
    """
    read_id = os.urandom(16).hex()
    moment = at or datetime.now(UTC)
    # A list of ids is one row as far as it goes; without any, a statement is told all the same.
    starts = range(0, max(len(trace_ids), 1), MAX_IDS_PER_ROW)
    rows = [
        BodyRead(
            read_id=f"{read_id}-{number}",
            at=moment,
            who=reader.who,
            host=reader.host,
            purpose=purpose,
            trace_ids=list(trace_ids[start : start + MAX_IDS_PER_ROW]),
            statement=statement,
        )
        for number, start in enumerate(starts)
    ]
    try:
        store.insert("body_reads", rows, token=f"read-{read_id}")
    except StoreError as error:
        raise OperationError(
            f"nothing is shown, because this read could not be put down in body_reads: {error}"
        ) from error


def may_show_bodies(statement: str) -> bool:
    """Whether rows of *statement* may hold what people wrote. Pure; where in doubt, yes.

    It names a table with bodies, and a column of them or columns without their names (`*`, `COLUMNS(…)`).
    """
    words = [token.text.strip('`"').lower() for token in tokens(statement)]
    named = [word for word in words if _AGGREGATES not in word]
    if not any(table in word for word in named for table in _TABLES_WITH_BODIES):
        return False
    return any(
        word in _BODY_COLUMNS or (word == "*" and words[max(index - 2, 0) : index] != ["count", "("])
        for index, word in enumerate(words)
    )


def shape_of(statement: str) -> str:
    """*statement* without its values and comments: the names that people search for are not kept here."""
    values = {"string", "number"}
    return " ".join("?" if token.kind in values else token.text for token in tokens(statement))
