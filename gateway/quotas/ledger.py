"""A worker's side of the counters: takes from the limits of a key before a call, settles it afterwards.

What is reserved counts against every limit of the key until it is settled, so that requests in flight cannot
use together more than is left. All periods and dimensions of a key with limits are counted, those without a
limit too: a limit that is added later knows what was used before it.
"""

from __future__ import annotations

import math
from collections import deque

from gateway.config.types import Auth
from gateway.quotas import layout
from gateway.quotas.amounts import NOTHING, Amounts, bounded, nano_usd
from gateway.quotas.cells import hold, left_of, replace
from gateway.quotas.counters import Counters
from gateway.quotas.files import QuotaFiles
from gateway.quotas.owners import Owner
from gateway.quotas.rules import RETRY_AFTER_S, Account, Refusal, limits_usd, refused, rules_of
from gateway.quotas.windows import Numbers, numbers_at


class Reservation:
    """What one request holds, in the windows in which it was made. To be settled once.

    `left` is what each of the account's rules had left after it.
    """

    __slots__ = ("account", "held", "left", "numbers", "settled")

    def __init__(self, account: Account, held: Amounts, numbers: Numbers, left: list[int]) -> None:
        self.account = account
        self.held = held
        self.numbers = numbers
        self.left = left
        self.settled = False


class Ledger:
    """Reserves and settles for one process. Not thread-safe: one event loop uses it.

    Shared memory is first touched when a key has limits. A call waits at most `lock.WAIT_S`, and that once in
    `lock.PAUSE_S`: while a stopped process keeps the lock, keys with limits are refused (a limit that cannot
    be counted is not waved through), and what is to be settled waits in this process.
    """

    def __init__(self, files: QuotaFiles) -> None:
        self._files = files
        self.counters: Counters | None = None  # once a key has limits
        self._owner: Owner | None = None
        self._unsettled: deque[tuple[Reservation, Amounts]] = deque()  # at most one for each reservation
        self._minute = -1
        self._numbers = Numbers(0, 0, 0, 0)

    def accounts(self, auth: Auth | None) -> dict[str, Account]:
        """The keys of *auth* that have limits, by name. A former account keeps what was used.

        Call it with each configuration that comes into force. Raises OperationError.
        """
        limited = [key for key in auth.keys if key.limits] if auth is not None else []
        found: dict[str, Account] = {}
        for key in limited:
            rules = rules_of(key.limits)
            slot = self._slot(key.name)
            found[key.name] = Account(name=key.name, slot=slot, rules=rules, limits_usd=limits_usd(rules))
        return found

    def reserve(
        self, account: Account, at_s: float, *, tokens: int, usd: float | None
    ) -> Reservation | Refusal:
        """Take one request, *tokens* and *usd* from all limits of *account* at once, or nothing.

        *at_s*: the clock, in seconds since 1970. *usd* None: nobody knows the price, and a key with a limit
        in USD is refused. The windows are those of *at_s*, whenever it is settled.
        """
        if usd is None or not math.isfinite(usd):
            if account.limits_usd:
                return Refusal(key=account.name, reason="unpriced")
            usd = 0.0
        wanted = Amounts(1, bounded(tokens), nano_usd(usd))
        numbers = self._windows(at_s)
        counters = self.counters
        assert counters is not None, "an account comes from `accounts`"
        if not counters.acquire():
            return Refusal(key=account.name, reason="unavailable", retry_after_s=RETRY_AFTER_S)
        try:
            if self._unsettled:
                self._settle_all()
            cells_at = layout.cells_at(account.slot)
            left = left_of(counters.words, cells_at, account.rules, numbers, wanted)
            if min(left) < 0:
                unused = left_of(counters.words, cells_at, account.rules, numbers, wanted, reserved=False)
                return refused(account, numbers, at_s, wanted, left, unused)
            self._open_draft(account)
            hold(counters.words, numbers, wanted)
            counters.commit()
        finally:
            counters.release()
        return Reservation(account, wanted, numbers, left)

    def settle(
        self, reservation: Reservation, *, requests: int = 1, tokens: int | None, usd: float | None
    ) -> None:
        """Replace what *reservation* holds by what was used. Only the first call counts; never raises.

        None: nobody knows, and the estimate stands. For a request that used nothing, `release`. More than was
        reserved is counted in full, and may exceed a limit; the next request then meets it.
        """
        held = reservation.held
        self._settle(
            reservation,
            Amounts(
                bounded(requests),
                held.tokens if tokens is None else bounded(tokens),
                held.nano_usd if usd is None or not math.isfinite(usd) else nano_usd(usd),
            ),
        )

    def release(self, reservation: Reservation) -> None:
        """Settle a request that failed before it used anything: it counts nowhere."""
        self._settle(reservation, NOTHING)

    def settle_waiting(self) -> None:
        """Settle what waits since the lock could not be had, if it can now."""
        counters = self.counters
        if counters is None or not self._unsettled or not counters.acquire():
            return
        try:
            self._settle_all()
        finally:
            counters.release()

    def close(self) -> None:
        """Settle what waits, and leave. Call when no request is in flight."""
        self.settle_waiting()
        if self._owner is not None:
            self._owner.close()
            self._owner = None
        if self.counters is not None:
            self.counters.close()
            self.counters = None

    def _slot(self, name: str) -> int:
        if self.counters is None:
            self.counters = self._files.open()
        if self._owner is None:
            self._owner = Owner(self.counters)
        with self.counters.locked():
            slot = self.counters.slot_of(name)
        self.counters.allocate_holds(self._owner.number, slot)
        return slot

    def _settle(self, reservation: Reservation, used: Amounts) -> None:
        counters = self.counters
        if reservation.settled or counters is None:
            return
        reservation.settled = True
        if not counters.acquire():
            self._unsettled.append((reservation, used))
            return
        try:
            if self._unsettled:
                self._settle_all()
            self._book(reservation, used)
        finally:
            counters.release()

    def _settle_all(self) -> None:
        while self._unsettled:
            self._book(*self._unsettled.popleft())

    def _book(self, reservation: Reservation, used: Amounts) -> None:
        assert self.counters is not None, "the lock is held"
        words = self.counters.words
        self._open_draft(reservation.account)
        replace(words, reservation.numbers, reservation.held, used)
        words[layout.CHANGES] += 1
        self.counters.commit()

    def _open_draft(self, account: Account) -> None:
        assert self.counters is not None
        assert self._owner is not None
        slot = account.slot
        self.counters.open_draft(layout.cells_at(slot), layout.holds_at(self._owner.number, slot))

    def _windows(self, at_s: float) -> Numbers:
        minute = int(at_s // 60)
        if minute != self._minute:
            self._minute, self._numbers = minute, numbers_at(at_s)
        return self._numbers
