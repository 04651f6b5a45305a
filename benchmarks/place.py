"""Where a contender runs, and what is known of it while it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.types import Cores


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a contender is given: a folder of its own, its cores, the port of its upstream."""

    folder: Path
    cores: Cores
    upstream: int


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A contender that answers. The CPU of `workers` and of what they started is its own."""

    port: int
    headers: dict[str, str] = {}
    workers: list[int] = []
    beside: dict[str, int] = {}  # name to process of what works for it behind the answers
    dropped: Callable[[], int] | None = None  # traces lost so far
    stored: Callable[[], int] | None = None  # rows of the store
