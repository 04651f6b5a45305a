"""Lists in parts: by their number, or by what they hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def parts_of(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """*values* in order, at most *size* at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def cut(sized: Sequence[tuple[T, int]], *, most_bytes: int, limit: int = sys.maxsize) -> Iterator[list[T]]:
    """*sized* (each with its bytes) in order, in batches of at most *limit* within *most_bytes*.

    A single larger one is a batch of its own.
    """
    batch: list[T] = []
    held = 0
    for value, size in sized:
        if batch and (held + size > most_bytes or len(batch) == limit):
            yield batch
            batch, held = [], 0
        batch.append(value)
        held += size
    if batch:
        yield batch
