"""The recorder: appended == spooled + dropped, whatever dies, fills up or is damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config
from gateway.errors import OperationError
from gateway.paths import Paths, paths_of
from gateway.traces.recorder import Recorder
from gateway.traces.segment_files import HEADER, MAGIC
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.spool.spool_file import SpoolRecord, read_spool
from gateway.traces.stage import only_one
from tests.support.capture import (
    ANSWER,
    REQUEST,
    captured_event,
    captured_feedback,
    captured_trace,
    running,
    start,
    stop,
    wait_until,
)
from tests.support.disk import small_disk
from tests.support.forked import forked, kill
from tests.support.store import store_config, write_config

LARGE = json.dumps({"messages": [{"role": "user", "content": "fine " * 1500}]}).encode()
BODY = json.dumps(REQUEST).encode(), [json.dumps(ANSWER).encode()]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[Config, Paths]]]:
    folders = []

    def configure(extra: str = "") -> tuple[Config, Paths]:
        config = store_config(tmp_path, extra)
        folders.append(paths_of(config).segments)
        return config, paths_of(config)

    yield configure
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def writer_of(paths: Paths, index: int = 0, **changes: Any) -> SegmentWriter:
    options = {"max_bytes": 256_000_000, "at_bound": "drop_oldest", **changes}
    return SegmentWriter(paths.segments, writer_name(index), **options)


def spooled(paths: Paths) -> list[SpoolRecord]:
    files = [path for path in sorted(paths.spool.iterdir()) if path.suffix in (".open", ".sealed")]
    return [record for path in files for record in read_spool(path).records]


def spooled_ids(paths: Paths) -> list[str]:
    return [id_of(record) for record in spooled(paths)]


def ids_in(path: Path) -> list[str]:
    return [id_of(record) for record in read_spool(path).records]


def id_of(record: SpoolRecord) -> str:
    return msgspec.msgpack.decode(record.row)["trace_id"]  # type: ignore[no-any-return]


def report(paths: Paths, stage: str = "recorder") -> dict[str, Any]:
    return json.loads((paths.state / f"{stage}.json").read_text())  # type: ignore[no-any-return]


def test_what_was_appended_is_spooled_once_and_its_memory_freed(make: Any) -> None:
    config, paths = make()
    writer = writer_of(paths)
    recorder = Recorder(config)
    for n in range(50):
        writer.append(captured_trace(f"t0-{n}"), *BODY)
        if n % 7 == 0:
            recorder.step()
    writer.close()
    recorder.close()
    assert spooled_ids(paths) == [f"t0-{n}" for n in range(50)]
    assert list(paths.segments.glob("*.seg")) == []
    assert list(paths.spool.glob("*.open")) == []
    told = report(paths)
    assert (told["written"], told["dropped"], told["errors"], told["backlog_bytes"]) == (50, {}, None, 0)
    assert told["oldest_age_s"] is None


def test_traces_feedback_and_rollout_events_go_to_their_tables(make: Any) -> None:
    config, paths = make()
    writer = writer_of(paths)
    for captured in (captured_trace(), captured_feedback(), captured_event()):
        writer.append(captured)
    Recorder(config).close()
    assert [record.table for record in spooled(paths)] == ["traces", "feedback", "rollouts"]


def test_a_record_that_cannot_be_read_is_counted_and_hides_nothing(make: Any) -> None:
    config, paths = make()
    writer = writer_of(paths)
    writer.append(captured_trace("t0-1"), *BODY)
    (path,) = paths.segments.glob("*.seg")
    with path.open("r+b") as file:
        file.seek(HEADER.size)
        file.write(b"\xc1")
    writer.append(captured_trace("t0-2"), *BODY)
    recorder = Recorder(config)
    recorder.close()
    assert spooled_ids(paths) == ["t0-2"]
    assert report(paths)["quarantined"] == 1


def test_what_cannot_be_kept_counts_once_however_often_the_disk_refuses_what_is_beside_it(make: Any) -> None:
    config, paths = make("capture: {fsync: always, at_bound: drop_newest}\n")
    writer = writer_of(paths)
    writer.append(captured_trace("t0-1"), *BODY)
    (path,) = paths.segments.glob("*.seg")
    with path.open("r+b") as file:
        file.seek(HEADER.size)
        file.write(b"\xc1")
    writer.append(captured_trace("t0-2"), *BODY)
    refusals = iter([OSError(28, "No space left")] * 3)

    def sync(_: int) -> None:
        if (refusal := next(refusals, None)) is not None:
            raise refusal

    recorder = Recorder(config, sync=sync)
    assert [recorder.step() for _ in range(4)] == [False, False, False, True]
    recorder.close()
    assert spooled_ids(paths) == ["t0-2"]
    assert report(paths)["quarantined"] == 1


def test_what_cannot_be_kept_is_counted_before_its_memory_is_freed(make: Any) -> None:
    config, paths = make()
    writer = writer_of(paths)
    writer.append(captured_trace("t0-1"), *BODY)
    writer.close()
    (path,) = paths.segments.glob("*.seg")
    with path.open("r+b") as file:
        file.seek(HEADER.size)
        file.write(b"\xc1")
    Recorder(config).step()  # killed here
    assert not path.exists()
    Recorder(config).close()
    assert report(paths)["quarantined"] == 1


def test_a_row_that_cannot_be_built_from_its_bodies_is_kept_without_them(make: Any) -> None:
    config, paths = make("capture: {max_bytes: 1000000}\n")
    writer = writer_of(paths)
    huge = {"messages": [{"content": "x" * 20_000} for _ in range(40)]}
    writer.append(captured_trace("t0-1"), json.dumps(huge).encode(), BODY[1])
    writer.append(captured_trace("t0-2"), *BODY)
    Recorder(config).close()
    assert spooled_ids(paths) == ["t0-1", "t0-2"]
    assert b"left_out" in bytes(spooled(paths)[0].row)


def test_a_torn_tail_of_a_dead_worker_is_cut_and_counted(make: Any) -> None:
    config, paths = make()
    writer = writer_of(paths)
    writer.append(captured_trace("t0-1"), *BODY)
    (path,) = paths.segments.glob("*.seg")
    with path.open("ab") as file:
        file.write(HEADER.pack(MAGIC, 0, 10, 10_000, 10_000) + b"x" * 100)
    recorder = Recorder(config)
    recorder.step()
    os.close(writer._fd)  # the lock goes, as with a kill
    recorder.close()
    assert spooled_ids(paths) == ["t0-1"]
    assert report(paths)["torn"] == 1
    assert list(paths.segments.glob("*.seg")) == []


def test_evicted_traces_are_counted_once_and_those_already_taken_are_not(make: Any) -> None:
    config, paths = make()
    writer = writer_of(paths, max_bytes=1_000_000)
    recorder = Recorder(config)
    for n in range(20):
        writer.append(captured_trace(f"t0-{n}"), b'"' + b"x" * 10_000 + b'"')
    recorder.step()
    for n in range(20, 300):
        writer.append(captured_trace(f"t0-{n}"), b'"' + b"x" * 10_000 + b'"')
    recorder.close()
    Recorder(config).close()
    told = report(paths)
    assert len(set(spooled_ids(paths))) == told["written"]
    assert told["written"] + told["dropped"]["memory_bound"] == 300
    assert told["written"] >= 20
    assert list(paths.segments.glob("*.evicted")) == []


def test_at_the_spool_bound_drop_oldest_drops_sealed_rows_and_counts_them(make: Any) -> None:
    config, paths = make("capture: {max_bytes: 1000000, at_bound: drop_oldest}\n")
    writer = writer_of(paths)
    recorder = Recorder(config)
    for n in range(200):
        writer.append(captured_trace(f"t0-{n}"), b'"' + b"x" * 10_000 + b'"')
        recorder.step()
    recorder.close()
    told = report(paths)
    kept = spooled_ids(paths)
    assert len(kept) + told["dropped"]["spool_bound"] == 200
    assert kept == [f"t0-{n}" for n in range(200 - len(kept), 200)]
    assert sum(path.stat().st_size for path in paths.spool.glob("*.sealed")) <= 1_000_000


@pytest.mark.parametrize("at_bound", ["drop_newest", "refuse"])
def test_at_the_spool_bound_the_other_policies_leave_the_rest_in_memory_and_go_on_later(
    make: Any, at_bound: str
) -> None:
    config, paths = make(f"capture: {{max_bytes: 1000000, at_bound: {at_bound}}}\n")
    writer = writer_of(paths, at_bound=at_bound)
    recorder = Recorder(config)
    for n in range(200):
        writer.append(captured_trace(f"t0-{n}"), b'"' + b"x" * 10_000 + b'"')
    assert not recorder.step()
    time.sleep(1.1)
    recorder.step()
    told = report(paths)
    assert "capture.max_bytes" in told["errors"]
    assert told["backlog_bytes"] > 0
    assert told["dropped"] == {}
    seen: list[str] = []

    def ship() -> bool:
        for path in paths.spool.glob("*.sealed"):
            seen.extend(ids_in(path))
            path.unlink()
        time.sleep(0.3)
        return recorder.step()

    wait_until(lambda: ship() and not recorder._spool.holds_rows)
    recorder.close()
    assert sorted(seen + spooled_ids(paths)) == sorted(f"t0-{n}" for n in range(200))
    assert report(paths)["errors"] is None


def test_a_full_disk_is_said_waited_out_and_costs_nothing(make: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "600k") as disk:
        config, paths = make(f"capture: {{spool: {disk.path}/spool}}\n")
        writer = writer_of(paths)
        recorder = Recorder(config)
        for n in range(200):
            writer.append(captured_trace(f"t0-{n}"), b'"' + b"x" * 10_000 + b'"')
        assert not recorder.step()
        time.sleep(1.1)
        assert not recorder.step()
        assert "No space left" in report(paths)["errors"]
        assert writer.append(captured_trace("t0-200"), *BODY)  # the worker serves on
        disk.resize("20m")
        assert recorder.step()
        recorder.close()
        assert spooled_ids(paths) == [f"t0-{n}" for n in range(201)]
        assert report(paths)["errors"] is None


def test_nothing_that_a_rule_covers_is_found_in_any_file(make: Any) -> None:
    config, paths = make()
    secrets = [
        "john.doe@example.com",
        "+49 30 1234567",
        "4111 1111 1111 1111",
        "sk-proj-abcdefghij0123456789",
    ]
    writer = writer_of(paths)
    text = json.dumps({"content": " and ".join(secrets)}).encode()
    writer.append(captured_trace("t0-1", tags={"note": secrets[0]}, error=secrets[1]), text, [text])
    writer.append(
        captured_trace("t0-2", stream=True),
        b"not json " + secrets[3].encode(),
        [b"data: " + secrets[2].encode() + b"\n\n"],
    )
    writer.append(captured_feedback(text=secrets[0]))
    Recorder(config).close()
    stored = b"".join(path.read_bytes() for path in paths.data.rglob("*") if path.is_file())
    for secret in secrets:
        assert secret.encode() not in stored
    assert len(spooled(paths)) == 3


def appending(paths: Paths, index: int) -> Callable[[], None]:
    """What a worker does, telling in a file each id it has appended."""
    writer = writer_of(paths, index)
    acknowledged = os.open(paths.data / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0

    def once() -> None:
        nonlocal count
        writer.append(captured_trace(f"t{index}-{count}"), LARGE, BODY[1])
        os.write(acknowledged, f"t{index}-{count}\n".encode())
        count += 1
        time.sleep(0.0002)

    return once


def test_killed_at_any_moment_worker_and_recorder_lose_nothing_and_double_nothing(make: Any) -> None:
    # A small spool seals often, so that kills fall around sealing too; what is sealed is shipped at once.
    config, paths = make("capture: {max_bytes: 2000000, at_bound: drop_newest}\n")
    paths.data.mkdir(exist_ok=True)
    dice = random.Random(4821)
    stored: list[str] = []

    def ship() -> None:
        for path in paths.spool.glob("*.sealed"):
            stored.extend(ids_in(path))
            path.unlink()

    def recording() -> None:
        recorder = Recorder(config)
        while True:
            recorder.step()

    for run in range(40):
        worker = forked(appending(paths, run))
        recorder = forked(recording)
        time.sleep(dice.uniform(0.005, 0.06))
        first, second = dice.sample([worker, recorder], 2)
        kill(first)
        ship()
        time.sleep(dice.uniform(0, 0.01))
        kill(second)
        ship()
    last = Recorder(config)
    wait_until(lambda: (last.step(), ship(), not list(paths.segments.glob("*.seg")))[-1])
    last.close()
    ship()
    acknowledged = (paths.data / "acknowledged").read_text().split()
    assert len(acknowledged) > 500
    assert set(acknowledged) - set(stored) == set()
    assert len(stored) == len(set(stored))
    assert len(stored) - len(acknowledged) <= 40  # appended, and killed before it could be told
    told = report(paths)
    assert (told["written"], told["dropped"]) == (len(stored), {})
    assert list(paths.segments.glob("*.seg")) == []


def test_the_process_records_reports_and_ends_cleanly(tmp_path: Path) -> None:
    config_path = write_config(tmp_path)
    paths = paths_of(store_config(tmp_path))
    try:
        with running("recorder", config_path) as process:
            writer = writer_of(paths)
            writer.append(captured_trace("t0-1"), *BODY)
            wait_until(lambda: list(paths.spool.glob("*.sealed")))
            second = start("recorder", config_path)
            _, logged = second.communicate(timeout=10)
            assert (second.returncode, logged.count("\n")) == (1, 1)
            assert "another recorder" in logged
            writer.append(captured_trace("t0-2"), *BODY)
            code, logged = stop(process)
            assert (code, logged) == (0, "ready\n")
        assert spooled_ids(paths) == ["t0-1", "t0-2"]
        assert report(paths)["written"] == 2
    finally:
        shutil.rmtree(paths.segments, ignore_errors=True)


def test_a_damaged_progress_file_does_not_stop_recording(make: Any) -> None:
    config, paths = make()
    paths.spool.mkdir(parents=True)
    (paths.spool / "recorder.json").write_text("{")
    writer_of(paths).append(captured_trace("t0-1"), *BODY)
    Recorder(config).close()
    assert spooled_ids(paths) == ["t0-1"]


def test_a_lock_that_is_held_is_refused_with_its_name(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "a.lock", "recorder"),
        pytest.raises(OperationError, match=r"another recorder.*a\.lock"),
        only_one(tmp_path / "a.lock", "recorder"),
    ):
        raise AssertionError("two hold one lock")
