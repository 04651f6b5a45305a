"""A process of its own that reserves and settles: `python -m tests.support.quota_worker FOLDER MODE [N]`.

hammer N    print "ready" and wait for a line; try N requests of 10 tokens of the key `web` at NOW_S and settle
            each with 7; print how many got in
hold        reserve one request, print "held", and wait to be killed
lock        take the lock of the counters, print "locked", and stay there
die N       for every Nth step of the interpreter inside a reservation and its settlement: be killed at just
            this step, in a process forked for it, print the step, and wait for a line before the next one
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from gateway.quotas import Account, Ledger, Reservation
from tests.support.quotas import NOW_S, files_in, web_of

TOKENS, USED = 10, 7


def main(folder: Path, mode: str, count: int) -> None:
    if mode == "die":
        die_at_every_step(folder, count)
        return
    ledger = Ledger(files_in(folder))
    account = ledger.accounts(web_of(folder))["web"]
    if mode == "hammer":
        say("ready")
        sys.stdin.readline()
        admitted = 0
        for _ in range(count):
            taken = ledger.reserve(account, NOW_S, tokens=TOKENS, usd=0.0)
            if isinstance(taken, Reservation):
                ledger.settle(taken, tokens=USED, usd=0.0)
                admitted += 1
        say(str(admitted))
        ledger.close()
        return
    if mode == "hold":
        assert isinstance(ledger.reserve(account, NOW_S, tokens=TOKENS, usd=0.0), Reservation)
        say("held")
    else:
        assert ledger.counters is not None
        assert ledger.counters.acquire()
        say("locked")
    time.sleep(600)


def die_at_every_step(folder: Path, stride: int) -> None:
    """Fork, and kill the child at its first step; fork again, kill at a later one; until one lives."""
    step = 1
    while True:
        child = os.fork()
        if child == 0:
            die_at(folder, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"{step} {'survived' if os.WIFEXITED(status) else 'killed'}")
        sys.stdin.readline()  # the test looks at what is left, and lets us go on
        if os.WIFEXITED(status):
            return
        step += stride


def die_at(folder: Path, step: int) -> None:
    ledger = Ledger(files_in(folder))
    account = ledger.accounts(web_of(folder))["web"]
    steps = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal steps
        if "quotas" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    use(ledger, account)


def use(ledger: Ledger, account: Account) -> None:
    taken = ledger.reserve(account, NOW_S, tokens=TOKENS, usd=0.0)
    assert isinstance(taken, Reservation)
    ledger.settle(taken, tokens=USED, usd=0.0)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
