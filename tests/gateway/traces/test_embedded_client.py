"""clickhouse-connect's own client against the embedded store: what it can ask of a server, it can ask of ours."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

from gateway.config import Config
from gateway.paths import paths_of
from gateway.traces.endpoint import read_endpoint, read_token
from gateway.traces.store import Store

ROWS = 300_000  # several blocks
TYPES = (
    "at DateTime64(6, 'UTC'), n Nullable(UInt32), low LowCardinality(Nullable(String)), map Map(String, UInt8), "
    "lists Array(Array(String)), json JSON, money Decimal(18, 4), id UUID, ip IPv4, kind Enum8('a' = 1, 'b' = 2), "
    "pair Tuple(x UInt8, y String), day Date32, fixed FixedString(3), flag Bool"
)
ROW = [
    datetime(2026, 1, 1, 1, 2, 3, 456789, tzinfo=UTC),
    *(None, None, {"k": 1}, [["é"], []], {"a": {"b": 1}}, Decimal("1.2345"), uuid.UUID(int=5)),
    *(IPv4Address("1.2.3.4"), "b", {"x": 1, "y": "z"}, date(1950, 1, 1), b"abc", True),
]


@pytest.fixture
def url(embedded_config: Config, clean_store: Store) -> Iterator[str]:
    directory = paths_of(embedded_config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None
    yield endpoint.url.replace("http://", f"http://me:{read_token(directory)}@") + "/tracetune"
    clean_store.command("DROP TABLE IF EXISTS scratch")


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with clickhouse_connect.get_client(dsn=url) as client:
        client.command("CREATE TABLE scratch (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        yield client


def test_it_is_there_and_says_its_version(client: Any) -> None:
    assert client.ping()
    assert client.server_version == client.command("SELECT version()")
    assert client.server_tz == UTC


def test_rows_and_columns_and_tables_are_inserted_and_counted(client: Any) -> None:
    by_row = client.insert("scratch", [[1, "x"], [2, "y"]], ["a", "b"])
    by_column = client.insert("scratch", [[3, 4, 5], ["x", "y", "z"]], ["a", "b"], column_oriented=True)
    more = client.insert("scratch", [[6, "x"]])
    raw = client.raw_insert("scratch", ["a", "b"], b"7,foo\n", fmt="CSV")
    packed = client.raw_insert(
        "scratch", ["a", "b"], gzip.compress(b"8,foo\n"), fmt="CSV", compression="gzip"
    )
    selected = client.command("INSERT INTO scratch SELECT number + 9, 'x' FROM numbers(2)")
    valued = client.command("INSERT INTO scratch VALUES (11, 'x')")

    assert [done.written_rows for done in (by_row, by_column, more, raw, packed)] == [2, 3, 1, 1, 1]
    assert client.query("SELECT a FROM scratch ORDER BY a").result_rows == [(n,) for n in range(1, 12)]
    assert selected.written_rows == 2
    assert valued.written_rows == 1
    assert client.command("SELECT a FROM scratch WHERE a = 100") == ""


def test_results_come_whole_and_in_streams_of_every_shape(client: Any) -> None:
    sql = f"SELECT number AS n FROM numbers({ROWS})"

    def streamed(stream: AbstractContextManager[Any]) -> list[Any]:
        with stream as pieces:
            return list(pieces)

    assert sum(len(block) for block in streamed(client.query_row_block_stream(sql))) == ROWS
    assert sum(len(block[0]) for block in streamed(client.query_column_block_stream(sql))) == ROWS
    assert len(streamed(client.query_rows_stream(sql))) == ROWS
    assert client.raw_query("SELECT 1 AS x, 'é' AS y", fmt="CSVWithNames") == '"x","y"\n1,"é"\n'.encode()
    with client.raw_stream(sql, fmt="TSV") as raw:
        assert b"".join(raw).count(b"\n") == ROWS


def test_tables_of_arrow_go_in_and_come_out(client: Any) -> None:
    pa = pytest.importorskip("pyarrow", reason="it comes with the learner's extra")
    client.insert_arrow("scratch", pa.table({"a": pa.array([6], pa.uint64()), "b": ["x"]}))

    sql = f"SELECT number AS n FROM numbers({ROWS})"
    with client.query_arrow_stream(sql) as batches:
        assert sum(batch.num_rows for batch in batches) == ROWS
    assert client.query_arrow(sql).num_rows == ROWS
    assert client.query("SELECT a, b FROM scratch").result_rows == [(6, "x")]


@pytest.mark.parametrize("fmt", ["JSONCompactEachRow", "JSONStringsEachRow", "TSVRaw", "NDJSON", "RowBinary"])
def test_a_result_in_pieces_is_the_result_in_one(client: Any, fmt: str) -> None:
    sql = f"SELECT number AS n, toString(number) AS s FROM numbers({ROWS})"

    whole = client.raw_query(sql, fmt=fmt, settings={"wait_end_of_query": 1})

    assert client.raw_query(sql, fmt=fmt) == whole


def test_blocks_without_rows_do_not_end_a_result(client: Any) -> None:
    sql = "SELECT number FROM numbers(20000000) WHERE number IN (3, 19999999)"

    assert client.query(sql).result_rows == [(3,), (19999999,)]
    assert client.query("SELECT number FROM numbers(0)").result_rows == []


def test_every_type_comes_back_as_it_was_inserted(client: Any) -> None:
    client.command("DROP TABLE scratch")
    client.command(f"CREATE TABLE scratch ({TYPES}) ENGINE = MergeTree ORDER BY at")
    client.insert("scratch", [ROW])

    (row,) = client.query("SELECT * FROM scratch", query_tz="UTC").result_rows

    assert list(row) == [ROW[0].replace(tzinfo=None), *ROW[1:]]


def test_parameters_and_settings_are_those_of_the_request(client: Any) -> None:
    asked = "SELECT {a:String}, {b:Array(UInt8)}, {c:Nullable(String)}, getSetting('max_block_size')"
    given = {"a": "x'\n\\%é", "b": [1, 2], "c": None}

    assert client.query(asked, given, settings={"max_block_size": 77}).result_rows == [(*given.values(), 77)]
    assert client.query("SELECT %(a)s", {"a": "x'\n\\"}).result_rows == [("x'\n\\",)]
    with pytest.raises(DatabaseError, match="code: 164"):
        client.command("DROP TABLE scratch", settings={"readonly": 1})
    with pytest.raises(DatabaseError, match="code: 115"):
        client.query("SELECT 1", settings={"no_such_setting": 1})


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_what_is_sent_may_be_compressed_and_what_comes_back_need_not_be(
    url: str, client: Any, compress: str | bool
) -> None:
    with clickhouse_connect.get_client(dsn=url, compress=compress) as other:
        other.insert("scratch", [[n, "é" * 100] for n in range(5000)], ["a", "b"])

        assert other.query("SELECT count(), max(b) FROM scratch").result_rows == [(5000, "é" * 100)]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM nowhere", 60),
        ("SELECT nothing", 47),
        ("SELEC 1", 62),
        ("SELECT throwIf(1)", 395),
        ("SELECT 1 FORMAT NoSuchFormat", 73),
        ("INSERT INTO scratch VALUES ('x')", 62),
        ("SELECT toUInt8('x')", 6),
        ("SET max_block_size = 1", 48),
        ("USE system", 48),
        ("CREATE TEMPORARY TABLE t (a Int8)", 48),
    ],
)
def test_an_error_has_clickhouses_code(client: Any, sql: str, code: int) -> None:
    with pytest.raises(DatabaseError, match=f"code: {code}"):
        client.command(sql)


def test_external_tables_and_sessions_are_refused_and_not_forgotten(client: Any, url: str) -> None:
    table = ExternalData(data=b"1\n", fmt="TSV", types=["UInt8"], file_name="t")

    with pytest.raises(DatabaseError, match="code: 48"):
        client.query("SELECT * FROM t", external_data=table)
    answer = httpx.post(
        url.removesuffix("tracetune"), params={"session_id": "s", "session_check": "1"}, content=b"SELECT 1"
    )
    assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (404, "372")


def test_an_error_in_the_middle_is_an_error_to_who_reads_a_stream(client: Any) -> None:
    sql = f"SELECT throwIf(number = {ROWS - 1}, 'late') FROM numbers({ROWS})"

    with (
        pytest.raises((StreamFailureError, DatabaseError), match="late"),
        client.query_rows_stream(sql) as rows,
    ):
        for _ in rows:
            pass
    with pytest.raises(DatabaseError, match="code: 395"):
        client.raw_query(sql, settings={"wait_end_of_query": 1})


def test_an_answer_names_its_statement_format_and_what_it_came_to(url: str, client: Any) -> None:
    asked = httpx.post(
        url.removesuffix("tracetune"),
        params={"query_id": "mine-1"},
        content=b"INSERT INTO scratch FORMAT TSV\n1\tx\n",
    )
    client.insert("scratch", [[2, "y"]], ["a", "b"])
    whole = httpx.post(
        url.removesuffix("tracetune"),
        params={"wait_end_of_query": "1"},
        content=b"SELECT * FROM tracetune.scratch",
    )

    assert asked.status_code == 404, "the database of the path is not the statement's"
    assert whole.headers["x-clickhouse-format"] == "TabSeparated"
    assert whole.headers["x-clickhouse-timezone"] == "UTC"
    assert '"result_rows":"1"' in whole.headers["x-clickhouse-summary"]
    assert client.query("SELECT 1", settings={"query_id": "mine-2"}).query_id == "mine-2"
    assert len(client.query("SELECT 1").query_id) >= 32


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *[("PUT", "/?query=SELECT+1", 501), ("DELETE", "/?query=DROP+TABLE+scratch", 501)],
        *[("GET", "/play?query=SELECT+1", 404), ("HEAD", "/ping", 200), ("GET", "/replicas_status", 200)],
        ("HEAD", "/?query=SELECT+1", 200),
    ],
)
def test_what_clickhouse_does_not_serve_is_not_run(url: str, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, url.removesuffix("/tracetune") + path)

    assert answer.status_code == status
