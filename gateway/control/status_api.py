"""`/healthz`, `/readyz`, `/metrics` and `/api/limits`: how this gateway is doing."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from litestar import Response, get

from gateway.control.access import requires
from gateway.control.bodies import Health, Readiness
from gateway.control.metrics_page import render
from gateway.control.plane import ControlPlane
from gateway.control.rollout_api import ApiRequest
from gateway.control.stages import StageReport, lag_s, read_stages
from gateway.metrics import metrics_directory
from gateway.quotas import KeyReport, report_limits

BEHIND_AFTER_S = 30.0  # a record that has waited this long says that the store does not take them


@get("/healthz", summary="The process lives", tags=["status"])
async def healthz() -> Health:
    """Always 200 while the process answers at all."""
    return Health()


@get("/readyz", summary="It can serve", tags=["status"])
async def readyz(plane: ControlPlane) -> Response[Readiness]:
    """503 only while this worker cannot serve; the body says how capture and the store are doing."""
    state = plane.state
    stages = await asyncio.to_thread(read_stages, state.paths)
    serves = bool(state.live.table.routes or state.live.table.default_upstream)
    why = "stopping" if state.draining else "serving" if serves else "the table has no routes"
    readiness = Readiness(
        ready=serves and not state.draining,
        why=why,
        worker=state.index,
        table_hash=state.live.table.hash,
        in_flight=state.in_flight,
        store=_store(stages["shipper"]),
        lag_s=lag_s(stages),
        capture=stages,
        dropped=dict(state.writer.dropped),
    )
    return Response(readiness, status_code=200 if readiness.ready else 503)


@get(
    "/metrics", guards=[requires("admin")], summary="Counters of all workers, for Prometheus", tags=["status"]
)
async def metrics(plane: ControlPlane, request: ApiRequest) -> Response[bytes]:
    """For Prometheus: all workers together, the dead ones included; recorder and shipper; the shares."""
    state = plane.state
    stages = await asyncio.to_thread(read_stages, state.paths)
    page, content_type = await asyncio.to_thread(
        render,
        metrics_directory(state.paths),
        stages,
        state.live.table,
        request.headers.get("accept", ""),
    )
    # Litestar adds a charset to a media type of text, and Prometheus refuses one that is named twice.
    return Response(page, headers={"content-type": content_type})


@get(
    "/api/limits",
    guards=[requires("admin")],
    summary="What the keys with limits have used, and have left",
    tags=["status"],
)
async def limits(plane: ControlPlane) -> list[KeyReport]:
    """From the counters that enforce the limits, all workers together."""
    state = plane.state
    return report_limits(state.ledger.counters, state.live.config.auth, time.time())


def _store(shipper: StageReport) -> Literal["ok", "behind", "unknown"]:
    if not shipper.alive:
        return "unknown"
    late = shipper.oldest_age_s is not None and shipper.oldest_age_s > BEHIND_AFTER_S
    return "behind" if late or shipper.errors else "ok"
