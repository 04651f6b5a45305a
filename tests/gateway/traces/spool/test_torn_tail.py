"""A spool file whose torn tail the disk does not let be cut: the recorder goes on, and each row is there once."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.paths import Paths, paths_of
from gateway.traces.recorder import Recorder
from gateway.traces.spool.spool import Spool
from gateway.traces.spool.spool_file import encode_record, framed_size, read_spool
from tests.gateway.traces.test_recorder import BODY, ids_in, report, spooled_ids, writer_of
from tests.support.capture import captured_trace
from tests.support.store import a_trace, store_config

IDS = [f"t0-{n}" for n in range(9)]
WRITE = "gateway.traces.spool.spool._write_all"


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = paths_of(store_config(tmp_path))
    yield found
    shutil.rmtree(found.segments, ignore_errors=True)


def refuses(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def breaks_off(whole: int) -> Callable[[int, bytes], None]:
    """A write that ends after *whole* bytes and some of what follows."""

    def write(fd: int, data: bytes) -> None:
        assert os.write(fd, data[: whole + 11]) == whole + 11
        refuses()

    return write


def a_trace_payload(trace_id: str) -> bytes:
    return encode_record("w.seg", 1, 1, "traces", a_trace(trace_id=trace_id))


@pytest.fixture
def torn(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, Paths, Any]:
    """A recorder whose open file has rows, one that was refused when it was written, and half of another."""
    recorder, writer = Recorder(store_config(tmp_path)), writer_of(paths)
    for name in IDS[:3]:
        writer.append(captured_trace(name), *BODY)
    assert recorder.step()
    for name in IDS[3:6]:
        writer.append(captured_trace(name), *BODY)
    (path,) = paths.spool.glob("*.open")
    first = read_spool(path).records[0]
    size = framed_size([encode_record(first.segment, first.end, first.count, "traces", first.row)])  # type: ignore[arg-type]
    with monkeypatch.context() as failing:
        failing.setattr(WRITE, breaks_off(size))
        failing.setattr("os.ftruncate", refuses)
        assert not recorder.step()
    assert ids_in(path) == IDS[:4]
    return recorder, paths, writer


def test_it_is_sealed_as_it_is_and_rows_go_on_into_a_new_one_each_once(
    torn: tuple[Recorder, Paths, Any], caplog: pytest.LogCaptureFixture
) -> None:
    recorder, paths, writer = torn
    caplog.clear()

    assert recorder.step()

    assert [ids_in(path) for path in paths.spool.glob("*.sealed")] == [IDS[:4]]
    assert [ids_in(path) for path in paths.spool.glob("*.open")] == [IDS[4:6]]
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    (line,) = warned
    assert line.startswith("could not cut the torn tail of spool file ")
    assert line.endswith("(Input/output error); a new one is begun")
    for name in IDS[6:]:
        writer.append(captured_trace(name), *BODY)
    writer.close()
    recorder.close()
    assert spooled_ids(paths) == IDS
    assert list(paths.spool.glob("*.open")) == []
    told = report(paths)
    assert (told["torn"], told["written"], told["errors"]) == (1, len(IDS), None)


def test_where_it_cannot_be_sealed_either_it_is_left_and_sealed_as_soon_as_that_is_possible(
    torn: tuple[Recorder, Paths, Any],
) -> None:
    recorder, paths, writer = torn
    (left,) = paths.spool.glob("*.open")
    in_the_way = left.with_suffix(".sealed")
    in_the_way.mkdir()

    for name in IDS[6:]:
        writer.append(captured_trace(name), *BODY)
    writer.close()
    assert recorder.step()
    recorder._seal()

    assert left.exists()
    assert [ids_in(path) for path in paths.spool.glob("*.sealed") if path.is_file()] == [IDS[4:]]
    in_the_way.rmdir()
    recorder._housekeeping_at = 0.0
    assert recorder.step()
    recorder.close()
    assert not left.exists()
    assert spooled_ids(paths) == IDS
    assert report(paths)["torn"] == 1


def test_what_a_recorder_that_was_killed_left_so_is_counted_once_by_the_next_one(
    torn: tuple[Recorder, Paths, Any], tmp_path: Path
) -> None:
    recorder, paths, writer = torn
    (left,) = paths.spool.glob("*.open")
    left.with_suffix(".sealed").mkdir()
    writer.close()
    recorder.step()
    recorder._seal()
    another = writer_of(paths, 1)
    another.append(captured_trace(IDS[6]), *BODY)
    another.close()
    recorder.step()
    recorder._seal()  # and dies here
    left.with_suffix(".sealed").rmdir()

    Recorder(store_config(tmp_path)).close()

    assert spooled_ids(paths) == IDS[:7]
    assert report(paths)["written"] == 7


@pytest.mark.parametrize("sealable", [True, False], ids=["sealed", "left"])
def test_at_a_start_it_is_sealed_with_its_tail_or_left_and_stops_nothing(
    paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sealable: bool,
) -> None:
    spool = Spool(paths.spool, fsync="never", max_bytes=100_000_000)
    spool.append([a_trace_payload("t1")])
    (path,) = paths.spool.glob("*.open")
    with path.open("ab") as file:
        file.write(b"\xff" * 5)
    if not sealable:
        path.with_suffix(".sealed").mkdir()
    with monkeypatch.context() as failing:
        failing.setattr("os.truncate", refuses)
        recorder = Recorder(store_config(tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        f"could not cut (Input/output error) 5 torn bytes off spool file {path.name}"
    ]
    writer = writer_of(paths)
    writer.append(captured_trace("t2"), *BODY)
    writer.close()
    assert recorder.step()
    assert path.exists() is not sealable
    if not sealable:
        path.with_suffix(".sealed").rmdir()
    recorder._housekeeping_at = 0.0
    recorder.step()
    recorder.close()
    assert spooled_ids(paths) == ["t1", "t2"]
    assert list(paths.spool.glob("*.open")) == []
    assert json.loads((paths.spool / "recorder.json").read_text())["torn"] == 1


def test_at_a_start_a_file_that_cannot_be_read_is_left_and_stops_nothing(
    paths: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (paths.spool / "0-a.open").mkdir(parents=True)
    recorder, writer = Recorder(store_config(tmp_path)), writer_of(paths)
    assert "0-a.open cannot be read" in caplog.text
    writer.append(captured_trace("t1"), *BODY)
    writer.close()
    recorder.close()
    (path,) = paths.spool.glob("*.sealed")
    assert ids_in(path) == ["t1"]
    assert report(paths)["torn"] == 1
