"""Runs a model script in a process of its own: torch's memory goes back to the machine when it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from learner.errors import LearnerError, LearnerRefusedError
from learner.runtime import LIBRARIES, MODEL_ENVIRONMENT, check_installed
from learner.types import Progress

log = logging.getLogger(__name__)

POLL_S = 0.25
MAX_RESTARTS = 3  # of a script that was killed: it goes on from its checkpoint each time
STOP_WITHIN_S = 3.0  # between asking a script to end and killing it; it loses nothing but its last steps


def run_script(module: str, run: Path, *, tell: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
    """Run `python -m MODULE --run RUN` to its end, telling its progress; its output goes to RUN/MODULE.log.

    A script that is killed is started again, up to MAX_RESTARTS times, and loses nothing but a few steps.
    Raises LearnerRefusedError or LearnerError with the script's own last line, and LearnerError when *stop*
    said so.
    """
    check_installed(*LIBRARIES)
    name = module.rpartition(".")[2]
    for restart in range(MAX_RESTARTS + 1):
        code = _run_once(module, run, tell, stop)
        if code == 0:
            return
        if code > 0 or restart == MAX_RESTARTS:
            raise _failure(name, code, run / f"{name}.log")
        log.warning("%s was killed by %s; going on from its checkpoint", name, signal.Signals(-code).name)


def _run_once(module: str, run: Path, tell: Callable[[Progress], None], stop: Callable[[], bool]) -> int:
    """Run the script until it ends; its exit code. Raises LearnerError when *stop* said so."""
    name = module.rpartition(".")[2]
    with (run / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--run", str(run)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **MODEL_ENVIRONMENT},
        )
    try:
        told = 0
        while process.poll() is None:
            told = _tell_news(run / "progress.json", told, tell)
            if stop():
                raise LearnerError(f"{name} was stopped; the next `learn run` goes on from its checkpoint")
            time.sleep(POLL_S)
        return process.returncode
    finally:
        _end(process)


def _tell_news(path: Path, told: int, tell: Callable[[Progress], None]) -> int:
    """Tell the progress if it changed since *told* (nanoseconds); returns when it last changed."""
    try:
        changed = path.stat().st_mtime_ns
        if changed == told:
            return told
        tell(msgspec.json.decode(path.read_bytes(), type=Progress))
    except FileNotFoundError:
        return told
    return changed


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failure(name: str, code: int, log: Path) -> LearnerError:
    if code < 0:
        signal_name = signal.Signals(-code).name
        hint = ", out of memory perhaps" if -code == signal.SIGKILL else ""
        return LearnerError(f"{name} was killed {MAX_RESTARTS + 1} times, last by {signal_name}{hint}")
    lines = log.read_text(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"ended with code {code}"
    if code == LearnerRefusedError.exit_code:
        return LearnerRefusedError(reason)
    return LearnerError(f"{name} failed: {reason} (its log: {log})")
