"""An egress proxy over real sockets: it forwards plain requests, tunnels CONNECT, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from typing import Self
from urllib.parse import urlsplit


class EgressProxy:
    """`asked` has the head of every request. *auth* (`USER:PASSWORD`) is asked for; *hangs*: it never answers."""

    def __init__(self, *, auth: str | None = None, tls: ssl.SSLContext | None = None, hangs: bool = False):
        self.asked: list[str] = []
        self.port = 0
        self._auth = None if auth is None else base64.b64encode(auth.encode()).decode()
        self._tls = tls
        self._hangs = hangs
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

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
            asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self._tls)
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
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.asked.append(head)
            method, target, _ = head.split("\r\n")[0].split(" ")
            if self._hangs:
                await reader.read()
            elif (
                self._auth is not None
                and f"proxy-authorization: basic {self._auth}".lower() not in head.lower()
            ):
                writer.write(b"HTTP/1.1 407 Say friend\r\ncontent-length: 0\r\n\r\n")
            elif method == "CONNECT":
                onward = await asyncio.open_connection(*target.split(":"))
                writer.write(b"HTTP/1.1 200 Go\r\n\r\n")
                await _both_ways((reader, writer), onward)
            else:
                parts = urlsplit(target)
                onward = await asyncio.open_connection(parts.hostname, parts.port)
                onward[1].write(
                    head.replace(target, f"{parts.path}?{parts.query}".rstrip("?"), 1).encode("latin-1")
                )
                await _both_ways((reader, writer), onward)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _both_ways(one: Ends, other: Ends) -> None:
    """Until either side ends. A second request on the connection would go on as it is: a test sends one."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    pumps = [asyncio.create_task(pump(one[0], other[1])), asyncio.create_task(pump(other[0], one[1]))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pumps:
            task.cancel()
        other[1].close()
