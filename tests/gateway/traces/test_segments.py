"""Segments: what was appended is read, what was torn is cut, what was dropped is counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.errors import OperationError
from gateway.traces.segment_files import HEADER, MAGIC
from gateway.traces.segments import RESERVE_BYTES, SegmentReader, SegmentWriter, writer_name
from gateway.traces.types import CapturedFeedback

PLENTY = 256_000_000


def captured(number: int) -> CapturedFeedback:
    return CapturedFeedback(
        feedback_id=f"f{number}",
        trace_id=None,
        session=None,
        client="",
        kind="rating",
        value=1.0,
        text=None,
        created_at_us=number,
    )


def ids(reader: SegmentReader) -> list[str]:
    found = []
    for path in reader.segments():
        batch = reader.read(path, 0)
        assert batch is not None
        found += [r.captured.feedback_id for r in batch.records]
    return found


@pytest.mark.parametrize("length", [10, 100])  # of a chunk: written in one piece, and in several
def test_every_appended_record_is_read_back_as_it_was(tmp_path: Path, length: int) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    chunks = [f"{n};".encode().ljust(length) for n in range(3000)]  # more than one writev takes
    assert writer.append(captured(1), b"request", chunks)
    assert writer.append(captured(2))
    reader = SegmentReader(tmp_path)
    (path,) = reader.segments()
    batch = reader.read(path, 0)
    assert batch is not None
    first, second = batch.records
    assert (first.captured, first.request, first.response) == (captured(1), b"request", b"".join(chunks))
    assert (second.captured, second.request, second.response) == (captured(2), b"", b"")
    assert not batch.finished
    again = reader.read(path, first.end)
    assert again is not None
    assert [r.captured for r in again.records] == [captured(2)]


def test_memory_taken_ahead_makes_no_segment_longer_and_is_given_back(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    writer.append(captured(1))
    (path,) = SegmentReader(tmp_path).segments()
    active = path.stat()
    records = SegmentReader(tmp_path).read(path, 0)
    assert records is not None
    assert active.st_size == records.records[-1].end
    assert active.st_blocks * 512 > 2 * RESERVE_BYTES // 3, "nothing was taken ahead"
    writer.close()
    finished = path.stat()
    assert finished.st_size == active.st_size
    assert finished.st_blocks * 512 <= finished.st_size + 64 * 1024


def test_a_segment_is_finished_only_once_its_writer_closed_it(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    reader = SegmentReader(tmp_path)
    writer.append(captured(1))
    (path,) = reader.segments()
    assert not reader.free(path)
    writer.close()
    batch = reader.read(path, 0)
    assert batch is not None
    assert batch.finished
    assert reader.free(path)
    assert reader.segments() == []
    assert reader.read(path, 0) is None


def test_a_record_without_its_commit_mark_is_in_progress_then_torn(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    writer.append(captured(1))
    reader = SegmentReader(tmp_path)
    (path,) = reader.segments()
    torn = HEADER.pack(MAGIC, 0, 10, 1000, 1000) + b"x" * 500
    with path.open("ab") as file:
        file.write(torn)
    batch = reader.read(path, 0)
    assert batch is not None
    assert (len(batch.records), batch.torn_bytes) == (1, 0)
    os.close(writer._fd)  # the lock goes, as with a kill
    batch = reader.read(path, 0)
    assert batch is not None
    assert (len(batch.records), batch.torn_bytes) == (1, len(torn))


def test_unreadable_meta_is_handed_on_and_does_not_hide_what_follows(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    writer.append(captured(1))
    reader = SegmentReader(tmp_path)
    (path,) = reader.segments()
    with path.open("r+b") as file:
        file.seek(HEADER.size)
        file.write(b"\xc1")  # a byte that no msgpack has
    writer.append(captured(2))
    batch = reader.read(path, 0)
    assert batch is not None
    assert [r.captured for r in batch.records] == [None, captured(2)]


@pytest.mark.parametrize("at_bound", ["drop_newest", "refuse"])
def test_at_the_bound_new_records_are_dropped_and_counted(tmp_path: Path, at_bound: str) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=1_000_000, at_bound=at_bound)  # type: ignore[arg-type]
    accepted = [n for n in range(300) if writer.append(captured(n), b"x" * 10_000)]
    assert len(accepted) + writer.dropped["memory_bound"] == 300
    assert writer.appended == len(accepted) > 80
    reader = SegmentReader(tmp_path)
    assert sorted(ids(reader)) == sorted(f"f{n}" for n in accepted)
    assert writer.full() is (at_bound == "refuse")
    for path in reader.segments():
        reader.free(path)
    time.sleep(0.06)
    assert not writer.full()
    assert writer.append(captured(1), b"x" * 10_000)


def test_refusing_starts_before_the_bound_so_that_requests_in_flight_still_fit(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=1_000_000, at_bound="refuse")
    while not writer.full():
        assert writer.append(captured(1), b"x" * 10_000)
    assert all(writer.append(captured(2), b"x" * 10_000) for _ in range(10))
    assert writer.dropped == {}


def test_drop_oldest_keeps_the_newest_and_its_tombstones_account_for_the_rest(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=1_000_000, at_bound="drop_oldest")
    for n in range(300):
        assert writer.append(captured(n), b"x" * 10_000)
    reader = SegmentReader(tmp_path)
    kept = ids(reader)
    evicted = sum(count for _, _, count in reader.tombstones())
    assert len(kept) + evicted == 300
    assert kept == [f"f{n}" for n in range(evicted, 300)]
    assert sum(path.stat().st_size for path in reader.segments()) <= 1_000_000


def test_a_tombstone_beside_its_segment_counts_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    writer.append(captured(1))
    writer.close()
    reader = SegmentReader(tmp_path)
    (path,) = reader.segments()
    path.with_suffix(".evicted").write_text("1")  # the evicting writer died before it removed the segment
    assert reader.tombstones() == []
    assert ids(reader) == ["f1"]
    assert reader.free(path)
    assert list(tmp_path.iterdir()) == []


def test_an_oversized_record_keeps_its_row_without_bodies(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w", max_bytes=1_000_000, at_bound="drop_newest")
    assert writer.append(captured(1), b"x" * 2_000_000)
    reader = SegmentReader(tmp_path)
    batch = reader.read(reader.segments()[0], 0)
    assert batch is not None
    (record,) = batch.records
    assert (record.captured, record.request, record.bodies_left_out) == (captured(1), b"", True)


def test_what_the_system_refuses_is_counted_and_never_raised(tmp_path: Path) -> None:
    directory = tmp_path / "segments"
    writer = SegmentWriter(directory, "w", max_bytes=PLENTY, at_bound="drop_oldest")
    directory.rmdir()
    assert not writer.append(captured(1))
    assert writer.dropped == {"memory_error": 1}
    directory.mkdir()
    assert writer.append(captured(2))
    assert ids(SegmentReader(directory)) == ["f2"]


FULL_TMPFS = """
import resource, signal, sys
from pathlib import Path
from gateway.traces.segments import SegmentWriter
from test_segments import captured
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
writer = SegmentWriter(Path(sys.argv[1]), "w", max_bytes=256_000_000, at_bound="drop_oldest")
kept = sum(writer.append(captured(n), b"x" * 9_000) for n in range(20))
print(kept, writer.dropped["memory_error"])
"""


def test_a_short_write_leaves_no_half_record_and_is_counted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_TMPFS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, dropped = map(int, done.stdout.split())
    assert kept + dropped == 20
    reader = SegmentReader(tmp_path)
    batch = reader.read(reader.segments()[0], 0)
    assert batch is not None
    assert (len(batch.records), batch.torn_bytes) == (kept, 0)


APPEND_FOREVER = """
import sys
from pathlib import Path
from gateway.traces.segments import SegmentWriter
from test_segments import captured
writer = SegmentWriter(Path(sys.argv[1]), sys.argv[2], max_bytes=256_000_000, at_bound="drop_oldest")
for n in range(100_000):
    writer.append(captured(n), b"x" * 100_000, [b"y" * 100_000] * 3)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_loses_no_record_that_it_had_appended(tmp_path: Path) -> None:
    for run in range(5):
        directory = tmp_path / str(run)
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOREVER, str(directory), writer_name(run)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.01 * run)
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [line for line in process.stdout.read().splitlines(keepends=False) if line]
        process.wait()
        reader = SegmentReader(directory)
        found = ids(reader)
        assert found == [f"f{n}" for n in range(len(found))]
        assert len(found) >= len(acknowledged) + 1
        assert all(batch.finished for p in reader.segments() if (batch := reader.read(p, 0)))


def test_a_folder_is_private_and_a_foreign_thing_in_its_place_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "segments"
    SegmentReader(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(OperationError, match="somebody else"):
        SegmentReader(tmp_path / "link")
