"""What happens to the numbers of one account: arithmetic on words, without a clock or a lock.

`words` is the whole file. What changes changes in its draft (`Counters.open_draft`). Every request of a key
with limits goes through `left_of`, `hold` and `replace`: their steps are written out to halve their time. In
a cell, 1 to 3 is what is used and 4 to 6 what is reserved; in a hold, 1 to 3 is what is held.
"""

from __future__ import annotations

from gateway.quotas.amounts import Amounts
from gateway.quotas.layout import (
    CELL_WORDS,
    DRAFT_CELLS,
    DRAFT_HELD,
    HOLD_WORDS,
    RESERVED,
    USED,
    cell,
)
from gateway.quotas.rules import Rule
from gateway.quotas.windows import PERIODS, Numbers

_PLACES = len(PERIODS) * 2  # the even and the odd window of each


def left_of(
    words: memoryview[int],
    cells_at: int,
    rules: tuple[Rule, ...],
    numbers: Numbers,
    wanted: Amounts,
    *,
    reserved: bool = True,
) -> list[int]:
    """What each of *rules* would have left after *wanted*; below 0: it has not enough.

    Not *reserved*: as if no other request were in flight.
    """
    left = []
    looked_at = -1
    at = 0
    kept = False
    for period, dimension, most in rules:
        if period != looked_at:
            looked_at, number = period, numbers[period]
            at = cells_at + cell(period, number)
            kept = words[at] == number  # else the cell is of a window that is over
        rest = most - wanted[dimension]
        if kept:
            rest -= words[at + USED + dimension]
            if reserved:
                rest -= words[at + RESERVED + dimension]
        left.append(rest)
    return left


def hold(words: memoryview[int], numbers: Numbers, wanted: Amounts) -> None:
    """Have the draft's owner hold *wanted* in the windows *numbers*, which begin here if they are new."""
    requests, tokens, nano_usd = wanted
    at, held = DRAFT_CELLS, DRAFT_HELD
    for number in numbers:
        odd = number & 1
        to = at + CELL_WORDS if odd else at
        if words[to] != number:
            _begin(words, to, CELL_WORDS, number)
        words[to + 4] += requests
        words[to + 5] += tokens
        words[to + 6] += nano_usd
        to = held + HOLD_WORDS if odd else held
        if words[to] != number:
            _begin(words, to, HOLD_WORDS, number)
        words[to + 1] += requests
        words[to + 2] += tokens
        words[to + 3] += nano_usd
        at += 2 * CELL_WORDS
        held += 2 * HOLD_WORDS


def replace(words: memoryview[int], numbers: Numbers, wanted: Amounts, used: Amounts) -> None:
    """In the draft, put *used* in place of what was held, in those windows *numbers* that are still kept.

    A window that has made room for the one after the next is in nobody's way any more, and in no report.
    What is held never falls below 0: a clock that was set back by whole windows empties cells too early.
    """
    requests, tokens, nano_usd = used
    held_requests, held_tokens, held_nano_usd = wanted
    at, held = DRAFT_CELLS, DRAFT_HELD
    for number in numbers:
        odd = number & 1
        to = at + CELL_WORDS if odd else at
        if words[to] == number:
            words[to + 1] += requests
            words[to + 2] += tokens
            words[to + 3] += nano_usd
            words[to + 4] = max(0, words[to + 4] - held_requests)
            words[to + 5] = max(0, words[to + 5] - held_tokens)
            words[to + 6] = max(0, words[to + 6] - held_nano_usd)
        to = held + HOLD_WORDS if odd else held
        if words[to] == number:
            words[to + 1] = max(0, words[to + 1] - held_requests)
            words[to + 2] = max(0, words[to + 2] - held_tokens)
            words[to + 3] = max(0, words[to + 3] - held_nano_usd)
        at += 2 * CELL_WORDS
        held += 2 * HOLD_WORDS


def give_back(words: memoryview[int]) -> None:
    """In the draft, take everything that the owner holds from what the account has reserved."""
    for place in range(_PLACES):
        at = DRAFT_CELLS + place * CELL_WORDS
        held = DRAFT_HELD + place * HOLD_WORDS
        if words[at] == words[held]:
            for dimension in (0, 1, 2):
                to = at + RESERVED + dimension
                words[to] = max(0, words[to] - words[held + 1 + dimension])
        _begin(words, held, HOLD_WORDS, 0)


def _begin(words: memoryview[int], at: int, length: int, number: int) -> None:
    words[at] = number
    for index in range(at + 1, at + length):
        words[index] = 0
