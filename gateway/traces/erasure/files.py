"""Takes erased rows out of what is on its way to the store: shared memory, spool, quarantine.

Every function may be repeated after a kill, and tells what goes before it goes, so that the list has its ids.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import OperationError
from gateway.traces.erasure.erasures import Named, Watch, is_kept_out, owned_row
from gateway.traces.in_hand import FRESH, IN_PARTS
from gateway.traces.rows import RowBuilder
from gateway.traces.segment_files import listing, scrub
from gateway.traces.segments import Record, SegmentReader
from gateway.traces.spool.spool_file import OPEN, claim, read_spool, rewritten, sealed_files
from gateway.traces.spool.synced import remove_synced, replace_synced
from gateway.traces.stage import only_one

STAGE_WAIT_S = 60.0  # for the recorder to seal its file, and for the shipper to be done with one
_POLL_S = 0.05

Found = Callable[[list[Named]], None]  # told what goes, before it goes


def scrub_segments(directory: Path, watch: Watch, names: RowBuilder) -> list[Named]:
    """Overwrite covered records in shared memory; what they were. The list is held for a change meanwhile."""
    if not directory.is_dir():
        return []
    reader = SegmentReader(directory)
    found: list[Named] = []
    for _, _, path in listing(directory):
        batch = reader.read(path, 0)
        with contextlib.suppress(FileNotFoundError):  # freed, or evicted by a writer, while we looked
            found += _scrub(path, batch.records if batch else [], watch, names)
    return found


def _scrub(path: Path, records: list[Record], watch: Watch, names: RowBuilder) -> list[Named]:
    found: list[Named] = []
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        at = 0
        for record in records:
            named = None if record.captured is None else names.named(record.captured)
            if named is not None and watch.covers(named):
                scrub(fd, data, at)
                found.append(named)
            at = record.end
    finally:
        os.close(fd)
    return found


def erase_from_spool(spool: Path, watch: Watch, found: Found) -> None:
    """Rewrite the files of the spool without covered rows; one that a stage has in hand once it lets go.

    Raises OperationError when that takes longer than STAGE_WAIT_S.
    """
    if not spool.is_dir():
        return
    deadline = time.monotonic() + STAGE_WAIT_S
    _close_open_files(spool, watch, found, deadline)
    for path in sealed_files(spool):
        _rewrite_sealed(path, watch, found, deadline)


def erase_from_quarantine(quarantine: Path, watch: Watch, found: Found) -> int:
    """Rewrite quarantine files without covered rows, and without what is too damaged to say whose it is.

    How many damaged records went.
    """
    damaged = 0
    for path in sorted(quarantine.glob("*.jsonl")):
        kept: list[bytes] = []
        covered: list[Named] = []
        lines = path.read_bytes().splitlines()
        for line in lines:
            entry = msgspec.json.decode(line, type=dict[str, Any])
            row = entry.get("row")
            if not isinstance(row, dict):
                damaged += 1
                continue
            table = str(entry.get("table"))
            if is_kept_out(watch, table, row):
                covered += _named(table, row)
            else:
                kept.append(line + b"\n")
        if len(kept) == len(lines):
            continue
        found(covered)
        if kept:
            replace_synced(path, b"".join(kept))
        else:
            remove_synced(path)
    return damaged


def _close_open_files(spool: Path, watch: Watch, found: Found, deadline: float) -> None:
    """The recorder seals what it has open; where none runs, what one left open is rewritten as it is."""
    waiting = sorted(spool.glob(f"*{OPEN}"))
    while waiting:
        with _recorder_away(spool) as away:
            if away:
                for path in waiting:
                    _rewrite(path, watch, found)
                return
        _wait(deadline, f"the recorder has not sealed {waiting[0].name}")
        waiting = [path for path in waiting if path.exists()]


@contextlib.contextmanager
def _recorder_away(spool: Path) -> Iterator[bool]:
    """Whether no recorder runs; none can start during the block then."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_one(spool / "recorder.lock", "recorder"))
        except OperationError:
            yield False
        else:
            yield True


def _rewrite_sealed(path: Path, watch: Watch, found: Found, deadline: float) -> None:
    while path.exists():
        fd = claim(path)
        if fd is not None:
            try:
                _rewrite(path, watch, found)
            finally:
                os.close(fd)
            return
        _wait(deadline, f"the shipper has {path.name} in hand")


def _rewrite(path: Path, watch: Watch, found: Found) -> None:
    contents = read_spool(path)
    covered: list[Named] = []
    gone = 0

    def keep(table: str, row: dict[str, Any]) -> bool:
        nonlocal gone
        if not is_kept_out(watch, table, row):
            return True
        gone += 1
        covered.extend(_named(table, row))
        return False

    data = rewritten(contents, lambda record: keep(record.table, msgspec.msgpack.decode(record.row)))
    # What is damaged or torn may be anybody's, and nobody will ever read it: it goes too.
    if gone or contents.damaged or contents.torn_bytes:
        found(covered)
        # Once a try has begun, the token of the whole is no longer that of these rows.
        begun = not path.stat().st_mode & stat.S_IWUSR
        replace_synced(path, data, IN_PARTS if begun else FRESH)


def _named(table: str, row: dict[str, Any]) -> list[Named]:
    named = owned_row(table, row)
    return [] if named is None else [named]


def _wait(deadline: float, what: str) -> None:
    if time.monotonic() >= deadline:
        raise OperationError(
            f"{what} within {STAGE_WAIT_S:g} s; what is on its way is kept out already: look at its log and "
            "repeat the command"
        )
    time.sleep(_POLL_S)
