"""Sums of amounts by window. Pure.

A tally keeps the last two windows of each period, the even and the odd one: the window's number and what is
summed up in it. So a window turns without anybody doing anything, and what is settled late still reaches the
window that it was reserved in.

Every request of a key with limits goes through `begin`, `add` and `take`: written out for speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from gateway.quotas.amounts import NOTHING, Amounts
from gateway.quotas.windows import PERIODS, Numbers

Tally: TypeAlias = "list[int] | memoryview[int]"

WINDOW = 4  # numbers of one window: its own, then requests, tokens and nano-dollars
TALLY = len(PERIODS) * 2 * WINDOW
EMPTY = [0] * TALLY


def begin(tallies: Iterable[Tally], numbers: Numbers) -> None:
    """Have the windows *numbers* in *tallies*: one that is not there begins in place of an older one."""
    at = 0
    for number in numbers:
        here = at + WINDOW if number & 1 else at
        for tally in tallies:
            if tally[here] != number:
                tally[here] = number
                tally[here + 1] = tally[here + 2] = tally[here + 3] = 0
        at += 2 * WINDOW


def add(tally: Tally, numbers: Numbers, amounts: Amounts) -> None:
    """Add *amounts* to those windows *numbers* that *tally* still has.

    One that has made room for the one after the next is in nobody's way any more, and in no report.
    """
    requests, tokens, nano_usd = amounts
    at = 0
    for number in numbers:
        here = at + WINDOW if number & 1 else at
        if tally[here] == number:
            tally[here + 1] += requests
            tally[here + 2] += tokens
            tally[here + 3] += nano_usd
        at += 2 * WINDOW


def take(tally: Tally, numbers: Numbers, amounts: Amounts) -> None:
    """Take *amounts* from those windows *numbers* that *tally* still has.

    No sum falls below 0: a clock that was set back by whole windows empties them too early.
    """
    requests, tokens, nano_usd = amounts
    at = 0
    for number in numbers:
        here = at + WINDOW if number & 1 else at
        kept, held_requests, held_tokens, held_nano_usd = tally[here : here + WINDOW]
        if kept == number:
            tally[here + 1] = held_requests - requests if held_requests > requests else 0
            tally[here + 2] = held_tokens - tokens if held_tokens > tokens else 0
            tally[here + 3] = held_nano_usd - nano_usd if held_nano_usd > nano_usd else 0
        at += 2 * WINDOW


def take_all(tally: Tally, part: Tally) -> None:
    """Take all that is in *part* from the windows of *tally* that both have; then empty *part*."""
    for at in range(0, TALLY, WINDOW):
        kept, *sums = part[at : at + WINDOW]
        if tally[at] == kept:
            for place, amount in enumerate(sums, at + 1):
                tally[place] = max(0, tally[place] - amount)
    for place in range(TALLY):
        part[place] = 0


def sums_in(tally: Tally, period: int, number: int) -> Amounts:
    """What is summed up in window *number* of PERIODS[*period*]."""
    at = place_of(period, number)
    return Amounts(*tally[at + 1 : at + WINDOW]) if tally[at] == number else NOTHING


def place_of(period: int, number: int) -> int:
    """Where that window begins in a tally."""
    return (2 * period + (number & 1)) * WINDOW
