"""The client's end of an exchange: what is written to it, straight to its transport."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.data_plane.errors import ApiError, Headers
from gateway.data_plane.exchange import Exchange
from gateway.fiber import SUSPEND

_JSON = (b"content-type", b"application/json")
_WITHOUT_BODY = frozenset({204, 304})


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

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer. *headers* may hold its content-length."""
        lines, has_length = self._head(status, headers)
        if not has_length and status not in _WITHOUT_BODY:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        if status not in _WITHOUT_BODY and self._exchange.method != b"HEAD":
            lines.append(body)
        self._protocol.write(b"".join(lines))
        self._protocol.finish(self._exchange)

    def start(self, status: int, headers: Headers) -> None:
        """The head of an answer that comes in pieces; without a content-length among *headers*, in chunks."""
        lines, has_length = self._head(status, headers)
        if has_length or status in _WITHOUT_BODY or self._exchange.method == b"HEAD":
            self._chunked = False
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            self._exchange.keep_alive = False
        lines.append(b"\r\n")
        self._protocol.write(b"".join(lines))

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
        self.answer(200, [_JSON], body)

    def refuse(self, error: ApiError, body: bytes, own: Headers) -> None:
        """An error of ours with its *body*."""
        self.answer(error.status, [_JSON, *error.headers, *own], body)

    def abort(self) -> None:
        """Break the connection off, so that the client cannot take what it has for a whole answer."""
        self._protocol.abort()

    def _head(self, status: int, headers: Headers) -> tuple[list[bytes], bool]:
        """The lines of the head so far, and whether *headers* has a content-length."""
        self.started = True
        self.status = status
        exchange = self._exchange
        lines = [STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status]
        has_length = False
        for name, value in headers:
            if name == b"content-length":
                has_length = True
            if name == b"connection":
                exchange.keep_alive = False  # only our own errors say so, and they mean close
            else:
                lines += (name, b": ", value, b"\r\n")
        if not exchange.keep_alive:
            lines.append(b"connection: close\r\n")
        return lines, has_length
