"""What is judged at once, and the rows its verdict becomes: one trace, or a session with all of its turns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

from gateway.traces.batches import cut, parts_of
from gateway.traces.store import Store
from gateway.traces.types import Judgment, Trace
from judges.credit import NOT_SHOWN, credited
from judges.evaluate import judgment_of
from judges.pending import JUDGEABLE_SQL, Ids, JudgeVersion, pending
from judges.rows import (
    BATCH_BYTES,
    BATCH_TRACES,
    MAX_SESSION_TRACES,
    NOTHING,
    SESSION_BATCH_TRACES,
    Known,
    Said,
    feedback_on,
    load_tasks,
    stored_traces,
)
from judges.wire import Answer, Task

MAX_EARLIER_TURNS = 10_000  # of a session, before those a judge is shown, that are settled with one verdict
_OF_SESSIONS = f"""
    (client, session) IN (SELECT client, session FROM traces WHERE trace_id IN {{ids:Array(String)}})
    AND {JUDGEABLE_SQL}
"""  # noqa: S608 -- built of constants


class Turn(msgspec.Struct, frozen=True):
    """A trace that gets a row, and how many rows of feedback it had when it was judged."""

    trace: Trace
    feedback_seen: int


class Unit(msgspec.Struct, frozen=True):
    """What a judge is shown, and whose rows its answer becomes, the oldest first.

    `earlier` are turns before those that it is shown, which have no row yet.
    """

    task: Task
    turns: list[Turn]
    earlier: list[Turn] = []


def load_units(
    store: Store,
    judge: JudgeVersion,
    trace_ids: Sequence[str],
    parameters: Collection[str],
    *,
    known: Known | None = None,
) -> Iterator[Unit]:
    """A unit for each of *trace_ids* that the store has, in that order: as `pending` gives them.

    *parameters* are what the judge takes: one of traces is shown the session so far, or what came later, only
    where it asks for that. Raises StoreError.
    """
    if judge.session is None:
        sessions, later = "session" in parameters, "later" in parameters
        for task in load_tasks(store, trace_ids, sessions=sessions, later=later, known=known):
            yield Unit(task, [Turn(task.trace, task.feedback_seen)])
        return
    for part in parts_of(trace_ids, SESSION_BATCH_TRACES):
        for batch in _batches(store, judge, list(part)):
            yield from _sessions(store, judge, batch)


def judgments_of(judge: JudgeVersion, unit: Unit, answer: Answer) -> list[tuple[Trace, Judgment]]:
    """The rows that *answer* becomes, each with its trace. What it cost is told of the last one alone."""
    if judge.session is None:
        turn = unit.turns[-1]
        return [(turn.trace, judgment_of(judge.judge, judge.version, turn.trace, turn.feedback_seen, answer))]
    verdicts = [
        *((None, NOT_SHOWN) for _ in unit.earlier),
        *credited(judge.session.credit, len(unit.turns), answer.score, answer.reason),
    ]
    free = Answer(score=None, reason="", seconds=0.0)
    turns = [*unit.earlier, *unit.turns]
    rows = []
    for turn, (score, reason) in zip(turns, verdicts, strict=True):
        whole = answer if turn is turns[-1] else free
        row = judgment_of(judge.judge, judge.version, turn.trace, turn.feedback_seen, whole)
        rows.append((turn.trace, msgspec.structs.replace(row, score=score, reason=reason)))
    return rows


def _batches(store: Store, judge: JudgeVersion, trace_ids: list[str]) -> Iterator[list[str]]:
    """*trace_ids* in parts, by what the turns of their sessions hold that are shown."""
    rows = store.query(
        "SELECT argMax(trace_id, (started_at, trace_id)) AS last, client, session, "  # noqa: S608 -- constants
        "groupArray(trace_id) AS turns, sum(bytes) AS bytes FROM ("
        "SELECT trace_id, client, session, started_at, "
        "ifNull(length(request), 0) + ifNull(length(response), 0) AS bytes FROM traces "
        f"WHERE {_OF_SESSIONS} ORDER BY started_at DESC, trace_id DESC "
        f"LIMIT {MAX_SESSION_TRACES} BY client, session) GROUP BY client, session",
        judge.parameters() | {"ids": trace_ids},
    )
    place = {trace_id: index for index, trace_id in enumerate(trace_ids)}
    found = [(min(place.get(turn, len(place)) for turn in row["turns"]), row) for row in rows]
    sized = [(row["last"], int(row["bytes"])) for _, row in sorted(found, key=lambda pair: pair[0])]
    yield from cut(sized, most_bytes=BATCH_BYTES)


def _sessions(store: Store, judge: JudgeVersion, last_ids: list[str]) -> Iterator[Unit]:
    rows = stored_traces(
        store,
        f"{_OF_SESSIONS} ORDER BY started_at DESC, trace_id DESC "
        f"LIMIT {MAX_SESSION_TRACES} BY client, session",
        judge.parameters() | {"ids": last_ids},
    )
    said: dict[str, Said] = {}
    for part in parts_of([row.trace_id for row in rows], BATCH_TRACES):
        said |= feedback_on(store, part)
    sessions: dict[tuple[str, str], list[Trace]] = {}
    for row in reversed(rows):
        sessions.setdefault((row.client, row.session), []).append(row)
    by_turn = {row.trace_id: sessions[row.client, row.session] for row in rows}
    for last_id in last_ids:
        if last_id not in by_turn:
            continue  # it has gone from the store meanwhile
        turns = by_turn[last_id]
        seen = {turn.trace_id: said.get(turn.trace_id, NOTHING) for turn in turns}
        shown = [store.bodies.lenient_trace(turn) for turn in turns]
        last = shown[-1]
        task = Task(
            trace=last,
            feedback=seen[last.trace_id].in_force,
            session=shown[:-1],
            feedback_seen=seen[last.trace_id].rows,
            whole=True,
            said={turn.trace_id: seen[turn.trace_id].in_force for turn in shown[:-1]},
        )
        earlier = _earlier(store, judge, turns) if len(turns) == MAX_SESSION_TRACES else []
        yield Unit(task, [Turn(turn, seen[turn.trace_id].rows) for turn in shown], earlier)


def _earlier(store: Store, judge: JudgeVersion, shown: list[Trace]) -> list[Turn]:
    """The turns before those *shown* of their session that are pending, without their bodies."""
    ids = store.query(
        "SELECT trace_id FROM traces WHERE client = {client:String} AND session = {session:String} "  # noqa: S608
        f"AND {JUDGEABLE_SQL} AND (started_at, trace_id) < ({{at:DateTime64(6, 'UTC')}}, {{first:String}}) "
        f"LIMIT {MAX_EARLIER_TURNS}",
        judge.parameters()
        | {
            "client": shown[0].client,
            "session": shown[0].session,
            "at": shown[0].started_at,
            "first": shown[0].trace_id,
        },
    )
    alone = msgspec.structs.replace(judge, session=None)
    turns: list[Turn] = []
    for part in parts_of([row["trace_id"] for row in ids], BATCH_TRACES):
        due = pending(store, alone, Ids(list(part)), limit=BATCH_TRACES)
        said = feedback_on(store, due)
        for row in stored_traces(store, "trace_id IN {ids:Array(String)}", {"ids": due}):
            bare = msgspec.structs.replace(row, request=None, response=None)
            turns.append(Turn(bare, said.get(row.trace_id, NOTHING).rows))
    return turns
