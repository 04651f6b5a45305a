"""A scripted upstream that speaks HTTP/2 and nothing else. Scripts are those of `tests.support.upstream`."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from tests.support.upstream import Received, Reply, ScriptedUpstream

_NOT_HTTP2 = {"transfer-encoding", "connection"}


class Http2Upstream(ScriptedUpstream):
    """Over TLS it agrees on `h2`; without, it takes it for granted."""

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self._writers.add(writer)
        try:
            await _Http2Connection(self, number, writer).run(reader)
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    def next_script(self):
        return self._scripts.popleft() if self._scripts else self.default


def http2_tls(certificate: Path) -> ssl.SSLContext:
    """A server's side that agrees on nothing but HTTP/2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    return context


class _Http2Connection:
    """One connection: its streams, each answered by a script in a task of its own."""

    def __init__(self, upstream: Http2Upstream, number: int, writer: asyncio.StreamWriter) -> None:
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.writer = writer
        self.window_opened = asyncio.Event()
        self._upstream = upstream
        self._number = number
        self._requests: dict[int, Received] = {}
        self._replies: dict[int, Http2Reply] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, reader: asyncio.StreamReader) -> None:
        self.state.initiate_connection()
        await self.flush()
        try:
            while data := await reader.read(65536):
                for event in self.state.receive_data(data):
                    self._handle(event)
                await self.flush()
        finally:
            for number in list(self._replies):
                self._gone(number)
            for task in self._tasks:
                task.cancel()

    async def flush(self) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError
        self.writer.write(self.state.data_to_send())
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            pseudo = dict(headers)
            plain = [header for header in headers if not header[0].startswith(":")]
            self._requests[event.stream_id] = Received(
                pseudo[":method"], pseudo[":path"], plain, b"", self._number
            )
        elif isinstance(event, h2.events.DataReceived):
            self._requests[event.stream_id].body += event.data
            self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            received = self._requests[event.stream_id]
            self._upstream.received.append(received)
            reply = self._replies[event.stream_id] = Http2Reply(self, event.stream_id)
            self._tasks.append(asyncio.create_task(self._answer(event.stream_id, received, reply)))
        elif isinstance(event, h2.events.WindowUpdated):
            self.window_opened.set()
        elif isinstance(event, h2.events.StreamReset):
            self._gone(event.stream_id)

    async def _answer(self, stream: int, received: Received, reply: Http2Reply) -> None:
        with contextlib.suppress(ConnectionError):
            await self._upstream.next_script()(received, reply)
        self._replies.pop(stream, None)

    def _gone(self, stream: int) -> None:
        received = self._requests[stream]
        received.disconnected_at = time.monotonic()
        received.disconnected.set()
        self._replies.pop(stream).gone.set()


class Http2Reply(Reply):
    """What a script can do to its stream, and with `close` to the whole connection."""

    def __init__(self, connection: _Http2Connection, stream: int) -> None:
        self.gone = asyncio.Event()
        super().__init__(connection.writer, self.gone)
        self._connection = connection
        self._stream = stream

    async def raw(self, data: bytes) -> None:
        """Data of the body: there is no other way to send bytes."""
        state = self._connection.state
        while data:
            most = min(state.local_flow_control_window(self._stream), state.max_outbound_frame_size)
            if most == 0:
                self._connection.window_opened.clear()
                await self._connection.window_opened.wait()
                continue
            state.send_data(self._stream, data[:most])
            data = data[most:]
            await self._connection.flush()

    async def head(self, status: int = 200, *headers: tuple[str, str]) -> None:
        fields = [header for header in headers if header[0] not in _NOT_HTTP2]
        self._connection.state.send_headers(self._stream, [(":status", str(status)), *fields])
        await self._connection.flush()

    async def whole(self, body: bytes, status: int = 200, *headers: tuple[str, str]) -> None:
        await super().whole(body, status, *headers)
        await self.end_chunks()

    async def chunk(self, data: bytes) -> None:
        await self.raw(data)

    async def end_chunks(self) -> None:
        self._connection.state.end_stream(self._stream)
        await self._connection.flush()

    async def go_away(self) -> None:
        """Take no further request on this connection."""
        self._connection.state.close_connection()
        await self._connection.flush()

    def reset(self) -> None:
        self._connection.state.reset_stream(self._stream)
        self._writer.write(self._connection.state.data_to_send())
