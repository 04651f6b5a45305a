"""How the supervisor tells that a process it started is ready for the next one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import msgspec

from gateway.errors import OperationError
from gateway.supervisor.child import Child
from gateway.supervisor.plan import ProcessPlan

POLL_S = 0.05
ALIVE_FOR_S = 0.3  # a process that survives its imports this long counts as started


class _Endpoint(msgspec.Struct):
    pid: int


async def wait_ready(plan: ProcessPlan, child: Child, state: Path, address: tuple[str, int]) -> None:
    """Return when the process is ready.

    Raises OperationError when it ends first or is not ready within `ready_within_s`.
    """
    deadline = time.monotonic() + plan.ready_within_s
    while time.monotonic() < deadline:
        if not child.alive:
            await child.wait()
            raise OperationError(
                f"{plan.name} ended while starting (status {child.returncode}): {child.told}"
            )
        if await _is_ready(plan, child, state, address):
            return
        await asyncio.sleep(POLL_S)
    raise OperationError(f"{plan.name} was not ready within {plan.ready_within_s:.0f} s: {child.told}")


async def _is_ready(plan: ProcessPlan, child: Child, state: Path, address: tuple[str, int]) -> bool:
    match plan.ready:
        case "alive" | "model":
            return time.monotonic() - child.started_at >= ALIVE_FOR_S
        case "store":
            return _endpoint_pid(state.parent / "store" / "endpoint.json") == child.pid
        case "gateway":
            return await answers(f"http://{_bracket(address[0])}:{address[1]}/v1/models")


def _endpoint_pid(path: Path) -> int | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Endpoint).pid
    except (FileNotFoundError, msgspec.DecodeError):
        return None


async def answers(url: str) -> bool:
    """Whether *url* answers, and not with a failure of the server's."""
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
        try:
            response = await client.get(url)
        except httpx.HTTPError:
            return False
    return response.status_code < 500


def _bracket(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 -- compared with, not bound to
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
