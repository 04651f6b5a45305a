from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import StoreError
from gateway.traces.migrate import Migration, migrate, pending, shipped_migrations
from gateway.traces.store import Store

names = st.lists(st.integers(0, 9999), unique=True, max_size=8)


def named(numbers: list[int]) -> list[Migration]:
    return [Migration(f"{number:04}_x.sql", f"SELECT {number}") for number in sorted(numbers)]


@given(names, st.integers(0, 8))
def test_what_is_pending_is_what_was_not_applied_in_order(numbers: list[int], done: int) -> None:
    shipped = named(numbers)
    applied = {migration.name: migration.checksum for migration in shipped[:done]}

    assert pending(shipped, applied) == shipped[done:]


def test_a_file_changed_after_it_was_applied_is_refused() -> None:
    shipped = named([1, 2])

    with pytest.raises(StoreError, match=r"0001_x.sql was changed after it was applied"):
        pending(shipped, {"0001_x.sql": "other"})


def test_a_store_newer_than_the_program_is_refused() -> None:
    with pytest.raises(StoreError, match=r"0003_x.sql, which this version does not know; upgrade"):
        pending(named([1, 2]), {"0003_x.sql": "any"})


def test_each_migration_is_applied_once_and_recorded(clean_store: Store) -> None:
    recorded = clean_store.query("SELECT name, checksum FROM schema_migrations ORDER BY name")

    assert recorded == [{"name": m.name, "checksum": m.checksum} for m in shipped_migrations()]
    assert migrate(clean_store) == []


def test_every_statement_may_be_repeated(clean_store: Store) -> None:
    for migration in shipped_migrations():
        assert migration.statements()
        for statement in migration.statements():
            clean_store.command(statement)


def test_a_migration_cut_off_in_the_middle_is_applied_again(clean_store: Store) -> None:
    broken = Migration(
        "9998_x.sql", "CREATE TABLE IF NOT EXISTS half (a Int8) ENGINE = Log; SELECT nonsense;"
    )
    mended = Migration("9998_x.sql", "CREATE TABLE IF NOT EXISTS half (a Int8) ENGINE = Log; SELECT 1;")
    shipped = shipped_migrations()
    try:
        with pytest.raises(StoreError):
            migrate(clean_store, [*shipped, broken])
        assert migrate(clean_store, [*shipped, mended]) == ["9998_x.sql"]
        assert migrate(clean_store, [*shipped, mended]) == []
    finally:
        clean_store.command("DROP TABLE half")
        clean_store.command(
            "ALTER TABLE schema_migrations DELETE WHERE name = '9998_x.sql' SETTINGS mutations_sync = 1"
        )
