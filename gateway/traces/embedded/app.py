"""The ASGI application: requests of ClickHouse's HTTP interface, run on the engine by a pool of threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, NamedTuple

from gateway.traces.embedded.engine import ClickHouseError, Engine, Session, new_mark
from gateway.traces.embedded.protocol import (
    Decoder,
    Request,
    authorized,
    error_response,
    late_error,
    open_handle,
    parse_form,
    parse_request,
    query_headers,
    with_fields,
)
from gateway.traces.embedded.turns import Turns
from gateway.traces.sqltext import InsertHead, insert_head, split_format, tokens

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_STATEMENTS = 200  # under way at once, those included that wait for a thread or for their client
MAX_STATEMENT_BYTES = 64_000_000  # of a statement that is not an INSERT with its data behind it
PIECE_BYTES = 1_000_000  # of a result, on its way to a client: what is written at once is copied
KILL_EVERY_S = 0.5
MAX_HEAD_BYTES = 1_000_000  # of an INSERT, before its data
_ABOUT_TABLES = ("DESCRIBE", "DESC", "EXISTS", "SHOW")
_log = logging.getLogger(__name__)


class _ClientGoneError(Exception):
    """The client closed the connection: nobody is there to be told."""


class _Started(NamedTuple):
    """A statement that runs, with the first piece of its result."""

    session: Session
    first: bytes
    chunks: Iterator[bytes]


class StoreApp:
    """Answers /ping to anyone, statements to who has the token."""

    def __init__(self, engine: Engine, *, token: str, statements: Turns, inserts: Turns) -> None:
        self._engine = engine
        self._token = token
        self._statements = statements
        self._inserts = inserts
        self._under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the server runs without lifespan and websockets"
        headers = dict(scope["headers"])
        try:
            if open_handle(scope["method"], scope["path"], scope["query_string"]):
                await _respond(send, 200, [(b"content-type", b"text/html; charset=UTF-8")], b"Ok.\n")
                return
            self._check_token(headers)
            self._check_room()
            request = parse_request(scope["query_string"], headers, method=scope["method"])
            body = _Body(receive, Decoder(headers.get(b"content-encoding", b"")))
            content_type = headers.get(b"content-type", b"")
            if content_type.startswith(b"multipart/form-data"):
                request = with_fields(request, parse_form(await body.rest(), content_type))
            self._under_way += 1
            try:
                await self._answer(request, body, receive, send)
            finally:
                self._under_way -= 1
        except ClickHouseError as error:
            await _respond(send, *error_response(error, self._engine.version))
        except _ClientGoneError:
            _log.info("a client went away during its statement")

    def _check_token(self, headers: Mapping[bytes, bytes]) -> None:
        if not authorized(headers, self._token):
            text = "Code: 516. DB::Exception: The token is wrong or missing. (AUTHENTICATION_FAILED)"
            raise ClickHouseError(516, text)

    def _check_room(self) -> None:
        if self._under_way >= MAX_STATEMENTS:
            text = (
                f"Code: 202. DB::Exception: {MAX_STATEMENTS} statements are under way or wait "
                "(MAX_STATEMENTS). (TOO_MANY_SIMULTANEOUS_QUERIES)"
            )
            raise ClickHouseError(202, text)

    async def _answer(self, request: Request, body: _Body, receive: Receive, send: Send) -> None:
        head = await _read_head(request, body)
        if isinstance(head, InsertHead):
            await self._insert(request, head, body, send)
        else:
            await self._select(request, head, receive, send)

    async def _insert(self, request: Request, head: InsertHead, body: _Body, send: Send) -> None:
        session = await self._inserts.begin(partial(self._session, request, new_mark()))
        try:
            insert = session.insert(head.sql, head.fmt)
            try:
                async for chunk in body:
                    insert.append(chunk)
                await self._inserts.go_on(insert.finish)
            finally:
                insert.close()
        finally:
            await self._inserts.go_on(session.close)
        await _respond(send, 200, query_headers(request, session.mark, None, session.summary), b"")

    async def _select(self, request: Request, text: str, receive: Receive, send: Send) -> None:
        sql, fmt = split_format(text)
        fmt = fmt or request.default_format
        first = next(tokens(sql), None)
        # A client asks what a table looks like before it inserts: that must not wait for questions either.
        about_tables = first is not None and first.is_word(*_ABOUT_TABLES)
        turns = self._inserts if about_tables else self._statements
        mark = new_mark()
        started: _Started | None = None
        try:
            async with self._stopped_when_gone(mark, receive) as gone:
                start = partial(self._start, request, sql, fmt, mark, gone)
                started = await turns.begin(start)
                has_result = started.first or started.session.reads
                told = query_headers(request, mark, fmt if has_result else None, started.session.summary)
                await self._relay(started, told, turns, gone, send)
        finally:
            if started is not None:
                await turns.go_on(started.session.close)

    def _start(self, request: Request, sql: str, fmt: str, mark: str, gone: asyncio.Event) -> _Started:
        """All that has to wait for a thread, at once: so the bound on the waiting holds for the whole."""
        if gone.is_set():
            raise ClickHouseError(394, "Code: 394. DB::Exception: Nobody is there. (QUERY_WAS_CANCELLED)")
        session = self._session(request, mark)
        try:
            chunks = session.run(sql, fmt, request.params, streamed=not request.wait_end)
            return _Started(session, next(chunks, b""), chunks)
        except BaseException:
            session.close()
            raise

    async def _relay(
        self,
        started: _Started,
        headers: list[tuple[bytes, bytes]],
        turns: Turns,
        gone: asyncio.Event,
        send: Send,
    ) -> None:
        tag = secrets.token_hex(8).encode()
        headers.append((b"x-clickhouse-exception-tag", tag))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        chunk = started.first
        try:
            while chunk and not gone.is_set():
                for at in range(0, len(chunk), PIECE_BYTES):
                    piece = chunk[at : at + PIECE_BYTES]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                chunk = await turns.go_on(partial(next, started.chunks, b""))
        except ClickHouseError as error:
            await send({"type": "http.response.body", "body": late_error(error, tag), "more_body": True})
            return  # without the end of the body: the client must not take what it has for the whole
        await send({"type": "http.response.body", "body": b""})

    def _session(self, request: Request, mark: str) -> Session:
        return self._engine.session(mark=mark, database=request.database, settings=request.settings)

    @contextlib.asynccontextmanager
    async def _stopped_when_gone(self, mark: str, receive: Receive) -> AsyncIterator[asyncio.Event]:
        """Kills the statement with *mark* when its client leaves, and sets the event."""
        gone = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            while True:  # until its end: it may not have begun when it is first killed
                with contextlib.suppress(ClickHouseError):
                    # On none of our threads: they may be full of what is to be killed.
                    await asyncio.to_thread(self._engine.kill, mark)
                await asyncio.sleep(KILL_EVERY_S)

        watcher = asyncio.create_task(watch())
        try:
            yield gone
        except ClickHouseError as error:
            raise (_ClientGoneError if gone.is_set() else ClickHouseError(error.code, str(error))) from error
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher


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
