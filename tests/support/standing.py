"""Calibrations as the store has them: what a judge was found to be."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from gateway.traces.store import Store
from gateway.traces.types import Calibration

CALIBRATED_AT = datetime(2026, 11, 20, tzinfo=UTC)


def a_calibration(**changes: Any) -> Calibration:
    """Of a good judge, unless *changes* say otherwise."""
    values: dict[str, Any] = {
        "calibration_id": os.urandom(8).hex(),
        "judge": "polite",
        "version": "v1",
        "calibrated_at": CALIBRATED_AT,
        "labels": 100,
        "source": "feedback",
        "j": 0.85,
        "j_low": 0.7,
    }
    return Calibration(**values | changes)


def calibrate(store: Store, judge: str, version: str, **changes: Any) -> None:
    """Put a calibration in force, newer than every one before it."""
    at = changes.pop("calibrated_at", datetime.now(UTC))
    row = a_calibration(judge=judge, version=version, calibrated_at=at, **changes)
    store.insert("calibrations", [row], token=row.calibration_id)
