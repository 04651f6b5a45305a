"""The embedded store as its clients meet it: over HTTP, through crashes, and with a lock."""

from __future__ import annotations

import gzip
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import httpx
import lz4.frame
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from gateway.config import Config, load_config
from gateway.errors import StoreError, StoreRefusedError
from gateway.paths import paths_of
from gateway.traces.embedded.engine import Engine
from gateway.traces.endpoint import ensure_token, read_endpoint, read_token
from gateway.traces.store import Store
from tests.support.store import StoreProcess, a_trace, started_store, write_config

STOP_WITHIN_S = 5.0


@pytest.fixture
def http(embedded_config: Config) -> Iterator[httpx.Client]:
    """A bare HTTP client that is logged in."""
    directory = paths_of(embedded_config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None
    headers = {"X-ClickHouse-User": "any", "X-ClickHouse-Key": read_token(directory)}
    with httpx.Client(base_url=endpoint.url, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def scratch(clean_store: Store) -> Iterator[Store]:
    """A connection to a store with an empty table `scratch (a UInt64, b String)`."""
    clean_store.command("CREATE TABLE scratch (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    yield clean_store
    clean_store.command("DROP TABLE scratch")


def ask(http: httpx.Client, sql: str, **params: str) -> httpx.Response:
    return http.post("/?" + urlencode({"database": "tracetune", **params}), content=sql.encode())


def test_ping_needs_no_token_and_statements_do(http: httpx.Client) -> None:
    bare = httpx.Client(base_url=http.base_url)

    assert (bare.get("/ping").status_code, bare.get("/ping").text) == (200, "Ok.\n")
    assert bare.post("/", content=b"SELECT 1").status_code == 403
    assert bare.post("/", content=b"SELECT 1").headers["x-clickhouse-exception-code"] == "516"
    assert bare.post("/", content=b"SELECT 1", auth=("me", "wrong")).status_code == 403


def test_only_the_owner_can_read_the_token(embedded_config: Config) -> None:
    directory = paths_of(embedded_config).store

    assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    first = ensure_token(tmp_path)
    assert ensure_token(tmp_path) == first
    (tmp_path / "token").chmod(0o640)

    second = ensure_token(tmp_path)

    assert second != first
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_it_listens_on_loopback_alone(embedded_config: Config) -> None:
    endpoint = read_endpoint(paths_of(embedded_config).store)
    assert endpoint is not None
    host, _, port = endpoint.url.removeprefix("http://").partition(":")
    assert host == "127.0.0.1"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {fields[1] for fields in lines if fields[3] == "0A"}

    assert [at for at in listening if at.endswith(f":{int(port):04X}")] == [f"0100007F:{int(port):04X}"]


def test_the_sql_comes_in_the_body_or_the_query_string(http: httpx.Client) -> None:
    assert ask(http, "SELECT 1 AS x FORMAT JSONEachRow").text == '{"x":1}\n'
    assert ask(http, "", query="SELECT 2").text == "2\n"
    assert ask(http, " + 3", query="SELECT 2").text == "5\n"
    assert ask(http, "SELECT {x:UInt8} + {y:UInt8}", param_x="4", param_y="5").text == "9\n"
    assert ask(http, "SELECT 1 AS x", default_format="JSONEachRow").text == '{"x":1}\n'
    assert http.get("/", params={"query": "SELECT 7"}).text == "7\n"


def test_settings_hold_for_their_request_alone(http: httpx.Client) -> None:
    asked = "SELECT getSetting('max_block_size')"

    assert ask(http, asked, max_block_size="777").text == "777\n"
    assert ask(http, asked).text != "777\n"


def test_an_error_is_clickhouses_with_its_code(http: httpx.Client) -> None:
    response = ask(http, "SELECT * FROM nowhere")

    assert response.status_code == 404
    assert response.headers["x-clickhouse-exception-code"] == "60"
    assert response.text.startswith("Code: 60. DB::Exception: ")
    assert "(UNKNOWN_TABLE)" in response.text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DROP TABLE scratch",
        "SELECT 1 INTO OUTFILE '{path}'",
        "INSERT INTO scratch FROM INFILE '/etc/hostname' FORMAT TSV\n",
    ],
)
def test_a_statement_a_server_would_not_run_is_refused(
    http: httpx.Client, scratch: Store, tmp_path: Path, sql: str
) -> None:
    path = tmp_path / "out"

    assert ask(http, sql.format(path=path)).status_code in {400, 403}
    assert not path.exists()
    assert scratch.query("SELECT count() AS n FROM scratch") == [{"n": 0}]


@pytest.mark.parametrize(
    "sql",
    ["INSERT INTO scratch VALUES (1, 'x')", "DROP TABLE scratch", "SET readonly = 0", "KILL QUERY WHERE 1"],
)
def test_a_readonly_request_changes_nothing(http: httpx.Client, scratch: Store, sql: str) -> None:
    assert ask(http, sql, readonly="1").status_code == 403
    assert http.get("/", params={"query": sql, "database": "tracetune"}).status_code == 403
    assert scratch.query("SELECT count() AS n FROM scratch") == [{"n": 0}]


def test_an_insert_may_be_cut_anywhere(http: httpx.Client, scratch: Store) -> None:
    body = (
        b"INSERT INTO scratch (a, b)\nFORMAT JSONEachRow\n" + b'{"a":1,"b":"one"}\n{"a":2,"b":"FORMAT x"}\n'
    )
    cuts = range(1, len(body), 3)

    for cut in cuts:
        response = http.post("/?database=tracetune", content=iter([body[:cut], body[cut:]]))
        assert response.status_code == 200, response.text

    rows = scratch.query("SELECT a, b, count() AS n FROM scratch GROUP BY a, b ORDER BY a")
    assert rows == [{"a": 1, "b": "one", "n": len(cuts)}, {"a": 2, "b": "FORMAT x", "n": len(cuts)}]


def test_inserts_in_every_form_and_compression(http: httpx.Client, scratch: Store) -> None:
    row = b'{"a":1,"b":"x"}\n'
    insert = {"query": "INSERT INTO scratch FORMAT JSONEachRow", "database": "tracetune"}
    forms = [
        http.post("/", params=insert, content=row),
        http.post("/", params=insert, content=gzip.compress(row), headers={"Content-Encoding": "gzip"}),
        http.post("/", params=insert, content=lz4.frame.compress(row), headers={"Content-Encoding": "lz4"}),
        ask(http, "INSERT INTO scratch VALUES (1, 'x')"),
        ask(http, " (1, 'x')", query="INSERT INTO scratch VALUES"),
        ask(http, "INSERT INTO scratch SELECT 1, 'x'"),
        ask(http, "INSERT INTO scratch (b, a) FORMAT TSV\nx\t1\n"),
        ask(http, "INSERT INTO scratch (b, a) SETTINGS async_insert = 0 FORMAT TSV\nx\t1\n"),
        ask(http, "INSERT INTO scratch FORMAT JSONEachRow\n" + '{"a":1,"b":"x"}'),
    ]

    assert [response.status_code for response in forms] == [200] * len(forms)
    assert scratch.query("SELECT count() AS n, min(a) AS a, min(b) AS b FROM scratch") == [
        {"n": len(forms), "a": 1, "b": "x"}
    ]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"1\tx\n"),
        ("lz4", b"1\tx\n"),
        ("lz4", b"1\tx\n" * 10),
        ("gzip", gzip.compress(b"1\tx\n" * 1000, mtime=0)[:-1]),
        ("lz4", lz4.frame.compress(b"1\tx\n" * 1000)[:-1]),
        ("martian", b"1\tx\n"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(
    http: httpx.Client, scratch: Store, encoding: str, body: bytes
) -> None:
    insert = {"query": "INSERT INTO scratch FORMAT TSV", "database": "tracetune"}

    response = http.post("/", params=insert, content=body, headers={"Content-Encoding": encoding})

    assert response.status_code >= 400
    assert response.headers["x-clickhouse-exception-code"] in {"48", "354"}
    assert scratch.query("SELECT count() AS n FROM scratch") == [{"n": 0}]


def test_a_refused_insert_keeps_nothing(http: httpx.Client, scratch: Store) -> None:
    good = b'{"a":1,"b":"x"}\n' * 1000

    response = ask(
        http, "INSERT INTO scratch FORMAT JSONEachRow\n" + good.decode() + '{"a":"not a number"}\n'
    )

    assert response.status_code == 400
    assert scratch.query("SELECT count() AS n FROM scratch") == [{"n": 0}]


def test_an_insert_too_large_to_hold_is_refused_with_the_setting(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("store: {", "store: {memory_bytes: 500000000, "))
    with started_store(path), Store.connect(load_config(path), {}) as store:
        rows = [{"trace_id": str(n), "text": "x" * 50_000_000} for n in range(3)]
        store.command(
            "CREATE TABLE large (trace_id String, text String) ENGINE = MergeTree ORDER BY trace_id"
        )
        with pytest.raises(StoreRefusedError, match="MEMORY_LIMIT") as caught:
            store.insert("large", rows, token="t")
        store.insert("large", rows[:1], token="t")

        assert caught.value.code == 241
        assert store.query("SELECT count() AS n FROM large") == [{"n": 1}]


def test_a_client_with_default_settings_works(embedded_config: Config, scratch: Store) -> None:
    directory = paths_of(embedded_config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None
    client = clickhouse_connect.get_client(
        dsn=f"{endpoint.url}/tracetune", username="me", password=read_token(directory)
    )

    client.insert("scratch", [[n, "é" * 100] for n in range(5000)], ["a", "b"])

    assert client.query("SELECT count(), max(b) FROM scratch").result_rows == [(5000, "é" * 100)]
    assert client.query("SELECT * FROM scratch LIMIT 0").column_names == ("a", "b")
    assert client.command("SELECT 5") == 5
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM nowhere")
    client.close()


def test_an_error_after_the_first_rows_is_an_error_to_every_reader(clean_store: Store) -> None:
    sql = "SELECT number, throwIf(number = 300000, 'late') AS x FROM numbers(1000000)"

    with pytest.raises(StoreRefusedError, match="late"):
        clean_store.query(sql)
    rows = clean_store.json_lines(sql, {})
    with pytest.raises(StoreRefusedError, match="late"):
        for _ in rows:
            pass


def test_readers_do_not_wait_for_one_another(embedded_config: Config, clean_store: Store) -> None:
    slow_done = threading.Event()

    def slow() -> None:
        with Store.connect(embedded_config, {}) as store:
            store.query("SELECT sleep(2)")
        slow_done.set()

    thread = threading.Thread(target=slow)
    thread.start()
    while not clean_store.query("SELECT 1 FROM system.processes WHERE query LIKE 'SELECT sleep%'"):
        time.sleep(0.02)
    assert clean_store.query("SELECT 1 AS one") == [{"one": 1}]
    assert not slow_done.is_set()
    thread.join()


def test_a_client_that_leaves_stops_its_statement(http: httpx.Client, clean_store: Store) -> None:
    running = "SELECT count() AS n FROM system.processes WHERE query LIKE '%100000000000%' AND query NOT LIKE '%system%'"

    with pytest.raises(httpx.ReadTimeout):
        http.post("/", content=b"SELECT sum(number) FROM numbers(100000000000)", timeout=0.5)

    deadline = time.monotonic() + 10
    while clean_store.query(running) != [{"n": 0}]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_statement_over_the_memory_bound_names_the_setting(clean_store: Store) -> None:
    with pytest.raises(
        StoreRefusedError, match=r"MEMORY_LIMIT.*store\.memory_bytes raises the bound"
    ) as caught:
        clean_store.query("SELECT length(groupArray(repeat(toString(number), 9000))) FROM numbers(20000000)")

    assert caught.value.code == 241
    assert clean_store.query("SELECT 1 AS one") == [{"one": 1}]


def test_a_second_owner_fails_with_one_line_that_names_the_first(embedded_config_path: Path) -> None:
    config = load_config(embedded_config_path)
    directory = paths_of(config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None

    second = subprocess.run(
        [sys.executable, "-m", "gateway.traces.embedded", "--config", str(embedded_config_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr == (
        f"{directory}: the embedded store is in use by process {endpoint.pid}; "
        "stop it, or give this one another store.url\n"
    )
    assert read_endpoint(directory) == endpoint


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    (tmp_path / "data").write_text("a file is in the way")

    process = StoreProcess(path)

    assert process.process.wait(30) == 1
    process.kill()
    assert len(process.lines) == 1
    assert "Traceback" not in process.lines[0]


def test_sigterm_stops_it_soon_although_a_statement_runs(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_config(path)
    with started_store(path) as process:
        store = Store.connect(config, {})
        outcome: list[Exception] = []

        def endless() -> None:
            try:
                store.query("SELECT sum(number) FROM numbers(1000000000000)")
            except StoreError as error:
                outcome.append(error)

        thread = threading.Thread(target=endless)
        thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        code = process.stop()
        took = time.monotonic() - began
        thread.join()

    assert code == 0
    assert took < STOP_WITHIN_S
    assert len(outcome) == 1
    assert read_endpoint(paths_of(config).store) is None


def test_sigterm_lets_a_statement_finish_that_is_nearly_done(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_config(path)
    with started_store(path) as process:
        store = Store.connect(config, {})
        store.query("SELECT 1")
        rows: list[dict[str, object]] = []
        thread = threading.Thread(target=lambda: rows.extend(store.query("SELECT sleep(0.6) AS slept")))
        thread.start()
        time.sleep(0.3)
        code = process.stop()
        thread.join()

    assert code == 0
    assert rows == [{"slept": 0}]


def test_what_was_confirmed_survives_sigkill_and_a_token_counts_once(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_config(path)
    batches = {f"seg-{n}": [a_trace(trace_id=f"{n}-{m}") for m in range(20)] for n in range(40)}
    confirmed: list[str] = []
    first = StoreProcess(path)
    first.wait_ready()
    store = Store.connect(config, {})

    def ship() -> None:
        for token, rows in batches.items():
            try:
                store.insert("traces", rows, token=token)
            except StoreError:
                return
            confirmed.append(token)

    shipping = threading.Thread(target=ship)
    shipping.start()
    while len(confirmed) < 3:
        time.sleep(0.001)
    first.kill()
    shipping.join()
    assert len(confirmed) < len(batches), "the kill came too late to show anything"

    began = time.monotonic()
    with started_store(path):
        reopened_s = time.monotonic() - began
        counted = store.query(
            "SELECT splitByChar('-', trace_id)[1] AS n, count() AS rows FROM traces GROUP BY n"
        )
        kept = {f"seg-{row['n']}": row["rows"] for row in counted}
        for token, rows in batches.items():
            store.insert("traces", rows, token=token)
        total = store.query("SELECT count() AS n, uniqExact(trace_id) AS ids FROM traces")
        by_minute = store.query("SELECT sum(traces) AS n FROM traces_by_minute")
    store.close()

    assert set(confirmed) <= set(kept)
    assert set(kept.values()) == {20}, "a batch is there whole or not at all"
    assert total == [{"n": 800, "ids": 800}]
    assert by_minute == [{"n": 800}]
    assert reopened_s < 15


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    directory = tmp_path / "a b&c#d%20é"
    engine = Engine(directory, memory_bytes=600_000_000)
    engine.close()

    assert any(directory.iterdir())
    assert list(tmp_path.iterdir()) == [directory]
