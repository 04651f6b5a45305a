"""Reads what a route's judge has said of its traces: rows of the store as a judge sees them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config import Config, JudgeConfig, LearnerConfig
from gateway.traces.encryption.sealing import PREFIX
from gateway.traces.feedback import IN_FORCE_SQL
from gateway.traces.types import Feedback, Trace
from judges.definition import definition_of
from judges.trace import JudgedTrace, judged_trace

if TYPE_CHECKING:
    from gateway.traces.store import Store

CHAT = "/v1/chat/completions"
# Longer than the context of any small model: it could not become a row, and thousands would fill the memory.
MAX_BODY_BYTES = 512_000

_OF_ROUTE = "route = {route:String} AND endpoint = {endpoint:String}"
# A session's later traces quote its former ones: where one trace was kept out of training, its session is.
_WITHHELD = "(client, session) IN (SELECT client, session FROM traces WHERE NOT training)"
_WITHHELD_IDS = f"SELECT trace_id FROM traces WHERE {_OF_ROUTE} AND {_WITHHELD}"  # noqa: S608 -- constants
_BODY_BYTES = "(ifNull(length(request), 0) + ifNull(length(response), 0))"
_TRACES = f"""
SELECT {", ".join(Trace.__struct_fields__)} FROM traces
WHERE {_OF_ROUTE} AND {_BODY_BYTES} <= {{max_bytes:UInt64}}
ORDER BY started_at DESC, trace_id DESC LIMIT {{limit:UInt32}}
"""  # noqa: S608 -- names of our own columns
_TOO_LONG = f"SELECT count() AS n FROM traces WHERE {_OF_ROUTE} AND {_BODY_BYTES} > {{max_bytes:UInt64}}"  # noqa: S608
_VERSIONS = f"""
SELECT version, max(judged_at) AS newest FROM judgments
WHERE judge = {{judge:String}} AND trace_id IN (SELECT trace_id FROM traces WHERE {_OF_ROUTE})
GROUP BY version ORDER BY newest DESC
"""  # noqa: S608
_SCORES = f"""
SELECT trace_id, score FROM judgments
WHERE judge = {{judge:String}} AND version = {{version:String}}
  AND trace_id IN (SELECT trace_id FROM traces WHERE {_OF_ROUTE})
"""  # noqa: S608
# Of what is encrypted nobody can say here whether it is the same as another: each counts.
_WINNERS = f"""
SELECT uniqExact(
    if(startsWith(assumeNotNull(request), '{PREFIX}'), trace_id, ''),
    JSONExtractRaw(assumeNotNull(request), 'messages'),
    JSONExtractRaw(assumeNotNull(response), 'choices', 1, 'message', 'content')
) AS n
FROM (
    SELECT trace_id, outcome, finish_reason, propensity, imported, request, response FROM traces
    WHERE {_OF_ROUTE} AND {_BODY_BYTES} <= {{max_bytes:UInt64}} AND NOT ({_WITHHELD})
    ORDER BY started_at DESC, trace_id DESC LIMIT {{limit:UInt32}}
)
WHERE outcome = 'ok' AND finish_reason = 'stop' AND (propensity IS NOT NULL OR imported)
  AND request IS NOT NULL AND response IS NOT NULL
  AND trace_id IN (SELECT trace_id FROM ({_SCORES}) WHERE score >= {{min_score:Float64}})
"""  # noqa: S608
_FEEDBACK = f"""
WITH scope AS (SELECT trace_id FROM traces WHERE {_OF_ROUTE})
SELECT {", ".join(Feedback.__struct_fields__)} FROM ({IN_FORCE_SQL}) ORDER BY created_at, feedback_id
"""  # noqa: S608


class JudgedRows(msgspec.Struct, frozen=True, kw_only=True):
    """Traces of one route, oldest first, and the verdicts of one version of one judge by trace id.

    A trace without an entry in `scores` was not judged; an entry of None is an abstention. `withheld` are the
    traces that consent keeps out of training: their own, or that of another trace of their session.
    """

    judge_version: str
    traces: list[JudgedTrace]
    scores: dict[str, float | None]
    withheld: frozenset[str]
    too_long: int  # traces whose bodies exceed MAX_BODY_BYTES, which were not read


def read_judged(config: Config, entry: LearnerConfig, store: Store) -> JudgedRows:
    """The newest `dataset.max_traces` traces of a learner's route, with its judge's verdicts and feedback.

    Verdicts are those of the judge's file as it is now, or of its latest version while that one has judged
    nothing. Raises StoreError, and JudgeFileError when the judge's file cannot be used.
    """
    scope = {"route": entry.route, "endpoint": CHAT}
    version = judge_version(config, entry, store)
    feedback: dict[str | None, list[Feedback]] = defaultdict(list)
    for said in store.bodies.feedbacks(
        [msgspec.convert(row, Feedback) for row in store.query(_FEEDBACK, scope)]
    ):
        feedback[said.trace_id].append(said)
    bound = {"max_bytes": MAX_BODY_BYTES}
    rows = store.query(_TRACES, {**scope, **bound, "limit": entry.dataset.max_traces})
    traces: list[Trace] = []
    for row in reversed(rows):
        trace = store.bodies.lenient_trace(msgspec.convert(row, Trace))
        # What is stored may be shorter than what it holds.
        if len(trace.request or "") + len(trace.response or "") <= MAX_BODY_BYTES:
            traces.append(trace)
    scores = store.query(_SCORES, {**scope, "judge": entry.judge, "version": version})
    return JudgedRows(
        judge_version=version,
        traces=[judged_trace(row, feedback[row.trace_id]) for row in traces],
        scores={row["trace_id"]: row["score"] for row in scores},
        withheld=frozenset(row["trace_id"] for row in store.query(_WITHHELD_IDS, scope)),
        too_long=int(store.query(_TOO_LONG, {**scope, **bound})[0]["n"]) + len(rows) - len(traces),
    )


def judge_version(config: Config, entry: LearnerConfig, store: Store) -> str:
    """The version of the judge whose verdicts count on this route."""
    judge = judge_of(config, entry)
    current = definition_of(judge).version
    rows = store.query(_VERSIONS, {"route": entry.route, "endpoint": CHAT, "judge": judge.name})
    versions = [str(row["version"]) for row in rows]
    return current if current in versions or not versions else versions[0]


def judge_of(config: Config, entry: LearnerConfig) -> JudgeConfig:
    """The judge that a learner section names; `gateway.config.check` saw to it that it exists."""
    return next(judge for judge in config.judges if judge.name == entry.judge)


def count_winners(config: Config, entry: LearnerConfig, store: Store) -> int:
    """How many different winners the route has, by one query over what may be learnt from; no more can train.

    An upper bound: what is unreadable, near the same or held out is only found out when the dataset is built.
    """
    rows: list[dict[str, Any]] = store.query(
        _WINNERS,
        {
            "route": entry.route,
            "endpoint": CHAT,
            "judge": entry.judge,
            "version": judge_version(config, entry, store),
            "min_score": entry.dataset.min_score,
            "max_bytes": MAX_BODY_BYTES,
            "limit": entry.dataset.max_traces,
        },
    )
    return int(rows[0]["n"])


def count_judged(config: Config, entry: LearnerConfig, store: Store) -> int:
    """How many traces of the route could count towards `dataset.min_traces`, by one cheap query.

    An upper bound: what is unreadable or pinned is only found out when the dataset is built.
    """
    rows: list[dict[str, Any]] = store.query(
        f"SELECT count() AS n FROM ({_SCORES}) "  # noqa: S608
        f"WHERE score IS NOT NULL AND trace_id NOT IN ({_WITHHELD_IDS})",
        {
            "route": entry.route,
            "endpoint": CHAT,
            "judge": entry.judge,
            "version": judge_version(config, entry, store),
        },
    )
    return int(rows[0]["n"])
