"""Shared memory after a clean stop: what nobody needs any more goes, what would be lost stays."""

from __future__ import annotations

import logging
import shutil
import time

from gateway.errors import OperationError
from gateway.metric_slots import SlotReader
from gateway.metrics import DROPPED, GAUGES, metrics_directory
from gateway.paths import Paths
from gateway.quotas import QuotaFiles, save_left_behind

log = logging.getLogger("tracetune.up")


def release(paths: Paths) -> None:
    """Remove the folder of *paths* in shared memory, once no process of ours runs. Never raises.

    It stays while it holds segments that no recorder has taken, a worker that somebody else started, or the
    count of dropped traces. What stays is small: counts are folded into one file of a few kilobytes, segments
    are within `capture.memory_bytes`, and the next start goes on with both. What keys have used is saved to
    the state directory first; where that fails, it stays too.
    """
    if not paths.segments.is_dir():
        return
    metrics = metrics_directory(paths)
    try:
        totals, living = SlotReader(metrics, GAUGES).totals()
        if living:
            return
        save_left_behind(QuotaFiles.of(paths), time.time())
        dropped = any(values[0] for key, values in totals.items() if key.name == DROPPED.name)
        ours = (metrics, paths.machines, paths.quotas, paths.sightings, paths.stages)
        waiting = any(entry not in ours for entry in paths.segments.iterdir())
        if not (dropped or waiting):
            shutil.rmtree(paths.segments)
    except (OSError, OperationError) as error:
        log.warning("shared memory in %s could not be released: %s", paths.segments, error)
