"""Starts what a run needs and takes all of it down again, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.priority import own_nice, run_first, set_session_nice
from benchmarks.types import BenchmarkError
from benchmarks.wire import PATH, body, headers

STOP_WITHIN_S = 10.0
ANSWER_POLL_S = 0.1
OPEN_FILES = 16_384
REASON_CHARACTERS = 200
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """A port on loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raise_open_files() -> None:
    """Let this process and its children open enough sockets. Raises BenchmarkError where they may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise BenchmarkError(f"{OPEN_FILES} open files are needed, {hard} are allowed; raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


@contextlib.contextmanager
def interruptible(within_s: float) -> Iterator[None]:
    """Turn signals to end, and the end of *within_s*, into exceptions, so that everything is cleaned up."""

    def stop(number: int, _: object) -> None:
        if number == signal.SIGALRM:
            raise BenchmarkError(f"the run took longer than {within_s:.0f} s")
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.signal(number, stop) for number in numbers}
    signal.setitimer(signal.ITIMER_REAL, within_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def prepared(core: int | None, *, is_load: bool = False) -> Callable[[], None]:
    """What a child does before it becomes its program: it goes to *core*, and ends when this process does.

    None: any core. What *is_load* runs there before all else, if it may.
    """
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed run leaves nothing behind
        if os.getppid() != parent:
            os._exit(1)
        if core is not None:
            os.sched_setaffinity(0, {core})
        if (nice := own_nice()) != 0:
            set_session_nice("self", nice)
        if is_load:
            run_first()

    return prepare


@contextlib.contextmanager
def started(
    argv: list[str],
    *,
    core: int | None,
    log: Path,
    is_load: bool = False,
    env: Mapping[str, str] = {},
    cwd: Path | None = None,
    pass_fds: tuple[int, ...] = (),
    stop_within_s: float = STOP_WITHIN_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on *core* in a session of its own; it and what it started end with the block.

    What *is_load* runs before all else, if it may.

    Raises BenchmarkError where it cannot be started.
    """
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=prepared(core, is_load=is_load),  # noqa: PLW1509 -- no thread runs while this forks
            )
    except OSError as error:
        raise BenchmarkError(f"{argv[0]} could not be started: {error.strerror}") from error
    try:
        yield process
    finally:
        _end(process, stop_within_s)


def _end(process: subprocess.Popen[bytes], within_s: float) -> None:
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_answering(
    process: subprocess.Popen[bytes], port: int, more: Mapping[str, str], log: Path, within_s: float
) -> None:
    """Return once a request to *port* is answered with 200. Raises BenchmarkError with the reason if not."""
    deadline = time.monotonic() + within_s
    said = "nothing"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"it ended with status {process.returncode}: {_last_line(log)}")
        connection = HTTPConnection("127.0.0.1", port, timeout=within_s)
        try:
            connection.request("POST", PATH, body(stream=False), headers("session-0", more))
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            said = str(error)
        else:
            if response.status == 200:
                return
            said = f"{response.status} {content[:REASON_CHARACTERS].decode(errors='replace')}"
        finally:
            connection.close()
        time.sleep(ANSWER_POLL_S)
    raise BenchmarkError(f"it gave no answer within {within_s:.0f} s, but: {said}"[:REASON_CHARACTERS])


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:REASON_CHARACTERS] if lines else "it said nothing"
