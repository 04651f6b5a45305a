"""ClickHouse inside this process: sessions over one chDB engine. Nothing here knows of HTTP."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from gateway.errors import OperationError
from gateway.traces.sqltext import settings_start, tokens

MARK_CACHE_BYTES = 64_000_000
INDEX_CACHE_BYTES = 64_000_000
INSERT_SHARE = 4  # the data of one INSERT is gathered in memory: at most memory_bytes over this
STATEMENT_SHARE = 2  # one statement takes at most memory_bytes over this: others go on beside it
_SETTING_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_ERROR_CODE = re.compile(r"Code: (\d+)\. ")
# Blocks of these formats stand alone, so that chunks can be sent as they come.
_STREAMED_FORMATS = frozenset(
    {
        *("Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "RowBinary", "JSONEachRow"),
        *("JSONLines", "NDJSON", "JSONCompactEachRow", "JSONStringsEachRow", "JSONCompactStringsEachRow"),
    }
)
# What would hold for later statements of a session; each request has a session of its own.
_FOR_LATER = frozenset({"SET", "USE", "BEGIN", "COMMIT", "ROLLBACK"})


def new_mark() -> str:
    """A mark that no other statement has."""
    return uuid.uuid4().hex


class ClickHouseError(Exception):
    """The engine refused or failed; `code` is ClickHouse's, `str(error)` its own text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Engine:
    """Owns one chDB directory until `close`. Sessions may be opened and used from any thread."""

    def __init__(self, directory: Path, *, memory_bytes: int) -> None:
        """Open or create *directory*. Raises OperationError where that cannot be done."""
        # Any, and by name: chDB's stubs do not list what the package itself is built on. Loaded here because
        # it takes a quarter of a second and 200 MB.
        chdb: Any = importlib.import_module("chdb._chdb")
        if "?" in str(directory):
            raise OperationError(f"{directory}: chDB cannot open a path with a question mark; rename it")
        self._connect: Callable[[str], Any] = chdb.connect
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._asking = threading.Lock()  # one statement at a time on the engine's own connection
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", suffix=".xml", prefix="tracetune-store-") as file:
                file.write(_server_settings(directory, memory_bytes))
                file.flush()
                # Held open for good: the engine stops with its last connection.
                self._keeper = self._connect(f"{directory}?config-file={file.name}")
            self.version = self._keeper.query("SELECT version()", "TabSeparated").bytes().decode().strip()
        except (RuntimeError, OSError) as error:
            raise OperationError(f"{directory}: the embedded store cannot be opened: {error}") from error

    def session(self, *, mark: str, database: str | None, settings: Mapping[str, str]) -> Session:
        """A session of its own, so that no setting outlives its request. Raises ClickHouseError.

        *mark* is what `kill` finds its statement by.
        """
        with _translated():
            return Session(
                self._connect(str(self._directory)),
                mark,
                database,
                {"max_memory_usage": str(self._memory_bytes // STATEMENT_SHARE), **settings},
                max_insert_bytes=self._memory_bytes // INSERT_SHARE,
            )

    def kill(self, mark: str | None = None) -> None:
        """Ask the statement of the session with *mark* to stop, or all of them."""
        condition = f"Settings['log_comment'] = '{mark}'" if mark else "1"
        with _translated(), self._asking:
            self._keeper.query(f"KILL QUERY WHERE {condition} ASYNC", "TabSeparated")

    def close(self) -> None:
        self._keeper.close()


class Session:
    """One connection: settings of its own, one statement at a time. Close it."""

    def __init__(
        self,
        connection: Any,
        mark: str,
        database: str | None,
        settings: Mapping[str, str],
        *,
        max_insert_bytes: int,
    ) -> None:
        # Any: chDB ships no types.
        self._connection = connection
        self._max_insert_bytes = max_insert_bytes
        self.mark = mark
        self.reads = False  # of the last statement that was run
        self.summary: dict[str, str] = {}  # of a statement that is over, as ClickHouse counts
        self._readonly = settings.get("readonly", "0") != "0"
        try:
            if database:
                self._execute(f"USE {_quoted(database, '`')}")
            # log_comment is how a statement is found in system.processes; after readonly nothing can be set.
            applied = {**settings, "log_comment": self.mark}
            readonly = applied.pop("readonly", None)
            self._set(applied)
            if readonly is not None:
                self._set({"readonly": readonly})
        except BaseException:
            connection.close()
            raise

    def run(self, sql: str, fmt: str, params: Mapping[str, str], *, streamed: bool = True) -> Iterator[bytes]:
        """The result of *sql* in *fmt*, in chunks. Raises ClickHouseError, before or between chunks.

        Not *streamed*, or in a format that is one piece, it is in memory as a whole, within the bound.
        """
        with _translated():
            kind = self._connection.classify_query(sql)
        if kind["statement_count"] > 1:
            text = "Code: 62. DB::Exception: Multi-statements are not allowed. (SYNTAX_ERROR)"
            raise ClickHouseError(62, text)
        self.reads = kind["query_class"].name == "READ_ONLY"
        if self._readonly and not self.reads:
            text = "Code: 164. DB::Exception: Cannot execute query in readonly mode. (READONLY)"
            raise ClickHouseError(164, text)
        _refuse_files(sql)
        first = next(tokens(sql), None)
        _refuse_what_is_for_later(sql)
        if (
            streamed
            and self.reads
            and fmt in _STREAMED_FORMATS
            and first is not None
            and first.is_word("SELECT", "WITH")
        ):
            return self._stream(sql, fmt, params)
        return iter([self.whole(sql, fmt, params)])

    def insert(self, sql: str, fmt: str) -> Insert:
        """Begin to insert data in *fmt*. Raises ClickHouseError."""
        _refuse_files(sql)
        return Insert(self, sql, fmt, self._max_insert_bytes)

    def close(self) -> None:
        self._connection.close()

    def whole(self, sql: str, fmt: str, params: Mapping[str, str]) -> bytes:
        """The result of *sql* in one piece, with its `summary`. Raises ClickHouseError."""
        with _translated():
            result = self._connection.query(sql, fmt, params=dict(params))
            content: bytes = result.bytes()
        self.summary = {
            "read_rows": str(result.storage_rows_read()),
            "read_bytes": str(result.storage_bytes_read()),
            "written_rows": str(result.rows_written()),
            "written_bytes": str(result.bytes_written()),
            "result_rows": str(result.rows_read()),
            "elapsed_ns": str(int(result.elapsed() * 1e9)),
        }
        return content

    def _stream(self, sql: str, fmt: str, params: Mapping[str, str]) -> Iterator[bytes]:
        with _translated():
            stream = self._connection.send_query(sql, fmt, params=dict(params))
            while (chunk := self._connection.streaming_fetch_result(stream)).size():
                yield chunk.bytes()

    def _execute(self, sql: str) -> None:
        with _translated():
            self._connection.query(sql, "TabSeparated")

    def _set(self, settings: Mapping[str, str]) -> None:
        for name in settings:
            if not _SETTING_NAME.match(name):
                raise ClickHouseError(115, f"Code: 115. DB::Exception: Unknown setting {name!r}.")
        values = ", ".join(f"{name} = {_quoted(value, chr(39))}" for name, value in settings.items())
        self._execute(f"SET {values}")


class Insert:
    """An INSERT whose data comes piece by piece. Nothing is stored before `finish`. Close it."""

    def __init__(self, session: Session, sql: str, fmt: str, max_bytes: int) -> None:
        self._session = session
        self._max_bytes = max_bytes
        self._sql = sql
        self._fmt = fmt
        # chDB's own insert by pieces reports success where a full disk or a constraint refused the rows, so
        # the data is gathered and inserted by an ordinary statement: as a file, since a statement's text
        # cannot hold every byte; in memory, since the disk may be what is full.
        self._data = os.fdopen(os.memfd_create("insert"), "wb", buffering=0)
        self._size = 0

    def append(self, data: bytes) -> None:
        """Add to the data. Raises ClickHouseError where it grows too large."""
        self._size += len(data)
        if self._size > self._max_bytes:
            # A memory limit's code: at that the shipper sends half as many rows.
            text = (
                f"Code: 241. DB::Exception: INSERT of over {self._max_bytes} bytes. (MEMORY_LIMIT_EXCEEDED)"
            )
            raise ClickHouseError(241, text)
        view = memoryview(data)
        while view:
            view = view[self._data.write(view) :]

    def finish(self) -> None:
        """Insert the data. Raises ClickHouseError; then part of it may be there where it is many blocks."""
        place = settings_start(self._sql)
        source = f" FROM INFILE '/proc/self/fd/{self._data.fileno()}' COMPRESSION 'none' "
        sql = f"{self._sql[:place]}{source}{self._sql[place:]} FORMAT {self._fmt}"
        self._session.whole(sql, "TabSeparated", {})

    def close(self) -> None:
        self._data.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        match = _ERROR_CODE.search(text)
        # 1002 is ClickHouse's UNKNOWN_EXCEPTION.
        raise ClickHouseError(
            int(match[1]) if match else 1002, text[match.start() :] if match else text
        ) from error


def _refuse_files(sql: str) -> None:
    """A server does not write or read files for its clients; chDB, being a library, would."""
    previous = None
    for token in tokens(sql):
        if token.is_word("OUTFILE", "INFILE") and previous is not None and previous.is_word("INTO", "FROM"):
            text = "Code: 344. DB::Exception: Files are read and written by the client. (SUPPORT_IS_DISABLED)"
            raise ClickHouseError(344, text)
        previous = token


def _refuse_what_is_for_later(sql: str) -> None:
    words = [token.text.upper() for token in islice(tokens(sql), 4) if token.kind == "word"]
    temporary = words[:1] == ["CREATE"] and "TEMPORARY" in words
    if temporary or not _FOR_LATER.isdisjoint(words[:1]):
        text = (
            f"Code: 48. DB::Exception: {words[0]}{' TEMPORARY' * temporary}: sessions are not kept between "
            "requests; send settings and the database with each. (NOT_IMPLEMENTED)"
        )
        raise ClickHouseError(48, text)


def _quoted(text: str, quote: str) -> str:
    escaped = text.replace("\\", "\\\\").replace(quote, "\\" + quote)
    return f"{quote}{escaped}{quote}"


def _server_settings(directory: Path, memory_bytes: int) -> str:
    # fsync: the shipper deletes its copy when an insert is confirmed, so a confirmed one must be on the disk.
    # tmp_path: without it a folder tmp/ appears in the current directory.
    tmp = str(directory / "tmp").replace("&", "&amp;").replace("<", "&lt;")
    return f"""<clickhouse>
    <max_server_memory_usage>{memory_bytes}</max_server_memory_usage>
    <mark_cache_size>{MARK_CACHE_BYTES}</mark_cache_size>
    <index_mark_cache_size>{INDEX_CACHE_BYTES}</index_mark_cache_size>
    <primary_index_cache_size>{INDEX_CACHE_BYTES}</primary_index_cache_size>
    <timezone>UTC</timezone>
    <tmp_path>{tmp}/</tmp_path>
    <merge_tree>
        <fsync_after_insert>1</fsync_after_insert>
        <fsync_part_directory>1</fsync_part_directory>
    </merge_tree>
</clickhouse>
"""
