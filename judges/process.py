"""The owner's end of one worker process: its pipes, its lifeline, how it ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from judges.errors import JudgeWorkerError
from judges.wire import PIPES_GONE, Reply, frame, split_frame

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent
_END_WITHIN_S = 5.0
_FAREWELL_S = 1.0
_CLOSED = "closed the pipes of its process"
_CHUNK_BYTES = 1 << 18


class WorkerGoneError(Exception):
    """The worker has ended or speaks nonsense. `str(error)` says how, as a reason for an abstention."""


class WorkerProcess:
    """One running worker. Not thread-safe: one thread owns it.

    Raises JudgeWorkerError when the process cannot be started. `close` ends it and all that it started.
    """

    def __init__(self, *, show_output: bool) -> None:
        tasks, self._tasks = os.pipe()
        self._answers, answers = os.pipe()
        lifeline, self._lifeline = os.pipe()
        os.set_blocking(self._tasks, False)
        output = sys.stderr.fileno() if show_output else subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "judges.worker", str(tasks), str(answers), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(tasks, answers, lifeline),
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            for descriptor in (self._tasks, self._answers, self._lifeline):
                os.close(descriptor)
            raise JudgeWorkerError(f"a judge's process cannot be started: {error.strerror}") from error
        finally:
            for descriptor in (tasks, answers, lifeline):
                os.close(descriptor)
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._closed = False

    def send(self, message: msgspec.Struct) -> None:
        """Queue *message*; `receive` writes it as the worker takes it."""
        self._outgoing += frame(message)

    def receive(self, wait_s: float) -> Reply | None:
        """The next reply; None when none came within *wait_s*. Raises WorkerGoneError."""
        until = time.monotonic() + wait_s
        while True:
            reply = self._next_reply()
            if reply is not None:
                return reply
            if not self._pump(max(0.0, until - time.monotonic())):
                return None

    def close(self) -> None:
        """End the worker and everything it started."""
        if self._closed:
            return
        self._closed = True
        for descriptor in (self._lifeline, self._tasks, self._answers):
            os.close(descriptor)
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _how_it_ended(self) -> str:
        """Its answers have ended: leave it a moment to end by itself, so that the status is its own."""
        try:
            return _described(self._process.wait(_FAREWELL_S))
        except subprocess.TimeoutExpired:
            return _CLOSED
        finally:
            self.close()

    def _next_reply(self) -> Reply | None:
        try:
            body = split_frame(self._incoming)
            return None if body is None else msgspec.msgpack.decode(body, type=Reply)
        except (ValueError, msgspec.DecodeError) as error:
            self.close()
            raise WorkerGoneError("wrote over the answers of its process") from error

    def _pump(self, wait_s: float) -> bool:
        """Move bytes both ways, waiting at most *wait_s* for the first; False when nothing moved."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if self._outgoing:
            poll.register(self._tasks, select.POLLOUT)
        ready = dict(poll.poll(wait_s * 1000))
        if self._answers in ready:
            data = os.read(self._answers, _CHUNK_BYTES)
            if not data:
                raise WorkerGoneError(self._how_it_ended())
            self._incoming += data
        elif self._tasks in ready:
            try:
                written = os.write(self._tasks, memoryview(self._outgoing)[:_CHUNK_BYTES])
            except BrokenPipeError:
                self._outgoing.clear()  # it has ended; what it still answered is to be read first
            else:
                del self._outgoing[:written]
        return bool(ready)


def _described(code: int) -> str:
    number = code - 128 if code > 128 else -code
    if code == PIPES_GONE:
        return _CLOSED
    if 0 <= code <= 128:
        return f"ended its process with status {code}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended its process with status {code}"
    hint = "; the machine may be out of memory" if number == signal.SIGKILL else ""
    return f"its process died of {name}{hint}"


def _environment() -> dict[str, str]:
    """Ours without our own secrets; the package is found wherever the parent found it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACETUNE_")}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(_PACKAGE_ROOT), *([path] if path else [])])
    return environment
