"""Which spool files the store has confirmed with every blob in them: the shipper says so, the recorder asks.

That a file is gone says nothing: it may have been dropped, set aside or lost, and rows that relied on its
blobs could never be read again. What is not put down here is written once more, which costs little.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from gateway.traces.spool.replace import replace_file

DELIVERED_FILES = 1_000  # remembered, the latest; the recorder looks each second
_NAME = "delivered.json"


class Deliveries:
    """The shipper's end, in the folder *spool*."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / _NAME
        self._files = delivered(spool)

    def put_down(self, name: str, blobs: Mapping[str, datetime]) -> None:
        """The store has all *blobs* of the file *name*, each as `used_until` says. Before the file goes."""
        if not blobs:
            return
        self._files[name] = digest_of(blobs)
        while len(self._files) > DELIVERED_FILES:
            del self._files[next(iter(self._files))]
        with contextlib.suppress(OSError):  # a full disk: see above
            replace_file(self._path, msgspec.json.encode(self._files))


def delivered(spool: Path) -> dict[str, str]:
    """By name of the file, what `digest_of` its blobs is. Empty where nothing can be read."""
    try:
        return msgspec.json.decode((spool / _NAME).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}


def digest_of(blobs: Mapping[str, datetime]) -> str:
    """The same for the same blobs with the same `used_until`."""
    lines = sorted(f"{blob} {until.timestamp():.6f}" for blob, until in blobs.items())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
