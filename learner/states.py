"""What a snapshot is on its route, derived from recorded decisions and from nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from gateway.traces.types import RolloutEventKind

State = Literal["candidate", "canary", "stable", "retired", "rejected"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a row of `rollouts` that states are derived from."""

    route: str
    version: int
    event: RolloutEventKind
    snapshot: str


EVENTS_SQL = "SELECT route, version, event, snapshot FROM rollouts ORDER BY route, version, at"


def snapshot_states(snapshots: Iterable[str], events: Sequence[Event]) -> dict[str, State]:
    """The state of each of *snapshots* after *events*, which are in order for each route.

    One that never met traffic, or whose rollout ended without a verdict, is a candidate.
    """
    states: dict[str, State] = dict.fromkeys(snapshots, "candidate")
    for route in {event.route for event in events}:
        _apply(states, [event for event in events if event.route == route])
    return states


_WHILE_ON_TRIAL = {"started", "weight", "paused", "resumed"}


def _apply(states: dict[str, State], events: Sequence[Event]) -> None:
    promoted: list[str] = []  # what was made stable, the one in force last
    for event in events:
        if event.event in _WHILE_ON_TRIAL:
            states[event.snapshot] = "canary"
        elif event.event == "promoted":
            states.update(dict.fromkeys(promoted, "retired"))
            promoted.append(event.snapshot)
            states[event.snapshot] = "stable"
        elif event.event == "rolled_back":
            states[event.snapshot] = "rejected"
            promoted = [snapshot for snapshot in promoted if snapshot != event.snapshot]
            if promoted:
                states[promoted[-1]] = "stable"
        elif event.event == "inconclusive":
            states[event.snapshot] = "candidate"
        elif event.event == "retired":  # what it learnt from was erased
            states[event.snapshot] = "retired"
        else:
            assert event.event == "overlay_dropped"
            states.update(dict.fromkeys(promoted, "retired"))
            promoted = []
