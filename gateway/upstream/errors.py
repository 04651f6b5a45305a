"""What can go wrong between the gateway and an upstream.

UpstreamError              `reason` names it in a trace's attempts and in the metrics
├── ConnectError           no connection: refused, unreachable, name unknown, certificate not trusted
├── DeadlineError          a deadline passed: connect, headers, first_token, idle or total
├── DisconnectedError      the server closed, or broke off, before its response was whole
├── ProtocolError          what it sent is not HTTP, or exceeds a bound of ours
├── EjectedError           every server of the upstream is ejected, and a fallback can be asked at once
└── QueueFullError         as many requests wait for this upstream as may wait
"""

from __future__ import annotations

from typing import Literal

from gateway.errors import OperationError

Phase = Literal["connect", "headers", "first_token", "idle", "total"]


class UpstreamError(OperationError):
    """Root. `reason` is from a fixed set; the message names the upstream and the setting, never content."""

    reason = "upstream"


class ConnectError(UpstreamError):
    """No connection could be made."""

    reason = "connect"


class DeadlineError(UpstreamError):
    """The deadline of `phase` passed."""

    def __init__(self, phase: Phase, upstream: str) -> None:
        super().__init__(
            f"upstream {upstream!r} exceeded its {phase} deadline; "
            f"timeouts.{phase}_s of the upstream or the route raises it"
        )
        self.phase = phase
        self.reason = f"{phase}_timeout"


class DisconnectedError(UpstreamError):
    """The server closed or broke off before its response was whole."""

    reason = "disconnected"


class ProtocolError(UpstreamError):
    """What the server sent is not HTTP as we accept it."""

    reason = "protocol"


class EjectedError(UpstreamError):
    """All servers are ejected for failing, and none is due for a trial."""

    reason = "ejected"


class QueueFullError(UpstreamError):
    """`limits.concurrent` requests are at the upstream and `limits.queue` wait."""

    reason = "queue_full"
