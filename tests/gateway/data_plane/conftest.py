"""A scripted upstream and a gateway in front of it, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.request_path import RunningGateway, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """One route on one upstream with short deadlines, no keys."""
    timeouts = {"connect_s": 1, "headers_s": 0.6, "first_token_s": 0.6, "idle_s": 0.6, "total_s": 3}
    config = config_for(upstream.base_url, timeouts=timeouts)
    with running_gateway(tmp_path, config) as running:
        yield running
