"""An egress proxy over real sockets: it forwards plain requests, tunnels CONNECT, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from urllib.parse import urlsplit

from tests.support.threaded import ThreadedServer


class EgressProxy(ThreadedServer):
    """`asked` has the head of every request. *auth* (`USER:PASSWORD`) is asked for; *hangs*: it never answers."""

    def __init__(self, *, auth: str | None = None, tls: ssl.SSLContext | None = None, hangs: bool = False):
        super().__init__(tls)
        self.asked: list[str] = []
        self._auth = None if auth is None else base64.b64encode(auth.encode()).decode()
        self._hangs = hangs

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
