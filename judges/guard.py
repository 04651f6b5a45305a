"""Nothing that a judge starts outlives it: a small process stays behind and ends all that is left.

The guard runs no user code, so it can always act. It adopts what the judge's process leaves behind (as its
subreaper), and ends everything when the judge's process ends or when its owner goes away, by SIGKILL even.
Off Linux only the process group is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_END_WITHIN_S = 3.0
_LINUX = sys.platform.startswith("linux")


def stay_behind(lifeline: int, *, close: tuple[int, ...]) -> None:
    """Fork: returns in the child only. The parent closes *close*, watches *lifeline* and never returns.

    It exits with the child's status, or 128 + the signal that killed it.
    """
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    guard = os.getpid()
    child = os.fork()
    if child:
        for descriptor in close:
            os.close(descriptor)
        os._exit(_watch(child, lifeline, woken))
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for descriptor in (lifeline, woken, wake):
        os.close(descriptor)
    if _LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)


def _watch(child: int, lifeline: int, woken: int) -> int:
    status: int | None = None
    waiting = select.poll()  # `select` takes no descriptor above 1,023, and an owner may have as many open
    for descriptor in (lifeline, woken):
        waiting.register(descriptor, select.POLLIN)
    while status is None:
        ready = {descriptor for descriptor, _ in waiting.poll()}
        if lifeline in ready:
            break
        if signal.SIGTERM in os.read(woken, 4096):
            break
        status = _reap(child)
    ended = _end_all(child)
    if status is None:
        status = ended
    if status is None:
        return 1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _reap(child: int) -> int | None:
    """Collect whoever has ended, the adopted ones too; the status of *child* if it was among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = ended[1]
    return status


def _end_all(child: int) -> int | None:
    """Kill every descendant, those too that appear meanwhile. The status of *child* if it ended now."""
    status = None
    until = time.monotonic() + _END_WITHIN_S
    while time.monotonic() < until:
        for pid in descendants(os.getpid()) or [child]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found = _reap(child)
        status = found if found is not None else status
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return status
        time.sleep(0.01)
    return status


def descendants(root: int) -> list[int]:
    """Pids below *root* in the process tree, zombies left out; empty where there is no /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    below: list[int] = []
    fresh = {root}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        below.extend(fresh)
    return below


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
