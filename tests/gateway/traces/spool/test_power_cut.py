"""What `capture.fsync` promises: which syncs there are, and that `always` syncs before memory is freed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.paths import paths_of
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.spool.spool import FSYNC_EVERY_S, Spool, SpoolBoundError
from gateway.traces.spool.spool_file import encode_record, read_spool
from tests.support.capture import ANSWER, REQUEST, captured_trace
from tests.support.store import a_trace, store_config

BODY = json.dumps(REQUEST).encode(), [json.dumps(ANSWER).encode()]
PLENTY = 100_000_000


class Syncs:
    """Takes the place of fdatasync and fsync, and notes the size of what was synced."""

    def __init__(self, refused: list[int] | None = None) -> None:
        self.files: list[int] = []
        self.folders = 0
        self._refused = refused or []

    def file(self, fd: int) -> None:
        if self._refused:
            raise OSError(self._refused.pop(0), "the disk failed")
        os.fdatasync(fd)
        self.files.append(os.fstat(fd).st_size)

    def folder(self, fd: int) -> None:
        os.fsync(fd)
        self.folders += 1


def payload(number: int) -> bytes:
    return encode_record("w.seg", number, number, "traces", a_trace(trace_id=f"t{number}"))


def spool_in(directory: Path, fsync: str, syncs: Syncs) -> Spool:
    return Spool(directory, fsync=fsync, max_bytes=PLENTY, sync=syncs.file, sync_entries=syncs.folder)  # type: ignore[arg-type]


def test_never_syncs_nothing(tmp_path: Path) -> None:
    syncs = Syncs()
    spool = spool_in(tmp_path, "never", syncs)
    for number in range(3):
        spool.append([payload(number)])
        spool.sync_when_due()
    spool.seal()
    assert (syncs.files, syncs.folders) == ([], 0)


def test_always_syncs_every_group_as_it_is_written_and_the_file_s_name_once(tmp_path: Path) -> None:
    syncs = Syncs()
    spool = spool_in(tmp_path, "always", syncs)
    sizes = []
    for number in range(3):
        spool.append([payload(number), payload(number + 10)])
        (path,) = tmp_path.glob("*.open")
        sizes.append(path.stat().st_size)
    spool.seal()
    assert (syncs.files, syncs.folders) == (sizes, 1)


def test_interval_syncs_once_in_a_while_and_at_the_end_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs()
    spool = spool_in(tmp_path, "interval", syncs)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number in range(5):
        spool.append([payload(number)])
        spool.sync_when_due()
    assert (syncs.files, syncs.folders) == ([], 1)
    now += FSYNC_EVERY_S
    spool.sync_when_due()
    spool.sync_when_due()
    assert len(syncs.files) == 1
    spool.append([payload(9)])
    spool.seal()
    (path,) = tmp_path.glob("*.sealed")
    assert syncs.files[1:] == [path.stat().st_size]


def test_interval_seals_what_was_synced_without_syncing_it_again(tmp_path: Path) -> None:
    syncs = Syncs()
    spool = spool_in(tmp_path, "interval", syncs)
    spool.append([payload(1)])
    spool._unsynced_at = time.monotonic() - FSYNC_EVERY_S
    spool.sync_when_due()
    spool.seal()
    assert len(syncs.files) == 1


@pytest.fixture
def always(tmp_path: Path) -> Iterator[Callable[..., tuple[Recorder, SegmentWriter, Path]]]:
    config = store_config(tmp_path, "capture: {fsync: always}\n")
    paths = paths_of(config)

    def make(sync: Callable[[int], None]) -> tuple[Recorder, SegmentWriter, Path]:
        writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=PLENTY, at_bound="drop_oldest")
        return Recorder(config, sync=sync), writer, paths.segments

    yield make
    shutil.rmtree(paths.segments, ignore_errors=True)


def test_always_frees_memory_only_after_the_rows_in_it_were_synced(
    always: Callable[..., tuple[Recorder, SegmentWriter, Path]],
) -> None:
    there: list[bool] = []
    recorder, writer, segments = always(
        lambda fd: (os.fdatasync(fd), there.append(bool(list(segments.glob("*.seg")))))
    )
    writer.append(captured_trace("t1"), *BODY)
    writer.close()
    recorder.step()
    assert there == [True]
    assert list(segments.glob("*.seg")) == []


def test_always_keeps_in_memory_what_the_disk_would_not_sync_and_stores_it_once(
    tmp_path: Path, always: Callable[..., tuple[Recorder, SegmentWriter, Path]]
) -> None:
    syncs = Syncs(refused=[5, 5])
    recorder, writer, segments = always(syncs.file)
    writer.append(captured_trace("t1"), *BODY)
    writer.close()
    assert not recorder.step()
    assert len(list(segments.glob("*.seg"))) == 1
    assert not recorder.step()
    assert recorder.step()
    recorder.close()
    (path,) = paths_of(store_config(tmp_path)).spool.glob("*.sealed")
    assert len(read_spool(path).records) == 1
    assert list(segments.glob("*.seg")) == []


def test_a_spool_that_reaches_back_too_far_takes_no_more_and_names_the_setting(tmp_path: Path) -> None:
    spool = Spool(tmp_path, fsync="never", max_bytes=PLENTY, max_age_s=3600)
    spool.append([payload(1)])
    spool.seal()
    spool.append([payload(2)])
    (path,) = tmp_path.glob("*.sealed")
    old = path.rename(tmp_path / f"{time.time_ns() - 3601 * 10**9:019d}-aaaaaaaa.sealed")
    spool._scan()
    with pytest.raises(SpoolBoundError, match=r"capture\.max_age_days"):
        spool.append([payload(3)])
    old.unlink()
    spool._scan()
    spool.append([payload(3)])
