"""How upstreams are doing, all workers together: each says twice a second what it sees, in shared memory.

Nothing is decided by it: every worker goes by what it has seen itself. It is for people, who ask one worker
and mean the gateway. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from gateway.config.types import Upstream
from gateway.state import State
from gateway.upstream.pool import Server, UpstreamPool

log = logging.getLogger(__name__)

SAY_EVERY_S = 0.5
SILENT_AFTER_S = 5.0  # a worker that has said nothing for so long is dead, or stopped

Health = Literal["healthy", "probing", "ejected"]
_WORSE: dict[Health, int] = {"healthy": 0, "probing": 1, "ejected": 2}


class ServerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One server as one worker sees it; `why` it was ejected last."""

    url: str
    state: Health
    outstanding: int
    ejected_until: float
    rests_until: float
    why: str | None


class UpstreamSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream as one worker sees it."""

    name: str
    in_flight: int
    waiting: int
    servers: list[ServerSeen]


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What worker `worker` saw `at` a moment."""

    worker: int
    at: float
    in_flight: int
    upstreams: list[UpstreamSeen]


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """One server: the worst `state` that any worker sees, and by how many workers it is ejected.

    `ejected_for_s`: until the last of them tries it again, None while none has it ejected. `why`: the reason
    of that ejection, or of the one it is recovering from. `rests_for_s`: it asked with a 429 to be left alone
    for so long, and others are preferred.
    """

    url: str
    state: Health
    outstanding: int
    ejected_by: int
    ejected_for_s: float | None
    rests_for_s: float | None
    why: str | None


class UpstreamView(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream as `workers` workers see it: requests `in_flight`, and `waiting` for a place.

    `concurrent` and `queue` bound the two; each worker has an equal part of both.
    """

    name: str
    workers: int
    in_flight: int
    concurrent: int
    waiting: int
    queue: int
    servers: list[ServerView]


def look(state: State, now: float) -> WorkerSeen:
    """What the worker of *state* sees."""
    pools = state.live.pools.values()
    return WorkerSeen(
        worker=state.index,
        at=now,
        in_flight=state.in_flight,
        upstreams=[_upstream_seen(pool, now) for pool in pools],
    )


def views(upstreams: Iterable[Upstream], seen: Sequence[WorkerSeen], now: float) -> list[UpstreamView]:
    """*upstreams* as all of *seen* see them. At least one of those knows every server."""
    return [_view(upstream, seen, now) for upstream in upstreams]


async def all_workers(state: State) -> list[WorkerSeen]:
    """What this worker sees now and every other one has said lately."""
    others = await asyncio.to_thread(heard, state.paths.sightings, time.monotonic())
    # Last: what is seen here has every server of what is in force here when this returns.
    return [look(state, time.monotonic()), *(seen for seen in others if seen.worker != state.index)]


def heard(directory: Path, now: float) -> list[WorkerSeen]:
    """What the workers have said lately, in *directory*. What cannot be read has not been said."""
    found = []
    for path in sorted(directory.glob("w*.seen")):
        try:
            seen = msgspec.msgpack.decode(path.read_bytes(), type=WorkerSeen)
        except (OSError, msgspec.DecodeError):
            continue
        if abs(now - seen.at) < SILENT_AFTER_S:  # before now, or of a machine that has started since
            found.append(seen)
    return found


class Teller:
    """Says what one worker sees, until cancelled; then it has said nothing."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._path = state.paths.sightings / f"w{state.index}.seen"
        self._said_why = False

    async def run(self) -> None:
        try:
            while True:
                said = msgspec.msgpack.encode(look(self._state, time.monotonic()))
                await asyncio.to_thread(self._say, said)
                await asyncio.sleep(SAY_EVERY_S)
        finally:
            self._path.unlink(missing_ok=True)

    def _say(self, said: bytes) -> None:
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_bytes(said)
            draft.replace(self._path)
        except OSError as error:
            if not self._said_why:
                log.warning("%s: other workers cannot say how upstreams are doing here: %s", draft, error)
            self._said_why = True


def _upstream_seen(pool: UpstreamPool, now: float) -> UpstreamSeen:
    return UpstreamSeen(
        name=pool.name,
        in_flight=pool.in_flight,
        waiting=pool.waiting,
        servers=[_server_seen(server, now) for server in pool.servers],
    )


def _server_seen(server: Server, now: float) -> ServerSeen:
    health = server.health
    return ServerSeen(
        url=server.address.url,
        state=health.state(now),
        outstanding=server.outstanding,
        ejected_until=health.ejected_until,
        rests_until=health.rests_until,
        why=health.why,
    )


def _view(upstream: Upstream, seen: Sequence[WorkerSeen], now: float) -> UpstreamView:
    mine = [its for worker in seen for its in worker.upstreams if its.name == upstream.name]
    servers = [server for its in mine for server in its.servers]
    return UpstreamView(
        name=upstream.name,
        workers=len(mine),
        in_flight=sum(its.in_flight for its in mine),
        concurrent=upstream.limits.concurrent,
        waiting=sum(its.waiting for its in mine),
        queue=upstream.limits.queue,
        servers=[
            _server_view(url, [server for server in servers if server.url == url], now)
            for url in dict.fromkeys(upstream.servers)
        ],
    )


def _server_view(url: str, seen: Sequence[ServerSeen], now: float) -> ServerView:
    now_seen = [(_state_at(server, now), server) for server in seen]
    state, worst = max(now_seen, key=lambda pair: (_WORSE[pair[0]], pair[1].ejected_until))
    ejected = [server.ejected_until for its, server in now_seen if its == "ejected"]
    return ServerView(
        url=url,
        state=state,
        outstanding=sum(server.outstanding for server in seen),
        ejected_by=len(ejected),
        ejected_for_s=_left(ejected, now),
        rests_for_s=_left((server.rests_until for server in seen if server.rests_until > now), now),
        why=None if state == "healthy" else worst.why,
    )


def _state_at(server: ServerSeen, now: float) -> Health:
    """Its pause may have ended since it was seen."""
    return "probing" if server.state == "ejected" and server.ejected_until <= now else server.state


def _left(until: Iterable[float], now: float) -> float | None:
    """Seconds until the last of *until*, None where there is none."""
    last = max(until, default=None)
    return None if last is None else round(max(0.0, last - now), 3)
