"""`/api/upstreams`: how the servers of each upstream are doing, all workers together."""

from __future__ import annotations

import time

from litestar import get

from gateway.control.access import requires
from gateway.control.plane import ControlPlane
from gateway.sightings import UpstreamView, all_workers, views


@get(
    "/api/upstreams",
    guards=[requires("admin")],
    summary="Health and load of the upstreams' servers",
    tags=["status"],
)
async def list_upstreams(plane: ControlPlane) -> list[UpstreamView]:
    """Each worker learns for itself which servers fail; this is what all of them know, half a second old."""
    seen = await all_workers(plane.state)
    return views(plane.state.live.config.upstreams, seen, time.monotonic())
