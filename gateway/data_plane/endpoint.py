"""What an endpoint of ours is: its path here and at an upstream, and what it does."""

from __future__ import annotations

import msgspec

from gateway.data_plane.dialect import Dialect
from gateway.data_plane.dialect_chat import CHAT


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One path of ours. `streams_usage`: its streams can be asked for usage with `stream_options`.

    `dialect`: how its answers are read; those that do not stream fail as chat does.
    """

    path: str
    upstream_path: str
    operation: str  # OpenTelemetry's gen_ai.operation.name where it has one
    streams_usage: bool = False
    dialect: Dialect = CHAT
