"""The client's end of an exchange: what is written to it, straight to its transport."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.data_plane.errors import ApiError
from gateway.data_plane.exchange import Exchange
from gateway.data_plane.headers import lines_of
from gateway.fiber import SUSPEND
from gateway.upstream.channel import WITHOUT_BODY

_JSON = b"content-type: application/json\r\n"
_CLOSE = (b"connection", b"close")


class ClientSide:
    """Answers one exchange. A client that has left takes no bytes and raises nothing here."""

    __slots__ = ("_chunked", "_exchange", "_protocol", "started", "status")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._protocol = exchange.protocol
        # A client of HTTP/1.0 knows no chunks: for it the body ends where the connection does.
        self._chunked = exchange.chunked
        self.started = False
        self.status = 0

    @property
    def is_behind(self) -> bool:
        """The client reads more slowly than we write: `drain` before the next piece."""
        return self._protocol.write_paused

    async def drain(self) -> None:
        """Until the transport takes more: a slow reader holds back whoever awaits this."""
        while self._protocol.write_paused:
            await SUSPEND

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """The whole answer. *lines* are those of its head but for its content-length."""
        head = self._head(status, lines)
        if status in WITHOUT_BODY:
            answer = b"%b\r\n" % head
        elif self._exchange.method == b"HEAD":
            answer = b"%bcontent-length: %d\r\n\r\n" % (head, len(body))
        else:
            answer = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        self._protocol.write(answer)
        self._protocol.finish(self._exchange)

    def start(self, status: int, lines: bytes, *, has_length: bool) -> None:
        """The head of an answer that comes in pieces: in chunks, unless *lines* have a content-length."""
        if has_length or status in WITHOUT_BODY or self._exchange.method == b"HEAD":
            self._chunked = False
        elif not self._chunked:
            self._exchange.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._protocol.write(b"%b%b\r\n" % (self._head(status, lines), framing))

    def write(self, data: bytes) -> None:
        """A piece of a started answer."""
        if data:
            self._protocol.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, data: bytes = b"") -> None:
        """The last piece."""
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if data:
            self._protocol.write(data)
        self._protocol.finish(self._exchange)

    def answer_json(self, body: bytes) -> None:
        """200 with JSON of ours."""
        self.answer(200, _JSON, body)

    def refuse(self, error: ApiError, body: bytes, own: bytes = b"") -> None:
        """An error of ours with its *body*; *own* are further lines of the head.

        A client that waits to be told to go on keeps its body, and what it sends next would be taken for it.
        """
        exchange = self._exchange
        headers = [header for header in error.headers if header != _CLOSE]
        waits = not exchange.body_whole and any(name == b"expect" for name, _ in exchange.headers)
        if waits or len(headers) < len(error.headers):
            exchange.keep_alive = False
        self.answer(error.status, _JSON + lines_of(headers) + own, body)

    def abort(self) -> None:
        """Break the connection off, so that the client cannot take what it has for a whole answer."""
        self._protocol.abort()

    def _head(self, status: int, lines: bytes) -> bytes:
        """The head so far."""
        self.started = True
        self.status = status
        first = STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status
        return first + lines if self._exchange.keep_alive else b"%b%bconnection: close\r\n" % (first, lines)
