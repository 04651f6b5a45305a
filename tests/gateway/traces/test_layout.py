"""The form of every migration for a cluster, pinned statement by statement in `clustered/`.

`TRACETUNE_WRITE_GOLDEN=1 pytest tests/gateway/traces/test_layout.py` writes the files anew: read what changed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gateway.config.types import Store as StoreConfig
from gateway.errors import StoreError
from gateway.traces.layout import MAX_DAYS_BY_DAY, Layout, layout_of
from gateway.traces.migrate import RECORD, Migration, shipped_migrations
from gateway.traces.store import Store

GOLDEN = Path(__file__).parent / "clustered"
CLUSTER = Layout(cluster="main")
MIGRATIONS = shipped_migrations()
PINNED = [Migration("schema_migrations.sql", f"{RECORD};"), *MIGRATIONS]
FILLING = ("traces_to_minutes", "judgments_to_minutes")
ENGINE_ARGUMENTS = re.compile(r"Replicated(\w+)\('[^']*', '[^']*'(?:, )?")


def rendered(migration: Migration) -> list[str]:
    return [part for statement in migration.statements() for part in CLUSTER.render(statement)]


def named(migration: Migration) -> str:
    return migration.name


@pytest.mark.parametrize("migration", PINNED, ids=named)
def test_every_statement_for_a_cluster_is_as_it_was_reviewed(migration: Migration) -> None:
    golden = GOLDEN / migration.name
    text = "".join(f"{statement};\n\n" for statement in rendered(migration))
    if os.environ.get("TRACETUNE_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")

    assert golden.read_text(encoding="utf-8") == text


def test_nothing_is_pinned_that_is_not_shipped() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {migration.name for migration in PINNED}


@pytest.mark.parametrize("migration", PINNED, ids=named)
def test_clickhouse_parses_every_statement_for_a_cluster(clean_store: Store, migration: Migration) -> None:
    for statement in rendered(migration):
        (row,) = clean_store.query("SELECT formatQuery({sql:String}) AS parsed", {"sql": statement})
        on_every_server = "ON CLUSTER main" in row["parsed"]
        assert on_every_server or row["parsed"].startswith("INSERT")


def test_a_shard_has_the_tables_and_views_that_one_server_has(clean_store: Store) -> None:
    """Run on one engine, without what only a cluster has: names, columns and views must fit one another."""
    clean_store.command("CREATE DATABASE shard")
    try:
        for migration in MIGRATIONS:
            for statement in rendered(migration):
                alone = _on_one_engine(statement)
                if alone is not None:
                    clean_store.command(alone)
        found = clean_store.query(
            "SELECT database, table, name, type FROM system.columns WHERE database IN ('shard', 'tracetune') "
            "AND table != 'schema_migrations' AND table NOT LIKE '.inner%'"
        )
    finally:
        clean_store.command("DROP DATABASE shard")

    columns: dict[str, set[tuple[str, str, str]]] = {"shard": set(), "tracetune": set()}
    for row in found:
        columns[row["database"]].add((row["table"].removesuffix("_local"), row["name"], row["type"]))
    # What adds up at reading asks the Distributed tables, which no engine alone has.
    aggregating = {"judgments_by_minute"}
    assert columns["shard"] == {column for column in columns["tracetune"] if column[0] not in aggregating}


def _on_one_engine(statement: str) -> str | None:
    """*statement* in the database `shard`, not replicated; None for what concerns Distributed tables."""
    about = re.search(r"\b(?:TABLE|VIEW)(?: IF (?:NOT )?EXISTS)? (\w+) ON CLUSTER", statement)
    if about is None or not (about[1].endswith("_local") or about[1] in FILLING):
        return None
    if "Distributed(" in statement:
        return None
    plain = ENGINE_ARGUMENTS.sub(r"\1(", statement.replace(" ON CLUSTER 'main'", ""))
    plain = re.sub(r"SETTINGS replicated_\w+ = \d+, replicated_\w+ = \d+", "", plain)
    return re.sub(rf"\b(\w+_local|{'|'.join(FILLING)})\b", r"shard.\1", plain)


@pytest.mark.parametrize("migration", MIGRATIONS, ids=named)
def test_a_repeated_insert_is_known_to_every_table_on_a_cluster_as_on_one_server(
    migration: Migration,
) -> None:
    for statement in rendered(migration):
        assert "MODIFY QUERY" not in statement, "such a view does not know a repeated insert after a restart"
        if "ENGINE = Replicated" in statement:
            assert "replicated_deduplication_window = " in statement
            assert "replicated_deduplication_window_seconds = 604800" in statement
    for statement in migration.statements():
        if "ENGINE = " in statement:
            assert "non_replicated_deduplication_window = " in statement


def test_rows_that_replace_one_another_meet_on_one_shard() -> None:
    keys = dict(
        re.findall(
            r"CREATE TABLE IF NOT EXISTS (\w+) ON CLUSTER 'main' AS \w+\nENGINE = Distributed\(.*, (.*)\)",
            "\n".join(statement for migration in MIGRATIONS for statement in rendered(migration)),
        )
    )

    assert keys["traces"] == keys["judgments"] == keys["judged_minutes"] == "cityHash64(trace_id)"
    assert keys["feedback"] == "cityHash64(feedback_id)"
    assert keys["rollouts"] == "cityHash64(route)"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE OR REPLACE TABLE traces (a Int8) ENGINE = MergeTree ORDER BY a",
        "RENAME TABLE a TO b",
        "OPTIMIZE TABLE traces",
        "ALTER TABLE traces_to_minutes MODIFY QUERY SELECT 1",
        "CREATE TABLE a (a Int8) ENGINE = Log",
        "CREATE TABLE a (a Int8) ENGINE = MergeTree ORDER BY ()",
    ],
)
def test_what_has_no_form_for_a_cluster_is_refused(statement: str) -> None:
    with pytest.raises(StoreError, match=r"no form for a cluster|cannot be replicated"):
        CLUSTER.render(statement)


def test_a_column_is_there_before_it_is_asked_for_and_goes_after() -> None:
    added = CLUSTER.render("ALTER TABLE traces ADD COLUMN a Tuple(x Int8, y Int8), ADD INDEX i a TYPE minmax")
    dropped = CLUSTER.render("ALTER TABLE traces DROP COLUMN a")

    assert added == [
        "ALTER TABLE traces_local ON CLUSTER 'main' ADD COLUMN a Tuple(x Int8, y Int8), ADD INDEX i a TYPE minmax",
        "ALTER TABLE traces ON CLUSTER 'main' ADD COLUMN a Tuple(x Int8, y Int8)",
    ]
    assert dropped == [
        "ALTER TABLE traces ON CLUSTER 'main' DROP COLUMN a",
        "ALTER TABLE traces_local ON CLUSTER 'main' DROP COLUMN a",
    ]


def test_one_server_runs_what_is_written() -> None:
    for migration in MIGRATIONS:
        for statement in migration.statements():
            assert Layout().render(statement) == [statement]


def test_few_days_are_kept_in_partitions_of_a_day_and_others_in_months() -> None:
    assert layout_of(StoreConfig(retention_days=MAX_DAYS_BY_DAY)).by_day
    assert not layout_of(StoreConfig(retention_days=MAX_DAYS_BY_DAY + 1)).by_day
    assert not layout_of(StoreConfig()).by_day

    for migration in MIGRATIONS:
        for statement in migration.statements():
            (by_day,) = Layout(by_day=True).render(statement)
            assert by_day == statement.replace("PARTITION BY toYYYYMM(", "PARTITION BY toYYYYMMDD(")


def test_a_clusters_name_is_quoted() -> None:
    assert Layout(cluster="it's").rows_of("traces") == "traces_local ON CLUSTER 'it\\'s'"
    assert Layout().rows_of("traces") == "traces"
