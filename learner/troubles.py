"""What stands between an answer and its row in the store: for `tracetune status`, one line each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from gateway.config import Config
from gateway.paths import Paths, paths_of
from gateway.traces.spool.backlog import spool_backlog
from gateway.traces.stage import ERASED, Report, Reporter

SILENT_AFTER_S = 10.0  # they report each second; a report older than this says nothing of now
WAITS_AFTER_S = 30.0  # what lies in the spool for longer is not just on its way


def troubles(config: Config, command: str | None, now: float) -> Iterator[str]:
    """Lines with the remedy; none where all is well. *command*: what runs here, `up`, `gateway` or None."""
    paths = paths_of(config)
    yield from _disk(config, paths)
    for stage in ("recorder", "shipper"):
        report = last_report(paths, stage)
        if command is not None and now - report.updated_at < SILENT_AFTER_S and report.errors is not None:
            yield f"{stage}: {report.errors}"
        yield from _lost(stage, report)
    waiting_bytes, oldest_s = spool_backlog(paths.spool, now)
    if oldest_s is not None and (command is None or oldest_s > WAITS_AFTER_S):
        # The gateway alone ships to a remote store only.
        ships = command == "up" or (command == "gateway" and not config.store.embedded)
        remedy = "they go to the store as soon as it takes them" if ships else "`tracetune up` stores them"
        yield f"{_size(waiting_bytes)} of captured traces wait in {paths.spool}; {remedy}"


def pace(paths: Paths, now: float) -> str | None:
    """One line on how capture keeps up; None where nothing reports."""
    recorder, shipper = last_report(paths, "recorder"), last_report(paths, "shipper")
    if now - min(recorder.updated_at, shipper.updated_at) >= SILENT_AFTER_S:
        return None
    lag_s = max(recorder.oldest_age_s or 0.0, shipper.oldest_age_s or 0.0)
    behind = f"the oldest row that is not stored is {lag_s:.1f} s old" if lag_s else "all rows are stored"
    return f"capture: {shipper.written_per_s:.1f} rows a second; {behind}"


def last_report(paths: Paths, stage: str) -> Report:
    """What recorder or shipper last said of itself."""
    return Reporter(paths.state / f"{stage}.json", paths.stages / f"{stage}.json").last()


def _disk(config: Config, paths: Paths) -> Iterator[str]:
    """The disk has no room for what the spool may still take."""
    existing = next(path for path in (paths.data, *paths.data.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    room = config.capture.max_bytes - spool_backlog(paths.spool)[0]
    if free < room:
        yield (
            f"disk: {existing} has {_size(free)} free, less than the {_size(room)} that capture.max_bytes "
            "lets the spool still take; free some, or lower it"
        )


def _lost(stage: str, report: Report) -> Iterator[str]:
    for reason, count in report.dropped.items():
        if count and reason != ERASED:
            yield f"{stage}: {count} traces were dropped: {reason}"
    if report.quarantined:
        yield f"{stage}: {report.quarantined} rows were set aside; tracetune traces quarantine shows why"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
