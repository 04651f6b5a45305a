"""The ASGI application: requests of ClickHouse's HTTP interface, run on the engine by a pool of threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from gateway.traces.embedded.engine import ClickHouseError, Engine, Session
from gateway.traces.embedded.protocol import (
    Decoder,
    Request,
    authorized,
    error_response,
    late_error,
    parse_form,
    parse_request,
    with_fields,
)
from gateway.traces.sqltext import InsertHead, insert_head, split_format

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_STATEMENT_BYTES = 64_000_000  # of a statement that is not an INSERT with its data behind it
MAX_HEAD_BYTES = 1_000_000  # of an INSERT, before its data
_log = logging.getLogger(__name__)


class _ClientGoneError(Exception):
    """The client closed the connection: nobody is there to be told."""


class StoreApp:
    """Answers /ping to anyone, statements to who has the token."""

    def __init__(self, engine: Engine, *, token: str, pool: Executor) -> None:
        self._engine = engine
        self._token = token
        self._pool = pool

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the server runs without lifespan and websockets"
        headers = dict(scope["headers"])
        if scope["path"] == "/ping" or (scope["method"] == "GET" and not scope["query_string"]):
            await _respond(send, 200, [(b"content-type", b"text/html; charset=UTF-8")], b"Ok.\n")
            return
        try:
            self._check_token(headers)
            request = parse_request(scope["query_string"], headers, method=scope["method"])
            body = _Body(receive, Decoder(headers.get(b"content-encoding", b"")))
            content_type = headers.get(b"content-type", b"")
            if content_type.startswith(b"multipart/form-data"):
                request = with_fields(request, parse_form(await body.rest(), content_type))
            await self._answer(request, body, receive, send)
        except ClickHouseError as error:
            await _respond(send, *error_response(error, self._engine.version))
        except _ClientGoneError:
            _log.info("a client went away during its statement")

    def _check_token(self, headers: Mapping[bytes, bytes]) -> None:
        if not authorized(headers, self._token):
            text = "Code: 516. DB::Exception: The token is wrong or missing. (AUTHENTICATION_FAILED)"
            raise ClickHouseError(516, text)

    async def _answer(self, request: Request, body: _Body, receive: Receive, send: Send) -> None:
        head = await _read_head(request, body)
        opened = partial(self._engine.session, database=request.database, settings=request.settings)
        session = await self._in_thread(opened)
        try:
            if isinstance(head, InsertHead):
                await self._insert(session, head, body)
                await _respond(send, 200, [], b"")
            else:
                await self._select(session, request, head, receive, send)
        finally:
            await self._in_thread(session.close)

    async def _insert(self, session: Session, head: InsertHead, body: _Body) -> None:
        insert = session.insert(head.sql, head.fmt)
        try:
            async for chunk in body:
                insert.append(chunk)
            await self._in_thread(insert.finish)
        finally:
            insert.close()

    async def _select(
        self, session: Session, request: Request, text: str, receive: Receive, send: Send
    ) -> None:
        sql, fmt = split_format(text)
        fmt = fmt or request.default_format
        async with self._stopped_when_gone(session, receive) as gone:
            chunks = await self._in_thread(partial(session.run, sql, fmt, request.params))
            chunk = await self._in_thread(partial(next, chunks, b""))
            tag = secrets.token_hex(8).encode()
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"x-clickhouse-format", fmt.encode()),
                (b"x-clickhouse-timezone", b"UTC"),
                (b"x-clickhouse-exception-tag", tag),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                while chunk and not gone.is_set():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    chunk = await self._in_thread(partial(next, chunks, b""))
            except ClickHouseError as error:
                await send({"type": "http.response.body", "body": late_error(error, tag), "more_body": True})
                return  # without the end of the body: the client must not take what it has for the whole
            await send({"type": "http.response.body", "body": b""})

    @contextlib.asynccontextmanager
    async def _stopped_when_gone(self, session: Session, receive: Receive) -> AsyncIterator[asyncio.Event]:
        """Kills the statement of *session* when its client leaves, and sets the event."""
        gone = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            await asyncio.to_thread(self._engine.kill, session.mark)  # the pool may be full of what is killed

        watcher = asyncio.create_task(watch())
        try:
            yield gone
        except ClickHouseError as error:
            raise (_ClientGoneError if gone.is_set() else ClickHouseError(error.code, str(error))) from error
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


class _Body:
    """The decoded body, chunk by chunk; `unread` puts bytes back in front."""

    def __init__(self, receive: Receive, decoder: Decoder) -> None:
        self._receive = receive
        self._decoder = decoder
        self._front = b""
        self._more = True

    def unread(self, data: bytes) -> None:
        self._front = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.next():
            yield chunk

    async def next(self) -> bytes:
        """The next bytes; empty at the end. Raises _ClientGoneError."""
        if self._front:
            front, self._front = self._front, b""
            return front
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            self._more = message.get("more_body", False)
            if chunk := self._decoder.decode(message.get("body", b""), last=not self._more):
                return chunk
        return b""

    async def rest(self) -> bytes:
        """All that is left. Raises ClickHouseError beyond MAX_STATEMENT_BYTES."""
        parts, size = [], 0
        async for chunk in self:
            size += len(chunk)
            if size > MAX_STATEMENT_BYTES:
                text = f"Code: 62. DB::Exception: Statement over MAX_STATEMENT_BYTES ({MAX_STATEMENT_BYTES})."
                raise ClickHouseError(62, text)
            parts.append(chunk)
        return b"".join(parts)


async def _read_head(request: Request, body: _Body) -> InsertHead | str:
    """The INSERT whose data is left in *body*, or the whole of any other statement."""
    text = request.query.encode() + (b"\n" if request.query else b"")
    complete = False
    while True:
        head = insert_head(text.decode("latin-1"), complete=complete)
        if isinstance(head, InsertHead):
            body.unread(text[head.data_start :])
            return head._replace(sql=_decoded(head.sql.encode("latin-1")))
        if head == "plain" or len(text) > MAX_HEAD_BYTES:
            return _decoded(text + await body.rest())
        chunk = await body.next()
        complete = not chunk
        text += chunk


def _decoded(statement: bytes) -> str:
    try:
        return statement.decode()
    except UnicodeDecodeError as error:
        text = "Code: 62. DB::Exception: The statement is not UTF-8. (SYNTAX_ERROR)"
        raise ClickHouseError(62, text) from error


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
