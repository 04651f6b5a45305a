"""One request on a client's connection: what it says, its body as it arrives, the fiber that answers it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.data_plane import errors
from gateway.data_plane.auth import Client
from gateway.data_plane.errors import Headers
from gateway.data_plane.headers import OwnHeaders
from gateway.fiber import SUSPEND, Fiber

if TYPE_CHECKING:
    from gateway.data_plane.protocol import GatewayProtocol

PIECES_HIGH_BYTES = 256 * 1024  # of a streamed body that nobody has taken yet: reading pauses


SHUTDOWN = "shutdown"  # the reason of what ended with the worker


class ClientGoneError(Exception):
    """The client left: there is nobody to answer."""


class ShutdownError(Exception):
    """The worker stops, and its patience (`listen.drain_s`) is over."""


class KnownHead:
    """Whose request a head makes it, found out once for all requests that have it.

    It holds as long as the worker's live table is `valid_for`: a reload may change keys.
    """

    __slots__ = ("client", "valid_for")

    def __init__(self, client: Client, valid_for: object) -> None:
        self.client = client
        self.valid_for = valid_for


class Exchange:
    """A request as it comes in. `protocol` is where its answer goes.

    `keep_alive`: the connection serves on after it. `chunked`: its client knows chunks, as HTTP/1.0 does not.
    `own`: what its head says to us, once somebody has read it, and `passed` the lines of it that go upstream.
    `known`: whose it is, once somebody has looked. `headers`: of a known head those of the first that had it.
    """

    __slots__ = (
        "_bound",
        "_pieces",
        "_size",
        "arrived",
        "body_expired",
        "body_whole",
        "chunked",
        "fiber",
        "finished",
        "headers",
        "keep_alive",
        "known",
        "length",
        "method",
        "own",
        "passed",
        "protocol",
        "url",
    )

    def __init__(
        self,
        protocol: GatewayProtocol,
        method: bytes,
        url: bytes,
        headers: Headers,
        *,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        self.protocol = protocol
        self.method = method
        self.url = url
        self.headers = headers
        self.keep_alive = keep_alive
        self.chunked = chunked
        self.arrived = time.monotonic()
        self.fiber = Fiber()
        self.known: KnownHead | None = None
        self.own: OwnHeaders | None = None
        self.passed = b""
        self.length = 0  # of the body, as far as it has come
        self.finished = False  # its answer has gone out
        self.body_whole = False
        self.body_expired = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._bound = PIECES_HIGH_BYTES

    # --- the protocol's side

    def feed(self, data: bytes) -> None:
        """A piece of the body has come; after the answer it is of no interest any more."""
        if not self.finished:
            self._pieces.append(data)
            self._size += len(data)
            self.length += len(data)

    # --- the fiber's side

    async def receive(self, most: int) -> None:
        """Until the body is whole, or larger than *most*. Raises ApiError (408) after `listen.body_s`."""
        self._bound = most
        self.protocol.await_body()
        while not self.body_whole and self._size <= most:
            if self.body_expired:
                raise errors.body_timeout(self.protocol.body_s)
            await SUSPEND

    def body(self, most: int) -> bytes:
        """The body that was received. Raises ApiError (413) beyond *most* bytes."""
        if self._size > most:
            raise errors.too_large(most)
        return self.take()

    def expect_more(self) -> None:
        """More of a body that is passed on as it comes has to come. Raises ApiError (408)."""
        if self.body_expired:
            raise errors.body_timeout(self.protocol.body_s)
        self.protocol.await_body()

    def take(self) -> bytes:
        """What of the body has come since the last call."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._size = 0
        return data

    @property
    def is_ahead(self) -> bool:
        """Whether more of the body has come than should wait in memory: reading pauses."""
        return self._size > self._bound
