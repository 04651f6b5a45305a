"""Where the workers of one gateway account for a machine together: a few doubles on tmpfs, mapped by each."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from pathlib import Path

from gateway.upstream.machine_cost import MachineTime, cells_for

log = logging.getLogger(__name__)

_DOUBLE = 8


def machine_of(
    upstream: str, price_per_hour: float, directory: Path | None, *, worker: int, workers: int
) -> MachineTime:
    """The machine time of *upstream* as worker number *worker* of *workers* accounts for it in *directory*.

    Without a directory, or where shared memory refuses, each worker accounts for its part of the machine
    alone: requests that spread unevenly are then priced too low where they are many.
    """
    if directory is not None:
        try:
            cells = _mapped(directory, upstream, workers)
        except OSError as error:
            log.warning("%s: no shared memory for the cost of upstream %r: %s", directory, upstream, error)
        else:
            return MachineTime(price_per_hour, cells, worker)
    alone = memoryview(bytearray(_DOUBLE * cells_for(1))).cast("d")
    return MachineTime(price_per_hour / workers, alone, 0)


def _mapped(directory: Path, upstream: str, workers: int) -> memoryview[float]:
    # One by one: what `parents` makes on the way, others may read, and captured text comes to lie there.
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.mkdir(exist_ok=True, mode=0o700)
    # Another number of workers is another layout; the name of an upstream may be anything.
    digest = hashlib.sha256(upstream.encode()).hexdigest()[:16]
    descriptor = os.open(directory / f"{digest}-{workers}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = _DOUBLE * cells_for(workers)
        # Every page now: one that is missing when tmpfs is full is a SIGBUS in the middle of a request.
        os.posix_fallocate(descriptor, 0, size)
        return memoryview(mmap.mmap(descriptor, size)).cast("d")
    finally:
        os.close(descriptor)
