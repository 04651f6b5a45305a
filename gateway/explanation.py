"""What an explanation of a request says (`gateway.explain`)."""

from __future__ import annotations

import msgspec

from gateway.config.types import KeyLimit, Timeouts
from gateway.quotas import KeyReport
from gateway.sightings import UpstreamView


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """The part of [0, 1) that a variant takes."""

    variant: str
    start: float
    end: float


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens, or per hour of the machine alone."""

    input: float | None = None
    cached_input: float | None = None
    cache_write: float | None = None
    audio_input: float | None = None
    output: float | None = None
    reasoning: float | None = None
    audio_output: float | None = None
    per_hour: float | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A fallback: where a request goes next, with the deadlines and the price there."""

    upstream: str
    model: str  # as the upstream knows it; of a snapshot, its id
    larger_context: bool
    deadlines: Timeouts
    price: Terms | None


class UpstreamBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests an upstream may have at a time, and how many may wait for that."""

    name: str
    concurrent: int
    queue: int


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that a request meets, as configured: of the process, its upstreams, and its key if known."""

    concurrent: int
    upstreams: list[UpstreamBounds]
    key: str | None = None
    key_limits: list[KeyLimit] = []


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """How the gateway is doing: what a request would meet now, all workers together.

    `concurrent` is what is in force, with `in_flight` of it in use. `key`: what the key has left, None for
    one without limits; where that could not be read, `key_unknown` says why.
    """

    workers: int
    in_flight: int
    concurrent: int
    upstreams: list[UpstreamView]
    key: KeyReport | None = None
    key_unknown: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where one request would go. `variant` is None where it depends on something that was not given.

    `refused`: why the key that was named gets a 403 or 404 all the same. `now` is None where no gateway runs,
    and so nobody knows.
    """

    model: str
    route: str
    why: str
    table_hash: str
    variant: str | None = None
    propensity: float | None = None
    bucket: float | None = None
    scale: list[Range] = []
    rollout: str | None = None
    snapshot: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    servers: list[str] = []
    deadlines: Timeouts | None = None
    fallbacks: list[Step] = []
    price: Terms | None = None
    refused: str | None = None
    bounds: Bounds
    now: Now | None = None
