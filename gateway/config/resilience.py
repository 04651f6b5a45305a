"""How an upstream's servers that fail, or are slow to begin, are dealt with: settings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.config.base import Seconds, Strict


class Ejection(Strict, frozen=True, kw_only=True):
    """When a server is asked no more, for how long, and how it comes back.

    It is ejected after `consecutive` failures in a row, or when `share` of its requests of the last
    `window_s`, of which there are at least `min_requests`, failed. Its first pause is `base_s`; each further
    one is `growth` times as long, up to `cap_s`, and up to `jitter` of it is taken off at random. After a
    pause it gets `probes` trial requests at a time: it is back once `passes` of them in a row were answered,
    and a trial that fails is the next pause. `cap_s` also bounds how long a `retry-after` rests a server.
    """

    consecutive: Annotated[int, Meta(ge=1)] = 5
    share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    min_requests: Annotated[int, Meta(ge=1)] = 20
    window_s: Seconds = 30
    base_s: Seconds = 1
    growth: Annotated[float, Meta(ge=1, le=10)] = 2
    cap_s: Seconds = 60
    jitter: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    probes: Annotated[int, Meta(ge=1)] = 1
    passes: Annotated[int, Meta(ge=1)] = 2

    def __post_init__(self) -> None:
        if self.base_s > self.cap_s:
            raise ValueError(f"ejection begins with {self.base_s:g} s and may not exceed {self.cap_s:g} s")


class Hedge(Strict, frozen=True, kw_only=True):
    """When a stream that has not begun is asked for a second time, of another server; the first one wins.

    Once it has taken longer than `quantile` of the recent streams took to their first content, and at least
    `min_delay_s`. At most `budget` of the recent requests are.
    """

    quantile: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.95
    budget: Annotated[float, Meta(gt=0, le=1)] = 0.05
    min_delay_s: Seconds = 0.1
