"""What bounds the embedded store: statements at once, their waiting, their memory, and a result of any size."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from gateway.config import Config, load_config
from gateway.errors import StoreRefusedError
from gateway.paths import paths_of
from gateway.traces.embedded.app import MAX_STATEMENTS
from gateway.traces.embedded.engine import ClickHouseError
from gateway.traces.embedded.turns import STATEMENTS_AT_ONCE, Turns
from gateway.traces.endpoint import read_endpoint, read_token
from gateway.traces.store import Store
from tests.support.store import a_trace, started_store, write_config

LONG = "SELECT " + ", ".join(f"sleep({3 - n / 100})" for n in range(8))  # 24 s, unless it is killed
STREAMED_BYTES = 600_000_000
MORE_MEMORY_MB = 300  # than before, of a store that sends that much


class Port:
    """The port of a running embedded store, and the headers that open it."""

    def __init__(self, config: Config) -> None:
        directory = paths_of(config).store
        endpoint = read_endpoint(directory)
        assert endpoint is not None
        self.url, self.pid = endpoint.url, endpoint.pid
        self.headers = {"X-ClickHouse-User": "any", "X-ClickHouse-Key": read_token(directory)}

    def ask(self, sql: str) -> httpx.Response:
        return httpx.post(self.url, content=sql.encode(), headers=self.headers, timeout=60)

    def begin(self, sql: str) -> socket.socket:
        """Send *sql* and read nothing of the answer."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), timeout=60)
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        head = "\r\n".join(["POST / HTTP/1.1", "host: x", *lines, f"content-length: {len(sql)}", "", sql])
        connection.sendall(head.encode())
        return connection

    def memory_mb(self) -> int:
        fields = Path(f"/proc/{self.pid}/status").read_text().split("VmRSS:")[1]
        return int(fields.split()[0]) // 1024


@pytest.fixture
def port(embedded_config: Config) -> Port:
    return Port(embedded_config)


def test_inserts_do_not_wait_for_questions_however_many_run(port: Port, clean_store: Store) -> None:
    # One less, so that a thread is left for the question whether they run.
    asked = [port.begin(LONG) for _ in range(STATEMENTS_AT_ONCE - 1)]
    running = "SELECT count() AS n FROM system.processes WHERE query LIKE 'SELECT sleep(3.0)%'"
    try:
        deadline = time.monotonic() + 8
        while clean_store.query(running) != [{"n": len(asked)}]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        asked.append(port.begin(LONG))
        time.sleep(0.2)
        clean_store.insert("traces", [a_trace()], token="t")
        assert clean_store.query("DESCRIBE traces")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(port.url, content=b"SELECT 1", headers=port.headers, timeout=1)
    finally:
        for connection in asked:
            connection.close()

    assert clean_store.query("SELECT count() AS n FROM traces") == [{"n": 1}]


def test_a_statement_that_finds_no_thread_in_time_is_told_the_bound() -> None:
    async def scenario() -> None:
        turns = Turns("statements", 1)
        go = threading.Event()
        first = asyncio.create_task(turns.begin(go.wait))
        await asyncio.sleep(0)
        with pytest.raises(ClickHouseError, match=r"1 statements were running .*STATEMENTS_AT_ONCE") as told:
            await turns.begin(lambda: None, wait_s=0.05)
        assert told.value.code == 202
        go.set()
        assert await first
        assert await turns.begin(lambda: "free again", wait_s=5) == "free again"
        turns.close(wait=True)

    asyncio.run(scenario())


def test_a_statement_that_nobody_waits_for_keeps_its_thread_until_it_ends() -> None:
    async def scenario() -> None:
        turns = Turns("statements", 1)
        go = threading.Event()
        left = asyncio.create_task(turns.begin(go.wait))
        await asyncio.sleep(0.01)
        left.cancel()
        with pytest.raises(ClickHouseError):
            await turns.begin(lambda: None, wait_s=0.05)
        go.set()
        await turns.begin(lambda: None, wait_s=5)
        turns.close(wait=True)

    asyncio.run(scenario())


def test_readers_that_do_not_read_hold_no_thread_up_to_the_bound_on_statements(
    port: Port, clean_store: Store
) -> None:
    endless = "SELECT repeat('x', 100) FROM numbers(1000000000) SETTINGS max_threads = 1"
    stalled = [port.begin(endless) for _ in range(STATEMENTS_AT_ONCE + 4)]
    try:
        assert clean_store.query("SELECT 1 AS one") == [{"one": 1}]
    finally:
        for connection in stalled:
            connection.close()


def test_more_statements_than_the_bound_are_refused_with_it(port: Port) -> None:
    connections = []
    host, _, number = port.url.removeprefix("http://").partition(":")
    head = "POST /?query=INSERT+INTO+nowhere+FORMAT+TSV HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in port.headers.items()) + "\r\n1\n"
    try:
        for _ in range(MAX_STATEMENTS):
            connections.append(socket.create_connection((host, int(number)), timeout=60))
            connections[-1].sendall(head.encode())
        deadline = time.monotonic() + 20
        while "MAX_STATEMENTS" not in (answer := port.ask("SELECT 1")).text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer.status_code == 503
        assert answer.headers["x-clickhouse-exception-code"] == "202"
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 20
    while port.ask("SELECT 1").status_code != 200:
        assert time.monotonic() < deadline


def test_a_result_of_any_size_takes_no_memory_of_its_size(port: Port, clean_store: Store) -> None:
    rows = STREAMED_BYTES // 3000
    clean_store.command("CREATE TABLE large (n UInt64, body String) ENGINE = MergeTree ORDER BY n")
    clean_store.command(
        f"INSERT INTO large SELECT number, repeat('x', 2999) FROM numbers({rows}) "
        "SETTINGS max_block_size = 4096, max_insert_block_size = 4096, min_insert_block_size_bytes = 20000000"
    )
    before = most = port.memory_mb()
    connection = port.begin("SELECT body FROM tracetune.large FORMAT TSV")
    received, piece = 0, bytearray(1 << 20)
    time.sleep(0.5)  # a reader that reads nothing yet
    while received < STREAMED_BYTES:
        size = connection.recv_into(piece)
        assert size, "the answer ended before its end"
        if received >> 26 != (received + size) >> 26:
            most = max(most, port.memory_mb())
        received += size
    connection.close()
    clean_store.command("DROP TABLE large SYNC")

    assert most - before < MORE_MEMORY_MB


def test_one_statement_over_its_share_of_memory_fails_and_others_go_on(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("store: {", "store: {memory_bytes: 1000000000, "))
    with started_store(path) as process, Store.connect(load_config(path), {}) as store:
        for sql in (
            "SELECT length(groupArray(repeat(toString(number), 9000))) FROM numbers(20000000)",
            "SELECT repeat('x', 1000) FROM numbers(3000000) FORMAT JSONCompact",  # one piece, in memory as a whole
        ):
            with pytest.raises(StoreRefusedError, match=r"store\.memory_bytes raises the bound") as refused:
                store.command(sql)
            assert refused.value.code == 241
            store.insert("traces", [a_trace()], token=os.urandom(4).hex())
        assert store.query("SELECT count() AS n FROM traces") == [{"n": 2}]
        assert process.process.poll() is None
