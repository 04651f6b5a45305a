from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from gateway.errors import StoreError
from gateway.traces.layout import Layout
from gateway.traces.migrate import (
    Migration,
    applied_migrations,
    migrate,
    shipped_migrations,
    step_back,
)
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Judgment
from tests.support.store import a_trace

MINUTE = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
LATER = frozenset({"training", "imported", "captured", "imported_by"})
SCHEMA = """
SELECT name, create_table_query FROM system.tables
WHERE database = currentDatabase() AND name != 'schema_migrations' ORDER BY name
"""


@pytest.fixture
def whole_store(clean_store: Store) -> Iterator[Store]:
    """A store that has this version's tables again when the test is over."""
    yield clean_store
    migrate(clean_store)


def schema(store: Store) -> list[dict[str, Any]]:
    return store.query(SCHEMA)


def write_some(store: Store) -> None:
    store.insert(
        "traces",
        [a_trace(trace_id=f"t{n}", started_at=MINUTE, tokens_in=10 * n) for n in (1, 2)],
        token="t",
    )
    judged = Judgment(trace_id="t1", judge="j", version="v", score=1.0, reason="", judged_at=MINUTE)
    store.insert("judgments", [judged], token="j")
    said = Feedback(
        feedback_id="f",
        trace_id="t1",
        session=None,
        client="",
        kind="rating",
        value=1,
        text=None,
        created_at=MINUTE,
    )
    store.insert("feedback", [said], token="f")


def without_later(row: dict[str, Any]) -> dict[str, Any]:
    """*row* without the columns that the first version did not have."""
    return {name: value for name, value in row.items() if name not in LATER}


def early_trace(trace_id: str = "t1") -> dict[str, Any]:
    return without_later(msgspec.structs.asdict(a_trace(trace_id=trace_id, started_at=MINUTE)))


def rows_of(store: Store) -> dict[str, Any]:
    return {
        "traces": [without_later(row) for row in store.query("SELECT * FROM traces ORDER BY trace_id")],
        "arrived": store.query("SELECT stored_at FROM traces"),
        "judgments": store.query("SELECT trace_id, judge, version, score, reason, judged_at FROM judgments"),
        "feedback": [without_later(row) for row in store.query("SELECT *, stored_at FROM feedback")],
        "minutes": store.query(
            "SELECT minute, route, sum(traces), sum(tokens_in) FROM traces_by_minute GROUP BY ALL"
        ),
    }


def test_every_migration_has_a_reverse() -> None:
    assert [migration.name for migration in shipped_migrations() if not migration.reverse()] == []


def test_forward_back_to_nothing_and_forward_again_is_the_same_schema(whole_store: Store) -> None:
    before = schema(whole_store)
    names = [migration.name for migration in shipped_migrations()]

    assert step_back(whole_store, 0) == names[::-1]
    assert schema(whole_store) == []
    assert applied_migrations(whole_store) == {}
    assert migrate(whole_store) == names
    assert schema(whole_store) == before


@pytest.mark.parametrize("to", [int(m.name[:4]) for m in shipped_migrations() if int(m.name[:4]) >= 4])
def test_rows_stay_through_each_step_back_to_the_first_version_and_forward(
    whole_store: Store, to: int
) -> None:
    before = schema(whole_store)
    write_some(whole_store)
    rows = rows_of(whole_store)

    step_back(whole_store, to)
    assert rows_of(whole_store) == rows
    migrate(whole_store)

    assert schema(whole_store) == before
    assert rows_of(whole_store) == rows


def test_what_a_judgment_is_about_is_found_by_its_trace_and_counted(whole_store: Store) -> None:
    step_back(whole_store, 4)
    whole_store.insert("traces", [early_trace()], token="t")
    whole_store.command(
        "INSERT INTO judgments (trace_id, judge, version, score, judged_at) VALUES ('t1', 'j', 'v', 1, now())"
    )
    migrate(whole_store)

    counted = whole_store.query(
        "SELECT minute, route, variant, judgments, score_sum FROM judgments_by_minute"
    )
    assert counted == [
        {"minute": MINUTE, "route": "support-bot", "variant": "stable", "judgments": 1, "score_sum": 1.0}
    ]


def test_the_views_fill_their_tables_after_each_step(whole_store: Store) -> None:
    def traces_counted() -> int:
        return int(whole_store.query("SELECT sum(traces) AS n FROM traces_by_minute")[0]["n"])

    whole_store.insert("traces", [a_trace()], token="1")
    step_back(whole_store, 4)
    whole_store.insert("traces", [early_trace("t2")], token="2")
    assert traces_counted() == 2
    migrate(whole_store)
    whole_store.insert("traces", [a_trace()], token="3")
    assert traces_counted() == 3


def test_every_statement_of_a_reverse_may_be_repeated(whole_store: Store) -> None:
    for migration in reversed(shipped_migrations()):
        for _ in range(2):
            for statement in migration.reverse():
                whole_store.command(statement)
        whole_store.command(f"ALTER TABLE schema_migrations DELETE WHERE name = '{migration.name}'")


def test_a_migration_without_a_reverse_is_refused_before_anything_is_taken_back(whole_store: Store) -> None:
    without = Migration("9999_x.sql", "SELECT 1;")
    later = Migration("9999_y.sql", "SELECT 1;", "DROP TABLE traces;")
    shipped = [*shipped_migrations(), without, later]
    migrate(whole_store, shipped)

    with pytest.raises(StoreError, match=r"9999_x.sql has no reverse"):
        step_back(whole_store, 4, shipped)

    assert set(applied_migrations(whole_store)) == {migration.name for migration in shipped}
    reversible = [*shipped_migrations(), Migration(without.name, without.sql, "SELECT 1;")]
    step_back(whole_store, 9998, [*reversible, Migration(later.name, later.sql, "SELECT 1;")])


def test_what_a_cluster_cannot_take_back_is_refused_before_anything_is_taken_back(whole_store: Store) -> None:
    applied = applied_migrations(whole_store)

    with pytest.raises(StoreError, match="no form for a cluster: CREATE OR REPLACE TABLE"):
        step_back(whole_store, 4, layout=Layout(cluster="main"))

    assert applied_migrations(whole_store) == applied
