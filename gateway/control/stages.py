"""What recorder and shipper last said about themselves in `state/recorder.json` and `state/shipper.json`.

While the disk takes no reports they say it in shared memory; the later word counts.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import msgspec

from gateway.paths import Paths

STAGES = ("recorder", "shipper")
SILENT_AFTER_S = 10.0  # they report each second; this long without a word, a stage counts as down


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's counters. `alive` is false where it has not reported lately; unknown ages are None."""

    alive: bool = False
    updated_at: float | datetime | None = None
    written: int = 0
    written_per_s: float = 0.0  # over the last seconds
    dropped: dict[str, int] = {}
    torn: int = 0
    quarantined: int = 0
    backlog_bytes: int = 0
    oldest_age_s: float | None = None
    errors: str | None = None


def read_stages(paths: Paths) -> dict[str, StageReport]:
    """The last report of each stage. A missing or unreadable report is a stage that is not alive."""
    return {stage: _read(paths, f"{stage}.json") for stage in STAGES}


def lag_s(stages: dict[str, StageReport]) -> float:
    """The age of the oldest record that is not stored, in seconds; 0.0 where all is."""
    return max((report.oldest_age_s or 0.0 for report in stages.values()), default=0.0)


def _read(paths: Paths, name: str) -> StageReport:
    path = max((paths.state / name, paths.stages / name), key=_written_at)
    try:
        age_s = time.time() - path.stat().st_mtime
        report = msgspec.json.decode(path.read_bytes(), type=StageReport)
    except OSError:
        return StageReport(errors="has not reported yet")
    except msgspec.DecodeError as error:
        return StageReport(errors=f"{path.name} cannot be read: {error}")
    return msgspec.structs.replace(report, alive=age_s < SILENT_AFTER_S)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
