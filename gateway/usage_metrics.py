"""Tokens and USD for `/metrics`. The recorder counts them, which reads every answer anyway: no request waits.

A trace counts once it is in the spool; a recorder that is killed between the two leaves at most one group of
them out and counts none twice. What capture has dropped is in `tracetune_capture_dropped_total` alone; of
routes with `capture: none` the workers count each answer as one of unknown cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import msgspec

from gateway.config.types import PassthroughFamily
from gateway.metric_series import Metric, Series
from gateway.metrics import (
    COST_UNKNOWN,
    COST_USD,
    GAUGES,
    TOKENS_CACHE_WRITE,
    TOKENS_CACHED,
    TOKENS_IN,
    TOKENS_OUT,
    TOKENS_REASONING,
    TOKENS_UNKNOWN,
)
from gateway.operations import OPERATIONS
from gateway.traces.assembling.usage import Usage
from gateway.traces.cost import may_cost
from gateway.traces.types import CapturedTrace

_FAMILIES: frozenset[str] = frozenset(get_args(PassthroughFamily))
_OTHER = "other"
_TEXT = "unknown"  # or images: nobody says


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one trace used. `worked`: an upstream has worked on it, or may have, so that it has a cost."""

    operation: str
    route: str
    variant: str
    worked: bool
    usage: Usage
    cost_usd: float | None  # None: not known


def answer_of(captured: CapturedTrace, usage: Usage, cost_usd: float | None) -> Answer:
    """What *captured* used, as its row says."""
    return Answer(
        operation=operation_of(captured.endpoint),
        route=captured.route,
        variant=captured.variant,
        worked=may_cost(captured.attempts, captured.outcome),
        usage=usage,
        cost_usd=cost_usd,
    )


def operation_of(endpoint: str) -> str:
    """OpenTelemetry's operation of the path *endpoint*, or its family: one of a fixed set, whatever it is."""
    known = OPERATIONS.get(endpoint)
    if known is not None:
        return known
    path = endpoint.removeprefix("/v1/")
    return next((family for family in _FAMILIES if f"{path}/".startswith(f"{family}/")), _OTHER)


class UsageMetrics:
    """Tokens and USD of one recorder, counted into its file in *directory* under *name*."""

    def __init__(self, directory: Path, name: str) -> None:
        self._series = Series(directory, name, GAUGES)

    def count(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._count(answer)

    def close(self) -> None:
        self._series.close()

    def _count(self, answer: Answer) -> None:
        arm = (answer.route, answer.variant)
        if answer.cost_usd is not None:
            self._add(COST_USD, arm, answer.cost_usd)
        elif answer.worked:
            self._add(COST_UNKNOWN, arm, 1)
        if answer.worked and (answer.usage.input is None or answer.usage.output is None):
            self._add(TOKENS_UNKNOWN, arm, 1)
        self._count_tokens((answer.operation, *arm), answer.usage)

    def _count_tokens(self, arm: tuple[str, ...], usage: Usage) -> None:
        read, written = usage.input, usage.output
        if read is not None:
            audio = read.audio or 0
            self._add(TOKENS_IN, (*arm, _TEXT), read.total - audio)
            self._add_part(TOKENS_IN, (*arm, "audio"), audio)
            self._add_part(TOKENS_CACHED, (*arm, _TEXT), read.cached)
            self._add_part(TOKENS_CACHE_WRITE, (*arm, _TEXT), read.cache_write)
        if written is not None:
            audio = written.audio or 0
            self._add(TOKENS_OUT, (*arm, _TEXT), written.total - audio)
            self._add_part(TOKENS_OUT, (*arm, "audio"), audio)
            self._add_part(TOKENS_REASONING, (*arm, _TEXT), written.reasoning)

    def _add_part(self, metric: Metric, labels: tuple[str, ...], count: int | None) -> None:
        """Parts that are never reported have no series: absent is not zero."""
        if count:
            self._add(metric, labels, count)

    def _add(self, metric: Metric, labels: tuple[str, ...], amount: float) -> None:
        self._series.slots[self._series.slot(metric, labels)] += amount
