from __future__ import annotations

import asyncio
import base64
import http.server
import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Config
from gateway.errors import ConfigError, StoreRefusedError, StoreUnreachableError
from gateway.paths import paths_of
from gateway.traces.endpoint import read_endpoint, read_token
from gateway.traces.migrate import migrate
from gateway.traces.store import Store, open_store
from gateway.traces.target import resolve_target
from gateway.traces.types import DatasetRow, Feedback, Judgment, RolloutEvent, SnapshotRow, Trace
from tests.support.store import a_trace, empty, store_config
from tests.support.threaded import ThreadedServer

PASSWORD = "hunter2-planted"
NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
ROWS: dict[str, msgspec.Struct] = {
    "judgments": Judgment(trace_id="t", judge="j", version="v", score=None, reason="why", judged_at=NOW),
    "feedback": Feedback(
        feedback_id="f",
        trace_id=None,
        session="s",
        client="",
        kind="rating",
        value=0.5,
        text=None,
        created_at=NOW,
    ),
    "rollouts": RolloutEvent(
        rollout="r",
        route="x",
        version=3,
        event="started",
        snapshot="s",
        at=NOW,
        who="me",
        why="",
        evidence="{}",
    ),
    "snapshots": SnapshotRow(
        snapshot="s",
        route="x",
        kind="adapter",
        base_model="b",
        dataset="d",
        parents=["p", "q"],
        evaluation="{}",
        created_at=NOW,
    ),
    "datasets": DatasetRow(dataset="d", route="x", manifest="{}", examples=7, holdout=2, created_at=NOW),
}


def test_a_trace_comes_back_as_it_was_stored(clean_store: Store) -> None:
    trace = a_trace(started_at=NOW, tags={"a": "b", "ü": ""}, usage=None, tokens_in=None, stream=True)

    clean_store.insert("traces", [trace], token="t1")

    assert [trace] == msgspec.convert(clean_store.query("SELECT * FROM traces"), list[Trace])


@pytest.mark.parametrize("table", ROWS)
def test_every_kind_of_row_comes_back_as_it_was_stored(clean_store: Store, table: str) -> None:
    clean_store.insert(table, [ROWS[table]], token="t1")

    assert [ROWS[table]] == msgspec.convert(
        clean_store.query(f"SELECT * FROM {table}"), list[type(ROWS[table])]
    )


def test_an_insert_repeated_with_its_token_adds_nothing(clean_store: Store) -> None:
    rows = [a_trace(), a_trace(started_at=NOW - timedelta(days=60))]

    for _ in range(3):
        clean_store.insert("traces", rows, token="seg-1/traces")
    clean_store.insert("traces", rows[:1], token="seg-2/traces")

    assert clean_store.query("SELECT count() AS n FROM traces") == [{"n": 3}]
    assert clean_store.query("SELECT sum(traces) AS n FROM traces_by_minute") == [{"n": 3}]


def test_replaced_rows_are_seen_once_without_final(clean_store: Store) -> None:
    first = ROWS["judgments"]
    again = msgspec.structs.replace(first, score=1.0, judged_at=NOW + timedelta(seconds=1))

    clean_store.insert("judgments", [first], token="1")
    clean_store.insert("judgments", [again], token="2")

    assert clean_store.query("SELECT score FROM judgments") == [{"score": 1.0}]


def test_aggregates_by_minute_say_what_is_unknown(clean_store: Store) -> None:
    known = a_trace(started_at=NOW, cost_usd=0.25, tokens_in=3, tokens_out=4, latency_ms=10.0)
    unknown = a_trace(started_at=NOW, cost_usd=None, tokens_in=None, tokens_out=None, latency_ms=30.0)

    clean_store.insert("traces", [known, unknown], token="t")

    assert clean_store.query(
        "SELECT sum(traces) AS traces, sum(priced) AS priced, sum(cost_usd) AS cost, sum(counted) AS counted, "
        "sum(tokens_in) AS tokens_in, quantilesTDigestMerge(0.5, 0.95, 0.99)(latency_ms)[3] AS p99 "
        "FROM traces_by_minute GROUP BY route, variant"
    ) == [{"traces": 2, "priced": 1, "cost": 0.25, "counted": 1, "tokens_in": 3, "p99": 30.0}]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_passes_as_a_parameter(clean_store: Store, text: str) -> None:
    assert [{"x": text}] == clean_store.query("SELECT {x:String} AS x", {"x": text})


def test_long_parameters_pass(clean_store: Store) -> None:
    ids = [f"trace-{n:030}-é'\\" for n in range(5000)]

    assert clean_store.query(
        "SELECT length(arrayIntersect({ids:Array(String)}, {ids:Array(String)})) AS n", {"ids": ids}
    ) == [{"n": 5000}]


@given(
    st.datetimes(
        datetime(1971, 1, 1),  # noqa: DTZ001 -- the strategy takes naive bounds
        datetime(2200, 1, 1),  # noqa: DTZ001
    )
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_time_as_a_parameter_keeps_its_microseconds(clean_store: Store, at: datetime) -> None:
    aware = at.replace(tzinfo=timezone(timedelta(hours=2)))

    assert [{"at": aware}] == clean_store.query("SELECT {at:DateTime64(6, 'UTC')} AS at", {"at": aware})


def test_an_error_is_clickhouses_own_words_on_one_line(clean_store: Store) -> None:
    with pytest.raises(StoreRefusedError, match=r"^the store refused: Code: 60\..*UNKNOWN_TABLE") as caught:
        clean_store.query("SELECT *\nFROM nowhere")

    assert caught.value.code == 60
    assert "\n" not in str(caught.value)


def test_a_refused_insert_tells_nothing_of_its_rows(clean_store: Store) -> None:
    with pytest.raises(StoreRefusedError) as caught:
        clean_store.insert("traces", [{"trace_id": "SECRET", "status": "SECRET"}], token="t")
    with pytest.raises(StoreRefusedError) as missing:
        clean_store.insert("nowhere", [{"a": "SECRET"}], token="t")

    assert caught.value.about_data
    assert not missing.value.about_data
    assert "SECRET" not in str(caught.value) + str(missing.value)
    assert clean_store.query("SELECT count() AS n FROM traces") == [{"n": 0}]


@pytest.mark.parametrize(
    ("supervisor", "said"),
    [(os.getpid(), "starts it again; "), (2**30, "start it with")],
    ids=["runs", "gone"],
)
def test_a_store_that_up_starts_again_is_told_from_one_that_nobody_runs(
    tmp_path: Path, supervisor: int, said: str
) -> None:
    config = store_config(tmp_path)
    state = paths_of(config).state
    state.mkdir(parents=True)
    (state / "processes.json").write_text(
        f'{{"supervisor": {supervisor}, "processes": [{{"name": "store", "pid": null}}]}}'
    )

    with pytest.raises(StoreUnreachableError, match=said):
        Store.connect(config, {})


def test_a_store_that_does_not_run_is_one_line_with_a_remedy(tmp_path) -> None:
    config = store_config(tmp_path)

    with pytest.raises(StoreUnreachableError, match="does not run; start it with `tracetune up`"):
        Store.connect(config, {})


def test_a_remote_store_that_does_not_answer_is_one_line_naming_it(tmp_path) -> None:
    config = store_config(tmp_path)
    remote = msgspec.structs.replace(config.store, url="clickhouse://me@127.0.0.1:9/traces")

    with pytest.raises(StoreUnreachableError, match=r"127\.0\.0\.1:9 does not answer; check store.url"):
        Store.connect(msgspec.structs.replace(config, store=remote), {})


def test_a_store_that_quotes_its_password_does_not_give_it_away(tmp_path) -> None:
    class Quotes(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            body = f"Code: 516. DB::Exception: {PASSWORD} in {self.headers['authorization']}".encode()
            self.send_response(403)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            del args

    config = store_config(tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), Quotes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"clickhouse://me@127.0.0.1:{server.server_port}/traces"
        section = msgspec.convert({"url": url, "password": {"env": "PW"}}, type(config.store))
        with pytest.raises(StoreRefusedError, match="Code: 516") as refused:
            Store.connect(msgspec.structs.replace(config, store=section), {"PW": PASSWORD})
        server.shutdown()

    assert PASSWORD not in str(refused.value)
    assert base64.b64encode(f"me:{PASSWORD}".encode()).decode() not in str(refused.value)


def test_a_remote_url_names_scheme_user_port_and_database(tmp_path) -> None:
    config = store_config(
        tmp_path,
    )
    store = msgspec.convert(
        {"url": "clickhouse+https://me%40x@ch.example/tt", "password": {"env": "PW"}}, type(config.store)
    )
    config = msgspec.structs.replace(config, store=store)

    target = resolve_target(config, {"PW": "hunter2"})

    assert (
        target.interface,
        target.host,
        target.port,
        target.user,
        target.password,
        target.database,
    ) == ("https", "ch.example", 8443, "me@x", "hunter2", "tt")
    assert "hunter2" not in repr(target)
    with pytest.raises(ConfigError, match="PW is not set"):
        resolve_target(config, {})


def test_a_remote_url_is_connected_to_migrated_and_compressed(
    embedded_config: Config, tmp_path: Path
) -> None:
    directory = paths_of(embedded_config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None
    url = f"{endpoint.url.replace('http://', 'clickhouse://me@')}/elsewhere"
    section = {"url": url, "password": {"env": "PW"}}
    store_section = msgspec.convert(section, type(embedded_config.store))
    config = msgspec.structs.replace(embedded_config, store=store_section)

    with Store.connect(config, {"PW": read_token(directory)}) as store:
        assert migrate(store)
        assert migrate(store) == []
        store.insert("traces", [a_trace(request="x" * 1_000_000)], token="t")
        assert store.query("SELECT length(request) AS n FROM elsewhere.traces") == [{"n": 1_000_000}]
        store.command("DROP DATABASE elsewhere SYNC")


def test_the_embedded_store_is_not_asked_for_through_a_proxy(
    embedded_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)

    with Store.connect(embedded_config, {}) as store:
        assert store.query("SELECT 1 AS one") == [{"one": 1}]


def test_open_store_uses_the_running_one(embedded_config: Config, clean_store: Store) -> None:
    clean_store.insert("traces", [a_trace()], token="t")

    with open_store(embedded_config) as store:
        assert store.query("SELECT count() AS n FROM traces") == [{"n": 1}]


def test_open_store_runs_one_where_none_runs_and_keeps_what_it_stored(tmp_path) -> None:
    config = store_config(tmp_path)

    for count in (0, 1):
        with open_store(config) as store:
            assert [{"n": count}] == store.query("SELECT count() AS n FROM traces")
            store.insert("traces", [a_trace()], token="same token in both")
    with pytest.raises(StoreUnreachableError):
        Store.connect(config, {})


class _Cutting(ThreadedServer):
    """In front of a store: it hands on what is asked, and breaks off the answer to each insert."""

    def __init__(self, port: int) -> None:
        super().__init__(None)
        self._store_port = port
        self.inserts = 0

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, store = await asyncio.open_connection("127.0.0.1", self._store_port)
        cut = False

        async def ask() -> None:
            nonlocal cut
            while data := await reader.read(65536):
                if b"insert_deduplication_token" in data:
                    self.inserts, cut = self.inserts + 1, True
                store.write(data)

        async def answer() -> None:
            while data := await upstream.read(65536):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" if cut else data)
                if cut:
                    break
            writer.close()

        asked = asyncio.ensure_future(ask())
        await answer()
        asked.cancel()
        store.close()


def test_an_insert_whose_answer_broke_off_is_not_repeated_unasked(
    embedded_config: Config, clean_store: Store
) -> None:
    directory = paths_of(embedded_config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None
    with _Cutting(int(endpoint.url.rpartition(":")[2])) as cutting:
        store = Store.at(cutting.url, read_token(directory))
        with pytest.raises(StoreUnreachableError):
            store.insert("traces", [a_trace()], token="t")
        store.close()
    assert cutting.inserts == 1


def test_empty_forgets_tokens(clean_store: Store) -> None:
    clean_store.insert("traces", [a_trace()], token="t")
    empty(clean_store)
    clean_store.insert("traces", [a_trace()], token="t")

    assert clean_store.query("SELECT count() AS n FROM traces") == [{"n": 1}]
