"""One child process: start it, forward its log lines, stop it. Restarting is the supervisor's decision."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.errors import OperationError
from gateway.supervisor.log_file import LogFile
from gateway.supervisor.plan import ProcessPlan

LOG_LINE_BYTES = 64_000  # a longer line is split, so that no child can fill our memory
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger("tracetune.up")


class Child:
    """A started process and its log."""

    def __init__(self, plan: ProcessPlan, logs: Path, *, echo: bool) -> None:
        self.plan = plan
        self.started_at = 0.0
        self._echo = echo
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self.last_line = ""  # kept here too: the disk that its log is on may be full
        self._log_path = logs / f"{plan.name}.log"
        self._log = LogFile(self._log_path)

    @property
    def told(self) -> str:
        """Its last line, and where the others are."""
        return f"{self.last_line} (log: {self._log_path})" if self.last_line else f"see {self._log_path}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    async def start(self, listen_fd: int | None) -> None:
        """Start the process. Raises OperationError when it cannot be started at all."""
        self.last_line = ""
        argv = list(self.plan.argv)
        fds: tuple[int, ...] = ()
        if self.plan.listens and listen_fd is not None:
            argv += ["--fd", str(listen_fd)]
            fds = (listen_fd,)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **self.plan.env},
                pass_fds=fds,
                # A group of its own: Ctrl-C reaches the supervisor alone, which then stops us in order.
                start_new_session=True,
                preexec_fn=_prepare_child(self.plan.nice),
                limit=LOG_LINE_BYTES,
            )
        except OSError as error:
            raise OperationError(f"{self.plan.name} could not be started: {error}") from error
        self.started_at = time.monotonic()
        self._pump = asyncio.create_task(self._pump_lines(self._process))

    async def wait(self) -> int:
        """The exit status, once it has ended."""
        assert self._process is not None
        status = await self._process.wait()
        if self._pump is not None:
            await self._pump
        return status

    async def stop(self) -> None:
        """Ask it to end, insist after `stop_within_s`; its own children go with it."""
        if self._process is None:
            return
        pid = self._process.pid
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), self.plan.stop_within_s)
            except TimeoutError:
                log.warning("%s did not stop within %.0f s; killed", self.plan.name, self.plan.stop_within_s)
        # What it started lives in its group: nothing of ours may stay behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        await self.wait()

    def close(self) -> None:
        self._log.close()

    async def _pump_lines(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than LOG_LINE_BYTES: what is buffered goes out in one piece
                line = await process.stdout.read(LOG_LINE_BYTES)
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self.last_line = text or self.last_line
            self._log.write(text)
            if self._echo:
                sys.stderr.write(f"{self.plan.name:<12} {text}\n")


def _prepare_child(nice: int) -> Callable[[], None]:
    def prepare() -> None:
        # Without this a supervisor killed by SIGKILL would leave its processes behind, holding the store.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if nice:
            os.nice(nice)

    return prepare
