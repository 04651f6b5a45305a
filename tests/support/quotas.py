"""Keys with limits, and the files of their counters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gateway.config.types import Auth, ClientKey, KeyLimit, Period, Secret
from gateway.quotas import KeyReport, Ledger, QuotaFiles, Standing, report_limits

NOW_S = 1_780_000_020.0  # 2026-05-28T20:27:00Z, the first moment of a minute


def auth_of(**limits: list[dict[str, Any]]) -> Auth:
    """A key for each argument, with its limits as in YAML."""
    keys = [
        ClientKey(name=name, key=Secret(env="A"), limits=[KeyLimit(**entry) for entry in entries])
        for name, entries in limits.items()
    ]
    return Auth(keys=keys)


def web_of(folder: Path) -> Auth:
    """The key `web` with the limits that the test has written into *folder*, for a process of its own."""
    limits = msgspec.json.decode((folder / "limits-of-web.json").read_bytes(), type=list[KeyLimit])
    return Auth(keys=[ClientKey(name="web", key=Secret(env="A"), limits=limits)])


def files_in(folder: Path) -> QuotaFiles:
    return QuotaFiles(folder / "shared", folder / "state" / "limits.json")


def report_of(ledger: Ledger, auth: Auth, at_s: float, name: str = "web") -> KeyReport:
    """What *ledger* reports of the key *name*."""
    return next(report for report in report_limits(ledger.counters, auth, at_s) if report.name == name)


def standing(ledger: Ledger, auth: Auth, at_s: float, per: Period, dimension: str) -> Standing:
    """The same of one limit of the key `web`."""
    window = next(window for window in report_of(ledger, auth, at_s).windows if window.per == per)
    found: Standing = getattr(window, dimension)
    return found
