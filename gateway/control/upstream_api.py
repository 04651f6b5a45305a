"""`/api/upstreams`: how the servers of each upstream are doing, as the worker that answers sees them."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from litestar import get

from gateway.control.access import requires
from gateway.control.plane import ControlPlane
from gateway.upstream.pool import Server, UpstreamPool


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `ejected_for_s`: seconds until it is tried again, None while it is not ejected."""

    url: str
    state: Literal["healthy", "ejected", "probing"]
    outstanding: int
    ejected_for_s: float | None


class UpstreamView(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream: `in_flight` requests of this worker, and as many `waiting` for a place."""

    name: str
    in_flight: int
    waiting: int
    servers: list[ServerView]


@get(
    "/api/upstreams",
    guards=[requires("admin")],
    summary="Health and load of the upstreams' servers",
    tags=["status"],
)
async def list_upstreams(plane: ControlPlane) -> list[UpstreamView]:
    """Each worker learns for itself which servers fail; this is what the one that answers knows."""
    now = time.monotonic()
    return [_upstream(pool, now) for pool in plane.state.live.pools.values()]


def _upstream(pool: UpstreamPool, now: float) -> UpstreamView:
    return UpstreamView(
        name=pool.name,
        in_flight=pool.in_flight,
        waiting=pool.waiting,
        servers=[_server(server, now) for server in pool.servers],
    )


def _server(server: Server, now: float) -> ServerView:
    state = server.health.state(now)
    return ServerView(
        url=server.address.url,
        state=state,
        outstanding=server.outstanding,
        ejected_for_s=round(server.health.ejected_until - now, 3) if state == "ejected" else None,
    )
