"""Nobody is shown what people wrote before it is put down who, when, which and what for."""

from __future__ import annotations

import getpass
import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.errors import OperationError, StoreRefusedError, StoreUnreachableError
from gateway.traces.bodies.reads import (
    MAX_IDS_PER_ROW,
    Reader,
    local_reader,
    may_show_bodies,
    record_read,
    shape_of,
)
from gateway.traces.store import Store
from tests.gateway.test_sql_cli import run_sql
from tests.gateway.test_traces_cli import run_traces
from tests.support.store import a_trace

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
READS = "SELECT who, host, purpose, trace_ids, statement FROM body_reads ORDER BY at"


class Refusing:
    """A store that takes no rows."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def insert(self, table: str, rows: object, *, token: str) -> None:
        del table, rows, token
        raise self._error


def test_a_read_says_who_from_where_when_which_traces_and_what_for(clean_store: Store) -> None:
    record_read(clean_store, Reader("ops", "gateway"), "dashboard", ["t1", "t2"], at=NOW)

    (row,) = clean_store.query("SELECT * FROM body_reads")
    assert len(row.pop("read_id")) > 32
    assert row == {
        "at": NOW,
        "who": "ops",
        "host": "gateway",
        "purpose": "dashboard",
        "trace_ids": ["t1", "t2"],
        "statement": None,
    }


def test_every_id_of_a_read_larger_than_a_row_is_put_down_once(clean_store: Store) -> None:
    ids = [f"t{n:05}" for n in range(MAX_IDS_PER_ROW + 1)]

    record_read(clean_store, Reader("a", "b"), "export", ids)

    rows = clean_store.query("SELECT trace_ids FROM body_reads ORDER BY read_id")
    assert [len(row["trace_ids"]) for row in rows] == [MAX_IDS_PER_ROW, 1]
    assert [id_ for row in rows for id_ in row["trace_ids"]] == ids


@pytest.mark.parametrize("error", [StoreUnreachableError("nobody answers"), StoreRefusedError("read only")])
def test_a_read_that_cannot_be_put_down_is_one_line_that_says_nothing_is_shown(error: Exception) -> None:
    with pytest.raises(OperationError, match=r"^nothing is shown, because .* body_reads: ") as raised:
        record_read(Refusing(error), local_reader(), "show", ["t1"])

    assert "\n" not in str(raised.value)


def test_show_and_tail_are_put_down_with_the_user_and_the_machine(
    embedded_config_path: Path, clean_store: Store
) -> None:
    clean_store.insert("traces", [a_trace(trace_id="t1"), a_trace(trace_id="t2")], token="t")

    assert run_traces(embedded_config_path, "show", "t1").returncode == 0
    assert run_traces(embedded_config_path, "show", "nowhere").returncode == 1
    assert run_traces(embedded_config_path, "tail", "-n", "2").returncode == 0

    me = {"who": getpass.getuser(), "host": socket.gethostname(), "statement": None}
    assert clean_store.query(READS) == [
        {**me, "purpose": "show", "trace_ids": ["t1"]},
        {**me, "purpose": "tail", "trace_ids": ["t1", "t2"]},
    ]


def test_where_a_read_cannot_be_put_down_nothing_is_shown(
    embedded_config_path: Path, clean_store: Store
) -> None:
    clean_store.insert("traces", [a_trace(trace_id="t1")], token="t")
    clean_store.command("RENAME TABLE body_reads TO body_reads_away")
    try:
        results = [
            run_traces(embedded_config_path, "show", "t1"),
            run_traces(embedded_config_path, "tail"),
            run_sql(embedded_config_path, "SELECT request FROM traces"),
        ]
    finally:
        clean_store.command("RENAME TABLE body_reads_away TO body_reads")

    for result in results:
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith(
            "tracetune: nothing is shown, because this read could not be put down"
        )
        assert result.stderr.count("\n") == 1


def test_sql_that_may_show_bodies_is_put_down_without_the_names_it_looks_for(
    embedded_config_path: Path, clean_store: Store
) -> None:
    clean_store.insert("traces", [a_trace(trace_id="t1", subject="Jane Doe")], token="t")

    shown = run_sql(embedded_config_path, "SELECT response FROM traces WHERE subject = 'Jane Doe' -- Jane")
    counted = run_sql(embedded_config_path, "SELECT count(*) AS n FROM traces WHERE subject = 'Jane Doe'")
    reads = run_sql(embedded_config_path, "SELECT * FROM body_reads")

    assert [result.returncode for result in (shown, counted, reads)] == [0, 0, 0]
    (row,) = [json.loads(line) for line in reads.stdout.splitlines()]
    assert row["purpose"] == "sql"
    assert row["statement"] == "SELECT response FROM traces WHERE subject = ?"


def test_sql_that_may_show_a_judges_reason_is_put_down(
    embedded_config_path: Path, clean_store: Store
) -> None:
    shown = run_sql(embedded_config_path, "SELECT * FROM judgments")
    counted = run_sql(embedded_config_path, "SELECT avg(score) AS mean FROM judgments")

    assert [result.returncode for result in (shown, counted)] == [0, 0]
    (row,) = clean_store.query(READS)
    assert row["statement"] == "SELECT * FROM judgments"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM traces",
        "SELECT t.* FROM traces AS t",
        'SELECT "request" FROM `traces`',
        "SELECT length(request) FROM tracetune.traces",
        "FROM feedback SELECT text",
        "SELECT COLUMNS('re.*') FROM traces",
        "SELECT * EXCEPT route FROM traces_local",
        "SELECT count(*), * FROM traces",
        "SELECT * FROM merge('tracetune', '^tra')",
        "WITH x AS (SELECT * FROM traces) SELECT y FROM x",
        "SELECT content FROM blobs",
        "SELECT * FROM judgments",
        "SELECT detail FROM judgments",
        "SELECT j.reason FROM judgments AS j FINAL",
        "SELECT argMax(reason, judged_at) FROM judgments GROUP BY trace_id",
        "SELECT * FROM feedback",
        "SELECT max(text) FROM feedback_local",
        "SELECT m.*, t.route FROM judgments_by_minute AS m, judgments AS t",
    ],
)
def test_whatever_names_a_body_or_leaves_columns_unnamed_may_show_bodies(statement: str) -> None:
    assert may_show_bodies(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM traces",
        "SELECT count() FROM traces WHERE route = 'request'",
        "SELECT trace_id, cost_usd FROM traces",
        "SELECT * FROM rollouts",
        "SELECT * FROM body_reads",
        "DESCRIBE traces",
        "SELECT value FROM feedback /* text */",
        "SELECT judge, avg(score) FROM judgments GROUP BY judge",
        "SELECT * FROM judgments_by_minute",
        "SELECT * FROM traces_by_minute",
    ],
)
def test_what_cannot_show_a_body_is_not_put_down(statement: str) -> None:
    assert not may_show_bodies(statement)


def test_the_shape_of_a_statement_has_none_of_its_values() -> None:
    sql = "SELECT 4242424242424242, 'a''b' FROM traces -- Jane\nWHERE x = $$Doe$$ /* Jane */"

    assert shape_of(sql) == "SELECT ? , ? FROM traces WHERE x = ?"
