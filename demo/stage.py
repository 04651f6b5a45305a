"""What the demo's steps share: where things run, what the app has sent so far, how progress is shown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from demo.app import AppOptions, Report, run_app
from demo.configuration import ROUTE
from demo.view import View
from gateway.config import Config
from gateway.errors import OperationError
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.status import RouteStatus, route_status

POLL_S = 2.0  # each look costs the store some milliseconds on the cores that train


class AppTotals(msgspec.Struct):
    """What the app sent and saw over all its runs."""

    sent: int = 0
    answered: int = 0
    streamed: int = 0
    errors: int = 0

    def add(self, report: Report) -> None:
        """Count what one run of the app did."""
        self.sent += report.finished
        self.answered += report.answered
        self.streamed += report.streamed
        self.errors += sum(report.errors.values())


class Stage:
    """The running system, seen from outside: the store, the app's base_url, the screen."""

    def __init__(self, config: Config, store: Store, view: View) -> None:
        self.config = config
        self.store = store
        self.view = view
        self.totals = AppTotals()
        self._logs = paths_of(config).data / "logs"
        self.base_url = f"http://{config.listen.host}:{config.listen.port}/v1"

    async def send(self, messages: int, in_flight: int, what: str) -> None:
        """Let the app send *messages* messages, with a bar."""
        with self.view.bar(what, messages) as bar:
            report = await run_app(self._options(messages, in_flight), progress=lambda r: bar(r.finished))
        self.totals.add(report)

    @contextlib.asynccontextmanager
    async def traffic(self, in_flight: int) -> AsyncIterator[None]:
        """The app goes on sending while the block lasts."""
        stop = asyncio.Event()
        task = asyncio.create_task(run_app(self._options(None, in_flight), stop=stop))
        try:
            yield
        finally:
            stop.set()
            self.totals.add(await task)

    async def ask(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """One query, off the event loop: the app is running on it."""
        return await asyncio.to_thread(self.store.query, sql, parameters or {})

    async def status(self) -> RouteStatus:
        """The route as `tracetune learn status` has it."""
        statuses = await asyncio.to_thread(route_status, self.config, self.store)
        return next(status for status in statuses if status.route == ROUTE)

    async def wait(self, what: str, condition: Any, within_s: float) -> None:
        """Ask *condition* (a coroutine function) until it is true. Raises OperationError after *within_s*."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not await condition():
            if loop.time() > deadline:
                raise OperationError(f"{what}: not within {within_s:.0f} s; see {self._logs}")
            await asyncio.sleep(POLL_S)

    def _options(self, messages: int | None, in_flight: int) -> AppOptions:
        return AppOptions(
            base_url=self.base_url, messages=messages, in_flight=in_flight, skip=self.totals.sent, model=ROUTE
        )
