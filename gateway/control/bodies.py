"""What the control API takes and answers, as frozen types. An unknown field is an error that names it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from gateway.config.base import Fraction, Name, Strict
from gateway.config.types import Fallback
from gateway.control.stages import StageReport
from gateway.table import TableRollout, TableVariant
from gateway.traces.assembling.said import Said

Why = Annotated[str, Meta(min_length=1, max_length=2000)]


class StartBody(Strict, frozen=True, kw_only=True):
    """Put `snapshot` on trial on `route`, served by `upstream`, at `share` of the units.

    `policy` is kept and handed back unchanged while the rollout runs. `version`, when given, must be the
    route's.
    """

    route: Name
    snapshot: Name
    upstream: Name
    share: Fraction
    why: Why
    policy: dict[str, Any] = msgspec.field(default_factory=dict)
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    version: int | None = None
    who: Name | None = None


class ActBody(Strict, frozen=True, kw_only=True):
    """A decision about a rollout. `version` must be the route's; `share` belongs to `weight` alone."""

    version: int
    why: Why
    who: Name | None = None
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    share: Fraction | None = None


class RollbackBody(Strict, frozen=True, kw_only=True):
    """Back to the variants from before the route's last rollout, whether it runs or was promoted."""

    route: Name
    version: int
    why: Why
    who: Name | None = None
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A decision was taken; `version` is what the next one must quote."""

    rollout: str
    route: str
    version: int


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """A route in force."""

    model: str
    version: int
    sticky_by: str
    variants: list[TableVariant]
    fallbacks: list[Fallback]
    rollout: TableRollout | None


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """The table in force."""

    table_hash: str
    routes: list[RouteView]


class RunningRollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout with what was frozen at its start."""

    rollout: str
    snapshot: str
    candidate: str
    share: float
    stage: int
    paused: bool
    policy: dict[str, Any]
    started_at: datetime


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A route's rollout, None while there is none, and the version that a decision must quote."""

    route: str
    version: int
    rollout: RunningRollout | None


class Rollouts(msgspec.Struct, frozen=True, kw_only=True):
    """One entry per route."""

    rollouts: list[RolloutView]


class FeedbackBody(Said, frozen=True, kw_only=True):
    """What a person or the app said about a trace or a session, in one or more ways.

    `kept` is the answer as finally kept, text or JSON. `name` and `value` are the app's own signal.
    """

    trace_id: UUID | None = None
    session: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if self.trace_id is None and self.session is None:
            raise ValueError("feedback needs trace_id or session, to say what it is about")
        super().__post_init__()


class FeedbackTaken(msgspec.Struct, frozen=True, kw_only=True):
    """Feedback is kept. Several things said at once become the rows `feedback_id`, `feedback_id`-2 and on."""

    feedback_id: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this worker can serve. A store or a capture stage that is down does not make it unready."""

    ready: bool
    why: str
    worker: int
    table_hash: str
    in_flight: int
    store: Literal["ok", "behind", "unknown"]
    lag_s: float  # age of the oldest record that is not stored; 0: all is
    capture: dict[str, StageReport]
    dropped: dict[str, int]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process lives."""

    status: Literal["ok"] = "ok"
