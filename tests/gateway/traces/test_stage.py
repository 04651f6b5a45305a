"""What recorder and shipper say of themselves: how fast, how far behind, and where, when the disk refuses it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.control.stages import lag_s, read_stages
from gateway.paths import paths_of
from gateway.traces.in_hand import InHand, booted_at
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_began_at, writer_name
from gateway.traces.shipper import Shipper
from gateway.traces.spool.backlog import backlog
from gateway.traces.spool.spool import Spool
from gateway.traces.spool.spool_file import born_at, encode_record, read_spool
from gateway.traces.stage import PACE_OVER_S, Pace, Report, Reporter
from gateway.traces.store import Store
from tests.support.capture import captured_feedback, captured_trace
from tests.support.disk import small_disk
from tests.support.store import a_trace, store_config, write_config

DAY_S = 86_400
PLENTY = 100_000_000


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.at(0.0, 500) == 0.0
    assert pace.at(2.0, 900) == 200.0
    for second in range(3, 60):
        steady = pace.at(float(second), 900 + 50 * second)
    assert steady == 50.0
    for second in range(60, 60 + int(PACE_OVER_S) + 2):
        idle = pace.at(float(second), 900 + 50 * 59)
    assert idle == 0.0


def test_a_report_that_the_disk_refuses_is_said_in_memory_and_the_later_word_counts(tmp_path: Path) -> None:
    disk, memory = tmp_path / "state" / "shipper.json", tmp_path / "stages" / "shipper.json"
    reporter = Reporter(disk, memory)
    reporter.publish(Report(written=1))
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "state").write_text("no folder can be here")
    reporter.publish(Report(written=2, errors="No space left on device"))
    assert (reporter.last().written, reporter.last().errors) == (2, "No space left on device")
    (tmp_path / "state").unlink()
    reporter.publish(Report(written=3))
    assert (reporter.last().written, reporter.last().errors) == (3, None)


def test_the_oldest_row_is_as_old_as_it_has_waited_whenever_its_file_was_last_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1234567890")
    now = time.time()
    left, age_s = backlog([(path, 4, now - 100)])
    assert left == 6
    assert age_s == pytest.approx(100, abs=5)
    assert backlog([(path, 10, now - 100)]) == (0, None)


def test_the_shipper_counts_the_open_file_and_its_age_as_not_stored(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", fsync="never", max_bytes=PLENTY)
    spool.append([encode_record("w.seg", 1, 1, "traces", a_trace(trace_id="t1"))])
    (path,) = (tmp_path / "spool").glob("*.open")
    old = path.rename(path.with_name(f"{time.time_ns() - 50 * 10**9:019d}-00000000.open"))
    assert time.time() - born_at(old) == pytest.approx(50, abs=5)

    def unreachable() -> Store:
        raise AssertionError("nothing is to be shipped")

    shipper = Shipper(tmp_path / "spool", tmp_path / "state", unreachable, None)  # type: ignore[arg-type]
    shipper.report(force=True)
    told = Reporter(tmp_path / "state" / "shipper.json").last()
    assert told.backlog_bytes == old.stat().st_size
    assert told.oldest_age_s == pytest.approx(50, abs=5)


def test_a_disk_that_takes_nothing_is_said_in_readiness_while_workers_append_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        config = load_config(write_config(disk.path))
        paths = paths_of(config)
        writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=PLENTY, at_bound="drop_oldest")
        try:
            recorder = Recorder(config)
            assert recorder.step()
            disk.fill(free=0)
            assert all(writer.append(captured_trace(f"t{n}")) for n in range(300))
            assert not recorder.step()
            recorder._reporter._due_at = 0.0
            recorder._taken_until = {path.name: time.time() - 60 for path in paths.segments.glob("*.seg")}
            assert not recorder.step()
            told = read_stages(paths)["recorder"]
            assert (told.alive, told.errors) == (True, "spool: No space left on device")
            assert told.backlog_bytes > 0
            assert lag_s(read_stages(paths)) == pytest.approx(60, abs=10)
            (disk.path / "filler").unlink()
            assert recorder.step()
            recorder.close()
            told = read_stages(paths)["recorder"]
            assert (told.errors, told.written, lag_s(read_stages(paths))) == (None, 300, 0.0)
        finally:
            shutil.rmtree(paths.segments, ignore_errors=True)


def test_a_segment_that_has_just_begun_is_not_as_old_as_its_writer(tmp_path: Path) -> None:
    config = store_config(tmp_path)
    paths = paths_of(config)
    an_hour_ago = f"w0-1-{time.time_ns() - 3600 * 10**9}"
    writer = SegmentWriter(paths.segments, an_hour_ago, max_bytes=PLENTY, at_bound="drop_oldest")
    try:
        recorder = Recorder(config)
        recorder.step()
        writer.append(captured_trace("t1"))
        recorder._report(force=True)  # as it may come between two segments
        assert lag_s(read_stages(paths)) < 60
        recorder.close()
    finally:
        shutil.rmtree(paths.segments, ignore_errors=True)


def test_a_disk_that_turns_read_only_is_said_waited_out_and_costs_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        config = store_config(tmp_path, f"capture: {{spool: {disk.path}/spool}}\n")
        paths = paths_of(config)
        writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=PLENTY, at_bound="drop_oldest")
        try:
            recorder = Recorder(config)
            disk.set_writable(False)
            assert writer.append(captured_trace("t1"))
            assert not recorder.step()
            recorder._report(force=True)
            assert "Read-only file system" in (read_stages(paths)["recorder"].errors or "")
            disk.set_writable(True)
            assert recorder.step()
            recorder.close()
            (path,) = paths.spool.glob("*.sealed")
            assert len(read_spool(path).records) == 1
        finally:
            shutil.rmtree(paths.segments, ignore_errors=True)


def test_what_waited_too_long_is_dropped_from_the_spool_and_counted(tmp_path: Path) -> None:
    config = store_config(tmp_path, "capture: {max_age_days: 2}\n")
    paths = paths_of(config)
    spool = Spool(paths.spool, fsync="never", max_bytes=PLENTY)
    for age_days in (3, 1):
        spool.append([encode_record("w.seg", n, n, "traces", a_trace()) for n in range(5)])
        spool.seal()
        path = max(spool.sealed(), key=born_at)
        path.rename(path.with_name(f"{time.time_ns() - age_days * DAY_S * 10**9:019d}-{age_days:08x}.sealed"))
    try:
        recorder = Recorder(config)
        recorder.step()
        recorder.close()
        told = read_stages(paths)["recorder"]
        assert told.dropped == {"spool_age": 5}
        assert [path.stem[-1] for path in paths.spool.glob("*.sealed")] == ["1"]
    finally:
        shutil.rmtree(paths.segments, ignore_errors=True)


@pytest.mark.parametrize(("at_bound", "dropped"), [("drop_oldest", {"memory_age": 2}), ("drop_newest", {})])
def test_while_nothing_can_be_written_what_waited_too_long_in_memory_goes_by_the_policy(
    tmp_path: Path, at_bound: str, dropped: dict[str, int]
) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        extra = f"capture: {{spool: {disk.path}/spool, max_age_days: 2, at_bound: {at_bound}}}\n"
        config = store_config(tmp_path, extra)
        paths = paths_of(config)
        writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=PLENTY, at_bound="drop_oldest")
        try:
            recorder = Recorder(config)
            old_us = (time.time_ns() - 3 * DAY_S * 10**9) // 1000
            writer.append(captured_trace("t1", started_at_us=old_us))
            writer.append(captured_feedback("f1", created_at_us=old_us))
            writer.append(captured_trace("t2"))
            disk.set_writable(False)
            assert not recorder.step()
            disk.set_writable(True)
            recorder.close()
            assert read_stages(paths)["recorder"].dropped == dropped
            (path,) = paths.spool.glob("*.sealed")
            assert len(read_spool(path).records) == 3 - sum(dropped.values())
        finally:
            shutil.rmtree(paths.segments, ignore_errors=True)


def test_how_far_a_file_got_is_in_its_mode_and_outlives_the_shipper(tmp_path: Path) -> None:
    path = tmp_path / "a.sealed"
    path.write_bytes(b"")
    path.chmod(0o600)

    def states() -> tuple[bool, bool]:
        fd = os.open(path, os.O_RDONLY)
        try:
            hand = InHand(fd)
            return hand.begun, hand.in_parts
        finally:
            os.close(fd)

    fd = os.open(path, os.O_RDONLY)
    hand = InHand(fd)
    assert states() == (False, False)
    hand.begin()
    assert states() == (True, False)
    hand.go_in_parts()
    assert states() == (True, True)
    InHand(fd).begin()
    assert states() == (True, True)
    os.close(fd)


def test_the_machine_s_start_is_read_from_the_kernel() -> None:
    assert booted_at("cpu 1 2\nbtime 1700000000\nprocesses 3\n") == 1_700_000_000.0
    assert booted_at("cpu 1 2\n") == 0.0
    assert 0 < booted_at(Path("/proc/stat").read_text()) < time.time()


def test_a_segment_tells_when_its_writer_began() -> None:
    before = time.time()
    assert before <= writer_began_at(f"{writer_name(3)}-00000001.seg") <= time.time()
    assert writer_began_at("w-00000001.seg") == 0.0
