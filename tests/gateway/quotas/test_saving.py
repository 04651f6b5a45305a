"""What keys have used outlives every stop, and a file that cannot be read or written blocks nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil

import pytest

from gateway.errors import OperationError
from gateway.quotas import Ledger, QuotaFiles, Reservation, keep, save_last, save_left_behind
from gateway.quotas.counters import Counters
from gateway.quotas.keeper import SAVE_EVERY_S, tick
from gateway.quotas.saving import Save
from tests.support.quotas import NOW_S, auth_of, standing

AUTH = auth_of(web=[{"per": "minute", "requests": 100}, {"per": "month", "requests": 100, "usd": 100}])


def use(ledger: Ledger, at_s: float = NOW_S, usd: float = 0.1) -> None:
    taken = ledger.reserve(ledger.accounts(AUTH)["web"], at_s, tokens=3, usd=usd)
    assert isinstance(taken, Reservation)
    ledger.settle(taken, tokens=3, usd=usd)


def used(ledger: Ledger, at_s: float = NOW_S) -> float:
    return standing(ledger, AUTH, at_s, "month", "requests").used


def restarted(files: QuotaFiles) -> Ledger:
    """A ledger after shared memory is gone."""
    shutil.rmtree(files.folder)
    ledger = Ledger(files)
    ledger.accounts(AUTH)
    return ledger


def test_what_was_used_is_there_after_a_clean_stop_and_what_was_reserved_is_not(
    ledger: Ledger, files: QuotaFiles
) -> None:
    for _ in range(3):
        use(ledger)
    assert isinstance(ledger.reserve(ledger.accounts(AUTH)["web"], NOW_S, tokens=1, usd=50), Reservation)
    save_last(ledger, NOW_S)
    ledger.close()

    again = restarted(files)

    month = standing(again, AUTH, NOW_S, "month", "usd")
    assert (month.used, month.reserved) == (0.3, 0)
    assert standing(again, AUTH, NOW_S, "minute", "requests").used == 3
    again.close()


def test_what_was_used_before_midnight_does_not_count_after_it(ledger: Ledger, files: QuotaFiles) -> None:
    use(ledger)
    save_left_behind(files, NOW_S)

    again = restarted(files)

    assert used(again, NOW_S + 31 * 86_400) == 0
    assert standing(again, AUTH, NOW_S + 60, "minute", "requests").used == 0
    again.close()


def test_a_key_that_is_not_configured_any_more_is_remembered(ledger: Ledger, files: QuotaFiles) -> None:
    use(ledger)
    save_left_behind(files, NOW_S)
    ledger.close()
    shutil.rmtree(files.folder)
    without = Ledger(files)
    without.accounts(auth_of(app=[{"per": "day", "requests": 1}]))
    without.close()
    save_left_behind(files, NOW_S)

    assert used(restarted(files)) == 1


def test_windows_that_are_long_over_are_forgotten(ledger: Ledger, files: QuotaFiles) -> None:
    use(ledger)
    save_left_behind(files, NOW_S + 70 * 86_400)

    assert json.loads(files.saved.read_bytes())["keys"] == []


async def test_changes_are_saved_once_in_an_interval_by_one_of_all_workers(
    ledger: Ledger, files: QuotaFiles
) -> None:
    other = Ledger(files)
    other.accounts(AUTH)
    use(ledger)

    await tick(ledger, NOW_S)
    first = files.saved.stat().st_mtime_ns
    use(ledger)
    for worker in (ledger, other):
        await tick(worker, NOW_S + SAVE_EVERY_S - 1)
    assert files.saved.stat().st_mtime_ns == first
    await tick(other, NOW_S + SAVE_EVERY_S)
    second = files.saved.stat().st_mtime_ns
    assert second != first
    await tick(ledger, NOW_S + 3 * SAVE_EVERY_S)
    assert files.saved.stat().st_mtime_ns == second, "nothing has changed since"
    other.close()

    assert used(restarted(files)) == 2


async def test_keeping_makes_no_counters_where_there_are_none(files: QuotaFiles) -> None:
    ledger = Ledger(files)
    await tick(ledger, NOW_S)
    save_last(ledger, NOW_S)
    save_left_behind(files, NOW_S)

    assert not files.folder.exists()
    assert not files.saved.exists()


async def test_a_clock_that_was_set_back_does_not_put_off_saving(ledger: Ledger, files: QuotaFiles) -> None:
    use(ledger)
    await tick(ledger, NOW_S + 86_400 * 365)
    use(ledger)
    await tick(ledger, NOW_S)

    assert used(restarted(files)) == 2


def test_who_has_begun_to_save_is_alone_until_it_is_written(ledger: Ledger, files: QuotaFiles) -> None:
    use(ledger)
    assert ledger.counters is not None
    older = Save(files, ledger.counters, NOW_S)
    use(ledger)

    with pytest.raises(OperationError, match="another process is saving it"):
        save_left_behind(files, NOW_S)
    older.write()
    save_left_behind(files, NOW_S)

    assert used(restarted(files)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"keys":[{"name":"web","windows":[{"per":"day"}]}]}',
        b'{"keys":[{"name":"web","windows":[{"per":"day","starts_at":"2026-01-01T00:00:00Z","requests":-1,"tokens":0,"nano_usd":0}]}]}',
        b'{"keys":[{"name":"web","windows":[{"per":"day","starts_at":"2026-01-01T00:00:00","requests":1,"tokens":0,"nano_usd":0}]}]}',
        b"\xff",
        b" " * (17 << 20),
    ],
)
def test_a_file_that_cannot_be_read_is_set_aside_and_said(
    files: QuotaFiles, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    files.saved.parent.mkdir()
    files.saved.write_bytes(content)
    ledger = Ledger(files)

    with caplog.at_level(logging.ERROR):
        ledger.accounts(AUTH)

    assert used(ledger) == 0
    assert [path.read_bytes() for path in files.saved.parent.glob("limits.json.bad-*")] == [content]
    assert "start with nothing used" in caplog.text
    ledger.close()


def test_a_file_that_may_not_be_read_is_an_error_of_one_line(files: QuotaFiles) -> None:
    files.saved.mkdir(parents=True)

    with pytest.raises(OperationError, match=r"limits\.json cannot be read"):
        Ledger(files).accounts(AUTH)


async def test_a_disk_that_refuses_stops_nobody_and_the_next_time_saves_it(
    ledger: Ledger, files: QuotaFiles, caplog: pytest.LogCaptureFixture
) -> None:
    use(ledger)
    files.saved.parent.write_text("a file where the folder should be")

    with pytest.raises(OperationError, match="state"):
        await tick(ledger, NOW_S)
    save_last(ledger, NOW_S)
    assert "state" in caplog.text
    use(ledger)
    files.saved.parent.unlink()
    await tick(ledger, NOW_S + SAVE_EVERY_S)

    assert used(restarted(files)) == 2


async def test_a_save_that_is_cancelled_while_it_is_written_leaves_a_whole_file(
    ledger: Ledger, files: QuotaFiles
) -> None:
    for _ in range(20):
        use(ledger)
        running = asyncio.create_task(keep(ledger))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
    await asyncio.get_running_loop().shutdown_default_executor()
    save_left_behind(files, NOW_S)

    assert used(restarted(files)) == 20


def test_a_start_that_was_killed_half_way_is_begun_anew(ledger: Ledger, files: QuotaFiles) -> None:
    use(ledger)
    save_left_behind(files, NOW_S)
    ledger.close()
    shutil.rmtree(files.folder)

    def half(counters: Counters) -> None:
        counters.slot_of("app")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Counters(files.folder, half)

    again = Ledger(files)
    again.accounts(AUTH)
    assert used(again) == 1
    again.close()
