"""What a metric is, and one process's series of them in its file of slots (`gateway.metric_slots`)."""

from __future__ import annotations

import logging
from bisect import bisect_left
from pathlib import Path
from typing import Literal

import msgspec

from gateway.errors import OperationError
from gateway.metric_slots import SeriesKey, SlotReader, SlotWriter

log = logging.getLogger(__name__)

MAX_BUCKETS = 15  # of a histogram; another follows for what is above them all


class Metric(msgspec.Struct, frozen=True):
    """One metric: its labels, and bucket bounds in seconds where it is a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Histogram:
    """Slots of one histogram: the sum, then one per bucket, not cumulated."""

    __slots__ = ("bounds", "slots", "start")

    def __init__(self, slots: memoryview[float], start: int, bounds: tuple[float, ...]) -> None:
        self.slots, self.start, self.bounds = slots, start, bounds

    def observe(self, seconds: float) -> None:
        self.slots[self.start] += seconds
        self.slots[self.start + 1 + bisect_left(self.bounds, seconds)] += 1.0


class Series:
    """The series that one process counts into its file in *directory*. One thread uses it.

    *name* is the process's own, as no other has or had; *gauges* are the metrics that die with a process.
    Where the slots run out, further series are not counted, and a line in the log says so.
    """

    def __init__(self, directory: Path, name: str, gauges: frozenset[str]) -> None:
        _fold_former(directory, gauges)
        self._writer = SlotWriter(directory, name)
        self.slots = self._writer.slots
        self._starts: dict[tuple[str, tuple[str, ...]], int] = {}
        self._full = False
        # Where a series without room counts: a place that nobody reads.
        waste = self._writer.allocate(SeriesKey("", ()), 1 + MAX_BUCKETS + 1)
        assert waste is not None, "the first series fits"
        self._waste = waste

    def slot(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """The slot of a counter or gauge."""
        return self._start(metric, labels, 1)

    def histogram(self, metric: Metric, labels: tuple[str, ...]) -> Histogram:
        """The slots of a histogram."""
        assert len(metric.buckets) <= MAX_BUCKETS, "it fits where it is wasted"
        return Histogram(self.slots, self._start(metric, labels, 2 + len(metric.buckets)), metric.buckets)

    def close(self) -> None:
        self._writer.close()

    def _start(self, metric: Metric, labels: tuple[str, ...], width: int) -> int:
        start = self._starts.get((metric.name, labels))
        if start is None:
            start = self._allocate(SeriesKey(metric.name, labels), width)
            self._starts[metric.name, labels] = start
        return start

    def _allocate(self, key: SeriesKey, width: int) -> int:
        start = self._writer.allocate(key, width)
        if start is not None:
            return start
        if not self._full:
            self._full = True
            log.warning(
                "no more room for metrics (MAX_SLOTS in gateway/metric_slots.py): %s %s and what comes after "
                "it is not counted until a restart",
                key.name,
                key.labels,
            )
        return self._waste


def _fold_former(directory: Path, gauges: frozenset[str]) -> None:
    # At each start, so that a process that keeps dying fills no memory where nobody reads /metrics.
    try:
        SlotReader(directory, gauges).totals()
    except OperationError as error:
        log.warning("%s", error)
