"""Files of the spool: their records, their names, and the lock of who ships or drops one.

A record is a length, a CRC-32 and a payload: where it came from in shared memory, its table and its row. So
what a killed recorder had already written can be told from its own file, and a torn tail from a whole record.
A sealed file's name is never used again: it is also the token under which the store knows its rows.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway.file_lock import try_lock
from gateway.traces.spool.replace import replace_file

OPEN, SEALED = ".open", ".sealed"
MAGIC = b"TTSPOOL1"
_FRAME = struct.Struct("<II")  # length and CRC-32 of the payload


class SpoolRecord(msgspec.Struct, frozen=True, array_like=True):
    """One payload. `segment`, `end` and `count` say up to where the segment in shared memory is taken."""

    segment: str
    end: int
    count: int
    table: str
    row: msgspec.Raw  # msgpack, a map of the columns


class SpoolContents(msgspec.Struct, frozen=True, kw_only=True):
    """What a spool file holds. `damaged`: payloads whose checksum does not hold; `torn_bytes`: no records."""

    records: list[SpoolRecord]
    damaged: list[bytes]
    whole_bytes: int
    torn_bytes: int


def encode_record(
    segment: str, end: int, count: int, table: str, row: msgspec.Struct | dict[str, Any]
) -> bytes:
    """The payload of one row that ends at *end* of *segment*, its record number *count*."""
    return msgspec.msgpack.encode(SpoolRecord(segment, end, count, table, _raw(row)))


def _raw(row: msgspec.Struct | dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(row))


def write_sealed(directory: Path, stem: str, payloads: list[bytes]) -> None:
    """A sealed file of its own with *payloads*, named *stem*; whole or not at all. Raises OSError."""
    replace_file(directory / f"{stem}{SEALED}", MAGIC + b"".join(map(framed, payloads)))


def framed_size(payloads: list[bytes]) -> int:
    """The bytes that *payloads* take in a file."""
    return sum(map(len, payloads)) + len(payloads) * _FRAME.size


def framed(payload: bytes) -> bytes:
    """*payload* as it lies in a file."""
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def read_spool(path: Path) -> SpoolContents:
    """The whole records of *path*. A damaged record is set apart when what follows it is whole."""
    data = path.read_bytes()
    records: list[SpoolRecord] = []
    damaged: list[bytes] = []
    at = len(MAGIC) if data.startswith(MAGIC) else len(data)
    whole = min(at, len(data)) if data.startswith(MAGIC) else 0
    pending: list[bytes] = []
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length:
            break
        at += _FRAME.size + length
        record = _decode(payload) if zlib.crc32(payload) == checksum else None
        if record is None:
            pending.append(payload)  # damaged, or a torn tail: what follows tells
            continue
        damaged += pending
        pending = []
        records.append(record)
        whole = at
    return SpoolContents(records=records, damaged=damaged, whole_bytes=whole, torn_bytes=len(data) - whole)


def rewritten(contents: SpoolContents, keep: Callable[[SpoolRecord], bool]) -> bytes:
    """A spool file of those of the whole records of *contents* that *keep* says may stay."""
    payloads = [msgspec.msgpack.encode(record) for record in contents.records if keep(record)]
    return MAGIC + b"".join(map(framed, payloads))


def _decode(payload: bytes) -> SpoolRecord | None:
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None


def sealed_files(directory: Path) -> list[Path]:
    """Sealed files in *directory*, oldest first."""
    return sorted(directory.glob(f"*{SEALED}"))


def born_at(path: Path) -> float:
    """When the first row of a spool file was written, in seconds since the epoch; 0.0: it is not told."""
    digits = path.name.partition("-")[0]
    return int(digits) / 1e9 if digits.isdecimal() else 0.0


def waits_since(path: Path) -> float:
    """Since when what a spool file holds waits: as its name tells, else its last write; inf: it is gone."""
    try:
        return born_at(path) or path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def seal_file(path: Path) -> None:
    """Give an open file that nobody writes any more its sealed name."""
    path.rename(path.with_suffix(SEALED))


def claim(path: Path) -> int | None:
    """A descriptor with the file's lock, for shipping or dropping it. None: another has it, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not try_lock(fd) or os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd


_decoder = msgspec.msgpack.Decoder(SpoolRecord)
