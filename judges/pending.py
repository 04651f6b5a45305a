"""Which traces a judge has still to judge: asked of the store, never remembered.

A trace is pending for (judge, version) while there is no judgment of it, or while it has more feedback than
there was at its judgment. For a judge that is shown the turns after a trace, these count like feedback, and
the last turn of a session is pending only once nothing was added to it for a while. Nothing else is state:
whoever is killed at any point asks again and goes on.

Only answers can be judged: outcome ok, both bodies captured, a chat completion. gateway.traces.feedback says
which feedback belongs to a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from gateway.config.judges import Credit
from gateway.traces.feedback import SAID_SQL
from gateway.traces.store import Store

MAX_FEEDBACK = 100  # kinds of feedback a judge is shown of one trace, the latest
MAX_LATER_TRACES = 20  # the next of a session; what lies after them is not shown to a judge
MAX_IDS = 2_000  # a scope of more traces than this is asked as a condition, not as a list
WINDOW_TRACES = 20_000  # traces that one question over the past looks at, if one hour has not more
ANSWERED_SQL = (
    "outcome = 'ok' AND endpoint = '/v1/chat/completions' AND request IS NOT NULL AND response IS NOT NULL"
)
JUDGEABLE_SQL = f"{ANSWERED_SQL} AND (empty({{routes:Array(String)}}) OR route IN {{routes:Array(String)}})"
# Each question begins with `scope`, a list of trace ids.
_AMONG_SQL = f"""
    FROM (SELECT trace_id, started_at FROM traces WHERE trace_id IN scope AND {JUDGEABLE_SQL}) AS t
    LEFT JOIN (
        SELECT trace_id, feedback_seen, true AS judged FROM judgments
        WHERE trace_id IN scope AND judge = {{judge:String}} AND version = {{version:String}}
    ) AS j ON j.trace_id = t.trace_id
    LEFT JOIN (
        SELECT trace_id, uniqExact(feedback_id) AS said FROM ({SAID_SQL}) GROUP BY trace_id
    ) AS f ON f.trace_id = t.trace_id
"""  # noqa: S608 -- built of constants; values travel as parameters
_PENDING_SQL = f"{_AMONG_SQL} WHERE NOT j.judged OR f.said > j.feedback_seen"
_PENDING_LATER_SQL = f"""{_AMONG_SQL}
    LEFT JOIN (
        SELECT id AS trace_id, least(count(), {MAX_LATER_TRACES}) AS turns FROM (
            SELECT trace_id AS id, client AS of, session AS within, started_at AS since
            FROM traces WHERE trace_id IN scope
        ) AS a INNER JOIN (
            SELECT trace_id AS next_id, client AS of, session AS within, started_at AS next_at FROM traces
            WHERE session IN (SELECT session FROM traces WHERE trace_id IN scope) AND {ANSWERED_SQL}
        ) AS b USING (of, within)
        WHERE (next_at, next_id) > (since, id) GROUP BY id
    ) AS l ON l.trace_id = t.trace_id
    WHERE (NOT j.judged OR f.said + l.turns > j.feedback_seen)
    AND (l.turns > 0 OR t.started_at < now64(6, 'UTC') - toIntervalMillisecond({{idle_ms:UInt64}}))
"""  # noqa: S608 -- as above
_NO_NULLS = " SETTINGS join_use_nulls = 0"


class SessionRule(msgspec.Struct, frozen=True, kw_only=True):
    """Of a judge of sessions: when one is over (nothing was added for *idle_s*), and who gets its score."""

    idle_s: float
    credit: Credit


class JudgeVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Whose judgments: a judge by its name, the version of its file, and the routes it judges (none: all).

    `session`: of a judge that is shown sessions as a whole. `later_after_s`: of one that is shown the turns
    after a trace, for how long nothing was added to a session that is over.
    """

    judge: str
    version: str
    routes: tuple[str, ...] = ()
    session: SessionRule | None = None
    later_after_s: float | None = None

    def parameters(self) -> dict[str, Any]:
        asked = {"judge": self.judge, "version": self.version, "routes": list(self.routes)}
        idle_s = self.later_after_s if self.session is None else self.session.idle_s
        return asked if idle_s is None else asked | {"idle_ms": int(idle_s * 1000)}

    @property
    def counts_later(self) -> bool:
        """Whether turns that came after a trace make it pending again."""
        return self.session is None and self.later_after_s is not None

    def pending_sql(self) -> str:
        """What is pending among `scope`."""
        return _PENDING_LATER_SQL if self.counts_later else _PENDING_SQL

    def due_sql(self) -> str:
        """Turns of sessions with a pending trace in `scope` that nothing was added to lately."""
        return f"""
            (client, session) IN (
                SELECT client, session FROM traces WHERE trace_id IN (SELECT t.trace_id {_PENDING_SQL})
            ) AND (client, session) NOT IN (
                SELECT client, session FROM traces
                WHERE started_at > now64(6, 'UTC') - toIntervalMillisecond({{idle_ms:UInt64}})
            ) AND {JUDGEABLE_SQL}"""  # noqa: S608 -- built of constants


class Arrivals(msgspec.Struct, frozen=True):
    """What has arrived since a moment, and the store's own clock now."""

    traces: int
    feedback: int
    now: datetime


class Since(msgspec.Struct, frozen=True):
    """Scope: traces that arrived, or got feedback, at or after a moment of the store's clock."""

    moment: datetime

    def sql(self) -> str:
        return """
            SELECT trace_id FROM traces WHERE stored_at >= {since:DateTime64(3, 'UTC')}
            UNION DISTINCT
            SELECT assumeNotNull(trace_id) FROM feedback
            WHERE trace_id IS NOT NULL AND stored_at >= {since:DateTime64(3, 'UTC')}
            UNION DISTINCT
            SELECT trace_id FROM traces WHERE session IN (
                SELECT session FROM feedback
                WHERE trace_id IS NULL AND stored_at >= {since:DateTime64(3, 'UTC')}
            )"""

    def parameters(self) -> dict[str, Any]:
        return {"since": self.moment}


class Window(msgspec.Struct, frozen=True):
    """Scope: traces that started in [start, end)."""

    start: datetime
    end: datetime

    def sql(self) -> str:
        return """
            SELECT trace_id FROM traces
            WHERE started_at >= {start:DateTime64(6, 'UTC')} AND started_at < {end:DateTime64(6, 'UTC')}"""

    def parameters(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end}


class Ids(msgspec.Struct, frozen=True):
    """Scope: these traces."""

    trace_ids: list[str]

    def sql(self) -> str:
        return "SELECT arrayJoin({ids:Array(String)}) AS trace_id"

    def parameters(self) -> dict[str, Any]:
        return {"ids": self.trace_ids}


Scope = Since | Window | Ids


class Due(msgspec.Struct, frozen=True):
    """A trace to be judged, and what the look for it has told. `said`: there is feedback on it."""

    trace_id: str
    started_at: datetime
    said: bool


def arrivals(store: Store, since: datetime) -> Arrivals:
    """Cheap: whether there is anything to ask about. Raises StoreError, as everything here does."""
    (row,) = store.query(
        """SELECT (SELECT count() FROM traces WHERE stored_at >= {since:DateTime64(3, 'UTC')}) AS traces,
                  (SELECT count() FROM feedback WHERE stored_at >= {since:DateTime64(3, 'UTC')}) AS feedback,
                  now64(3, 'UTC') AS now""",
        {"since": since},
    )
    return msgspec.convert(row, Arrivals)


def store_clock(store: Store) -> datetime:
    """What time it is for the store."""
    (row,) = store.query("SELECT now64(3, 'UTC') AS now")
    now: datetime = row["now"]
    return now


def pending(store: Store, judge: JudgeVersion, scope: Scope, *, limit: int) -> list[str]:
    """Ids of what is due."""
    return [found.trace_id for found in due(store, judge, scope, limit=limit)]


def due(
    store: Store, judge: JudgeVersion, scope: Scope, *, limit: int, latest_first: bool = False
) -> list[Due]:
    """At most *limit* pending traces in *scope*, oldest first where not asked otherwise.

    For a judge of sessions: the last turn of each session that is over and has a pending one.
    """
    if isinstance(scope, Since):
        scope = _found(store, scope, with_sessions=judge.counts_later)
    asked = (
        f"SELECT t.trace_id AS id, t.started_at AS at, f.said > 0 AS said {judge.pending_sql()}"
        if judge.session is None
        else "SELECT argMax(trace_id, (started_at, trace_id)) AS id, max(started_at) AS at, true AS said "  # noqa: S608
        f"FROM traces WHERE {judge.due_sql()} GROUP BY client, session"
    )
    way = "DESC" if latest_first else "ASC"
    rows = store.query(
        f"WITH scope AS ({scope.sql()}) {asked} ORDER BY at {way}, id {way} LIMIT {int(limit)}{_NO_NULLS}",
        judge.parameters() | scope.parameters(),
    )
    return [Due(row["id"], row["at"], bool(row["said"])) for row in rows]


def _found(store: Store, scope: Since, *, with_sessions: bool) -> Scope:
    """*scope* as a list of ids, looked up once: the store works out a named subquery at each of its uses.

    *with_sessions*: and all turns of the sessions of these.
    """
    among = scope.sql()
    if with_sessions:
        among = (
            "SELECT trace_id FROM traces WHERE (client, session) IN ("  # noqa: S608 -- built of constants
            f"SELECT client, session FROM traces WHERE trace_id IN ({among}))"
        )
    rows = store.query(
        f"SELECT DISTINCT trace_id AS id FROM ({among}) LIMIT {MAX_IDS + 1}",  # noqa: S608
        scope.parameters(),
    )
    return scope if len(rows) > MAX_IDS else Ids([row["id"] for row in rows])


def count_pending(store: Store, judge: JudgeVersion, scope: Scope) -> int:
    """How many traces in *scope* are pending; for a judge of sessions all turns of those that are due."""
    among = judge.pending_sql() if judge.session is None else f"FROM traces WHERE {judge.due_sql()}"
    (row,) = store.query(
        f"WITH scope AS ({scope.sql()}) SELECT count() AS n {among}{_NO_NULLS}",
        judge.parameters() | scope.parameters(),
    )
    return int(row["n"])


def windows(store: Store, judge: JudgeVersion) -> list[Window]:
    """All time that has traces to judge, cut into windows, the latest first."""
    rows = store.query(
        f"SELECT toStartOfHour(started_at, 'UTC') AS hour, count() AS n FROM traces WHERE {JUDGEABLE_SQL} "  # noqa: S608
        "GROUP BY hour ORDER BY hour DESC",
        judge.parameters(),
    )
    return merge_hours([(row["hour"], int(row["n"])) for row in rows], limit=WINDOW_TRACES)


def merge_hours(hours: Sequence[tuple[datetime, int]], *, limit: int) -> list[Window]:
    """Windows that cover each of *hours* (start and traces, latest first) once, of at most *limit* traces.

    An hour with more than *limit* is a window of its own.
    """
    merged: list[Window] = []
    held = 0
    for start, count in hours:
        if merged and held + count <= limit:
            merged[-1] = Window(start, merged[-1].end)
            held += count
        else:
            merged.append(Window(start, start + timedelta(hours=1)))
            held = count
    return merged
