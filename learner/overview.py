"""`tracetune status`: every route of a configuration, learning or not, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config import Config, JudgeConfig
from gateway.paths import paths_of
from judges.usable import why_unusable
from learner.status import route_status

if TYPE_CHECKING:
    from gateway.traces.store import Store

_TRAFFIC = """
SELECT route, count() AS traces, countIf(outcome != 'ok') AS failed, max(started_at) AS last_at
FROM traces WHERE started_at > now() - INTERVAL 24 HOUR GROUP BY route
"""
_JUDGED = """
SELECT traces.route AS route, uniqExact(trace_id) AS judged
FROM judgments FINAL INNER JOIN traces USING (trace_id)
WHERE score IS NOT NULL AND traces.started_at > now() - INTERVAL 24 HOUR GROUP BY route
"""


class RouteLine(msgspec.Struct, frozen=True, kw_only=True):
    """One route: its traffic of the last 24 hours, what it has or waits for, the next command."""

    route: str
    traces: int
    failed: int
    judged: int
    has: str
    next: str | None


class BrokenJudge(msgspec.Struct, frozen=True, kw_only=True):
    """A judge that judges nothing. `why`: file, reason and remedy on one line."""

    judge: str
    why: str


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All routes, the judges that judge nothing, and whether `tracetune up` runs on this data directory."""

    running: bool
    processes: dict[str, int | None]  # name -> pid
    routes: list[RouteLine]
    broken_judges: list[BrokenJudge]


def overview(config: Config, store: Store) -> Overview:
    """What each route has and waits for. Raises StoreError when the store cannot be asked."""
    unusable = why_unusable(config.judges)
    learning = {status.route: status for status in route_status(config, store)}
    traffic = {row["route"]: row for row in store.query(_TRAFFIC)}
    judged = {row["route"]: int(row["judged"]) for row in store.query(_JUDGED)}
    lines = []
    for route in config.routes:
        row: dict[str, Any] = traffic.get(route.model, {"traces": 0, "failed": 0})
        status = learning.get(route.model)
        traces = int(row["traces"])
        broken = _broken_judge(config, route.model, status.judge if status else None, unusable)
        if status is not None:
            has, following = status.line, status.next
        else:
            has, following = _without_learner(config, route.model, traces, judged.get(route.model, 0))
        if broken is not None and traces:
            has, following = f"{has}; judge {broken.name} is broken", f"tracetune judge try {broken.path}"
        lines.append(
            RouteLine(
                route=route.model,
                traces=traces,
                failed=int(row["failed"]),
                judged=judged.get(route.model, 0),
                has=has,
                next=following,
            )
        )
    processes = _processes(paths_of(config).state)
    return Overview(
        running=bool(processes),
        processes=processes,
        routes=lines,
        broken_judges=[BrokenJudge(judge=name, why=why) for name, why in unusable.items()],
    )


def _judges_of(config: Config, route: str) -> list[JudgeConfig]:
    return [judge for judge in config.judges if judge.routes is None or route in judge.routes]


def _broken_judge(
    config: Config, route: str, learns_by: str | None, unusable: Mapping[str, str]
) -> JudgeConfig | None:
    """The broken judge that holds *route* up: the one that it learns by, else the first."""
    broken = [judge for judge in _judges_of(config, route) if judge.name in unusable]
    return next((judge for judge in broken if judge.name == learns_by), next(iter(broken), None))


def _without_learner(config: Config, route: str, traces: int, judged: int) -> tuple[str, str | None]:
    judges = _judges_of(config, route)
    if not traces:
        return "no traffic in 24 hours", f"tracetune explain --model {route}"
    if not judges:
        return "captured; no judge", "tracetune judge try FILE.py:FUNCTION"
    if not judged:
        return "captured; nothing judged yet", "tracetune judge list"
    return "judged; nothing learns", "tracetune judge list"


def _processes(state: Path) -> dict[str, int | None]:
    """Names and pids of what the supervisor runs; empty when it does not run."""
    try:
        content = msgspec.json.decode((state / "processes.json").read_bytes())
    except FileNotFoundError:
        return {}
    if not Path(f"/proc/{content['supervisor']}").exists():
        return {}
    return {process["name"]: process["pid"] for process in content["processes"]}
