"""Listening while something is sent: an answer ends the sending, and not a byte of it is lost."""

# ruff: noqa: ARG002, ASYNC109 -- the arguments are httpcore's
from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpcore
import pytest

from gateway.upstream.channel import MAX_HEAD_BYTES
from gateway.upstream.httpx_wire import Wire, WireStream

ANSWER = b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 103 Hints\r\nlink: </a>\r\n\r\n"


class Far(httpcore.AsyncNetworkStream):
    """The other end: `say` what it says, an error to raise, or b"" for its end; `takes` until it is full."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.takes = True
        self.taken: list[bytes] = []
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self.said.get()
        if isinstance(data, Exception):
            raise data
        assert len(data) <= max_bytes
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self.takes:
            await asyncio.Event().wait()
        self.taken.append(buffer)

    async def aclose(self) -> None:
        self.closed = True

    async def say(self, *pieces: bytes | Exception) -> None:
        """Say it, and let it be heard."""
        for piece in pieces:
            self.said.put_nowait(piece)
            for _ in range(5):
                await asyncio.sleep(0)


class Line:
    """Both ends of a stream; `answered` and `heard` count."""

    def __init__(self) -> None:
        self.heard = self.answered = 0
        self.far = Far()
        self.near = WireStream(self.far, Wire(self._hear))

    def _hear(self) -> None:
        self.heard += 1

    def listen(self) -> None:
        def note() -> None:
            self.answered += 1

        self.near.listen(note)


def on_a_line(test: Callable[[Line], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await test(Line())

    asyncio.run(run())


@pytest.mark.parametrize("at", range(1, len(INTERIM + ANSWER)))
def test_what_is_said_is_read_but_for_interim_responses_however_it_is_split(at: int):
    async def test(line: Line) -> None:
        line.listen()
        said = INTERIM + ANSWER
        await line.far.say(said[:at])
        # Of the answer its status has to have begun.
        assert line.answered == (at > len(INTERIM) + len(b"HTTP/1.1 "))
        await line.far.say(said[at:])
        assert line.answered == 1
        data = await line.near.read(65536)
        if len(data) < len(ANSWER):
            data += await line.near.read(65536)
        assert data == ANSWER

    on_a_line(test)


def test_interim_responses_stop_nothing():
    async def test(line: Line) -> None:
        line.listen()
        await line.far.say(INTERIM)
        await line.near.write(b"more")
        assert (line.far.taken, line.answered) == ([b"more"], 0)
        assert line.heard > 0

    on_a_line(test)


@pytest.mark.parametrize("said", [ANSWER, b"", b"SSH-2.0", httpcore.ReadError("reset")], ids=str)
def test_writing_ends_with_what_is_said_and_the_next_read_has_it(said: bytes | Exception):
    async def test(line: Line) -> None:
        line.listen()
        line.far.takes = False
        writing = asyncio.create_task(line.near.write(b"x"))
        await line.far.say(said)
        with pytest.raises(httpcore.WriteError):
            await writing
        with pytest.raises(httpcore.WriteError):
            await line.near.write(b"y")
        if isinstance(said, Exception):
            with pytest.raises(httpcore.ReadError):
                await line.near.read(65536)
        else:
            assert await line.near.read(65536) == said
        assert (line.far.taken, line.answered) == ([], 1)

    on_a_line(test)


def test_after_a_read_nothing_is_listened_for():
    async def test(line: Line) -> None:
        line.listen()
        await line.far.say(ANSWER)
        assert await line.near.read(65536) == ANSWER
        await line.far.say(b"more")
        await line.near.write(b"x")
        assert line.far.taken == [b"x"]
        assert await line.near.read(65536) == b"more"

    on_a_line(test)


def test_an_interim_response_without_end_is_bounded():
    async def test(line: Line) -> None:
        line.listen()
        await line.far.say(b"HTTP/1.1 100 " + b"x" * (MAX_HEAD_BYTES // 2), b"x" * (MAX_HEAD_BYTES // 2))
        assert line.answered == 1

    on_a_line(test)


def test_closing_ends_the_listening():
    async def test(line: Line) -> None:
        line.listen()
        await line.near.aclose()
        await asyncio.sleep(0)
        assert line.far.closed
        assert line.answered == 0
        assert len(asyncio.all_tasks()) == 1

    on_a_line(test)


def test_whoever_is_broken_off_while_writing_leaves_nothing_running():
    async def test(line: Line) -> None:
        line.listen()
        line.far.takes = False
        writing = asyncio.create_task(line.near.write(b"x"))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await line.near.aclose()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    on_a_line(test)
