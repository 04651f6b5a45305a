"""A gateway whose default upstream lists what it has stored, and how that is asked for."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.request_path import RunningGateway, config_for

STORED = ["responses", "chat/completions"]


def storing_config(base_url: str | list[str], **upstream: Any) -> dict[str, Any]:
    """Passes on what asks for stored responses and chat completions, with short deadlines."""
    timeouts = {"first_token_s": 0.6, "idle_s": 0.6}
    return config_for(base_url, default=True, passthrough=STORED, timeouts=timeouts, **upstream)


def request(gateway: RunningGateway, method: str, path: str, **more: Any) -> httpx.Response:
    return httpx.request(method, f"{gateway.base_url}{path}", timeout=10, **more)
