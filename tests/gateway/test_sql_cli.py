"""`tracetune sql` as a shell runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import clickhouse_connect
import pytest

from gateway.config import load_config
from gateway.traces.store import Store
from gateway.traces.target import resolve_target
from gateway.traces.types import Judgment
from tests.support.store import a_trace, write_config

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def run_sql(config_path: Path, sql: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", "sql", sql, "--config", str(config_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_rows_are_lines_of_json_with_every_type_readable(
    embedded_config_path: Path, clean_store: Store
) -> None:
    result = run_sql(
        embedded_config_path,
        "SELECT toUInt64(18446744073709551615) AS big, toDecimal64(1.25, 4) AS decimal, NULL AS nothing, nan AS nan, "
        "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS uuid, map('a', [1, NULL]) AS nested, true AS yes, "
        "toDateTime64('2026-03-04 05:06:07.123456', 6, 'UTC') AS at, 'a/b\x1b\x7f\u009bé' AS text;",
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "big": 18446744073709551615,
        "decimal": 1.25,
        "nothing": None,
        "nan": None,
        "uuid": "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
        "nested": {"a": [1, None]},
        "yes": True,
        "at": "2026-03-04T05:06:07.123456Z",
        "text": "a/b\x1b\x7f\u009bé",
    }
    assert result.stdout.rstrip("\n").isprintable()


def test_traces_are_read_and_no_rows_print_nothing(embedded_config_path: Path, clean_store: Store) -> None:
    rows = [a_trace(trace_id=f"t{n}", started_at=datetime.now(UTC)) for n in range(3)]
    clean_store.insert("traces", rows, token="t")

    found = run_sql(embedded_config_path, "SELECT trace_id FROM traces ORDER BY trace_id -- a comment")
    none = run_sql(embedded_config_path, "SELECT * FROM traces WHERE route = 'nowhere'")

    assert found.stdout == '{"trace_id":"t0"}\n{"trace_id":"t1"}\n{"trace_id":"t2"}\n'
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "")


@pytest.mark.parametrize("sql", ["SHOW TABLES", "DESCRIBE traces", "EXPLAIN SELECT 1", "EXISTS TABLE traces"])
def test_questions_about_the_store_are_answered(embedded_config_path: Path, sql: str) -> None:
    result = run_sql(embedded_config_path, sql)

    assert result.returncode == 0, result.stderr
    assert all(isinstance(json.loads(line), dict) for line in result.stdout.splitlines())
    assert result.stdout


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM nowhere", "SELECT throwIf(number = 200000) FROM numbers(400000)", "SELECT (1"]
)
def test_clickhouses_error_is_one_line_and_exit_1(embedded_config_path: Path, sql: str) -> None:
    result = run_sql(embedded_config_path, sql)

    assert result.returncode == 1
    assert result.stderr.startswith("tracetune: the store refused: Code: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO traces SELECT * FROM traces",
        "SELECT * FROM file('/etc/passwd')",
        "SELECT 1 INTO OUTFILE 'x'",
        "",
    ],
)
def test_a_refused_statement_is_one_line_and_exit_2(embedded_config_path: Path, sql: str) -> None:
    result = run_sql(embedded_config_path, sql)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


def test_a_statement_cannot_change_settings(embedded_config_path: Path) -> None:
    result = run_sql(embedded_config_path, "SELECT 1 SETTINGS readonly = 0")

    assert result.returncode == 1
    assert "READONLY" in result.stderr


def test_it_works_while_nothing_else_runs(tmp_path: Path) -> None:
    path = write_config(tmp_path)

    result = run_sql(path, "SELECT count() AS n FROM traces")

    assert (result.returncode, result.stdout, result.stderr) == (0, '{"n":0}\n', "")
    assert not (tmp_path / "data" / "store" / "endpoint.json").exists()


def test_sql_and_clickhouse_connect_see_the_same_tables_and_rows(
    embedded_config_path: Path, clean_store: Store
) -> None:
    """What a notebook asks with the public client is what the command asks."""
    imported = a_trace(trace_id="t2", imported=True, variant="imported", propensity=None, tags={"team": "é"})
    clean_store.insert("traces", [a_trace(trace_id="t1"), imported], token="t")
    verdict = Judgment(trace_id="t1", judge="good", version="v", score=None, reason="no", judged_at=NOW)
    clean_store.insert("judgments", [verdict], token="j")
    target = resolve_target(load_config(embedded_config_path), {})
    client = clickhouse_connect.get_client(
        interface=target.interface,
        host=target.host,
        port=target.port,
        username=target.user,
        password=target.password,
        database=target.database,
    )
    try:
        for sql in (
            "SELECT name, engine FROM system.tables WHERE database = currentDatabase() ORDER BY name",
            "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, name",
            "SELECT trace_id, route, variant, imported, propensity, outcome, tags, tokens_in FROM traces ORDER BY trace_id",
            "SELECT trace_id, judge, version, score, reason FROM judgments",
            "SELECT variant, sum(traces) AS n FROM traces_by_minute GROUP BY variant ORDER BY variant",
        ):
            told = run_sql(embedded_config_path, sql)
            rows = [json.loads(line) for line in told.stdout.splitlines()]

            assert told.returncode == 0, told.stderr
            assert rows
            assert rows == list(client.query(sql).named_results())
    finally:
        client.close()


def test_a_missing_configuration_is_one_line_and_exit_2(tmp_path: Path) -> None:
    result = run_sql(tmp_path / "none.yaml", "SELECT 1")

    assert result.returncode == 2
    assert "no such file" in result.stderr
    assert result.stderr.count("\n") == 1
