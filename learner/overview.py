"""`tracetune status`: every route of a configuration, learning or not, in one line each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config import Config, JudgeConfig
from gateway.paths import paths_of
from judges.usable import why_unusable
from learner.status import route_status
from learner.troubles import pace, troubles

if TYPE_CHECKING:
    from gateway.traces.store import Store

_TRAFFIC = """
SELECT route, count() AS traces, countIf(outcome != 'ok') AS failed, max(started_at) AS last_at
FROM traces WHERE started_at > now() - INTERVAL 24 HOUR AND NOT imported GROUP BY route
"""
_JUDGED = """
SELECT traces.route AS route, uniqExact(trace_id) AS judged
FROM judgments FINAL INNER JOIN traces USING (trace_id)
WHERE score IS NOT NULL AND traces.started_at > now() - INTERVAL 24 HOUR AND NOT traces.imported
GROUP BY route
"""
# Whenever they were made: what was taken over is mostly older than a day.
_IMPORTED = "SELECT route, count() AS traces FROM traces WHERE imported GROUP BY route"

_JUDGING = """
SELECT route, sum(priced) AS priced_judgments, sum(j.cost_usd) AS usd FROM judgments_by_minute AS j
WHERE minute > now() - INTERVAL 24 HOUR GROUP BY route
"""


class RouteLine(msgspec.Struct, frozen=True, kw_only=True):
    """One route: its traffic of the last 24 hours, what it has or waits for, the next command.

    `imported` are all that were taken over from other tools' logs, and are in no other number.
    """

    route: str
    traces: int
    failed: int
    judged: int
    imported: int
    judging_usd: float | None  # what judging those traces cost; None where none of it has a known price
    has: str
    next: str | None


class BrokenJudge(msgspec.Struct, frozen=True, kw_only=True):
    """A judge that judges nothing. `why`: file, reason and remedy on one line."""

    judge: str
    why: str


class Process(msgspec.Struct, frozen=True):
    """One process that runs; `pid` is None while it is being restarted."""

    name: str
    pid: int | None


class Running(msgspec.Struct, frozen=True):
    """`state/processes.json`, which the supervisor writes."""

    supervisor: int
    url: str
    processes: list[Process]
    command: str = "up"


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All routes, the judges that judge nothing, what runs on this data directory, and what is in its way."""

    running: bool
    command: str | None  # what runs: `up`, or `gateway`, which neither stores here nor judges nor learns
    processes: dict[str, int | None]  # name -> pid
    troubles: list[str]
    capture: str | None  # how it keeps up; None where it does not run
    routes: list[RouteLine]
    broken_judges: list[BrokenJudge]
    notes: list[str] = []  # what has to be known of the judges that train and gate, by route


def overview(config: Config, store: Store) -> Overview:
    """What each route has and waits for. Raises StoreError when the store cannot be asked."""
    unusable = why_unusable(config)
    learning = {status.route: status for status in route_status(config, store)}
    traffic = {row["route"]: row for row in store.query(_TRAFFIC)}
    judged = {row["route"]: int(row["judged"]) for row in store.query(_JUDGED)}
    imported = {row["route"]: int(row["traces"]) for row in store.query(_IMPORTED)}
    judging = {
        row["route"]: float(row["usd"]) for row in store.query(_JUDGING) if int(row["priced_judgments"])
    }
    running = _running(paths_of(config).state)
    lines = []
    for route in config.routes:
        row: dict[str, Any] = traffic.get(route.model, {"traces": 0, "failed": 0})
        status = learning.get(route.model)
        traces = int(row["traces"])
        idle = status is None or not (status.judged or status.run or status.snapshots)
        broken = _broken_judge(config, route.model, status.judge if status else None, unusable)
        if idle and not traces:
            has, following = _without_traffic(route.model, running)
        elif idle and traces == int(row["failed"]):
            has, following = "every answer failed", "tracetune traces tail"
        elif status is not None:
            has, following = status.line, status.next
        else:
            has, following = _without_learner(config, route.model, judged.get(route.model, 0))
        if broken is not None and traces:
            has, following = f"{has}; judge {broken.name} is broken", _look_at(broken)
        lines.append(
            RouteLine(
                route=route.model,
                traces=traces,
                failed=int(row["failed"]),
                judged=judged.get(route.model, 0),
                imported=imported.get(route.model, 0),
                judging_usd=judging.get(route.model),
                has=has,
                next=following,
            )
        )
    command = running.command if running is not None else None
    return Overview(
        running=running is not None,
        command=command,
        processes={process.name: process.pid for process in running.processes} if running is not None else {},
        troubles=list(troubles(config, command, time.time())),
        capture=pace(paths_of(config), time.time()) if command is not None else None,
        routes=lines,
        broken_judges=[BrokenJudge(judge=name, why=why) for name, why in unusable.items()],
        notes=[f"{status.route}: {note}" for status in learning.values() for note in status.notes],
    )


def _judges_of(config: Config, route: str) -> list[JudgeConfig]:
    return [judge for judge in config.judges if judge.routes is None or route in judge.routes]


def _broken_judge(
    config: Config, route: str, learns_by: str | None, unusable: Mapping[str, str]
) -> JudgeConfig | None:
    """The broken judge that holds *route* up: the one that it learns by, else the first."""
    broken = [judge for judge in _judges_of(config, route) if judge.name in unusable]
    return next((judge for judge in broken if judge.name == learns_by), next(iter(broken), None))


def _look_at(judge: JudgeConfig) -> str:
    return f"tracetune judge try {judge.path}" if judge.path is not None else "tracetune judge list"


def _without_traffic(route: str, running: Running | None) -> tuple[str, str | None]:
    if running is None:
        return "no traffic in 24 hours", "tracetune up"
    return "no traffic in 24 hours", f"send a request: base_url={running.url}/v1, model {route}"


def _without_learner(config: Config, route: str, judged: int) -> tuple[str, str | None]:
    judges = _judges_of(config, route)
    if not judges:
        return "captured; no judge", "tracetune judge try FILE.py:FUNCTION"
    if not judged:
        return "captured; nothing judged yet", "tracetune judge list"
    return "judged; nothing learns", "tracetune judge list"


def _running(state: Path) -> Running | None:
    """What the supervisor runs; None when it does not run."""
    try:
        content = msgspec.json.decode((state / "processes.json").read_bytes(), type=Running)
    except FileNotFoundError:
        return None
    return content if Path(f"/proc/{content.supervisor}").exists() else None
