"""How each route's last rollout ended: of the recorded decisions, whoever took them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from learner.rollout.state import Report

if TYPE_CHECKING:
    from gateway.traces.store import Store

_WORDS = {
    "promoted": "promoted",
    "rolled_back": "rolled back",
    "inconclusive": "concluded",
    "overlay_dropped": "dropped by an edit of the configuration",
}
_LAST = """
SELECT route, rollout, snapshot, event, at, who, why FROM rollouts WHERE event IN {events:Array(String)}
ORDER BY route, version DESC, at DESC LIMIT 1 BY route
"""


class _Ending(msgspec.Struct, frozen=True, kw_only=True):
    route: str
    rollout: str
    snapshot: str
    event: str
    at: datetime
    who: str
    why: str

    def report(self) -> Report:
        at = self.at if self.at.tzinfo else self.at.replace(tzinfo=UTC)
        return Report(
            route=self.route,
            rollout=self.rollout,
            snapshot=self.snapshot,
            at=at,
            share=1.0 if self.event == "promoted" else 0.0,
            action=_WORDS[self.event],
            decision=None,
            error=f"{self.why} (by {self.who})" if self.who else self.why,
        )


def ended(
    reports: Mapping[str, Report], store: Store, under_way: Collection[str], *, known: bool
) -> dict[str, Report]:
    """By route, what became of its last rollout, for routes that are not *under_way*. Raises StoreError.

    The controller's report stands where nobody else decided since. *known*: the gateway said what is under
    way, so that a report of a rollout that goes on is out of date.
    """
    rows = store.query(_LAST, {"events": list(_WORDS)})
    endings = {row["route"]: msgspec.convert(row, _Ending).report() for row in rows}
    found: dict[str, Report] = {}
    for route in sorted({*reports, *endings} - set(under_way)):
        report, ending = reports.get(route), endings.get(route)
        if report is None or (ending is not None and _says_more(ending, report)):
            assert ending is not None
            found[route] = ending
        elif known and report.action not in _WORDS.values():
            why = "by another hand than the controller's; the decision is on its way to the store"
            found[route] = msgspec.structs.replace(report, action="ended since", decision=None, error=why)
        else:
            found[route] = report
    return found


def _says_more(ending: Report, report: Report) -> bool:
    """The same decision is in both; the controller's report of it has the numbers."""
    same = (ending.rollout, ending.action) == (report.rollout, report.action)
    return not same and (ending.rollout == report.rollout or ending.at >= report.at)
