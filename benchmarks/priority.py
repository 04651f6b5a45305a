"""Which cores a process may use, and how much of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.types import BenchmarkError

NICE_BESIDE = 19  # of the processes beside a worker where they share the load's core, as long as it is loaded
TRIES = 5
RETRY_S = 0.12  # the kernel lets a plain user change a session ten times a second


def pin(pid: int, cores: Iterable[int], nice: int) -> None:
    """Let *pid* and all its threads run on *cores* only, at *nice*. Threads that end meanwhile are let go.

    Raises BenchmarkError where that takes rights that this process has not.
    """
    cores = set(cores)
    for thread in threads(pid):
        try:
            os.sched_setaffinity(thread, cores)
            set_nice(thread, nice)
        except ProcessLookupError:
            continue
    set_session_nice(str(pid), nice)


def set_nice(pid: int, nice: int) -> None:
    """Of one thread; 0 is this one. Raises BenchmarkError, ProcessLookupError."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    except PermissionError as error:
        raise BenchmarkError(f"nice {nice} takes root") from error


def run_first() -> bool:
    """Let this process and its children run before whatever else their cores have to do. False: it may not.

    Niceness does not do: a process that wakes waits until the slice of the one that runs is over, some
    milliseconds here, however nice that one is. Takes root.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except PermissionError:
        return False
    return True


def may_run_first() -> bool:
    """Whether `run_first` works here, so that latencies leave out what works beside the gateway."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if not run_first():
        return False
    os.sched_setscheduler(0, policy, parameters)
    return True


def set_session_nice(pid: str, nice: int) -> None:
    """Of the session of *pid* (`self` for this one), where the kernel shares cores out among sessions first.

    There, niceness counts only within a session, and each server that we start is a session of its own.
    Raises BenchmarkError.
    """
    path = Path(f"/proc/{pid}/autogroup")
    for _ in range(TRIES):
        try:
            path.write_text(str(nice))
        except (FileNotFoundError, ProcessLookupError):
            return  # a kernel without such groups, or the process has ended
        except BlockingIOError:
            time.sleep(RETRY_S)
        except PermissionError as error:
            raise BenchmarkError(f"nice {nice} takes root") from error
        else:
            return


def own_nice() -> int:
    """Of this process; its children inherit it."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def threads(pid: int) -> list[int]:
    """The threads of *pid*, itself among them."""
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []
