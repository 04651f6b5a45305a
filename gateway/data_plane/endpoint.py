"""What an endpoint of ours is: its path here and at an upstream, and what it does."""

from __future__ import annotations

import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One path of ours. `streams_usage`: its streams can be asked for usage with `stream_options`."""

    path: str
    upstream_path: str
    operation: str  # OpenTelemetry's gen_ai.operation.name where it has one
    streams_usage: bool = False
