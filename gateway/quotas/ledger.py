"""A worker's side of the counters: takes from the limits of a key before a call, settles it afterwards.

What is reserved counts against every limit of the key until it is settled, so that requests in flight cannot
use together more than is left. All periods and dimensions of a key with limits are counted, those without a
limit too: a limit that is added later knows what was used before it.
"""

from __future__ import annotations

import math
from collections import deque

from gateway.config.types import Auth
from gateway.quotas.amounts import USD, Amounts, bounded, nano_usd
from gateway.quotas.counters import CHANGES, Counters
from gateway.quotas.owners import Owner
from gateway.quotas.rules import (
    RETRY_AFTER_S,
    Account,
    Refusal,
    left_of,
    limited_keys,
    refusal_of,
    rules_of,
)
from gateway.quotas.saving import QuotaFiles, open_counters
from gateway.quotas.tally import add, begin, take
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
        self.files = files
        self.counters: Counters | None = None  # once a key has limits
        self._owner: Owner | None = None
        self._unsettled: deque[tuple[Reservation, Amounts]] = deque()  # at most one for each reservation

    def accounts(self, auth: Auth | None) -> dict[str, Account]:
        """The keys of *auth* that have limits, by name. A former account keeps what was used.

        Call it with each configuration that comes into force. Raises OperationError.
        """
        found: dict[str, Account] = {}
        for key in limited_keys(auth):
            self.counters = self.counters or open_counters(self.files)
            self._owner = self._owner or Owner(self.counters)
            with self.counters.locked():
                slot = self.counters.slot_of(key.name)
            place = self.counters.place(slot, self._owner.number)
            found[key.name] = Account(name=key.name, rules=rules_of(key), place=place)
        return found

    def reserve(
        self, account: Account, at_s: float, *, tokens: int, usd: float | None
    ) -> Reservation | Refusal:
        """Take one request, *tokens* and *usd* from all limits of *account* at once, or nothing.

        *at_s*: the clock, in seconds since 1970. *usd* None: nobody knows the price, and a key with a limit
        in USD is refused. The windows are those of *at_s*, whenever it is settled.
        """
        if usd is None or not math.isfinite(usd):
            if any(rule.dimension == USD for rule in account.rules):
                return Refusal(key=account.name, reason="unpriced")
            usd = 0.0
        wanted = Amounts(1, bounded(tokens), nano_usd(usd))
        numbers = numbers_at(at_s)
        counters = self.counters
        assert counters is not None, "an account comes from `accounts`"
        if not counters.acquire():
            return Refusal(key=account.name, reason="unavailable", retry_after_s=RETRY_AFTER_S)
        try:
            if self._unsettled:
                self._settle_all(counters)
            draft = counters.open_draft(account.place)
            begin(draft, numbers)
            left = left_of(account.rules, numbers, wanted, draft.used, draft.reserved)
            if min(left) < 0:
                return refusal_of(account, numbers, at_s, wanted, draft.used, left)
            add(draft.reserved, numbers, wanted)
            add(draft.held, numbers, wanted)
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
        if reservation.settled:
            return
        reservation.settled = True
        held = reservation.held
        used = Amounts(
            bounded(requests),
            held.tokens if tokens is None else bounded(tokens),
            held.nano_usd if usd is None or not math.isfinite(usd) else nano_usd(usd),
        )
        self._unsettled.append((reservation, used))
        self.settle_waiting()

    def release(self, reservation: Reservation) -> None:
        """Settle a request that failed before it used anything: it counts nowhere."""
        self.settle(reservation, requests=0, tokens=0, usd=0.0)

    def settle_waiting(self) -> None:
        """Settle what waits since the lock could not be had, if it can now."""
        counters = self.counters
        if counters is None or not self._unsettled or not counters.acquire():
            return
        try:
            self._settle_all(counters)
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

    def _settle_all(self, counters: Counters) -> None:
        while self._unsettled:
            reservation, used = self._unsettled.popleft()
            numbers = reservation.numbers
            draft = counters.open_draft(reservation.account.place)
            add(draft.used, numbers, used)
            take(draft.reserved, numbers, reservation.held)
            take(draft.held, numbers, reservation.held)
            counters.words[CHANGES] += 1
            counters.commit()
