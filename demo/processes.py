"""The processes that the demo starts: the stand-in upstream and `tracetune up`, and no other."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from demo.occupants import listens
from demo.signals import undisturbed
from gateway.errors import OperationError

START_WITHIN_S = 90.0
STOP_WITHIN_S = 40.0
POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def running(name: str, argv: Sequence[str], ready_url: str, log: Path, *, keep: bool) -> Iterator[None]:
    """Run *argv* while the block lasts; the block starts when it listens itself and *ready_url* answers.

    It ends with this process, even by SIGKILL; with *keep* it runs on after the block. Raises OperationError
    with the last line of its log when it ends early or does not get ready.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=None if keep else _end_with_parent,  # noqa: PLW1509 -- started before any thread
        )
    finished = False
    try:
        _wait_ready(name, process, ready_url, log)
        yield
        finished = True
    finally:
        if not (keep and finished):
            _stop(process)


def tracetune(*arguments: str) -> list[str]:
    """The command line of this installation."""
    return [sys.executable, "-m", "gateway.cli.root", *arguments]


def call(*arguments: str) -> str:
    """Run one `tracetune` command; its standard output. Raises OperationError with its error line."""
    done = subprocess.run(tracetune(*arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OperationError(f"`tracetune {arguments[0]} {arguments[1]}` failed: {line}")
    return done.stdout


def _wait_ready(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    port = urlsplit(url).port or 80
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise OperationError(f"{name} ended while starting: {_last_line(log)}")
            with contextlib.suppress(httpx.HTTPError):
                # Somebody else's may answer there, while ours is about to fail for want of the port.
                if client.get(url).status_code == 200 and listens(process.pid, port):
                    return
            time.sleep(POLL_S)
    raise OperationError(f"{name} was not ready within {START_WITHIN_S:.0f} s: {_last_line(log)}")


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with undisturbed():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_S)
        # What it started lives in its group: nothing of ours may stay behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1]} (log: {log})" if lines else f"see {log}"
