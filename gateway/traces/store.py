"""The store: ClickHouse over clickhouse-connect, the same for the embedded one and one far away.

Everything that it raises is a StoreError; `refusals.py` says which.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Any, Self, TypeVar

import clickhouse_connect
import msgspec
import tenacity
from clickhouse_connect.driver import exceptions as driver
from clickhouse_connect.driver.httputil import get_pool_manager
from urllib3.exceptions import HTTPError

from gateway.config.types import Config
from gateway.errors import StoreError, StoreInUseError, StoreRefusedError, StoreUnreachableError
from gateway.traces.bodies.bodies import Bodies
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.refusals import UNWRITABLE, by_code, in_its_words, nothing_was_sent, store_error, words_of
from gateway.traces.target import Target, embedded_target, resolve_target
from gateway.traces.values import bindable, column

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 300
OPEN_WAIT_S = 15.0  # for another process that is just starting the embedded store
_SETTINGS = {
    "final": "1",  # rows that replace one another are seen once, without FINAL in every statement
    # The rest is for a cluster. A subquery over all of its shards is what every statement of ours means; and
    # who has just written asks the same replica again, while another may not have the rows yet.
    "distributed_product_mode": "global",
    "load_balancing": "in_order",
}
_INSERT_SETTINGS = {
    "async_insert": "0",  # on by default since 26; a confirmed insert must be stored, once
    "insert_deduplicate": "1",
    "max_partitions_per_insert_block": "0",  # an import brings years of months at once
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "distributed_foreground_insert": "1",  # of a cluster: confirmed is when the shards have it
}


class Store:
    """A connection to the store. Reconnects by itself where the embedded store was restarted elsewhere.

    `bodies` makes what is read from its columns `request`, `response` and `text` readable.
    """

    def __init__(
        self, target: Callable[[], Target], keys: KeySource | None = None, environ: Mapping[str, str] = {}
    ) -> None:
        self._target = target
        self.bodies = Bodies.of(keys, environ, self.query)
        # Any: clickhouse-connect is not followed by the type checker.
        self._client: Any = None
        # It logs what it also raises.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)

    @classmethod
    def connect(
        cls, config: Config, secrets_env: Mapping[str, str] = os.environ, *, wait_s: float = 0
    ) -> Store:
        """The store of *config*, waiting up to *wait_s* for it to answer.

        Raises StoreUnreachableError, StoreRefusedError (a wrong password), ConfigError (a missing variable).
        """
        store = cls(lambda: resolve_target(config, secrets_env), KeySource.of(config), secrets_env)
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_after_delay(wait_s),
            wait=tenacity.wait_exponential(0.05, max=0.5),
            retry=tenacity.retry_if_exception_type(StoreUnreachableError),
            reraise=True,
        ):
            with attempt:
                store._open()
        return store

    @classmethod
    def at(cls, url: str, token: str) -> Store:
        """The embedded store at *url*. Nothing is sent before the first statement."""
        return cls(lambda: embedded_target(url, token))

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows of *sql*, with `{name:Type}` placeholders filled from *parameters*.

        Times come back aware, in UTC. A time given as a parameter keeps its microseconds. Raises StoreError.
        """
        bound = {name: bindable(value) for name, value in (parameters or {}).items()}
        return self._repeated(
            lambda client: list(client.query(sql, parameters=bound).named_results()), in_its_words
        )

    def command(self, sql: str) -> None:
        """Run *sql*, which gives no rows. Never repeated by itself. Raises StoreError."""
        self._once(lambda client: client.command(sql), in_its_words)

    def create_database(self, on_cluster: str = "") -> None:
        """Make the database that the store's URL names, where it does not exist. Raises StoreError.

        *on_cluster* is a clause that makes it on every server.
        """
        name = "`" + self._target().database.replace("`", "``") + "`"
        # Asked first: a user may be allowed everything in a database that exists, and not to create one.
        exists = self._once(
            lambda client: client.command(f"EXISTS DATABASE {name}", use_database=False), in_its_words
        )
        if exists != 1:
            self._once(
                lambda client: client.command(
                    f"CREATE DATABASE IF NOT EXISTS {name} {on_cluster}", use_database=False
                ),
                in_its_words,
            )

    def servers_of(self, cluster: str) -> list[dict[str, Any]]:
        """The rows of `system.clusters` about *cluster*. Raises StoreError."""

        def ask(client: Any) -> list[dict[str, Any]]:
            client.database = None  # that of the store may not be there yet
            try:
                found = client.query(
                    "SELECT * FROM system.clusters WHERE cluster = {cluster:String}",
                    parameters={"cluster": cluster},
                )
                return list(found.named_results())
            finally:
                client.database = self._target().database

        return self._repeated(ask, in_its_words)

    def insert(self, table: str, rows: Sequence[msgspec.Struct | dict[str, Any]], *, token: str) -> None:
        """Insert *rows*, all with the same fields; the same *token* again adds nothing.

        A time without a zone is UTC. Raises StoreError; nothing is known to be stored then. Repeated only
        where nothing was sent: a store that was killed may know the token of an insert without its rows.
        """
        if not rows:
            return
        records = [row if isinstance(row, dict) else msgspec.structs.asdict(row) for row in rows]
        names = list(records[0])
        columns = [column(list(map(itemgetter(name), records))) for name in names]
        settings = {**_INSERT_SETTINGS, "insert_deduplication_token": token}
        self._repeated(
            lambda client: client.insert(table, columns, names, column_oriented=True, settings=settings),
            lambda error: f"insert into {table}: {by_code(error)}",
            about_data=UNWRITABLE,
            again=nothing_was_sent,
        )

    def json_lines(self, sql: str, settings: Mapping[str, str]) -> Iterator[bytes]:
        """The rows of *sql*, each a line of JSON written by ClickHouse, as they come. Raises StoreError."""
        response = self._repeated(
            lambda client: client.raw_stream(sql, settings=dict(settings), fmt="JSONEachRow"), in_its_words
        )
        late = b""
        try:
            for line in response:
                # After the status was sent an error can only come in the body, where rows begin with a brace.
                if late or not line.startswith(b"{"):
                    late += line
                else:
                    yield line.rstrip(b"\n")
        except HTTPError as error:
            if not late:
                text = "the store broke off in the middle of its answer; repeat it"
                raise StoreUnreachableError(text) from error
        finally:
            response.close()
        if late.strip():
            raise StoreRefusedError(words_of(late.decode(errors="replace")))

    def ping(self) -> bool:
        """Whether the store answers."""
        try:
            self._open()
        except StoreError:
            return False
        if self._client.ping():
            return True
        self.close()
        return False

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Any:
        if self._client is None:
            target = self._target()
            # A pool of our own: it asks no proxy for the loopback address, and is closed with the client.
            pool = {"pool_mgr": get_pool_manager()} if target.embedded else {"dedicated_pool": True}
            try:
                self._client = clickhouse_connect.get_client(
                    interface=target.interface,
                    host=target.host,
                    port=target.port,
                    username=target.user,
                    password=target.password,
                    compress=not target.embedded,
                    settings=_SETTINGS,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    send_receive_timeout=STATEMENT_TIMEOUT_S,
                    autogenerate_session_id=False,
                    tz_mode="aware",
                    show_clickhouse_errors="scrub",
                    **pool,
                )
            except driver.Error as error:
                raise store_error(error, in_its_words, target) from error
            # Only now: the first statement of all creates the database.
            self._client.database = target.database
        return self._client

    def _once(self, call: Callable[[Any], T], tell: Callable[[Exception], str]) -> T:
        client = self._open()
        try:
            return call(client)
        except driver.Error as error:
            refusal = store_error(error, tell, self._target())
            if isinstance(refusal, StoreUnreachableError):
                self.close()
            raise refusal from error

    def _repeated(
        self,
        call: Callable[[Any], T],
        tell: Callable[[Exception], str],
        *,
        about_data: tuple[type[Exception], ...] = (),
        again: Callable[[StoreUnreachableError], bool] = lambda _: True,
    ) -> T:
        """Run *call*, once more where the store went away: it may have come back at another address."""
        try:
            try:
                return self._once(call, tell)
            except StoreUnreachableError as error:
                if not again(error):
                    raise
                return self._once(call, tell)
        except about_data as error:
            raise StoreRefusedError(tell(error), about_data=True) from error


@contextlib.contextmanager
def open_store(config: Config, secrets_env: Mapping[str, str] = os.environ) -> Iterator[Store]:
    """The running store of *config*; an embedded one that does not run is run for as long as this lasts.

    Raises StoreError.
    """
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_running_or_started(config, secrets_env, stack))


def _running_or_started(config: Config, secrets_env: Mapping[str, str], stack: contextlib.ExitStack) -> Store:
    try:
        return Store.connect(config, secrets_env)
    except StoreUnreachableError:
        if not config.store.embedded:
            raise
    from gateway.traces.embedded.server import EmbeddedServer  # imports this module, and the engine

    try:
        stack.enter_context(EmbeddedServer(config))
    except StoreInUseError:
        return Store.connect(config, secrets_env, wait_s=OPEN_WAIT_S)
    return Store.connect(config, secrets_env)
