"""`tracetune status`: every route of a configuration, learning or not, in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.config import Config
from gateway.paths import paths_of
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


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All routes, and whether `tracetune up` runs on this data directory."""

    running: bool
    processes: dict[str, int | None]  # name -> pid
    routes: list[RouteLine]


def overview(config: Config, store: Store) -> Overview:
    """What each route has and waits for. Raises StoreError when the store cannot be asked."""
    learning = {status.route: status for status in route_status(config, store)}
    traffic = {row["route"]: row for row in store.query(_TRAFFIC)}
    judged = {row["route"]: int(row["judged"]) for row in store.query(_JUDGED)}
    lines = []
    for route in config.routes:
        row: dict[str, Any] = traffic.get(route.model, {"traces": 0, "failed": 0})
        status = learning.get(route.model)
        traces = int(row["traces"])
        if status is not None:
            has, following = status.line, status.next
        else:
            has, following = _without_learner(config, route.model, traces)
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
    return Overview(running=bool(processes), processes=processes, routes=lines)


def _without_learner(config: Config, route: str, traces: int) -> tuple[str, str | None]:
    judges = [judge for judge in config.judges if judge.routes is None or route in judge.routes]
    if not traces:
        return "no traffic in 24 hours", f"tracetune explain --model {route}"
    if not judges:
        return "captured; no judge", "tracetune judge try FILE.py:FUNCTION"
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
