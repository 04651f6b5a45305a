"""Where what lies in the file of counters, in words of 64 bits.

    header    one page: what the file is, how many accounts it has, and the change that is being made
    accounts  name and cells of each, up to MAX_ACCOUNTS
    held      for each owner (a process that reserves) and account, what it holds

An account has a cell for each period and for the last two windows of it, the even and the odd one. So a
window turns without anybody doing anything, and what is settled late still reaches the window that it was
reserved in. Only pages that are used take memory: the file is sparse.
"""

from __future__ import annotations

from gateway.quotas.windows import PERIODS

WORD = 8
MAX_ACCOUNTS = 2048  # keys with limits, those no longer configured included until a clean stop
MAX_OWNERS = 128  # processes at a time: twice the most that listen.workers allows, for while they change

# Header.
KIND = 0
KIND_NOW = 0x7472_6163_6571_0001  # changes with the layout
ACCOUNTS = 1  # how many there are
CHANGES = 2  # counts settlements
SAVED_CHANGES = 3  # CHANGES when last saved
SAVED_AT = 4  # seconds since 1970
SWEPT_AT = 5
OWNERS = 6  # the highest number an owner has had, and one
COMMITTED = 7  # 1: the draft below is valid and is to be copied to where it belongs
DRAFT_CELLS_TO = 8
DRAFT_HELD_TO = 9

# A cell: its window, what is used in it, what all owners hold in it.
CELL_WORDS = 7
USED = 1
RESERVED = 4
CELLS_WORDS = len(PERIODS) * 2 * CELL_WORDS
# What an owner holds: the window and three amounts.
HOLD_WORDS = 4
HOLDS_WORDS = len(PERIODS) * 2 * HOLD_WORDS

DRAFT_CELLS = 16
DRAFT_HELD = DRAFT_CELLS + CELLS_WORDS
HEADER_WORDS = 512

NAME_BYTES = 800  # 200 characters, as long as a name may be
NAME_AT = 1  # word 0 is its length in bytes
CELLS_AT = NAME_AT + NAME_BYTES // WORD
ACCOUNT_WORDS = 160

OWNERS_AT = HEADER_WORDS + MAX_ACCOUNTS * ACCOUNT_WORDS
OWNER_WORDS = MAX_ACCOUNTS * HOLDS_WORDS
FILE_WORDS = OWNERS_AT + MAX_OWNERS * OWNER_WORDS

assert DRAFT_HELD + HOLDS_WORDS <= HEADER_WORDS, "the draft fits into the header"
assert CELLS_AT + CELLS_WORDS <= ACCOUNT_WORDS, "name and cells fit into an account"


def account_at(slot: int) -> int:
    """Where the account in *slot* starts."""
    return HEADER_WORDS + slot * ACCOUNT_WORDS


def cells_at(slot: int) -> int:
    """Where its cells start."""
    return account_at(slot) + CELLS_AT


def holds_at(owner: int, slot: int) -> int:
    """Where what *owner* holds of it starts."""
    return OWNERS_AT + owner * OWNER_WORDS + slot * HOLDS_WORDS


def cell(period: int, number: int) -> int:
    """Where the cell of a window lies among those of an account."""
    return (2 * period + (number & 1)) * CELL_WORDS


def hold(period: int, number: int) -> int:
    """Where what an owner holds in a window lies among what it holds of an account."""
    return (2 * period + (number & 1)) * HOLD_WORDS
