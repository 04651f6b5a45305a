"""A spool file gives back what was written whole, and nothing that was not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.traces.rows import RowBuilder
from gateway.traces.spool.spool import Spool, SpoolBoundError
from gateway.traces.spool.spool_file import claim, encode_record, read_spool, sealed_files
from gateway.traces.types import Feedback
from tests.support.capture import captured_feedback, record

ROWS = RowBuilder(None)


def payload(number: int, size: int = 10) -> bytes:
    row = ROWS.build(record(captured_feedback(f"f{number}", text="x" * size)))
    assert isinstance(row.values, Feedback)
    return encode_record("w-1.seg", number * 100, number, row.table, row.values)


def spool_in(directory: Path, max_bytes: int = 100_000_000) -> Spool:
    return Spool(directory, fsync="never", max_bytes=max_bytes)


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.append([payload(1), payload(2)])
    spool.append([payload(3)])
    spool.seal()
    (path,) = sealed_files(tmp_path)
    contents = read_spool(path)
    assert [(one.segment, one.end, one.count) for one in contents.records] == [
        ("w-1.seg", 100, 1),
        ("w-1.seg", 200, 2),
        ("w-1.seg", 300, 3),
    ]
    assert (contents.damaged, contents.torn_bytes) == ([], 0)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_at_any_byte_holds_the_whole_records_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = spool_in(directory)
    spool.append([payload(number, number * 20) for number in range(1, 6)])
    (path,) = directory.glob("*.open")
    whole = read_spool(path)
    at = min(at, path.stat().st_size)
    os.truncate(path, at)
    ((_, contents, _),) = spool_in(directory).recover()
    assert contents is not None
    assert [one.count for one in contents.records] == list(range(1, len(contents.records) + 1))
    assert contents.whole_bytes + contents.torn_bytes == at
    assert path.stat().st_size == contents.whole_bytes
    assert (len(contents.records) == len(whole.records)) == (at == whole.whole_bytes)


def test_a_damaged_record_is_set_apart_and_the_ones_behind_it_are_kept(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.append([payload(1), payload(2), payload(3)])
    spool.seal()
    (path,) = sealed_files(tmp_path)
    data = bytearray(path.read_bytes())
    data[8 + 8 + len(payload(1)) + 8 + 30] ^= 0xFF
    path.write_bytes(data)
    contents = read_spool(path)
    assert [one.count for one in contents.records] == [1, 3]
    assert (len(contents.damaged), contents.torn_bytes) == (1, 0)


def test_at_the_bound_nothing_is_written_until_something_is_dropped(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, max_bytes=1_000_000)
    for number in range(1, 10):
        spool.append([payload(number, 100_000)])
        spool.seal()
    with pytest.raises(SpoolBoundError, match=r"capture\.max_bytes"):
        spool.append([payload(10, 200_000)])
    accounted: list[int] = []
    first, second, *_ = spool.sealed()
    in_hand = claim(first)
    assert in_hand is not None
    assert spool.drop(first, accounted.append) == 0  # the shipper has it
    os.close(in_hand)
    assert spool.drop(second, accounted.append) > 100_000
    assert accounted == [1]
    spool.append([payload(10, 100_000)])
    assert spool.backlog_bytes() <= 1_000_000


@pytest.mark.parametrize("beyond", [0, 1, 8, 16])
def test_what_is_over_the_bound_is_what_has_to_go_before_rows_fit(tmp_path: Path, beyond: int) -> None:
    rows = [payload(number, 1000) for number in range(1, 6)]
    needed = spool_in(tmp_path / "measure")
    needed.append(rows)
    size = needed.backlog_bytes() - len(b"TTSPOOL1")
    spool = spool_in(tmp_path / "spool", max_bytes=1_000_000)
    spool.append([b"x" * (1_000_000 - size - 16 + beyond)])  # leaves room for all but `beyond` bytes
    spool.seal()
    assert spool.over(rows) == beyond
    if beyond:
        with pytest.raises(SpoolBoundError):
            spool.append(rows)
    else:
        spool.append(rows)


def test_a_file_whose_sealing_the_disk_refuses_is_sealed_later(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.append([payload(1)])
    in_the_way = tmp_path / spool.sealed_name
    in_the_way.mkdir()
    with pytest.raises(OSError, match="directory"):
        spool.seal()
    in_the_way.rmdir()
    spool.append([payload(2)])
    spool.seal()
    (path,) = sealed_files(tmp_path)
    assert len(read_spool(path).records) == 2


def test_names_of_sealed_files_are_never_used_again(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        spool = spool_in(tmp_path)
        spool.append([payload(1)])
        spool.seal()
        (path,) = sealed_files(tmp_path)
        names.add(path.name)
        path.unlink()
    assert len(names) == 3
