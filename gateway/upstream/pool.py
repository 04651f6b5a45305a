"""The servers of one upstream: their idle connections, whose turn it is, and which one takes a request."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from gateway.config.secrets import UpstreamSecrets
from gateway.config.types import Upstream
from gateway.fiber import SUSPEND, Fiber
from gateway.upstream.address import Address
from gateway.upstream.balance import Balancer, server_seed
from gateway.upstream.channel import NEVER, Channel
from gateway.upstream.connection import Connection
from gateway.upstream.deadlines import Sweeper
from gateway.upstream.errors import ConnectError, DeadlineError, QueueFullError
from gateway.upstream.health import ServerHealth
from gateway.upstream.hedging import Hedging
from gateway.upstream.machine_cells import machine_of
from gateway.upstream.machine_cost import MachineTime
from gateway.upstream.prefix import prefix_key
from gateway.upstream.pricing import PriceList
from gateway.upstream.request_head import RequestHead
from gateway.upstream.response_memo import ResponseHeads
from gateway.upstream.retries import BUDGET_FLOOR
from gateway.upstream.secret_mask import SecretMask
from gateway.upstream.share_budget import ShareBudget

if TYPE_CHECKING:
    from gateway.upstream.httpx_transport import HttpxTransport

MAX_IDLE_CONNECTIONS = 256  # kept open to one server by one worker
MAX_IDLE_S = 30.0  # an idle connection is closed rather than trusted for longer
TAIL_S = 1.0  # for the end of a body whose content is already with the client


class Server:
    """One server: `idle` connections, newest last, and how many requests are `outstanding` at it."""

    __slots__ = ("address", "heads", "health", "idle", "outstanding", "seed")

    def __init__(self, url: str, health: ServerHealth) -> None:
        self.address = Address(url)
        self.health = health
        self.heads = ResponseHeads()
        self.seed = server_seed(url)
        self.idle: list[Channel] = []
        self.outstanding = 0


class _Turn:
    """A request's place in the queue, bounded by the request's total deadline."""

    __slots__ = ("expired", "expires_at", "fiber", "granted")

    def __init__(self, fiber: Fiber, expires_at: float) -> None:
        self.fiber = fiber
        self.expires_at = expires_at
        self.granted = False
        self.expired = False

    def grant(self) -> None:
        self.granted = True
        # Not at once: whoever gives the place is in the middle of a step of its own.
        asyncio.get_running_loop().call_soon(self.fiber.wake)

    def expire(self) -> None:
        self.expired = True
        self.fiber.wake()


class UpstreamPool:
    """One upstream as this worker uses it.

    `limits` are for the whole gateway and every worker takes its part; *machines* is the folder of their
    common accounts of machines paid by the hour. Lives as long as the settings of the upstream do not
    change; a retired pool still serves the requests it has.
    """

    def __init__(
        self,
        upstream: Upstream,
        secrets: UpstreamSecrets,
        *,
        workers: int,
        sweeper: Sweeper,
        worker: int = 0,
        machines: Path | None = None,
        random: Random | None = None,
    ) -> None:
        self.upstream = upstream
        self.name = upstream.name
        self.sweeper = sweeper
        self.random = random or Random()  # noqa: S311 -- spreads load, keeps no secret
        self.prices = PriceList(upstream)
        self.machine: MachineTime | None = None  # of an upstream that is paid by the hour
        if upstream.price_per_hour is not None:
            self.machine = machine_of(
                upstream.name, upstream.price_per_hour, machines, worker=worker, workers=workers
            )
        self.retry_budget = ShareBudget(upstream.retries.budget, floor=BUDGET_FLOOR)
        self.in_flight = 0
        self.head = RequestHead(upstream, secrets)
        self.mask = SecretMask.of(upstream, secrets)
        self._httpx = _httpx(upstream, secrets)
        self._secrets = secrets
        self._workers = workers
        self.servers = [Server(url, ServerHealth(upstream.ejection, self.random)) for url in upstream.servers]
        self.balancer = Balancer(self.servers, self.random)
        self.hedging = Hedging(upstream.hedge) if upstream.hedge is not None else None
        self._concurrent = -(-upstream.limits.concurrent // workers)
        self._queue = -(-upstream.limits.queue // workers)
        self._turns: deque[_Turn] = deque()
        self._retired = False

    def serves(self, upstream: Upstream, secrets: UpstreamSecrets, workers: int) -> bool:
        """Whether it was built from exactly these settings."""
        return self.upstream == upstream and self._secrets == secrets and self._workers == workers

    def retire(self) -> None:
        """Close what is idle now, and the rest when its request is done."""
        self._retired = True
        for server in self.servers:
            while server.idle:
                self.discard(server.idle.pop())

    @property
    def waiting(self) -> int:
        return len(self._turns)

    # --- whose turn it is

    def try_enter(self) -> bool:
        """Take one of the concurrent places if one is free. While somebody waits, none is."""
        if self.in_flight >= self._concurrent:
            return False
        self.in_flight += 1
        return True

    async def wait_turn(self, fiber: Fiber, total_at: float) -> None:
        """Wait for a place. Raises QueueFullError at once, or DeadlineError."""
        if len(self._turns) >= self._queue:
            raise QueueFullError(
                f"upstream {self.name!r} has {self._concurrent} requests and {len(self._turns)} waiting; "
                "upstreams[].limits of the configuration raises both"
            )
        turn = _Turn(fiber, total_at)
        self._turns.append(turn)
        self.sweeper.watch(turn)
        entered = False
        try:
            while not (turn.granted or turn.expired):
                await SUSPEND
            entered = turn.granted
        finally:
            self.sweeper.forget(turn)
            if turn.granted and not entered:
                self.leave()  # the place came together with the end of the request: pass it on
            elif not entered:
                self._turns.remove(turn)
        if not entered:
            raise DeadlineError("total", self.name)

    def leave(self) -> None:
        """Give the place to whoever waits longest."""
        if self._turns:
            self._turns.popleft().grant()
        else:
            self.in_flight -= 1

    # --- servers and connections

    def pick(self, now: float, *, key: int | None = None, avoid: Server | None = None) -> Server:
        """The server for a request (`gateway.upstream.balance`); *key* is of its prompt's beginning."""
        servers = self.servers
        return servers[0] if len(servers) == 1 else self.balancer.pick(now, key=key, avoid=avoid)

    def prefix_key(self, body: bytes, model: str) -> int | None:
        """What keeps requests together, None where nothing does."""
        if self.upstream.affinity != "prefix" or len(self.servers) == 1:
            return None
        return prefix_key(body, model)

    def reuse(self, server: Server) -> Channel | None:
        """The connection that was used last, or None. The caller owns it until `release` or `discard`."""
        while server.idle:
            connection = server.idle.pop()
            if not connection.closed:
                connection.on_lost = None
                return connection
        return None

    async def connect(self, server: Server, fiber: Fiber, connect_s: float, total_at: float) -> Channel:
        """A new connection. Raises ConnectError or DeadlineError; through httpx the first exchange does."""
        if self._httpx is not None:
            channel = self._httpx.connection(server.address, connect_s)
            self.sweeper.watch(channel)
            return channel
        return await fiber.in_task(self._connect(server, connect_s, total_at), self.discard)

    async def _connect(self, server: Server, connect_s: float, total_at: float) -> Connection:
        loop = asyncio.get_running_loop()
        address = server.address
        connection = Connection(self.name, address.url, server.heads)
        left_s = total_at - time.monotonic()
        try:
            async with asyncio.timeout(min(connect_s, left_s)):
                await loop.create_connection(
                    lambda: connection,
                    address.hostname,
                    address.port,
                    ssl=address.tls,
                    server_hostname=address.hostname if address.tls else None,
                )
        except TimeoutError as error:
            raise DeadlineError("connect" if connect_s <= left_s else "total", self.name) from error
        except OSError as error:
            # ssl.SSLError and socket.gaierror are OSErrors too.
            raise ConnectError(
                f"upstream {self.name!r} cannot be reached at {address.url}: {_reason(error)}"
            ) from error
        self.sweeper.watch(connection)
        return connection

    def release(self, server: Server, connection: Channel) -> None:
        """Take back a connection whose exchange went through; it is kept if it can be used again.

        One whose body's end is still to come is kept once it came, within TAIL_S.
        """
        connection.on_expired = connection.waker = None
        if connection.closed or self._retired:
            self.discard(connection)
        elif not connection.complete:
            connection.on_complete = lambda done: self.release(server, done)
            connection.on_lost = self.sweeper.forget
            connection.total_at = NEVER
            connection.arm("idle", TAIL_S)
        elif connection.reusable and len(server.idle) < MAX_IDLE_CONNECTIONS:
            connection.on_complete = None
            connection.on_lost = lambda lost: self._lost(server, lost)
            connection.total_at = NEVER
            connection.arm("idle", MAX_IDLE_S)
            server.idle.append(connection)
        else:
            self.discard(connection)

    def discard(self, connection: Channel) -> None:
        """Close a connection at once, whatever it is doing."""
        connection.on_complete = connection.on_expired = connection.on_lost = connection.waker = None
        self.sweeper.forget(connection)
        connection.abort()

    def _lost(self, server: Server, connection: Channel) -> None:
        """A connection ended while it was idle."""
        self.sweeper.forget(connection)
        if connection in server.idle:
            server.idle.remove(connection)


def _httpx(upstream: Upstream, secrets: UpstreamSecrets) -> HttpxTransport | None:
    if upstream.transport != "httpx":
        return None
    from gateway.upstream.httpx_transport import HttpxTransport  # httpx is not loaded where nothing needs it

    return HttpxTransport(upstream, secrets)


def _reason(error: OSError) -> str:
    return " ".join((error.strerror or str(error) or type(error).__name__).split())
