"""Runs a plan: starts processes in order, restarts what dies, stops everything in the reverse order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import msgspec

from gateway.errors import OperationError
from gateway.listening import local_url
from gateway.supervisor.child import Child
from gateway.supervisor.plan import ProcessPlan
from gateway.supervisor.ready import answers, wait_ready
from gateway.traces.spool.replace import replace_file

RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
HEALTHY_AFTER_S = 10.0  # a process that lived this long starts its pauses from the beginning
LOAD_POLL_S = 0.2
LOAD_WITHIN_S = 600.0  # for models; after that everything counts as up, although they still load

log = logging.getLogger("tracetune.up")


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `processes.json`."""

    name: str
    pid: int | None
    restarts: int


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """`state/processes.json`: what runs under the supervisor, for `status` and for people."""

    supervisor: int
    command: str  # the `tracetune` command that runs them
    started_at: float
    url: str
    processes: list[ProcessState]


class Supervisor:
    """Owns the children from the first start to the last stop. One use per object."""

    def __init__(
        self,
        plans: list[ProcessPlan],
        *,
        state: Path,
        logs: Path,
        listener: socket.socket | None,
        echo: bool,
        command: str = "up",
    ) -> None:
        self._plans = plans
        self._state = state
        self._listener = listener
        self._command = command
        self._children = {plan.name: Child(plan, logs, echo=echo) for plan in plans}
        self._restarts = dict.fromkeys(self._children, 0)
        self._loading = {plan.name for plan in plans if plan.ready == "model"}
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._started_at = time.time()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start all, call *on_ready*, and keep them running until a signal.

        Raises OperationError when a process cannot be brought up, or a server cannot load its model.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._start_all(tasks)
            if not self._stopping.is_set():
                on_ready()
            await self._stopping.wait()
        finally:
            self._stopping.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop_all()
        if self._failure is not None:
            raise OperationError(self._failure)

    async def _start_all(self, tasks: list[asyncio.Task[None]]) -> None:
        """Start the processes in order, then wait for the models; sooner when asked to stop."""
        for plan in self._plans:
            if self._stopping.is_set():
                return
            await self._bring_up(plan)
            tasks.append(asyncio.create_task(self._watch(plan)))
        tasks.append(asyncio.create_task(self._until_loaded()))
        deadline = time.monotonic() + LOAD_WITHIN_S
        while self._loading and not self._stopping.is_set():
            if time.monotonic() >= deadline:
                log.warning("%s still load; fallbacks answer meanwhile", ", ".join(sorted(self._loading)))
                return
            await asyncio.sleep(LOAD_POLL_S)

    async def _until_loaded(self) -> None:
        while self._loading:
            for plan in self._plans:
                if plan.name in self._loading and await answers(plan.health_url):
                    self._loading.discard(plan.name)
            await asyncio.sleep(LOAD_POLL_S)

    async def _bring_up(self, plan: ProcessPlan) -> None:
        child = self._children[plan.name]
        await child.start(self._fd)
        self._save()
        stopping = asyncio.create_task(self._stopping.wait())
        ready = asyncio.create_task(wait_ready(plan, child, self._state.parent / "store", self._url))
        done, _ = await asyncio.wait({stopping, ready}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ready not in done:
            ready.cancel()
            return
        ready.result()

    async def _watch(self, plan: ProcessPlan) -> None:
        child = self._children[plan.name]
        pause_s = RESTART_FIRST_S
        while True:
            status = await child.wait()
            if self._stopping.is_set():
                return
            if plan.name in self._loading and status > 0:
                # It said why, and would again: a model that cannot be loaded does not mend itself.
                self._failure = f"{plan.name} ended while starting (status {status}): {child.told}"
                self._stopping.set()
                return
            if time.monotonic() - child.started_at >= HEALTHY_AFTER_S:
                pause_s = RESTART_FIRST_S
            log.warning("%s ended (%s); restarting in %.1f s", plan.name, _describe(status), pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_MAX_S)
            self._restarts[plan.name] += 1
            try:
                await child.start(self._fd)
            except OperationError as error:
                self._failure = str(error)
                self._stopping.set()
                return
            self._save()

    async def _stop_all(self) -> None:
        # The workers of one socket go together: each may take all of its time, and none accepts for another.
        for listens, plans in groupby(reversed(self._plans), lambda plan: plan.listens):
            if listens:
                await self._stop_workers(list(plans))
                continue
            for plan in plans:
                await self._children[plan.name].stop()
        for child in self._children.values():
            child.close()
        (self._state / "processes.json").unlink(missing_ok=True)

    async def _stop_workers(self, plans: list[ProcessPlan]) -> None:
        if self._listener is not None:
            self._listener.close()  # as long as one of us has it open, connections wait for nobody
        await asyncio.gather(*(self._children[plan.name].stop() for plan in plans))

    @property
    def _fd(self) -> int | None:
        return self._listener.fileno() if self._listener is not None else None

    @property
    def _url(self) -> str:
        return local_url(*self._listener.getsockname()[:2]) if self._listener is not None else ""

    def _save(self) -> None:
        content = Processes(
            supervisor=os.getpid(),
            command=self._command,
            started_at=self._started_at,
            url=self._url,
            processes=[
                ProcessState(name=name, pid=child.pid, restarts=self._restarts[name])
                for name, child in self._children.items()
            ],
        )
        path = self._state / "processes.json"
        try:
            replace_file(path, msgspec.json.format(msgspec.json.encode(content)))
        except OSError as error:
            # A disk that filled up is no reason to stop serving, or to leave a process dead.
            log.warning("%s cannot be written: %s", path, error.strerror)


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
