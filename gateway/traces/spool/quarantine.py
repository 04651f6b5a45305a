"""What the store refused for good: one file for each spool file, in `quarantine/` of the spool.

Each line is a row with the reason, as JSON. A row can be put back, into a spool file of its own, once the
reason is gone; what was damaged cannot, and what was erased may not. The folder is bounded: the oldest files
go first, counted.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.errors import OperationError
from gateway.traces.erasure.erasures import ErasureList, Watch, is_kept_out
from gateway.traces.spool.replace import replace_file
from gateway.traces.spool.spool_file import encode_record, write_sealed

QUARANTINE = "quarantine"
_SUFFIX = ".jsonl"
# Columns whose text in JSON was a time in the spool.
_TIMES = frozenset({"started_at", "created_at", "at", "used_until"})


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refused row, or the bytes of a damaged one in base64."""

    reason: str
    table: str = ""
    row: dict[str, Any] | None = None
    data: str | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the quarantine."""

    path: Path
    entries: list[Entry]

    @property
    def reasons(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for entry in self.entries:
            counts[entry.reason] = counts.get(entry.reason, 0) + 1
        return counts


class PutBack(NamedTuple):
    """How many rows of a file go to the shipper again, and how many stay out since they were erased."""

    rows: int
    erased: int


def damaged(payload: bytes) -> Entry:
    """The entry of a record whose checksum does not hold."""
    return Entry(reason="its checksum does not hold", data=base64.b64encode(payload).decode())


def set_aside(spool: Path, stem: str, entries: Sequence[Entry], *, max_bytes: int) -> int:
    """Write the file of the spool file *stem*, as a whole, so that a repetition is no duplicate.

    The oldest files go where they would hold more than *max_bytes* together; how many rows went with them.
    Raises OSError.
    """
    folder = spool / QUARANTINE
    folder.mkdir(mode=0o700, exist_ok=True)
    content = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    replace_file(folder / f"{stem}{_SUFFIX}", content)
    dropped = 0
    kept = 0
    for path in sorted(folder.glob(f"*{_SUFFIX}"), reverse=True):
        kept += path.stat().st_size
        if kept > max_bytes:
            dropped += path.read_bytes().count(b"\n")
            path.unlink()
    return dropped


def refused_files(spool: Path) -> list[Refused]:
    """What lies in the quarantine of *spool*, oldest first. Raises OperationError for a file not of ours."""
    return [_read(path) for path in sorted((spool / QUARANTINE).glob(f"*{_SUFFIX}"))]


def put_back(spool: Path, path: Path, erasures: ErasureList) -> PutBack:
    """Hand the rows of the file at *path* to the shipper again, and forget the file.

    What is damaged stays in the file; what *erasures* covers goes with it. The file is read while the list is
    held: an erasure has been through it before, or comes after, and then through the spool. Done twice, the
    rows have the same token, and the store takes them once. Raises OSError, OperationError.
    """
    with erasures.held() as watch:
        try:
            entries = _read(path).entries
        except FileNotFoundError:
            return PutBack(0, 0)  # an erasure left nothing of it
        whole = [entry for entry in entries if entry.row is not None]
        rest = [entry for entry in entries if entry.row is None]
        kept = _not_erased(whole, watch)
        if kept:
            payloads = [encode_record(path.stem, 0, 0, entry.table, _row(entry.row or {})) for entry in kept]
            digest = hashlib.sha256(b"".join(payloads)).hexdigest()[:32]
            # Not named by when they were first written: they wait anew from now on.
            write_sealed(spool, f"back-{digest}", payloads)
        if rest:
            replace_file(path, b"".join(msgspec.json.encode(entry) + b"\n" for entry in rest))
        else:
            path.unlink(missing_ok=True)
    return PutBack(len(kept), len(whole) - len(kept))


def _not_erased(entries: list[Entry], watch: Watch) -> list[Entry]:
    """Those of *entries* that *watch* does not cover, in order."""
    # Traces first: feedback that stands before its trace goes with it.
    erased = {
        index
        for index, entry in sorted(enumerate(entries), key=lambda numbered: numbered[1].table != "traces")
        if is_kept_out(watch, entry.table, entry.row)
    }
    return [entry for index, entry in enumerate(entries) if index not in erased]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in _TIMES and value else value
        for name, value in row.items()
    }


def _read(path: Path) -> Refused:
    try:
        lines = path.read_bytes().splitlines()
        return Refused(path=path, entries=[msgspec.json.decode(line, type=Entry) for line in lines])
    except msgspec.DecodeError as error:
        raise OperationError(f"{path} is no file of the quarantine: {error}; move it away") from error
