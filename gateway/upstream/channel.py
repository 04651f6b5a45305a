"""A way to one upstream server as the data plane uses it: its exchanges, their waits and deadlines."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from gateway.fiber import SUSPEND
from gateway.upstream.errors import DeadlineError, Phase, ProtocolError
from gateway.upstream.response_memo import KnownAnswer

MAX_HEAD_BYTES = 64 * 1024  # status line and headers of one response
HIGH_WATER_BYTES = 256 * 1024  # of body that nobody has taken yet: reading pauses
NEVER = float("inf")
WITHOUT_BODY = frozenset({204, 304})  # such an answer is whole with its head
_EVENTS = b"text/event-stream"

# Takes a part of a body. True: it is full, and wants no more before the next `pour`.
Sink = Callable[[bytes], bool]


def is_events(content_type: bytes) -> bool:
    """Whether a `content-type` names a stream of server-sent events, in whatever letters."""
    return content_type[: len(_EVENTS)].lower() == _EVENTS


class Channel(ABC):
    """Sends one request, then offers its response as it comes in.

    `send`, then `head`, then `body` or repeated `more` and `take`, until `complete`. Whatever goes wrong is
    raised by the wait that is pending or by the next one, as an UpstreamError. A Sweeper watches it:
    `expires_at` is the nearer of the phase's deadline and the request's.

    Whoever brings the bytes fills in what `_reset` names and calls `_wake`, `_finish` and `_fail`.
    """

    def __init__(self, upstream: str, server: str) -> None:
        self.upstream = upstream
        self.server = server
        self.expires_at = NEVER
        self.total_at = NEVER
        self.closed = False
        self.is_behind = False  # the server takes a request's body more slowly than it comes
        self.served = 0  # exchanges completed: above 0, the server may have closed it meanwhile
        self.waker: Callable[[], None] | None = None  # called with all news while somebody uses it
        self.on_complete: Callable[[Channel], None] | None = None
        self.on_lost: Callable[[Channel], None] | None = None
        self.on_expired: Callable[[], None] | None = None  # told when a deadline passes and nobody waits
        self._phase: Phase = "connect"
        self._patience_s = 0.0
        self._awaited = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.known: KnownAnswer | None = None  # where the head was known, and the whole answer with it
        self.headed = False
        self.is_events = False  # a stream of server-sent events
        self.complete = False
        self.received = False  # any byte of a response: a request that got one is not sent again unseen
        self.reusable = False
        self.error: Exception | None = None  # an UpstreamError, or a bug of ours
        self.buffered = 0
        self.framed = False  # the body's end is told by a length or by chunks, not by the connection's end
        self._pieces: list[bytes] = []
        self._wanted = 0
        self._paused = False
        self._sink: Sink | None = None
        self._sink_is_full = False
        self._sending = False  # pieces of the request are still to come

    @abstractmethod
    def send(self, head: bytes, body: bytes, total_at: float) -> None:
        """Start an exchange; `total_at` (monotonic) bounds it whatever the phase."""

    @abstractmethod
    def begin(self, head: bytes, total_at: float, *, chunked: bool) -> None:
        """Start an exchange whose body follows: `send_piece` for each, then `sent`.

        `chunked` says what *head* says: the body's length is not known.
        """

    @abstractmethod
    def send_piece(self, data: bytes) -> None:
        """A part of the request's body, not empty. Send no more while `is_behind`."""

    @abstractmethod
    def sent(self) -> None:
        """The request is whole."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once; the server notices."""

    @abstractmethod
    def _hold_back(self) -> None:
        """More has come in than should wait here: stop reading, if that has to be said."""

    @abstractmethod
    def _read_on(self) -> None:
        """What had come in has been taken: go on reading, which had paused."""

    def arm(self, phase: Phase, seconds: float) -> None:
        """Deadline of what is awaited next."""
        self._patience_s = seconds
        at = time.monotonic() + seconds
        if at < self.total_at:
            self._phase, self.expires_at = phase, at
        else:
            self._phase, self.expires_at = "total", self.total_at

    def rest(self) -> None:
        """Nothing is awaited from the server: the client is slow, say. Only the total deadline holds."""
        self._phase, self.expires_at = "total", self.total_at

    def check(self) -> None:
        """Raise the error that has happened, if one has."""
        if self.error is not None:
            raise self.error

    async def head(self) -> None:
        """Until status and headers are there."""
        self._wanted = 0
        self._awaited = True
        try:
            while not self.headed:
                self.check()
                await SUSPEND
        finally:
            self._awaited = False
        self.check()

    async def body(self, most: int) -> None:
        """Until the body is whole, or *most* bytes of it are there."""
        self._wanted = most
        self._awaited = True
        try:
            while not self.complete and self.buffered < most:
                self.check()
                await SUSPEND
        finally:
            self._awaited = False

    async def more(self) -> None:
        """Until there is something to take, or the body is whole."""
        self._wanted = 1
        self._awaited = True
        try:
            while not self._pieces and not self.complete:
                self.check()
                await SUSPEND
        finally:
            self._awaited = False

    async def pour(self, sink: Sink) -> None:
        """Hand the body to *sink* as it comes in, until it is whole or *sink* is full.

        What came before is handed over first. *sink* is called where the bytes arrive: it must be quick.
        """
        self._sink_is_full = bool(self._pieces) and sink(self.take())
        self._sink = sink
        self._awaited = True
        try:
            while not (self.complete or self._sink_is_full):
                self.check()
                await SUSPEND
        finally:
            self._sink = None  # it refers to whoever poured
            self._awaited = False

    def peek(self) -> bytes:
        """What has come in and is still to be taken."""
        return b"".join(self._pieces)

    def take(self) -> bytes:
        """What came in since the last call; reading goes on if it had paused."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self.buffered = 0
        if self._paused:
            self._paused = False
            if not self.closed:
                self._read_on()
        return data

    def expire(self) -> None:
        """A deadline passed: the pending wait fails, or `on_expired` is told."""
        self.expires_at = NEVER
        awaited = self._awaited
        self._fail(DeadlineError(self._phase, self.upstream))
        if not awaited and self.on_expired is not None:
            self.on_expired()

    def _offer(self) -> None:
        """More of the body has come, or its end: tell whoever waits, and hold back what nobody takes."""
        if self._sink is not None:
            pieces = self._pieces
            if pieces:
                self._pieces = []
                self.buffered = 0
                self._sink_is_full = self._sink(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self.complete or self._sink_is_full:
                self._wake()
            return
        if self.complete or self.buffered >= self._wanted:
            self._wake()
        elif self._phase == "idle":
            self.arm("idle", self._patience_s)  # a body that is waited for as a whole is coming on
        if self.buffered > max(HIGH_WATER_BYTES, self._wanted) and not self.complete:
            self._paused = True
            self._hold_back()

    def _wake(self) -> None:
        if self.waker is not None:
            self.waker()

    def _fail(self, error: Exception) -> None:
        if self.error is None and not self.complete:
            self.error = error
        self.abort()
        self._wake()

    def _finish(self) -> None:
        self.complete = True
        self.served += 1
        if self.on_complete is not None:
            self.on_complete(self)

    def _has_large_head(self) -> bool:
        return sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES

    def _too_many_headers(self) -> ProtocolError:
        return self._violation(f"sent more than {MAX_HEAD_BYTES} bytes of headers (MAX_HEAD_BYTES)")

    def _violation(self, what: str) -> ProtocolError:
        return ProtocolError(f"upstream {self.upstream!r} at {self.server} {what}")
