"""A reservation takes all of it from every limit or nothing, and a settlement counts what was used, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import OperationError
from gateway.quotas import Account, Ledger, QuotaFiles, Refusal, Reservation, report_limits
from gateway.quotas.amounts import Amounts
from gateway.quotas.counters import COUNTERS, MAX_ACCOUNTS
from gateway.quotas.owners import sweep
from tests.support.quotas import NOW_S, auth_of, files_in, report_of, standing


def take(
    ledger: Ledger, account: Account, at_s: float = NOW_S, tokens: int = 10, usd: float | None = 0.5
) -> Reservation:
    taken = ledger.reserve(account, at_s, tokens=tokens, usd=usd)
    assert isinstance(taken, Reservation), taken
    return taken


def refuse(
    ledger: Ledger, account: Account, at_s: float = NOW_S, tokens: int = 10, usd: float | None = 0.5
) -> Refusal:
    refused = ledger.reserve(account, at_s, tokens=tokens, usd=usd)
    assert isinstance(refused, Refusal), refused
    return refused


def test_keys_without_limits_have_no_account_and_touch_no_memory(ledger: Ledger, files: QuotaFiles) -> None:
    assert ledger.accounts(auth_of(web=[])) == {}
    assert ledger.accounts(None) == {}
    assert ledger.counters is None
    assert not files.exist()


def test_what_is_reserved_counts_until_it_is_settled(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 100}])
    account = ledger.accounts(auth)["web"]
    first = take(ledger, account, tokens=60)

    assert refuse(ledger, account, tokens=60).reason == "reserved"
    ledger.settle(first, tokens=30, usd=0.1)
    take(ledger, account, tokens=60)

    at = standing(ledger, auth, NOW_S, "minute", "tokens")
    assert (at.limit, at.used, at.reserved, at.left) == (100, 30, 60, 10)


def test_a_request_that_one_limit_refuses_takes_nothing_from_the_others(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "requests": 5, "tokens": 1000}, {"per": "day", "usd": 1.0}])
    account = ledger.accounts(auth)["web"]
    ledger.settle(take(ledger, account, usd=0.75), tokens=10, usd=0.75)
    before = report_of(ledger, auth, NOW_S)

    refusal = refuse(ledger, account, usd=0.5)

    assert refusal.rule is not None
    assert (refusal.reason, refusal.rule.most) == ("limit", 1_000_000_000)
    assert refusal.left == 250_000_000
    assert report_of(ledger, auth, NOW_S) == before


def test_of_several_limits_in_the_way_the_one_that_ends_last_is_named(ledger: Ledger) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "day", "requests": 1}, {"per": "minute", "requests": 1}]))[
        "web"
    ]
    ledger.settle(take(ledger, account), tokens=1, usd=0)

    refusal = refuse(ledger, account)

    midnight = NOW_S - NOW_S % 86_400 + 86_400
    assert refusal.retry_after_s == midnight - NOW_S
    assert refuse(ledger, account, midnight - 1).retry_after_s == 1.0
    take(ledger, account, midnight)


def test_a_request_larger_than_the_whole_limit_is_told_that_waiting_will_not_help(ledger: Ledger) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "minute", "tokens": 100}]))["web"]

    refusal = refuse(ledger, account, tokens=101)

    assert (refusal.reason, refusal.retry_after_s, refusal.requested, refusal.left) == (
        "too_large",
        None,
        101,
        100,
    )
    take(ledger, account, tokens=100)


def test_a_request_that_waits_for_others_in_flight_is_told_to_try_soon(ledger: Ledger) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "month", "usd": 1.0}]))["web"]
    held = take(ledger, account, usd=0.9)

    assert refuse(ledger, account, usd=0.2).retry_after_s == 1.0
    ledger.settle(held, tokens=1, usd=0.9)
    assert (refuse(ledger, account, usd=0.2).retry_after_s or 0) > 60


@pytest.mark.parametrize("usd", [None, float("nan"), float("inf")])
def test_a_limit_in_usd_refuses_what_has_no_price(ledger: Ledger, usd: float | None) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "month", "usd": 1.0}]))["web"]

    assert refuse(ledger, account, usd=usd) == Refusal(key="web", reason="unpriced")


def test_without_a_limit_in_usd_no_price_is_needed(ledger: Ledger) -> None:
    account = ledger.accounts(auth_of(web=[{"per": "month", "tokens": 100}]))["web"]

    ledger.settle(take(ledger, account, usd=None), tokens=5, usd=None)


def test_a_settlement_counts_once(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 100}])
    held = take(ledger, ledger.accounts(auth)["web"])

    ledger.settle(held, tokens=7, usd=0)
    ledger.settle(held, tokens=7, usd=0)
    ledger.release(held)

    assert standing(ledger, auth, NOW_S, "minute", "tokens").used == 7


def test_what_nobody_knows_counts_as_estimated(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "requests": 9, "tokens": 100, "usd": 9}])
    account = ledger.accounts(auth)["web"]

    ledger.settle(take(ledger, account, tokens=40, usd=0.25), tokens=None, usd=None)
    ledger.settle(take(ledger, account, tokens=40, usd=0.25), tokens=1, usd=float("nan"))

    assert standing(ledger, auth, NOW_S, "minute", "tokens").used == 41
    assert standing(ledger, auth, NOW_S, "minute", "usd").used == 0.5


def test_a_request_that_failed_counts_for_what_it_used(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "requests": 1, "tokens": 100}])
    account = ledger.accounts(auth)["web"]

    ledger.release(take(ledger, account))
    ledger.settle(take(ledger, account), tokens=0, usd=0)

    assert refuse(ledger, account).reason == "limit"
    assert standing(ledger, auth, NOW_S, "minute", "requests").used == 1
    assert standing(ledger, auth, NOW_S, "minute", "tokens").used == 0


def test_more_than_was_reserved_is_counted_in_full_and_met_by_the_next_request(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 100}])
    account = ledger.accounts(auth)["web"]

    ledger.settle(take(ledger, account, tokens=10), tokens=250, usd=0)

    at = standing(ledger, auth, NOW_S, "minute", "tokens")
    assert (at.used, at.left) == (250, 0)
    assert refuse(ledger, account, tokens=1).left == 0


@pytest.mark.parametrize("amount", [-5, 1 << 80])
def test_amounts_that_no_request_has_are_bounded(ledger: Ledger, amount: int) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 10**15}])
    account = ledger.accounts(auth)["web"]

    ledger.settle(take(ledger, account, tokens=amount), tokens=amount, usd=float(amount))

    assert 0 <= standing(ledger, auth, NOW_S, "minute", "tokens").used <= 10**13


def test_a_window_that_turned_meanwhile_gets_its_own_settlement(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 100}, {"per": "day", "tokens": 1000}])
    account = ledger.accounts(auth)["web"]
    held = take(ledger, account, NOW_S + 59, tokens=100)

    assert refuse(ledger, account, NOW_S + 59.9).reason == "reserved"
    take(ledger, account, NOW_S + 60, tokens=100)
    ledger.settle(held, tokens=42, usd=0)

    before, now = (standing(ledger, auth, NOW_S + s, "minute", "tokens") for s in (59, 60))
    assert (before.used, before.reserved) == (42, 0)
    assert (now.used, now.reserved) == (0, 100)
    assert standing(ledger, auth, NOW_S + 60, "day", "tokens").used == 42


def test_a_settlement_after_many_windows_touches_none_of_the_later_ones(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 100}, {"per": "day", "tokens": 1000}])
    account = ledger.accounts(auth)["web"]
    held = take(ledger, account, NOW_S, tokens=100)
    take(ledger, account, NOW_S + 120, tokens=30)

    ledger.settle(held, tokens=50, usd=0)

    now = standing(ledger, auth, NOW_S + 120, "minute", "tokens")
    assert (now.used, now.reserved) == (0, 30)
    day = standing(ledger, auth, NOW_S + 120, "day", "tokens")
    assert (day.used, day.reserved) == (50, 30)


def test_a_window_begins_with_nothing_used_and_nothing_reserved(ledger: Ledger, files: QuotaFiles) -> None:
    auth = auth_of(web=[{"per": "minute", "requests": 100, "tokens": 1000}])
    other = Ledger(files)
    for minute in range(5):
        at_s = NOW_S + 60 * minute
        ledger.settle(take(ledger, ledger.accounts(auth)["web"], at_s), tokens=5, usd=0)
        take(ledger, ledger.accounts(auth)["web"], at_s, tokens=20)
        take(other, other.accounts(auth)["web"], at_s, tokens=100)

        now = standing(ledger, auth, at_s, "minute", "tokens")
        assert (now.used, now.reserved) == (5, 120)
    other.close()
    sweep(ledger.counters)

    assert standing(ledger, auth, NOW_S + 240, "minute", "tokens").reserved == 20


def test_who_is_gone_takes_nothing_from_a_window_in_which_it_reserved_nothing(
    ledger: Ledger, files: QuotaFiles
) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 1000}])
    account = ledger.accounts(auth)["web"]
    gone = Ledger(files)
    take(gone, gone.accounts(auth)["web"], NOW_S, tokens=100)
    gone.close()
    take(ledger, account, NOW_S + 120, tokens=100)

    sweep(ledger.counters)

    assert standing(ledger, auth, NOW_S + 120, "minute", "tokens").reserved == 100


def test_a_clock_that_is_set_back_and_forth_makes_nothing_negative_and_blocks_nobody(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "minute", "requests": 2, "tokens": 100}])
    account = ledger.accounts(auth)["web"]
    held = [take(ledger, account, NOW_S + shift) for shift in (120, 0, 120, 0)]

    for reservation in held:
        ledger.settle(reservation, tokens=1, usd=0)

    for shift in (0, 60, 120):
        report = report_of(ledger, auth, NOW_S + shift).windows[0]
        assert report.requests is not None
        assert report.tokens is not None
        assert min(report.requests.used, report.requests.reserved, report.tokens.reserved) >= 0
    take(ledger, account, NOW_S + 240)


def test_changed_limits_keep_what_was_used(ledger: Ledger) -> None:
    first = auth_of(web=[{"per": "day", "tokens": 100}])
    ledger.settle(take(ledger, ledger.accounts(first)["web"], tokens=60), tokens=60, usd=0.25)

    lower = ledger.accounts(auth_of(web=[{"per": "day", "tokens": 50}]))["web"]
    assert refuse(ledger, lower, tokens=1).left == 0
    raised = ledger.accounts(auth_of(web=[{"per": "day", "tokens": 200}]))["web"]
    assert refuse(ledger, raised, tokens=141).left == 140
    added = auth_of(web=[{"per": "month", "requests": 5, "usd": 1}, {"per": "day", "tokens": 200}])
    ledger.accounts(added)
    assert standing(ledger, added, NOW_S, "month", "requests").used == 1
    assert standing(ledger, added, NOW_S, "month", "usd").used == 0.25


def test_a_reservation_from_before_a_reload_is_settled_after_it(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "day", "tokens": 100}])
    held = take(ledger, ledger.accounts(auth)["web"], tokens=60)
    ledger.accounts(auth_of(app=[{"per": "day", "tokens": 1}]))

    ledger.settle(held, tokens=20, usd=0)
    ledger.accounts(auth)

    at = standing(ledger, auth, NOW_S, "day", "tokens")
    assert (at.used, at.reserved) == (20, 0)


def test_keys_are_counted_apart_and_reported_in_the_order_they_are_written(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "day", "tokens": 100}], free=[], app=[{"per": "hour", "requests": 3}])
    accounts = ledger.accounts(auth)
    ledger.settle(take(ledger, accounts["web"]), tokens=9, usd=0)

    web, app = report_limits(ledger.counters, auth, NOW_S)

    assert (web.name, app.name) == ("web", "app")
    assert app.windows[0].requests is not None
    assert app.windows[0].requests.used == 0
    assert app.windows[0].tokens is None
    assert (app.windows[0].ends_at - app.windows[0].starts_at).total_seconds() == 3600


def test_a_name_of_any_script_and_length_is_an_account(ledger: Ledger, files: QuotaFiles) -> None:
    name = "網" * 200
    auth = auth_of(**{name: [{"per": "day", "requests": 1}]})
    ledger.release(take(ledger, ledger.accounts(auth)[name]))

    assert report_of(ledger, auth, NOW_S, name).windows[0].requests.left == 1


def test_two_processes_see_each_others_reservations(ledger: Ledger, files: QuotaFiles) -> None:
    other = Ledger(files)
    auth = auth_of(web=[{"per": "day", "requests": 1}])
    held = take(ledger, ledger.accounts(auth)["web"])

    assert refuse(other, other.accounts(auth)["web"]).reason == "reserved"
    ledger.release(held)
    take(other, other.accounts(auth)["web"])


def test_what_a_process_that_is_gone_has_reserved_is_released_and_what_others_hold_is_not(
    ledger: Ledger, files: QuotaFiles
) -> None:
    auth = auth_of(web=[{"per": "minute", "tokens": 1000}, {"per": "month", "tokens": 1000}])
    gone = Ledger(files)
    take(ledger, ledger.accounts(auth)["web"], tokens=100)
    take(gone, gone.accounts(auth)["web"], NOW_S - 60, tokens=10)
    take(gone, gone.accounts(auth)["web"], tokens=20)
    gone.close()

    assert ledger.counters is not None
    sweep(ledger.counters)
    sweep(ledger.counters)

    assert standing(ledger, auth, NOW_S, "minute", "tokens").reserved == 100
    assert standing(ledger, auth, NOW_S, "month", "tokens").reserved == 100
    assert standing(ledger, auth, NOW_S - 60, "minute", "tokens").reserved == 0


def test_who_takes_the_place_of_a_process_that_is_gone_starts_with_nothing_reserved(
    ledger: Ledger, files: QuotaFiles
) -> None:
    auth = auth_of(web=[{"per": "day", "requests": 1}])
    take(ledger, ledger.accounts(auth)["web"])
    ledger.close()

    next_one = Ledger(files)
    take(next_one, next_one.accounts(auth)["web"])


def test_an_account_more_than_there_is_room_for_is_one_line_with_the_remedy(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.quotas.counters.MAX_ACCOUNTS", 2)
    assert MAX_ACCOUNTS >= 1024

    with pytest.raises(OperationError, match=r"2 keys with limits are counted.*auth\.keys"):
        ledger.accounts(auth_of(**{f"k{index}": [{"per": "day", "requests": 1}] for index in range(3)}))


def test_shared_memory_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file where the folder should be")

    with pytest.raises(OperationError, match="the limits of keys need this file"):
        Ledger(files_in(tmp_path)).accounts(auth_of(web=[{"per": "day", "requests": 1}]))


def test_the_file_takes_as_much_memory_as_it_has_accounts(ledger: Ledger, files: QuotaFiles) -> None:
    ledger.accounts(auth_of(web=[{"per": "day", "requests": 1}]))

    assert (files.folder / COUNTERS).stat().st_blocks * 512 < 100_000


def test_a_settlement_that_comes_after_the_end_is_dropped_without_an_error(ledger: Ledger) -> None:
    auth = auth_of(web=[{"per": "day", "requests": 1}])
    held = take(ledger, ledger.accounts(auth)["web"])
    ledger.close()
    ledger.close()
    ledger.settle(held, tokens=1, usd=0)

    assert held.held == Amounts(1, 10, 500_000_000)
