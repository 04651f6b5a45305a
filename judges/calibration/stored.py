"""Reads what a judge's calibration came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.traces.types import Calibration

if TYPE_CHECKING:
    from gateway.traces.store import Store

_LATEST = f"""
SELECT {", ".join(Calibration.__struct_fields__)} FROM calibrations
WHERE judge = {{judge:String}} AND version = {{version:String}}
ORDER BY calibrated_at DESC, calibration_id DESC LIMIT 1
"""  # noqa: S608 -- names of our own columns


def latest_calibration(store: Store, judge: str, version: str) -> Calibration | None:
    """The calibration in force of this version of *judge*; None where there is none. Raises StoreError."""
    rows = store.query(_LATEST, {"judge": judge, "version": version})
    return msgspec.convert(rows[0], Calibration, strict=False) if rows else None
