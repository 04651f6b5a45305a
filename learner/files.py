"""Files that appear whole or not at all, digests, and one-at-a-time locks."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway.file_lock import try_lock
from learner.errors import LearnerError

T = TypeVar("T")

LOCK_POLL_S = 0.2
_CHUNK_BYTES = 1 << 20


def write_bytes(path: Path, content: bytes) -> None:
    """Put *content* at *path*, whole or not at all, on disk on return. Raises LearnerError (full disk)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LearnerError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Put *value* as JSON at *path*, whole or not at all."""
    content = msgspec.json.encode(value, enc_hook=_encode_path)
    write_bytes(path, msgspec.json.format(content, indent=2) + b"\n")


def jsonl(rows: Sequence[Any]) -> bytes:
    """One JSON document a line."""
    return b"".join(msgspec.json.encode(row, enc_hook=_encode_path) + b"\n" for row in rows)


def read_json(path: Path, kind: type[T]) -> T:
    """The *kind* at *path*. Raises LearnerError naming the file when it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind, dec_hook=_decode_path)
    except OSError as error:
        raise LearnerError(f"{path}: cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise LearnerError(f"{path}: damaged: {error}") from error


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """The rows of *path*. Raises LearnerError naming the file when it is missing or damaged."""
    try:
        return msgspec.json.Decoder(kind, dec_hook=_decode_path).decode_lines(path.read_bytes())
    except OSError as error:
        raise LearnerError(f"{path}: cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise LearnerError(f"{path}: damaged: {error}") from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes. Raises LearnerError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise LearnerError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def content_digest(value: Any) -> str:
    """Hex sha256 over *value* as JSON with sorted keys: equal content, equal digest."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted", enc_hook=_encode_path)).hexdigest()


def slug(name: str) -> str:
    """*name* as a part of a file name: letters, digits, '.', '_' and '-'."""
    return (
        "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).lstrip(".") or "-"
    )


@contextmanager
def locked(path: Path, *, holder: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold *path*'s lock, which the kernel releases when the process dies.

    Raises LearnerError, saying that *holder* is at work, when another process still holds it after *wait_s*.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait_s
    with path.open("a") as lock:
        while not try_lock(lock.fileno()):
            if time.monotonic() >= until:
                raise LearnerError(f"{holder} at work already ({path} is locked); wait for it to end")
            time.sleep(LOCK_POLL_S)
        yield


def _encode_path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is no part of the learner's files")


def _decode_path(kind: type, value: object) -> Path:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} is no part of the learner's files")
