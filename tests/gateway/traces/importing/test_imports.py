"""Imports into a real store: once each, redacted, marked, and whatever cannot be read told without its text."""

from __future__ import annotations

import gzip
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config
from gateway.config.types import Auth, ClientKey, Secret
from gateway.errors import OperationError, StoreUnreachableError, UsageError
from gateway.traces import imports
from gateway.traces.erasure.erase import Unlearnt, erase
from gateway.traces.erasure.whom import Whom
from gateway.traces.importing import lines, storing
from gateway.traces.imports import FailedLine, Imported, Into, import_file
from gateway.traces.store import Store
from judges.pending import JudgeVersion, Window, pending
from tests.gateway.traces.test_shipper import data_directory

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LATER = NOW + timedelta(days=3)
INTO = Into(route="support-bot")


@pytest.fixture
def store(clean_store: Store) -> Store:
    return clean_store


def example(number: int, answer: str = "on its way") -> dict[str, Any]:
    """A line without a time."""
    return {
        "messages": [
            {"role": "user", "content": f"where is order {number}?"},
            {"role": "assistant", "content": answer},
        ]
    }


def logged(number: int, **changes: Any) -> dict[str, Any]:
    """A line with a time of its own."""
    line = {
        "request": {"model": "big", "messages": [{"role": "user", "content": f"question {number}"}]},
        "response": {
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        },
        "created_at": f"2025-{number % 12 + 1:02}-01T12:00:00Z",
        "session": f"s{number}",
        "latency_ms": 250.0,
    }
    return {**line, **changes}


def written(folder: Path, *found: Any, name: str = "log.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in found))
    return path


def run(config: Config, path: Path, store: Any, into: Into = INTO, now: datetime = NOW) -> Imported:
    return import_file(config, path, into, store, now=now)


def count(store: Store) -> tuple[int, int]:
    (row,) = store.query("SELECT count() AS n, uniqExact(trace_id) AS ids FROM traces")
    return row["n"], row["ids"]


def test_an_imported_trace_says_what_the_log_says_and_that_it_is_imported(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    line = logged(1, subject="u1", tags={"team": "x"}, cost_usd=0.002, upstream="azure")
    done = run(
        embedded_config, written(tmp_path, line), store, Into(route="support-bot", tags={"from": "old"})
    )
    (row,) = store.query("SELECT * FROM traces")

    assert done == Imported(lines=1, imported=1, expired=done.expired)
    assert json.loads(row["request"]) == line["request"]
    assert json.loads(row["response"]) == line["response"]
    expected = {
        "route": "support-bot",
        "variant": "imported",
        "imported": True,
        "propensity": None,
        "rollout": None,
        "snapshot": None,
        "session": "s1",
        "subject": "u1",
        "upstream": "azure",
        "model": "big",
        "endpoint": "/v1/chat/completions",
        "outcome": "ok",
        "status": 200,
        "finish_reason": "stop",
        "latency_ms": 250.0,
        "tokens_in": 9,
        "tokens_out": 4,
        "cost_usd": 0.002,
        "tags": {"from": "old", "team": "x"},
        "started_at": datetime(2025, 2, 1, 12, tzinfo=UTC),
    }
    assert {name: row[name] for name in expected} == expected


def test_the_same_file_again_adds_nothing_whenever_and_in_whatever_pieces(
    tmp_path: Path, embedded_config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [*(example(n) for n in range(30)), *(logged(n) for n in range(30))]
    path = written(tmp_path, *found, found[0])
    first = run(embedded_config, path, store)
    monkeypatch.setattr(storing, "BATCH_ROWS", 7)
    again = run(embedded_config, path, store, now=LATER)
    longer = run(
        embedded_config, written(tmp_path, *found, example(99), name="longer.jsonl"), store, now=LATER
    )

    assert (first.imported, first.present) == (60, 1)
    assert (again.imported, again.present) == (0, 61)
    assert (longer.imported, longer.present) == (1, 60)
    assert count(store) == (61, 61)


class Dies:
    """A store that is killed at its n-th insert: before it, or after it was stored and before it was said."""

    def __init__(self, store: Store, after: int, *, stored: bool) -> None:
        self.store = store
        self.left = after
        self.stored = stored

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return self.store.query(sql, parameters)

    def insert(self, table: str, rows: Any, *, token: str) -> None:
        if self.left == 0 and not self.stored:
            raise StoreUnreachableError("killed")
        self.store.insert(table, rows, token=token)
        if self.left == 0:
            raise StoreUnreachableError("killed")
        self.left -= 1


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_import_that_was_killed_and_is_repeated_stores_everything_once(
    tmp_path: Path,
    embedded_config: Config,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    stored: bool,
) -> None:
    monkeypatch.setattr(storing, "BATCH_ROWS", 5)
    path = written(tmp_path, *(example(n) for n in range(11)), *(logged(n) for n in range(11)))
    with pytest.raises(StoreUnreachableError):
        run(embedded_config, path, Dies(store, after, stored=stored))
    before = count(store)[0]
    done = run(embedded_config, path, store, now=LATER)

    assert before == 5 * (after + stored)
    assert (done.imported, done.present) == (22 - before, before)
    assert count(store) == (22, 22)


def test_what_was_of_somebody_who_was_erased_is_kept_out(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    path = written(tmp_path, logged(1, subject="u1"), logged(2, subject="u2"))
    erase(
        embedded_config,
        store,
        Whom(kind="subject", name="u1", only=[""]),
        unlearn=lambda _: Unlearnt(),
    )
    done = run(embedded_config, path, store)
    assert (done.lines, done.imported, done.erased) == (2, 1, 1)
    assert [row["subject"] for row in store.query("SELECT subject FROM traces")] == ["u2"]


def test_two_imports_at_once_are_one_after_the_other(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    inside, go = threading.Event(), threading.Event()

    class Waits(Dies):
        def insert(self, table: str, rows: Any, *, token: str) -> None:
            inside.set()
            assert go.wait(20)
            self.store.insert(table, rows, token=token)

    path = written(tmp_path, example(1))
    other = threading.Thread(target=run, args=(embedded_config, path, Waits(store, 9, stored=True)))
    other.start()
    try:
        assert inside.wait(20)
        with pytest.raises(OperationError, match=r"another import holds .*import\.lock; stop it first"):
            run(embedded_config, path, store)
    finally:
        go.set()
        other.join(20)

    assert count(store) == (1, 1)


def test_ids_say_nothing_that_could_be_guessed_and_differ_by_route_and_client(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    path = written(tmp_path, example(1))
    for into in (INTO, Into(route="support-bot", client="app")):
        run(embedded_config, path, store, into)
    other = msgspec.structs.replace(
        embedded_config,
        store=msgspec.structs.replace(embedded_config.store, url=f"embedded:{tmp_path}/elsewhere"),
    )
    run(other, path, store)  # another installation, with another secret

    assert count(store) == (3, 3)


def test_what_is_imported_is_redacted_like_live_traffic(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    planted = [
        "jane.doe@example.com",
        "4111 1111 1111 1111",
        "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH",
    ]
    line = logged(1, session=planted[0], subject=planted[0], tags={"who": planted[0]})
    line["request"]["messages"][0]["content"] = " and ".join(planted)
    line["response"]["choices"][0]["message"]["content"] = planted[1]
    run(embedded_config, written(tmp_path, line), store)
    (row,) = store.query("SELECT * FROM traces")
    stored = json.dumps(row, default=str)

    assert [text for text in planted if text in stored] == []
    assert row["session"] == row["subject"]
    assert "[EMAIL_" in row["request"]


def test_lines_that_cannot_be_read_are_told_without_their_text_and_the_rest_goes_in(
    tmp_path: Path, embedded_config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines, imports):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 2_000)
    secret = "my secret question"
    found = [
        example(1),
        f'{{"messages": "{secret}',
        "",
        {"messages": [{"role": "user", "content": secret}]},
        {"messages": secret + "x" * 5_000},
        {"type": "SPAN", "traceId": "t", "input": secret},
        {"request": {"messages": [{"role": "user", "content": [[[secret]]]}]}, "response": "no"},
        "[" * 1_900,
        '"' + "\\ud800" + '"',
        example(2),
    ]
    done = run(embedded_config, written(tmp_path, *found), store)

    assert (done.lines, done.imported, done.failed) == (9, 2, 6)
    assert done.other == {"an observation of Langfuse that is no generation": 1}
    assert done.lines == done.imported + done.present + done.failed + sum(done.other.values())
    assert done.failures[:3] == [
        FailedLine(2, "no JSON"),
        FailedLine(4, "the last of 'messages' is no answer of an assistant"),
        FailedLine(5, "longer than 2000 bytes (MAX_LINE_BYTES)"),
    ]
    assert [failure.line for failure in done.failures] == [2, 4, 5, 7, 8, 9]
    assert secret not in repr(done)
    assert count(store)[0] == 2


def test_a_dry_run_needs_no_store_and_finds_the_same_faults(tmp_path: Path, embedded_config: Config) -> None:
    done = run(embedded_config, written(tmp_path, example(1), "x", logged(2)), None)

    assert (done.lines, done.imported, done.failed, done.failures) == (3, 2, 1, [FailedLine(2, "no JSON")])


def test_years_of_months_fit_into_one_import(tmp_path: Path, embedded_config: Config, store: Store) -> None:
    months = [f"{year}-{month:02}-03T00:00:00Z" for year in range(2008, 2025) for month in range(1, 13)]
    path = written(tmp_path, *(logged(n, created_at=at) for n, at in enumerate(months)))

    assert run(embedded_config, path, store).imported == len(months) == 204
    assert count(store) == (204, 204)


def test_answers_of_which_nobody_knows_the_end_train_only_where_that_is_asked_for(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    line = logged(1)
    line["response"]["choices"][0]["finish_reason"] = None
    path = written(tmp_path, line)
    plain = run(embedded_config, path, None)
    run(embedded_config, path, store, Into(route="support-bot", assume_complete=True))

    assert plain.unended == 1
    assert [row["finish_reason"] for row in store.query("SELECT finish_reason FROM traces")] == ["stop"]


def test_aggregates_keep_imported_traces_apart(tmp_path: Path, embedded_config: Config, store: Store) -> None:
    run(embedded_config, written(tmp_path, logged(1), logged(13)), store)
    rows = store.query("SELECT variant, sum(traces) AS n FROM traces_by_minute GROUP BY variant")

    assert rows == [{"variant": "imported", "n": 2}]


def test_what_retention_will_remove_is_said(tmp_path: Path, embedded_config: Config) -> None:
    kept = msgspec.structs.replace(
        embedded_config, store=msgspec.structs.replace(embedded_config.store, retention_days=30)
    )
    found = [logged(1, created_at=(NOW - timedelta(days=days)).isoformat()) for days in (29, 31)]

    assert run(kept, written(tmp_path, *found), None).expired == 1


def test_a_packed_file_is_unpacked_and_a_damaged_one_is_one_line(
    tmp_path: Path, embedded_config: Config
) -> None:
    packed = tmp_path / "log.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(example(1)).encode()))
    assert run(embedded_config, packed, None).imported == 1

    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(OperationError, match="cannot be read"):
        run(embedded_config, packed, None)


def test_an_array_and_an_unknown_route_are_usage_errors(tmp_path: Path, embedded_config: Config) -> None:
    with pytest.raises(UsageError, match=r"is one JSON array; write a line for each entry: jq -c"):
        run(embedded_config, written(tmp_path, [example(1)]), None)
    with pytest.raises(UsageError, match=r"no route 'nobody'; routes: support-bot"):
        run(embedded_config, written(tmp_path, example(1)), None, Into(route="nobody"))


def test_imported_traces_are_judged_like_others(
    tmp_path: Path, embedded_config: Config, store: Store
) -> None:
    failed = logged(2, response={"error": {"message": "no"}})
    run(embedded_config, written(tmp_path, example(1), logged(1), failed), store)
    answered = {row["trace_id"] for row in store.query("SELECT trace_id FROM traces WHERE outcome = 'ok'")}
    window = Window(datetime(2020, 1, 1, tzinfo=UTC), NOW + timedelta(days=1))

    waiting = pending(store, JudgeVersion(judge="good", version="v1"), window, limit=10)

    assert len(answered) == 2
    assert set(waiting) == answered


def test_long_names_are_cut_as_those_of_live_traces(
    embedded_config: Config, store: Store, tmp_path: Path
) -> None:
    run(embedded_config, written(tmp_path, logged(1, session="é" * 400, subject="é" * 400)), store)

    name = "é" * 256
    assert store.query("SELECT session, subject FROM traces") == [{"session": name, "subject": name}]


@pytest.mark.parametrize("line", [logged(1, subject="jane"), example(1)])
def test_what_was_erased_does_not_come_back_with_the_log_that_it_is_in(
    embedded_config_path: Path, store: Store, tmp_path: Path, line: dict[str, Any]
) -> None:
    path = written(tmp_path, line, logged(2, subject="john"))
    with data_directory(embedded_config_path) as (config, _):
        run(config, path, store)
        (session,) = [
            row["session"]
            for row in store.query("SELECT session, subject FROM traces")
            if row["subject"] != "john"
        ]
        whom = Whom(kind="session", name=session, clients=[""])
        erase(config, store, whom, unlearn=lambda _: Unlearnt(), environ={})

        done = run(config, path, store, now=LATER)

    assert (done.imported, done.present, done.erased, done.other) == (0, 1, 1, {})
    assert [row["subject"] for row in store.query("SELECT subject FROM traces")] == ["john"]


@pytest.mark.parametrize(("capture", "bodies"), [("full", True), ("metadata", False)])
def test_a_route_keeps_of_imported_traces_what_it_keeps_of_live_ones(
    embedded_config: Config, store: Store, tmp_path: Path, capture: Any, bodies: bool
) -> None:
    route = msgspec.structs.replace(embedded_config.routes[0], capture=capture)
    config = msgspec.structs.replace(embedded_config, routes=[route])

    run(config, written(tmp_path, logged(1)), store)

    assert store.query("SELECT request IS NOT NULL AS kept, tokens_out FROM traces") == [
        {"kept": bodies, "tokens_out": 4}
    ]


def test_into_a_route_that_keeps_nothing_nothing_is_imported(
    embedded_config: Config, store: Store, tmp_path: Path
) -> None:
    route = msgspec.structs.replace(embedded_config.routes[0], capture="none")
    config = msgspec.structs.replace(embedded_config, routes=[route])

    with pytest.raises(UsageError, match="capture: none"):
        run(config, written(tmp_path, logged(1)), store)


def test_traces_of_a_key_that_is_kept_out_of_training_train_nobody(
    embedded_config: Config, store: Store, tmp_path: Path
) -> None:
    auth = Auth(keys=[ClientKey(name="web", key=Secret(env="KEY"), training=False)])
    config = msgspec.structs.replace(embedded_config, auth=auth)

    run(config, written(tmp_path, logged(1)), store, Into(route="support-bot", client="web"))

    assert store.query("SELECT client, training FROM traces") == [{"client": "web", "training": False}]


def test_what_traces_of_several_days_share_is_kept_for_the_last_of_them(
    embedded_config: Config, store: Store, tmp_path: Path
) -> None:
    system = {"role": "system", "content": "you answer questions about orders. " * 100}
    found = [
        logged(number, request={"messages": [system, {"role": "user", "content": str(number)}]})
        for number in range(10, 1, -1)
    ]

    run(embedded_config, written(tmp_path, *found), store)

    (row,) = store.query("SELECT max(used_until) AS until FROM blobs")
    (last,) = store.query(
        "SELECT max(started_at) AS at FROM traces WHERE position(request, 'x_tracetune') > 0"
    )
    assert row["until"] > last["at"]


def test_what_the_log_names_as_model_and_upstream_is_redacted_too(
    embedded_config: Config, store: Store, tmp_path: Path
) -> None:
    line = logged(1, model="tuned for jane@example.com", upstream="jane@example.com")
    run(embedded_config, written(tmp_path, line, logged(2, model="big", upstream="up")), store)

    rows = store.query("SELECT model, upstream FROM traces ORDER BY started_at")
    assert "jane" not in json.dumps(rows)
    assert {"model": "big", "upstream": "up"} in rows
