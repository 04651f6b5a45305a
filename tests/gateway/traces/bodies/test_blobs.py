"""Shared parts on their way: written once, never missing beside a row that names them, read as if never split."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, load_config
from gateway.paths import Paths, paths_of
from gateway.traces.bodies.blobs import SHARED_BY, BlobLedger, BlobRow, Splitter, relied_on_until
from gateway.traces.bodies.bodies import Bodies, Owner
from gateway.traces.bodies.writer import BodyWriter
from gateway.traces.delivery import deliver
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.encryption.sealing import DamagedBodyError
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.shipper import _by_table
from gateway.traces.spool.delivered import DELIVERED_FILES, Deliveries, delivered, digest_of
from gateway.traces.spool.spool_file import SpoolContents, SpoolRecord, read_spool
from gateway.traces.store import Store
from gateway.traces.types import Trace
from tests.gateway.traces.bodies.test_shared_parts import CHAT, IMAGE, SYSTEM, TOOLS
from tests.gateway.traces.test_shipper import data_directory, shipper_of
from tests.support.capture import ANSWER, captured_trace
from tests.support.store import write_config

PRIVACY = "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n"
ENVIRON = {"MASTER": base64.b64encode(b"m" * 32).decode()}
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
BODY = json.dumps(CHAT).encode(), [json.dumps(ANSWER).encode()]


@pytest.fixture(params=["", PRIVACY], ids=["plain", "encrypted"])
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Config]:
    monkeypatch.setenv("MASTER", ENVIRON["MASTER"])
    config = load_config(write_config(tmp_path, request.param))
    yield config
    shutil.rmtree(paths_of(config).segments, ignore_errors=True)


def writer_of(paths: Paths) -> SegmentWriter:
    return SegmentWriter(paths.segments, writer_name(0), max_bytes=256_000_000, at_bound="drop_oldest")


def spool_files(paths: Paths) -> list[SpoolContents]:
    files = [path for path in sorted(paths.spool.iterdir()) if path.suffix in (".open", ".sealed")]
    return [read_spool(path) for path in files]


def row_of(record: SpoolRecord) -> dict[str, Any]:
    return msgspec.msgpack.decode(record.row)  # type: ignore[no-any-return]


def append(writer: SegmentWriter, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        writer.append(captured_trace(f"t{n}", subject=f"p{n}", session=f"s{n}"), *BODY)


def ask(records: list[SpoolRecord]) -> Any:
    blobs = {row_of(record)["blob"]: row_of(record) for record in records if record.table == "blobs"}
    return lambda _, parameters: [blobs[parameters["blob"]]] if parameters["blob"] in blobs else []


def test_every_reader_sees_the_body_as_if_nothing_had_been_split(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    append(writer, 6)
    recorder.close()
    records = [record for contents in spool_files(paths) for record in contents.records]
    bodies = Bodies.of(KeySource.of(config), ENVIRON, ask(records))
    traces = [
        msgspec.convert(row_of(record), Trace, strict=False) for record in records if record.table == "traces"
    ]
    assert len(traces) == 6
    for trace in traces:
        assert json.loads(bodies.trace(trace).request or "") == CHAT
        assert json.loads(bodies.trace(trace).response or "") == ANSWER
    sizes = [len(trace.request or "") for trace in traces]
    assert sizes[-1] < len(BODY[0]) / 2


def test_a_blob_stands_before_the_rows_that_name_it_and_once_in_a_file(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    append(writer, 8)
    recorder.close()
    (contents,) = spool_files(paths)
    blobs = [row_of(record)["blob"] for record in contents.records if record.table == "blobs"]
    assert len(blobs) == len(set(blobs)) == (3 if config.privacy.encrypt == "none" else 2)
    first_shared = next(
        index for index, record in enumerate(contents.records)
        if record.table == "traces" and index and contents.records[index - 1].table == "blobs"
    )  # fmt: skip
    assert all(
        record.table == "blobs" for record in contents.records[first_shared - len(blobs) : first_shared]
    )
    assert list(_by_table(contents)) == ["blobs", "traces"], "and reaches the store first"


def test_every_file_that_the_store_has_not_confirmed_stands_for_itself(config: Config) -> None:
    """So that dropping the oldest takes nothing from the rows of the others."""
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    for n in range(3):
        append(writer, 4, start=4 * n)
        recorder.step()
        recorder._seal()
    for contents in spool_files(paths):
        bodies = Bodies.of(KeySource.of(config), ENVIRON, ask(contents.records))
        for record in contents.records:
            if record.table == "traces":
                trace = msgspec.convert(row_of(record), Trace, strict=False)
                assert json.loads(bodies.trace(trace).request or "") == CHAT
    recorder.close()


def test_what_the_store_has_confirmed_is_not_written_again(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    append(writer, 5)
    recorder.step()
    recorder._seal()
    for path in paths.spool.glob("*.sealed"):
        shipped(paths, path)
    recorder._housekeeping_at = 0.0
    recorder.step()
    append(writer, 5, start=5)
    recorder.close()
    (contents,) = spool_files(paths)
    assert [record.table for record in contents.records] == ["traces"] * 5


def shipped(paths: Paths, path: Path, without: int = 0) -> None:
    """As the shipper does with what was stored, all but so many of its blobs."""
    rows = [row_of(record) for record in read_spool(path).records if record.table == "blobs"][without:]
    Deliveries(paths.spool).put_down(path.name, {row["blob"]: row["used_until"] for row in rows})
    path.unlink()


@pytest.mark.parametrize("fate", ["lost", "dropped", "stored in part", "another stored"])
def test_a_file_that_is_gone_without_being_confirmed_is_relied_on_by_no_row(
    config: Config, fate: str
) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    append(writer, 5)
    recorder.step()
    recorder._seal()
    (path,) = paths.spool.glob("*.sealed")
    if fate == "lost":
        path.unlink()
    elif fate == "dropped":
        assert recorder._spool.drop(path, lambda _: None)
    elif fate == "stored in part":
        shipped(paths, path, without=1)
    else:
        shipped(paths, Path(shutil.copy(path, path.with_name("0-another.sealed"))))
        path.unlink()
    recorder._housekeeping_at = 0.0
    recorder.step()
    append(writer, 5, start=5)
    recorder.close()
    (contents,) = spool_files(paths)
    named = {row_of(record)["blob"] for record in contents.records if record.table == "blobs"}
    assert len(named) == (3 if config.privacy.encrypt == "none" else 2)


@pytest.mark.parametrize("refuses", [False, True], ids=["taken", "refused"])
def test_the_recorder_relies_on_what_the_shipper_has_stored_and_not_on_what_the_store_refused(
    embedded_config_path: Path, clean_store: Store, refuses: bool
) -> None:
    if refuses:
        clean_store.command("ALTER TABLE blobs ADD CONSTRAINT choosy CHECK kind != 'tools'")
    try:
        with data_directory(embedded_config_path) as (config, paths):
            writer, recorder, shipper = writer_of(paths), Recorder(config), shipper_of(config, paths)
            for n in range(2):
                append(writer, 5, start=5 * n)
                recorder.step()
                recorder._seal()
                if n:
                    break
                while shipper.step():
                    continue
                recorder._housekeeping_at = 0.0
                recorder.step()
            (contents,) = spool_files(paths)
            recorder.close()
            shipper.close()
        named = [row_of(record)["kind"] for record in contents.records if record.table == "blobs"]
        assert sorted(named) == (["image", "system", "tools"] if refuses else [])
    finally:
        clean_store.command("ALTER TABLE blobs DROP CONSTRAINT IF EXISTS choosy")


def test_what_was_confirmed_is_forgotten_beyond_a_bound_and_the_latest_last(tmp_path: Path) -> None:
    deliveries = Deliveries(tmp_path)
    for n in range(DELIVERED_FILES + 3):
        deliveries.put_down(f"{n}.sealed", {"b": NOON + timedelta(n)})
    deliveries.put_down("without blobs.sealed", {})
    told = delivered(tmp_path)
    assert list(told) == [f"{n}.sealed" for n in range(3, DELIVERED_FILES + 3)]
    assert len(set(told.values())) == DELIVERED_FILES


def test_a_disk_that_does_not_take_what_was_confirmed_confirms_nothing(tmp_path: Path) -> None:
    (tmp_path / "delivered.json").mkdir()
    Deliveries(tmp_path).put_down("1.sealed", {"b": NOON})
    assert delivered(tmp_path) == {}


def test_blobs_are_not_counted_as_rows_written_dropped_or_left_behind(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    append(writer, 7)
    recorder.step()
    assert recorder._progress.written == 7
    recorder._seal()
    (path,) = paths.spool.glob("*.sealed")
    dropped: list[int] = []
    recorder._spool.drop(path, dropped.append)
    assert dropped == [7]
    recorder.close()


def test_a_killed_recorder_repeats_no_row_because_of_a_blob(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    append(writer, 5)
    recorder.step()  # and dies here: its progress is not saved, its spool file is open
    Recorder(config).close()
    ids = [
        row_of(record)["trace_id"]
        for contents in spool_files(paths)
        for record in contents.records
        if record.table == "traces"
    ]
    assert ids == [f"t{n}" for n in range(5)]


def split_for_several(at: datetime) -> tuple[Any, list[BlobRow]]:
    """CHAT as it is split for the last of as many people as make its parts shared."""
    splitter = Splitter(None, 1 << 20)
    for n in range(SHARED_BY):
        last = splitter.split(CHAT, client="", owner=(f"person {n}", "s"), started_at=at)
    return last


def test_without_encryption_too_what_one_person_sent_stays_in_that_persons_rows() -> None:
    splitter = Splitter(None, 1 << 20)
    for n in range(20):
        assert splitter.split(CHAT, client="", owner=("ann", f"s{n}"), started_at=NOON) == (CHAT, [])
    assert splitter.split(CHAT, client="", owner=("bob", "s"), started_at=NOON) == (CHAT, [])


def test_traces_of_which_nobody_knows_whose_they_are_make_nothing_shared() -> None:
    writer = BodyWriter()
    for n in range(20):
        written = writer.bodies(Owner("", None, f"t{n}"), f"t{n}", NOON, CHAT, None)
        assert written.blobs == []


def test_a_blob_that_is_missing_is_an_error_that_names_the_row() -> None:
    row, named = split_for_several(NOON)
    stored = msgspec.json.encode(row).decode()
    with pytest.raises(
        DamagedBodyError, match=r"traces\.request of t1 refers to blob .* which the store does not"
    ):
        Bodies(lambda: None).body(stored, "traces.request of t1")
    assert len(named) == 3


def test_small_parts_are_not_split_and_neither_are_links_to_images() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"image_url": {"url": "https://example.com/" + "x" * 2000}}]},
        ],
        "tools": TOOLS[:2],
    }
    assert Splitter(None, 1 << 20).split(body, client="", owner=(None, "s"), started_at=NOON) == (body, [])


@pytest.mark.parametrize("config", [PRIVACY], indirect=True)
def test_encrypted_a_prompt_is_shared_only_once_several_people_had_it_and_an_image_never(
    config: Config,
) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    for n in range(20):
        writer.append(captured_trace(f"a{n}", subject="ann", session=f"s{n}"), *BODY)
    recorder.step()
    assert all(record.table == "traces" for contents in spool_files(paths) for record in contents.records)
    append(writer, SHARED_BY)
    recorder.close()
    records = [record for contents in spool_files(paths) for record in contents.records]
    kinds = {row_of(record)["kind"] for record in records if record.table == "blobs"}
    assert kinds == {"system", "tools"}
    everything = b"".join(path.read_bytes() for path in paths.data.rglob("*") if path.is_file())
    for text in (SYSTEM[:60], IMAGE[:60], "parameters"):
        assert text.encode() not in everything


def test_a_blob_outlives_every_trace_that_may_rely_on_it() -> None:
    """A trace is written without its blob only where the blob's time is past the trace's own."""
    ledger = BlobLedger()
    for hours in range(0, 24 * 9, 5):
        at = NOON + timedelta(hours=hours)
        row = BlobRow(blob="b", kind="system", content="{}", used_until=relied_on_until(at))
        if ledger.missing([row], {}):
            kept_until = row.used_until
            ledger.wrote({"b": row.used_until})
            name = f"{hours}.sealed"
            ledger.sealed(name)
            ledger.look([], functools.partial(dict, [(name, digest_of({"b": row.used_until}))]))
        assert kept_until > at


def test_a_blob_that_was_confirmed_for_a_shorter_time_is_written_again() -> None:
    row = BlobRow(blob="b", kind="system", content="{}", used_until=relied_on_until(NOON))
    earlier = {"b": row.used_until - timedelta(days=1)}
    ledger = BlobLedger()
    ledger.wrote({"b": row.used_until})
    ledger.sealed("1.sealed")
    ledger.look([], lambda: {"1.sealed": digest_of(earlier)})
    assert ledger.missing([row], {}) == [row]


def test_in_the_store_a_blob_is_kept_once_however_often_it_came(clean_store: Store) -> None:
    body, named = split_for_several(NOON)
    _, later = split_for_several(NOON + timedelta(hours=20))
    for rows in (named, named, later):
        built = [msgspec.msgpack.decode(msgspec.msgpack.encode(row)) for row in rows]
        assert deliver(clean_store, "blobs", built, os.urandom(8).hex(), suspect=True, settle_s=0) == []
    clean_store.command("OPTIMIZE TABLE blobs FINAL")
    kept = clean_store.query("SELECT blob, used_until FROM blobs")
    assert {row["blob"]: row["used_until"] for row in kept} == {row.blob: row.used_until for row in later}
    assert len(kept) == 3
    stored = msgspec.json.encode(body).decode()
    assert json.loads(clean_store.bodies.body(stored, "traces.request of t1")) == CHAT
