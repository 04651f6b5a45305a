"""How the supervisor tells that a process it started is ready for the next one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from gateway.errors import OperationError
from gateway.supervisor.child import Child
from gateway.supervisor.plan import ProcessPlan
from gateway.traces.endpoint import read_endpoint

POLL_S = 0.05
ALIVE_FOR_S = 0.3  # a process that survives its imports this long counts as started


async def wait_ready(plan: ProcessPlan, child: Child, store: Path, url: str) -> None:
    """Return when the process is ready: the store at *store*, the gateway at *url*.

    Raises OperationError when it ends first or is not ready within `ready_within_s`.
    """
    deadline = time.monotonic() + plan.ready_within_s
    while time.monotonic() < deadline:
        if not child.alive:
            await child.wait()
            raise OperationError(
                f"{plan.name} ended while starting (status {child.returncode}): {child.told}"
            )
        if await _is_ready(plan, child, store, url):
            return
        await asyncio.sleep(POLL_S)
    raise OperationError(f"{plan.name} was not ready within {plan.ready_within_s:.0f} s: {child.told}")


async def _is_ready(plan: ProcessPlan, child: Child, store: Path, url: str) -> bool:
    match plan.ready:
        case "alive" | "model":
            return time.monotonic() - child.started_at >= ALIVE_FOR_S
        case "store":
            endpoint = read_endpoint(store)
            return endpoint is not None and endpoint.pid == child.pid
        case "gateway":
            return await answers(f"{url}/v1/models")


async def answers(url: str) -> bool:
    """Whether *url* answers, and not with a failure of the server's."""
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
        try:
            response = await client.get(url)
        except httpx.HTTPError:
            return False
    return response.status_code < 500
