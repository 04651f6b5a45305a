"""Whatever keeps the embedded store from taking rows is an error to who sent them, and loses none."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load_config
from gateway.errors import StoreRefusedError
from gateway.paths import paths_of
from gateway.traces.shipper import Shipper, Stopped, open_migrated
from gateway.traces.spool.spool import Spool
from gateway.traces.spool.spool_file import encode_record, sealed_files
from gateway.traces.store import Store
from tests.support.capture import wait_until
from tests.support.disk import small_disk
from tests.support.store import a_trace, started_store, write_config

ROWS, BATCH = 2000, 200


@pytest.fixture
def table(clean_store: Store) -> Iterator[Store]:
    """A store with an empty table `refusing (a UInt64, b String)`, which refuses b = 'bad'."""
    clean_store.command(
        "CREATE TABLE refusing (a UInt64, b String, CONSTRAINT good CHECK b != 'bad') "
        "ENGINE = MergeTree ORDER BY a SETTINGS parts_to_throw_insert = 3"
    )
    clean_store.command("SYSTEM STOP MERGES refusing")
    yield clean_store
    clean_store.command("DROP TABLE refusing")


def count(store: Store, table: str) -> int:
    return int(store.query(f"SELECT count() AS n FROM {table}")[0]["n"])


def test_rows_that_a_constraint_refuses_are_refused_to_the_sender(table: Store) -> None:
    with pytest.raises(StoreRefusedError, match="VIOLATED_CONSTRAINT") as caught:
        table.insert("refusing", [{"a": 1, "b": "good"}, {"a": 2, "b": "bad"}], token="t1")

    assert caught.value.code == 469
    assert count(table, "refusing") == 0
    table.command("ALTER TABLE refusing DROP CONSTRAINT good")
    table.insert("refusing", [{"a": 1, "b": "good"}, {"a": 2, "b": "bad"}], token="t1")
    assert count(table, "refusing") == 2


def test_rows_that_a_table_has_no_room_for_are_refused_to_the_sender(table: Store) -> None:
    told = []
    for n in range(6):
        try:
            table.insert("refusing", [{"a": n, "b": "x"}], token=f"t{n}")
        except StoreRefusedError as error:
            told.append(error.code)

    assert told, "the table took everything"
    assert set(told) == {252}
    assert count(table, "refusing") == 6 - len(told)


def test_rows_that_a_view_behind_the_table_cannot_take_are_refused_to_the_sender(table: Store) -> None:
    table.command(
        "CREATE MATERIALIZED VIEW refusing_view ENGINE = MergeTree ORDER BY a "
        "AS SELECT a, throwIf(b = 'boom') AS x FROM refusing"
    )
    try:
        with pytest.raises(StoreRefusedError):
            table.insert("refusing", [{"a": 1, "b": "boom"}], token="t1")
    finally:
        table.command("DROP VIEW refusing_view")


def test_a_full_disk_under_the_store_is_said_waited_out_and_loses_no_trace(tmp_path: Path) -> None:
    config_path = write_config(tmp_path, f"capture: {{spool: {tmp_path}/spool}}\n")
    config = load_config(config_path)
    paths = paths_of(config)
    state = tmp_path / "state"
    state.mkdir()

    def told() -> dict[str, Any]:
        return json.loads((state / "shipper.json").read_text())  # type: ignore[no-any-return]

    spool = Spool(paths.spool, fsync="never", max_bytes=200_000_000)
    ids = [f"t{n}" for n in range(ROWS)]
    for first in range(0, ROWS, BATCH):
        batch = ids[first : first + BATCH]
        rows = [a_trace(trace_id=name, request=os.urandom(1000).hex()) for name in batch]
        spool.append([encode_record("w.seg", first + n, first + n, "traces", r) for n, r in enumerate(rows)])
        spool.seal()
    stop = threading.Event()

    def ship() -> None:
        try:
            while shipper.step():
                pass
        except Stopped:
            pass

    with small_disk(tmp_path / "data", "80m") as disk, started_store(config_path):
        shipper = Shipper(paths.spool, state, lambda: open_migrated(config), stop)
        disk.fill(free=300_000)
        thread = threading.Thread(target=ship)
        thread.start()
        try:
            wait_until(lambda: (state / "shipper.json").exists() and told()["errors"], 20)
            full = told()
            assert "insert into traces: code 243, NOT_ENOUGH_SPACE; free some" in full["errors"]
            assert full["backlog_bytes"] > 0
            assert sealed_files(paths.spool) != []
            (disk.path / "filler").unlink()
            thread.join(30)
            with Store.connect(config, {}) as store:
                stored = [row["trace_id"] for row in store.query("SELECT trace_id FROM traces")]
        finally:
            stop.set()
            thread.join(30)
            shipper.close()
    assert sorted(stored) == sorted(ids)
    assert (told()["written"], told()["errors"], told()["backlog_bytes"]) == (ROWS, None, 0)
    assert list(paths.spool.glob("quarantine/*")) == []
    shutil.rmtree(paths.segments, ignore_errors=True)
