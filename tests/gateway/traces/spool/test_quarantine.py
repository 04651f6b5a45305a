"""The quarantine: what the store refused is there with the reason, can be put back, and is bounded."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gateway.cli.root import tracetune
from gateway.config import load_config
from gateway.errors import OperationError
from gateway.paths import Paths, paths_of
from gateway.traces.bodies.blobs import BlobRow
from gateway.traces.erasure.erasures import Erasure, ErasureList, Owner
from gateway.traces.erasure.files import erase_from_quarantine
from gateway.traces.held_files import HELD_TRIES
from gateway.traces.shipper import Shipper, open_migrated
from gateway.traces.spool.quarantine import Entry, PutBack, damaged, put_back, refused_files, set_aside
from gateway.traces.spool.spool import Spool
from gateway.traces.spool.spool_file import encode_record, read_spool, sealed_files, write_sealed
from gateway.traces.stage import Reporter
from gateway.traces.store import Store
from gateway.traces.types import BLOBS, Feedback, RolloutEvent
from tests.support.capture import wait_until
from tests.support.store import a_trace

PLENTY = 100_000_000
BAD = "gpt-bad"


@pytest.fixture
def paths(embedded_config_path: Path) -> Iterator[Paths]:
    found = paths_of(load_config(embedded_config_path))
    try:
        yield found
    finally:
        for folder in (found.segments, found.spool, found.state):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def choosy_store(clean_store: Store) -> Iterator[Store]:
    """A store that refuses rows of the model BAD by a constraint."""
    clean_store.command(f"ALTER TABLE traces ADD CONSTRAINT choosy CHECK model != '{BAD}'")
    try:
        yield clean_store
    finally:
        clean_store.command("ALTER TABLE traces DROP CONSTRAINT IF EXISTS choosy")


@pytest.fixture
def throwing_store(clean_store: Store) -> Iterator[Store]:
    """A store that refuses rows of the model BAD with a code that does not tell whose fault it is."""
    clean_store.command(f"ALTER TABLE traces ADD CONSTRAINT throwing CHECK throwIf(model = '{BAD}') = 0")
    try:
        yield clean_store
    finally:
        clean_store.command("ALTER TABLE traces DROP CONSTRAINT throwing")


@pytest.fixture
def throwing_view(clean_store: Store) -> Iterator[Store]:
    """A store with a view that throws at rows of the model BAD, when the table has taken them."""
    clean_store.command(
        "CREATE MATERIALIZED VIEW throwing ENGINE = MergeTree ORDER BY x "
        f"AS SELECT trace_id AS x, throwIf(CAST(model, 'String') = '{BAD}') AS y FROM traces"
    )
    try:
        yield clean_store
    finally:
        clean_store.command("DROP VIEW throwing")


def spooled(paths: Paths, *models: str, first: int = 0) -> Path:
    """A sealed file of one trace for each of *models*."""
    spool = Spool(paths.spool, fsync="never", max_bytes=PLENTY)
    before = set(spool.sealed())
    rows = [a_trace(trace_id=f"t{first + n}", model=model) for n, model in enumerate(models)]
    spool.append([encode_record("w.seg", n, n, "traces", row) for n, row in enumerate(rows, 1)])
    spool.seal()
    (path,) = set(spool.sealed()) - before
    return path


def shipper_of(config_path: Path, paths: Paths) -> Shipper:
    config = load_config(config_path)
    return Shipper(paths.spool, paths.state, lambda: open_migrated(config), threading.Event())


def drain(config_path: Path, paths: Paths) -> None:
    shipper = shipper_of(config_path, paths)
    while shipper.step():
        pass
    shipper.close()


def stored(store: Store) -> list[str]:
    return sorted(row["trace_id"] for row in store.query("SELECT trace_id FROM traces"))


@pytest.mark.parametrize("refusing", ["choosy_store", "throwing_store"])
def test_a_row_that_is_refused_by_what_the_table_demands_is_set_aside_and_blocks_no_other(
    embedded_config_path: Path, paths: Paths, refusing: str, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(refusing)
    spooled(paths, "m", BAD, "m", "m")
    spooled(paths, "m", first=10)
    drain(embedded_config_path, paths)
    assert stored(store) == ["t0", "t10", "t2", "t3"]
    (refused,) = refused_files(paths.spool)
    (entry,) = refused.entries
    assert (entry.table, (entry.row or {})["trace_id"]) == ("traces", "t1")
    assert "insert into traces: code" in entry.reason
    assert sealed_files(paths.spool) == []


def test_rows_that_a_table_has_taken_before_a_view_behind_it_refused_are_stored_once(
    embedded_config_path: Path, paths: Paths, throwing_view: Store
) -> None:
    spooled(paths, "m", BAD, "m")
    drain(embedded_config_path, paths)
    assert stored(throwing_view) == ["t0", "t1", "t2"]
    assert sealed_files(paths.spool) == []


def test_a_file_that_is_refused_as_a_whole_stands_back_and_is_set_aside_once_the_store_took_others(
    embedded_config_path: Path, paths: Paths, throwing_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.traces.held_files.HELD_FIRST_S", 0.01)
    path = spooled(paths, BAD)
    shipper = shipper_of(embedded_config_path, paths)
    monkeypatch.setattr("gateway.traces.held_files.HELD_MAX_S", 0.2)
    wait_until(lambda: (shipper.step(), shipper._held.tries(path.name) > HELD_TRIES)[-1])
    assert path.exists()  # nothing says that the store takes anything
    shipper.report(force=True)
    assert "code 395" in (Reporter(paths.state / "shipper.json").last().errors or "")
    spooled(paths, "m", first=10)
    wait_until(lambda: (shipper.step(), not sealed_files(paths.spool))[-1])
    shipper.close()
    assert stored(throwing_store) == ["t10"]
    ((entry,),) = (refused.entries for refused in refused_files(paths.spool))
    assert (entry.row or {})["trace_id"] == "t0"


def test_while_a_file_stands_back_the_others_are_shipped(
    embedded_config_path: Path, paths: Paths, throwing_store: Store
) -> None:
    refused = spooled(paths, BAD)
    spooled(paths, "m", first=10)
    spooled(paths, "m", first=20)
    drain(embedded_config_path, paths)
    assert stored(throwing_store) == ["t10", "t20"]
    assert sealed_files(paths.spool) == [refused]
    assert refused_files(paths.spool) == []


def test_rows_are_put_back_once_the_reason_is_gone_and_are_stored_once(
    embedded_config_path: Path, paths: Paths, choosy_store: Store
) -> None:
    spooled(paths, "m", BAD, BAD)
    drain(embedded_config_path, paths)
    (refused,) = refused_files(paths.spool)
    content = refused.path.read_bytes()
    choosy_store.command("ALTER TABLE traces DROP CONSTRAINT choosy")
    for _ in range(2):  # killed before it could forget the file, and done again
        refused.path.write_bytes(content)
        assert put_back(paths.spool, refused.path, ErasureList(paths.state)) == (2, 0)
        assert not refused.path.exists()
        drain(embedded_config_path, paths)
    assert stored(choosy_store) == ["t0", "t1", "t2"]
    original = json.loads(content.splitlines()[0])["row"]["started_at"]
    (row,) = choosy_store.query("SELECT started_at FROM traces WHERE trace_id = 't1'")
    assert row["started_at"].isoformat().replace("+00:00", "Z") == original


def test_a_disk_without_room_for_what_was_refused_holds_up_nothing_else(
    embedded_config_path: Path, paths: Paths, choosy_store: Store
) -> None:
    spooled(paths, "m", BAD)
    (paths.spool / "quarantine").write_text("no folder can be here")
    spooled(paths, "m", first=10)
    drain(embedded_config_path, paths)
    assert stored(choosy_store) == ["t0", "t10"]
    assert len(sealed_files(paths.spool)) == 1
    assert "refused rows cannot be set aside" in (Reporter(paths.state / "shipper.json").last().errors or "")
    (paths.spool / "quarantine").unlink()
    drain(embedded_config_path, paths)
    assert stored(choosy_store) == ["t0", "t10"]
    assert len(refused_files(paths.spool)) == 1


def test_what_is_damaged_cannot_be_put_back_and_stays(tmp_path: Path) -> None:
    row = {"trace_id": "t1"}
    set_aside(
        tmp_path, "0-a", [damaged(b"\xff\x00"), Entry(reason="r", table="traces", row=row)], max_bytes=PLENTY
    )
    (refused,) = refused_files(tmp_path)
    assert put_back(tmp_path, refused.path, ErasureList(tmp_path / "state")) == (1, 0)
    (left,) = refused_files(tmp_path)
    assert [entry.data for entry in left.entries] == ["/wA="]
    assert len(sealed_files(tmp_path)) == 1


JANE = Owner("subject", "web", "jane")


def an_erasure_of_jane(state: Path, **changes: Any) -> ErasureList:
    known = ErasureList(state)
    values = {"until_us": None, "sessions": [], "traces": [], **changes}
    entry = Erasure(erasure="er-1", asked_at_us=0, owners=[known.digest(JANE)], **values)
    with known.changed(lambda _: [entry]):
        pass
    return known


def test_what_was_erased_is_not_put_back_and_leaves_the_quarantine(tmp_path: Path) -> None:
    at = "2026-03-04T05:06:07Z"
    said = {"client": "app", "session": None, "created_at": at}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("feedback", {"feedback_id": "f1", "trace_id": "t1", **said}),  # before its trace
        ("traces", {"trace_id": "t1", "client": "web", "subject": "jane", "session": "s", "started_at": at}),
        ("traces", {"trace_id": "t2", "client": "web", "subject": "john", "session": "s", "started_at": at}),
        ("feedback", {"feedback_id": "f2", "trace_id": "t2", **said}),
        ("blobs", {"blob": "b", "kind": "system", "content": "{}", "used_until": at}),
    ]
    set_aside(
        tmp_path, "0-a", [Entry(reason="r", table=table, row=row) for table, row in rows], max_bytes=PLENTY
    )
    (refused,) = refused_files(tmp_path)

    done = put_back(tmp_path, refused.path, an_erasure_of_jane(tmp_path / "state"))

    assert done == (3, 2)
    (path,) = sealed_files(tmp_path)
    went = [msgspec.msgpack.decode(record.row) for record in read_spool(path).records]
    assert [row.get("feedback_id") or row.get("trace_id") or row["blob"] for row in went] == ["t2", "f2", "b"]
    assert refused_files(tmp_path) == []


def test_what_an_erasure_takes_out_of_a_file_that_was_read_before_is_not_put_back(tmp_path: Path) -> None:
    at = "2026-03-04T05:06:07Z"
    row = {"trace_id": "t1", "client": "web", "subject": "jane", "session": "s", "started_at": at}
    set_aside(tmp_path, "0-a", [Entry(reason="r", table="traces", row=row)], max_bytes=PLENTY)
    (refused,) = refused_files(tmp_path)
    known = an_erasure_of_jane(tmp_path / "state")
    with known.changed(lambda entries: entries) as watch:
        erase_from_quarantine(tmp_path / "quarantine", watch, lambda _: None)
    with known.changed(lambda _: []):
        pass  # so old by now that it was dropped

    assert put_back(tmp_path, refused.path, known) == (0, 0)
    assert sealed_files(tmp_path) == []


def test_rows_are_not_put_back_while_an_erasure_goes_through_the_quarantine(tmp_path: Path) -> None:
    set_aside(tmp_path, "0-a", [Entry(reason="r", table="traces", row={"trace_id": "t1"})], max_bytes=PLENTY)
    (refused,) = refused_files(tmp_path)
    done: list[PutBack] = []
    putting = threading.Thread(
        target=lambda: done.append(put_back(tmp_path, refused.path, ErasureList(tmp_path / "state")))
    )
    with ErasureList(tmp_path / "state").changed(lambda entries: entries):
        putting.start()
        putting.join(0.3)
        assert done == []
        assert refused.path.exists()
    putting.join(10)
    assert done == [(1, 0)]


def test_what_is_put_back_after_long_is_not_too_old_to_wait_for_the_store(tmp_path: Path) -> None:
    week_ago = time.time_ns() - 8 * 86400 * 10**9
    set_aside(
        tmp_path,
        f"{week_ago:019d}-abcd",
        [Entry(reason="r", table="traces", row={"trace_id": "t1"})],
        max_bytes=PLENTY,
    )
    (refused,) = refused_files(tmp_path)
    put_back(tmp_path, refused.path, ErasureList(tmp_path / "state"))
    spool = Spool(tmp_path, fsync="never", max_bytes=PLENTY, max_age_s=7 * 86400)
    assert spool.older_than(7 * 86400) == []
    spool.append([encode_record("w.seg", 1, 1, "traces", {"trace_id": "t2"})])


def test_every_table_that_is_spooled_can_be_put_back(tmp_path: Path) -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)
    rows = {
        "traces": a_trace(started_at=at),
        "feedback": Feedback(
            feedback_id="f1",
            trace_id="t1",
            session=None,
            client="",
            kind="k",
            value=1.0,
            text=None,
            created_at=at,
        ),
        "rollouts": RolloutEvent(
            rollout="r",
            route="m",
            version=1,
            event="retired",
            snapshot="",
            at=at,
            who="",
            why="",
            evidence="{}",
        ),
        BLOBS: BlobRow(blob="b1", kind="system", content="{}", used_until=at),
    }
    payloads = [encode_record("w.seg", 1, 1, table, row) for table, row in rows.items()]
    write_sealed(tmp_path, "0-a", payloads)
    (path,) = sealed_files(tmp_path)
    before = {record.table: msgspec.msgpack.decode(record.row) for record in read_spool(path).records}
    path.unlink()
    set_aside(
        tmp_path,
        "0-a",
        [Entry(reason="r", table=table, row=row) for table, row in before.items()],
        max_bytes=PLENTY,
    )
    (refused,) = refused_files(tmp_path)
    put_back(tmp_path, refused.path, ErasureList(tmp_path / "state"))
    (path,) = sealed_files(tmp_path)
    assert {record.table: msgspec.msgpack.decode(record.row) for record in read_spool(path).records} == before


def test_the_quarantine_is_bounded_and_says_how_many_rows_it_let_go(tmp_path: Path) -> None:
    entries = [Entry(reason="r", table="traces", row={"request": "x" * 400})] * 3
    dropped = [set_aside(tmp_path, f"{n}-a", entries, max_bytes=4000) for n in range(4)]
    assert dropped == [0, 0, 3, 3]
    assert [refused.path.stem for refused in refused_files(tmp_path)] == ["2-a", "3-a"]


def test_the_command_shows_the_reasons_and_puts_back(
    embedded_config_path: Path, paths: Paths, choosy_store: Store
) -> None:
    spooled(paths, "m", BAD, BAD)
    drain(embedded_config_path, paths)

    def said(*options: str) -> str:
        done = CliRunner().invoke(
            tracetune, ["traces", "quarantine", *options, "--config", str(embedded_config_path)]
        )
        assert done.exit_code == 0, done.output
        return done.output

    assert "2 rows  insert into traces: code 469, VIOLATED_CONSTRAINT" in said()
    assert json.loads(said("--json"))["rows"] == 2
    assert said("--put-back") == "2 rows go to the store again\n"
    assert said() == "nothing was refused\n"
    assert len(sealed_files(paths.spool)) == 1


def test_the_command_says_what_it_does_not_put_back(embedded_config_path: Path, paths: Paths) -> None:
    paths.spool.mkdir(parents=True)
    row = {"trace_id": "t1", "client": "web", "subject": "jane", "started_at": "2026-03-04T05:06:07Z"}
    set_aside(paths.spool, "0-a", [Entry(reason="r", table="traces", row=row)], max_bytes=PLENTY)
    an_erasure_of_jane(paths.state)
    done = CliRunner().invoke(
        tracetune, ["traces", "quarantine", "--put-back", "--config", str(embedded_config_path)]
    )
    assert (done.exit_code, done.output) == (
        0,
        "0 rows go to the store again; 1 of erased subjects or sessions are removed\n",
    )


def test_a_file_that_is_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "notes.jsonl").write_text("{")
    with pytest.raises(OperationError, match=r"notes\.jsonl is no file of the quarantine"):
        refused_files(tmp_path)
