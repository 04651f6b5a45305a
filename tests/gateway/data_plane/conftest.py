"""A scripted upstream and a gateway in front of it, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.request_path import UPSTREAM_DEFAULTS, RunningGateway, config_for, running_gateway
from tests.support.stored import storing_config
from tests.support.upstream import ScriptedUpstream
from tests.support.upstream_http2 import Http2Upstream


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `transports(...)` once over each of them: all do the same."""
    marker = metafunc.definition.get_closest_marker("transports")
    if marker is not None:
        metafunc.parametrize("transport", marker.args, indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How upstreams are reached: "native", "httpx", or "http2" (which is httpx)."""
    chosen: str = getattr(request, "param", "native")
    if chosen != "native":
        monkeypatch.setitem(UPSTREAM_DEFAULTS, "transport", "httpx")
        monkeypatch.setitem(UPSTREAM_DEFAULTS, "http2", chosen == "http2")
    return chosen


@pytest.fixture
def upstream(transport: str) -> Iterator[ScriptedUpstream]:
    with Http2Upstream() if transport == "http2" else ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """One route on one upstream with short deadlines, no keys."""
    timeouts = {"connect_s": 1, "headers_s": 0.6, "first_token_s": 0.6, "idle_s": 0.6, "total_s": 3}
    config = config_for(upstream.base_url, timeouts=timeouts)
    with running_gateway(tmp_path, config) as running:
        yield running


@pytest.fixture
def storing(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    """One whose default upstream lists stored responses and chat completions."""
    with running_gateway(tmp_path, storing_config(upstream.base_url)) as running:
        yield running
