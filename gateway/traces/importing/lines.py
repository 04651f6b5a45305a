"""Reads a file line by line, whatever is in it, in bounded memory."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gateway.errors import OperationError, UsageError

MAX_LINE_BYTES = 32 << 20  # of one line; a longer one is told and left out

_BOM = b"\xef\xbb\xbf"


class RawLine(NamedTuple):
    """One line, counted from 1. `data` None: it is longer than MAX_LINE_BYTES. `size` of the file's bytes."""

    number: int
    data: bytes | None
    size: int


def read_lines(path: Path) -> Iterator[RawLine]:
    """The lines of *path* that are not empty; one that ends in `.gz` is unpacked on the way.

    Raises OperationError for what cannot be read, UsageError for a file that is one JSON array.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _lines(path, file)
    except (OSError, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OperationError(f"{path} cannot be read: {why}") from error


def _lines(path: Path, file: BinaryIO | gzip.GzipFile) -> Iterator[RawLine]:
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        size, whole = len(data), len(data) <= MAX_LINE_BYTES
        while not data.endswith(b"\n") and (more := file.readline(MAX_LINE_BYTES)):
            size, data = size + len(more), more
        content = data.removeprefix(_BOM).strip() if whole else None
        if number == 1 and content is not None and content.startswith(b"["):
            raise UsageError(f"{path} is one JSON array; write a line for each entry: jq -c '.[]' {path}")
        if content is None or content:
            yield RawLine(number, content, size)
