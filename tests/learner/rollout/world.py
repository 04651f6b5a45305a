"""Writes the traces and judgments of a rollout as the recorder and the judges write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.traces.store import Store
from gateway.traces.types import Judgment, Trace
from learner.rollout.evidence import read_evidence
from learner.rollout.policy import FrozenPolicy
from tests.learner.rollout.support import frozen

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
START = NOW - timedelta(hours=2)


class World:
    """Traces and judgments of one rollout, written as recorder and judges write them."""

    def __init__(
        self,
        store: Store,
        rollout: str | None,
        policy: FrozenPolicy | None = None,
        *,
        start: datetime = START,
        version: str = "v1",
    ) -> None:
        self.store, self.rollout, self.start, self.version = store, rollout, start, version
        self.policy = policy or frozen(window_s=600, settle_s=60)
        self.traces: list[Trace] = []
        self.judgments: list[Judgment] = []

    def trace(self, session: str, arm: str, *, after_s: float = 0, score: float | str | None = 1.0, **more):
        """One answer. `score` "none": not judged at all; None: the judge abstained."""
        candidate = arm == "candidate"
        trace_id = f"{self.rollout}-{len(self.traces):06d}"
        fields = {
            "trace_id": trace_id,
            "started_at": self.start + timedelta(seconds=after_s),
            "route": "support",
            "variant": self.policy.candidate.variant if candidate else "stable",
            "snapshot": self.policy.candidate.variant if candidate else None,
            "rollout": self.rollout,
            "propensity": 0.1 if candidate else 0.9,
            "client": "app",
            "session": session,
            "subject": None,
            "upstream": "local" if candidate else "frontier",
            "model": self.policy.candidate.model if candidate else "big",
            "endpoint": "/v1/chat/completions",
            "stream": False,
            "status": 200,
            "outcome": "ok",
            "finish_reason": "stop",
            "attempts": "[]",
            "latency_ms": 250.0,
            "ttft_ms": None,
            "tokens_in": 1,
            "tokens_cached": None,
            "tokens_out": 1,
            "usage": None,
            "cost_usd": 0.001,
            "request": None,
            "response": None,
            "tags": {},
            "table_hash": "t",
            "traceparent": None,
        }
        self.traces.append(Trace(**{**fields, **more}))
        if score != "none":
            self.judge(trace_id, score)
        return trace_id

    def judge(self, trace_id, score, *, version=None, judge="resolved", at=NOW):
        self.judgments.append(
            Judgment(
                trace_id=trace_id,
                judge=judge,
                version=version or self.version,
                score=score,
                reason="",
                judged_at=at,
            )
        )

    def write(self) -> None:
        self.store.insert("traces", self.traces, token=f"t-{self.rollout}")
        self.store.insert("judgments", self.judgments, token=f"j-{self.rollout}")

    def read(self, *, now=NOW, share=0.1):
        self.write()
        return read_evidence(self.store, self.rollout, self.policy, share=share, paused=False, now=now)
