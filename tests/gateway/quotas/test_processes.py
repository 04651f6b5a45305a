"""Many processes count in one file, through the death of any of them at any moment, and while one is stopped."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import OperationError
from gateway.quotas import Ledger, QuotaFiles, Refusal, Reservation, keep
from gateway.quotas.keeper import RELEASE_WITHIN_S
from gateway.quotas.lock import WAIT_S, BoundedLock
from gateway.quotas.owners import sweep
from tests.support.quotas import NOW_S, report_of, standing, web_of

ROOT = Path(__file__).resolve().parents[3]
SLACK_S = 10.0
TOKENS, USED = 10, 7  # of each request of a process of its own

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes of their own, and ends them."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.quota_worker", str(tmp_path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def limit(tmp_path: Path, *limits: dict[str, Any]) -> None:
    (tmp_path / "limits-of-web.json").write_bytes(msgspec.json.encode(limits))


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_all_requests_at_all_workers_exactly_as_many_as_the_limit_are_admitted(
    tmp_path: Path, files: QuotaFiles, start: Start
) -> None:
    limit(tmp_path, {"per": "day", "requests": 10_000}, {"per": "month", "tokens": 10**9})
    workers = [start("hammer", "6000") for _ in range(4)]
    assert {line_of(worker) for worker in workers} == {"ready"}
    for worker in workers:
        go_on(worker)

    admitted = [int(line_of(worker)) for worker in workers]

    assert sum(admitted) == 10_000
    ledger = Ledger(files)
    auth = web_of(tmp_path)
    ledger.accounts(auth)
    requests = standing(ledger, auth, NOW_S, "day", "requests")
    assert (requests.used, requests.reserved, requests.left) == (10_000, 0, 0)
    assert standing(ledger, auth, NOW_S, "month", "tokens").used == 10_000 * USED


def test_workers_killed_at_random_leave_counts_that_agree_with_each_other(
    tmp_path: Path, files: QuotaFiles, start: Start
) -> None:
    limit(tmp_path, {"per": "day", "requests": 10**9, "tokens": 10**12}, {"per": "minute", "requests": 10**9})
    auth = web_of(tmp_path)
    ledger = Ledger(files)
    account = ledger.accounts(auth)["web"]
    for round_ in range(8):
        worker = start("hammer", str(10**9))
        assert line_of(worker) == "ready"
        go_on(worker)
        before = standing(ledger, auth, NOW_S, "day", "requests").used
        deadline = time.monotonic() + SLACK_S
        while standing(ledger, auth, NOW_S, "day", "requests").used < before + 50 + 10 * round_:
            assert time.monotonic() < deadline
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    sweep(ledger.counters)
    report = report_of(ledger, auth, NOW_S)
    minute, day = report.windows
    assert day.requests is not None
    assert day.tokens is not None
    assert day.requests == minute.requests
    assert day.requests.used * USED == day.tokens.used
    assert day.requests.reserved == 0
    assert isinstance(ledger.reserve(account, NOW_S, tokens=1, usd=0), Reservation)


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_killed_at_any_step_of_the_interpreter_has_counted_all_or_nothing(
    tmp_path: Path, files: QuotaFiles, start: Start, stride: int
) -> None:
    limit(
        tmp_path, {"per": "minute", "requests": 10**9, "tokens": 10**12}, {"per": "month", "requests": 10**9}
    )
    auth = web_of(tmp_path)
    ledger = Ledger(files)
    ledger.accounts(auth)
    counters = ledger.counters
    assert counters is not None
    process = start("die", str(stride))
    seen = set()
    used = 0
    while True:
        step, end = line_of(process).split()
        report = report_of(ledger, auth, NOW_S)
        minute, month = report.windows
        assert minute.requests is not None
        assert month.requests is not None
        assert minute.tokens is not None
        state = (minute.requests.used - used, minute.requests.reserved)
        assert state in {(0, 0), (0, 1), (1, 0)}, step
        assert (month.requests.used, month.requests.reserved) == (
            minute.requests.used,
            minute.requests.reserved,
        )
        assert minute.tokens.reserved == TOKENS * minute.requests.reserved
        assert minute.tokens.used == USED * minute.requests.used
        seen.add(state)
        used = int(minute.requests.used)
        sweep(counters)
        assert standing(ledger, auth, NOW_S, "minute", "tokens").reserved == 0
        go_on(process)
        if end == "survived":
            break

    assert seen == {(0, 0), (0, 1), (1, 0)}
    assert int(step) > 300, "it looked inside"


async def test_what_a_killed_worker_had_reserved_is_free_again_within_the_bound(
    tmp_path: Path, files: QuotaFiles, start: Start
) -> None:
    limit(tmp_path, {"per": "month", "requests": 1})
    ledger = Ledger(files)
    account = ledger.accounts(web_of(tmp_path))["web"]
    keeping = asyncio.create_task(keep(ledger))
    worker = start("hold")
    assert await asyncio.to_thread(line_of, worker) == "held"
    await asyncio.sleep(RELEASE_WITHIN_S)
    refused = ledger.reserve(account, NOW_S, tokens=1, usd=0)
    assert isinstance(refused, Refusal), "its worker lives"
    assert refused.reason == "reserved"

    worker.kill()
    async with asyncio.timeout(RELEASE_WITHIN_S + SLACK_S):
        while isinstance(ledger.reserve(account, NOW_S, tokens=1, usd=0), Refusal):  # noqa: ASYNC110 -- it is another process
            await asyncio.sleep(0.05)
    keeping.cancel()


def test_a_stopped_worker_that_holds_the_lock_makes_no_other_wait_for_long_and_nothing_is_lost(
    tmp_path: Path, files: QuotaFiles, start: Start
) -> None:
    limit(tmp_path, {"per": "day", "requests": 100})
    auth = web_of(tmp_path)
    ledger = Ledger(files)
    account = ledger.accounts(auth)["web"]
    held = ledger.reserve(account, NOW_S, tokens=1, usd=0)
    assert isinstance(held, Reservation)
    stopped = start("lock")
    assert line_of(stopped) == "locked"
    stopped.send_signal(signal.SIGSTOP)

    began = time.monotonic()
    refusals = [ledger.reserve(account, NOW_S, tokens=1, usd=0) for _ in range(1000)]
    ledger.settle(held, tokens=1, usd=0)
    took = time.monotonic() - began

    assert {Refusal(key="web", reason="unavailable", retry_after_s=1.0)} == set(refusals)
    assert took < 1000 * WAIT_S / 2, "it waited for each"
    with pytest.raises(OperationError, match="look for a stopped one"):
        report_of(ledger, auth, NOW_S)

    stopped.kill()
    stopped.wait()
    assert isinstance(ledger.reserve(account, NOW_S, tokens=1, usd=0), Reservation)
    requests = standing(ledger, auth, NOW_S, "day", "requests")
    assert (requests.used, requests.reserved) == (1, 1)


def test_a_lock_that_could_be_had_again_is_waited_for_again(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("wb") as mine, (tmp_path / "lock").open("wb") as theirs:
        lock, other = BoundedLock(mine), BoundedLock(theirs)
        assert other.acquire()
        assert not lock.acquire(wait_s=0.01)
        other.release()
        assert lock.acquire()
        lock.release()

        assert other.acquire()
        threading.Timer(0.05, other.release).start()
        assert lock.acquire(wait_s=SLACK_S)
