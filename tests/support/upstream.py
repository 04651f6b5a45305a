"""A scripted upstream over real sockets: it answers as told, however badly, and remembers what it was asked.

    with ScriptedUpstream() as upstream:
        upstream.then(answers_status(429, retry_after="0"), answers("hello"))   # the next two requests
        upstream.default = streams(["he", "llo"])                              # all others
        ... upstream.base_url ... upstream.received[0].json()["model"]

A script is a coroutine function `(Received, Reply) -> None` and runs in the upstream's own thread. Usable from
sync and async tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

HANG_S = 30.0
STREAM_LIMIT = 1 << 20  # bytes of a head
STEP_S = 0.005


@dataclass
class Received:
    """One request as it arrived. `disconnected` is set when its sender went away before the script was done."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int  # number of the connection it came on, from 0
    disconnected: threading.Event = field(default_factory=threading.Event)
    disconnected_at: float = 0.0

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class Reply:
    """What a script can do to the connection."""

    def __init__(self, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        self._writer = writer
        self._gone = gone
        self.keep_alive = True

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def head(self, status: int = 200, *headers: tuple[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        await self.raw(f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode())

    async def whole(self, body: bytes, status: int = 200, *headers: tuple[str, str]) -> None:
        await self.head(status, *headers, ("content-length", str(len(body))))
        await self.raw(body)

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_chunks(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def pause(self, seconds: float) -> None:
        """Wait; ends at once when the other side goes away."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)

    async def hang(self) -> None:
        await self.pause(HANG_S)

    def close(self) -> None:
        self.keep_alive = False
        self._writer.close()

    def reset(self) -> None:
        """Break off with RST in place of FIN."""
        self.keep_alive = False
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Received, Reply], Awaitable[None]]

USAGE = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}


def completion(text: str = "hello", model: str = "upstream-model", **fields: Any) -> dict[str, Any]:
    """A whole answer of `chat/completions`."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
        **fields,
    }


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


DONE = event(b"[DONE]")


def delta(
    content: str | None = None, finish: str | None = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    """One chunk of a streamed answer."""
    fields = {**({"content": content} if content is not None else {}), **more}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "upstream-model",
        "choices": [{"index": index, "delta": fields, "finish_reason": finish}],
    }


def usage_chunk() -> dict[str, Any]:
    return {**delta(), "choices": [], "usage": USAGE}


def stream_events(pieces: Iterable[str], *, usage: bool = False) -> list[bytes]:
    """The events of a whole streamed answer, from the role to the end mark."""
    events = [event(delta("", role="assistant")), *(event(delta(piece)) for piece in pieces)]
    events.append(event(delta(finish="stop")))
    if usage:
        events.append(event(usage_chunk()))
    return [*events, DONE]


def answers(text: str = "hello", *headers: tuple[str, str], **fields: Any) -> Script:
    """A buffered answer."""
    body = json.dumps(completion(text, **fields)).encode()

    async def script(received: Received, reply: Reply) -> None:
        await reply.whole(body, 200, ("content-type", "application/json"), *headers)

    return script


def answers_status(
    status: int, body: Any = None, *headers: tuple[str, str], retry_after: str | None = None
) -> Script:
    """An error with a body, as upstreams give it."""
    content = json.dumps(body or {"error": {"message": f"scripted {status}", "type": "scripted"}}).encode()
    more = [("retry-after", retry_after)] if retry_after is not None else []

    async def script(received: Received, reply: Reply) -> None:
        await reply.whole(content, status, ("content-type", "application/json"), *headers, *more)

    return script


def streams(pieces: Iterable[str], *, gap_s: float = 0.0) -> Script:
    """A streamed answer; usage comes along when it was asked for."""
    pieces = list(pieces)

    async def script(received: Received, reply: Reply) -> None:
        usage = bool((received.json().get("stream_options") or {}).get("include_usage"))
        await send_events(reply, stream_events(pieces, usage=usage), gap_s=gap_s)

    return script


def streams_events(events: Iterable[bytes], *, gap_s: float = 0.0, then: str = "end") -> Script:
    """These events and nothing else. `then`: "end" the body, "close" or "reset" the connection, or "hang"."""
    events = list(events)

    async def script(received: Received, reply: Reply) -> None:
        await send_events(reply, events, gap_s=gap_s, end=then == "end")
        if then == "hang":
            await reply.hang()
        elif then == "close":
            reply.close()
        elif then == "reset":
            reply.reset()

    return script


async def send_events(reply: Reply, events: Iterable[bytes], *, gap_s: float = 0.0, end: bool = True) -> None:
    await reply.head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
    for each in events:
        await reply.chunk(each)
        if gap_s:
            await reply.pause(gap_s)
    if end:
        await reply.end_chunks()


def sends(data: bytes, *, then: str = "close") -> Script:
    """These bytes, whatever they are."""

    async def script(received: Received, reply: Reply) -> None:
        await reply.raw(data)
        if then == "hang":
            await reply.hang()
        elif then == "reset":
            reply.reset()
        else:
            reply.close()

    return script


def hangs() -> Script:
    """Not a byte, until the other side goes away."""

    async def script(received: Received, reply: Reply) -> None:
        await reply.hang()

    return script


class ScriptedUpstream:
    """See the module's docstring. `received` lists every request in order, `connections` counts."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.default: Script = answers()
        self.received: list[Received] = []
        self.connections = 0
        self.port = 0
        self._scripts: deque[Script] = deque()
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    @property
    def base_url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/v1"

    def then(self, *scripts: Script) -> None:
        """Answer the next requests so, one script each."""
        self._scripts.extend(scripts)

    def wait_received(self, count: int = 1, within_s: float = 5.0) -> Received:
        """The request number *count*, once it is there."""
        deadline = time.monotonic() + within_s
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"only {len(self.received)} of {count} requests arrived"
            time.sleep(STEP_S)
        return self.received[count - 1]

    def drop_connections(self) -> None:
        """Close every connection, as a server does that restarts."""
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in self._writers])
        deadline = time.monotonic() + 5
        while self._writers and time.monotonic() < deadline:
            time.sleep(STEP_S)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self._tls, limit=STREAM_LIMIT)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self._writers.add(writer)
        try:
            while (received := await _read_request(reader, number)) is not None:
                self.received.append(received)
                script = self._scripts.popleft() if self._scripts else self.default
                if not await self._answer(script, received, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, script: Script, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        gone = asyncio.Event()
        reply = Reply(writer, gone)

        async def watch() -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read(1)
            received.disconnected_at = time.monotonic()
            received.disconnected.set()
            gone.set()

        watching = asyncio.create_task(watch())
        try:
            await script(received, reply)
        finally:
            watching.cancel()
            await asyncio.wait([watching])  # until then nobody else may read
        return reply.keep_alive and not gone.is_set()


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]
    fields = {name.lower(): value for name, value in headers}
    if "chunked" in fields.get("transfer-encoding", ""):
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(fields.get("content-length", "0")))
    return Received(method, target, headers, body, connection)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readuntil(b"\r\n")
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)
