"""Brings outcomes that are known later to the traces they are about, as feedback of the trace's own client.

Who imports has the store itself, so that what they say counts for every client's traces; the rows say who it
was. Rows pass the same redaction as those of the gateway. Their ids are made of what they say: the same file
again adds nothing, however far an earlier import got.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from gateway.errors import StoreRefusedError
from gateway.outcome_file import JoinedOn, Outcome
from gateway.traces.delivery import deliver
from gateway.traces.erasure.erasures import ErasureList, Watch, named_row
from gateway.traces.rows import RowBuilder
from gateway.traces.segments import Record
from gateway.traces.store import Store
from gateway.traces.types import CapturedFeedback, Feedback, cut_key

LINES_AT_ONCE = 1000  # their keys and ids travel in one question
MAX_TRACES_OF_A_TAG = 100  # one value on more traces than this names no single thing
MAX_REPORTED = 1000  # lines that matched nothing are counted beyond this, and named up to it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONDITION = "({client:Nullable(String)} IS NULL OR client = {client:Nullable(String)})"
_FIND: dict[JoinedOn, str] = {
    "trace": f"SELECT trace_id AS key, trace_id, client, session, started_at FROM traces "  # noqa: S608
    f"WHERE trace_id IN {{keys:Array(String)}} AND {_CONDITION}",
    "session": f"SELECT session AS key, NULL AS trace_id, client, session, min(started_at) AS started_at "  # noqa: S608
    f"FROM traces WHERE session IN {{keys:Array(String)}} AND {_CONDITION} GROUP BY client, session",
    "tag": f"SELECT tags[{{tag:String}}] AS key, trace_id, client, session, started_at FROM traces "  # noqa: S608
    f"WHERE tags[{{tag:String}}] IN {{keys:Array(String)}} AND {_CONDITION} "
    f"ORDER BY started_at LIMIT {MAX_TRACES_OF_A_TAG + 1} BY key",
}


class Unmatched(msgspec.Struct, frozen=True):
    """A line that is about nothing in the store, and why."""

    line: int
    why: str


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import came to. `already` counts rows that were there, `rows` those that are new."""

    lines: int
    matched: int
    rows: int
    already: int
    unmatched: list[Unmatched]  # the first MAX_REPORTED


class Target(NamedTuple):
    """What a line is about: a trace, or a session (`trace_id` None)."""

    trace_id: str | None
    client: str
    session: str
    started_at: datetime


class Importer:
    """Imports outcomes into *store*. `redacting` builds rows as the recorder does, but encrypts nothing.

    *seal* makes of a redacted row what is stored. *commit* is called before rows are stored: what they are
    encrypted with has to be kept first. *id_key*: ids can be read by those who may not read texts, and nobody
    is to test a guess of a text by one. Nothing is stored of somebody whom *erasures* keeps out.
    """

    def __init__(
        self,
        store: Store,
        redacting: RowBuilder,
        *,
        on: JoinedOn,
        tag: str | None,
        client: str | None,
        by: str,
        commit: Callable[[], None] = lambda: None,
        erasures: ErasureList | None = None,
        seal: Callable[[Feedback], Feedback] = lambda row: row,
        id_key: bytes = b"",
    ) -> None:
        self._store = store
        self._seal = seal
        self._id_key = id_key
        self._commit = commit
        self._erasures = erasures
        self._redacting = redacting
        self._on = on
        self._tag = tag
        self._client = client
        self._by = by

    def run(
        self,
        outcomes: Iterable[Outcome],
        *,
        now: datetime,
        dry_run: bool = False,
        told: Callable[[int], None] = lambda _: None,
    ) -> Imported:
        """Import *outcomes*, or only find out what that would do. What has no time of its own is said *now*.

        *told* gets the number of lines as they are done. Raises StoreError: what was imported by then stays,
        and the same again does the rest.
        """
        lines = matched = stored = already = 0
        unmatched: list[Unmatched] = []
        for batch in _batches(outcomes):
            with self._sending() as watch:
                rows, missing = self._rows(batch, now)
                rows = {row_id: row for row_id, row in rows.items() if not _is_erased(watch, row)}
                fresh = self._not_there(rows)
                if fresh and not dry_run:
                    self._add(fresh)
            lines, matched = lines + len(batch), matched + len(batch) - len(missing)
            stored, already = stored + len(fresh), already + len(rows) - len(fresh)
            unmatched += missing[: MAX_REPORTED - len(unmatched)]
            told(len(batch))
        return Imported(lines=lines, matched=matched, rows=stored, already=already, unmatched=unmatched)

    def _sending(self) -> contextlib.AbstractContextManager[Watch | None]:
        return contextlib.nullcontext() if self._erasures is None else self._erasures.sending()

    def _add(self, rows: dict[str, Feedback]) -> None:
        self._commit()
        # A store that was killed may know the token of an earlier try without its rows.
        refused = deliver(
            self._store,
            "feedback",
            [msgspec.structs.asdict(row) for row in rows.values()],
            f"import-{_digest(list(rows))}",
            suspect=True,
        )
        if refused:
            raise StoreRefusedError(refused[0][1], about_data=True)

    def _rows(self, batch: list[Outcome], now: datetime) -> tuple[dict[str, Feedback], list[Unmatched]]:
        found = self._find(batch)
        rows: dict[str, Feedback] = {}
        unmatched = []
        for outcome in batch:
            # Of two lines that say no time the later one is the last word.
            at = outcome.at or now + timedelta(microseconds=outcome.line)
            about = found[outcome.key]
            why = self._why_not(outcome, about, at)
            if why is not None:
                unmatched.append(Unmatched(outcome.line, why))
                continue
            for target in about:
                if self._on == "trace" or target.started_at <= at:
                    rows |= self._said(outcome, target, at)
        return rows, unmatched

    def _why_not(self, outcome: Outcome, about: list[Target], at: datetime) -> str | None:
        if not about:
            if self._on != "session" and self._redacted(outcome.key):
                return "looks like personal data, which the store does not keep; join by trace or session"
            return f"no {self._on} of this value"
        clients = sorted({target.client for target in about})
        if self._on == "session" and len(clients) > 1:
            return f"a session of several clients ({', '.join(clients)}); --client says whose is meant"
        if len(about) > MAX_TRACES_OF_A_TAG:
            return f"on over {MAX_TRACES_OF_A_TAG} traces (MAX_TRACES_OF_A_TAG): it names no single thing"
        if self._on != "trace" and all(target.started_at > at for target in about):
            return f"said before the {'session' if self._on == 'session' else 'trace'} had started"
        return None

    def _find(self, batch: list[Outcome]) -> dict[str, list[Target]]:
        """What each key of *batch* is about."""
        keys = {outcome.key for outcome in batch}
        stored = defaultdict(set)  # what the store has in place of a key, and the keys that may be meant
        if self._on == "session":
            for client in self._clients:
                for key in keys:
                    stored[self._session(key, client), client].add(key)
        asked = sorted({session for session, _ in stored}) if stored else sorted(keys)
        parameters: dict[str, Any] = {"keys": asked, "client": self._client, "tag": self._tag or ""}
        found: dict[str, list[Target]] = defaultdict(list)
        for row in self._store.query(_FIND[self._on], parameters):
            target = Target(row["trace_id"], row["client"], row["session"], row["started_at"])
            for key in stored[row["key"], row["client"]] if stored else {row["key"]}:
                found[key].append(target)
        return found

    @functools.cached_property
    def _clients(self) -> list[str]:
        """Whose sessions may be meant. Asked once an import: it takes all of `traces`."""
        if self._client is not None:
            return [self._client]
        return [row["client"] for row in self._store.query("SELECT DISTINCT client FROM traces")]

    def _session(self, key: str, client: str) -> str:
        cut = cut_key(key)  # as the header of a request is
        return self._built(Target(None, client, cut, _EPOCH), "", None).session or ""

    def _redacted(self, key: str) -> bool:
        return self._built(Target(None, "", "", _EPOCH), "", key).text != key

    def _said(self, outcome: Outcome, target: Target, at: datetime) -> dict[str, Feedback]:
        rows = {}
        for kind, value, text in outcome.said:
            row = self._built(target, kind, text, value=value)
            content = [row.trace_id, row.session, row.client, row.kind, value, row.text, outcome.at]
            feedback_id = f"import-{_digest(content, self._id_key)}"
            rows[feedback_id] = self._seal(
                msgspec.structs.replace(row, feedback_id=feedback_id, created_at=at, imported_by=self._by)
            )
        return rows

    def _built(self, target: Target, kind: str, text: str | None, *, value: float | None = None) -> Feedback:
        captured = CapturedFeedback(
            feedback_id="",
            trace_id=target.trace_id,
            session=target.session,  # also beside a trace: placeholders are stable in a session
            client=target.client,
            kind=kind,
            value=value,
            text=text,
            created_at_us=0,
        )
        record = Record(captured=captured, meta=b"", request=b"", response=b"", bodies_left_out=False, end=0)
        row = self._redacting.build(record).values
        assert isinstance(row, Feedback), "a row of feedback is made of captured feedback"
        return row

    def _not_there(self, rows: dict[str, Feedback]) -> dict[str, Feedback]:
        there = set()
        ids = iter(rows)
        while some := list(islice(ids, LINES_AT_ONCE)):
            asked = "SELECT feedback_id FROM feedback WHERE feedback_id IN {ids:Array(String)}"
            there |= {row["feedback_id"] for row in self._store.query(asked, {"ids": some})}
        return {feedback_id: row for feedback_id, row in rows.items() if feedback_id not in there}


def _batches(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    lines = iter(outcomes)
    while batch := list(islice(lines, LINES_AT_ONCE)):
        yield batch


def _is_erased(watch: Watch | None, row: Feedback) -> bool:
    return watch is not None and watch.covers(named_row("feedback", msgspec.structs.asdict(row)))


def _digest(content: list[Any], key: bytes = b"") -> str:
    return hashlib.blake2b(msgspec.json.encode(content), key=key, digest_size=16).hexdigest()
