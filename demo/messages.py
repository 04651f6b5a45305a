"""The demo's customer messages with their true tickets: a seeded, endless, repeatable stream.

"swap the item in C4821 for a blue one, I bought it on Mar 3rd 2024. No rush." becomes
`{"intent":"exchange","order_id":"C4821","date":"2024-03-03","priority":"low"}`.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import islice

import msgspec

from demo.templates import COLOURS, GREETINGS, ITEMS, PRIORITIES, SIZES, STREETS, TEMPLATES

INTENTS = tuple(TEMPLATES)
# Short, because on a CPU every token of it is paid for in each training row and each answer.
SYSTEM_PROMPT = (
    "Write the ticket as JSON. Intents: exchange refund cancel track address invoice. "
    "Priority: low normal high."
)
SEED = 7  # of the demo: its app sends this stream, and its frontier model knows it
UNSEEN_SHARE = 0.1  # of the stream; as large as the part of the templates that is never trained on
_FIRST_DAY = date(2022, 1, 1)
_DAYS = 3 * 365


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What the app saves: `date` is ISO, `priority` low, normal or high."""

    intent: str
    order_id: str
    date: str
    priority: str

    def json(self) -> str:
        """One line, fields in this order."""
        return msgspec.json.encode(self).decode()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A customer message and its truth. `seen`: its template may be trained on."""

    text: str
    ticket: Ticket
    template: str
    seen: bool


def messages(seed: int, *, unseen_share: float = UNSEEN_SHARE) -> Iterator[Message]:
    """An endless stream of distinct messages, the same for the same arguments."""
    chance = random.Random(seed)  # noqa: S311 -- repeatable sentences, no secret
    texts: set[str] = set()
    while True:
        message = _message(chance, unseen=chance.random() < unseen_share)
        if message.text not in texts:
            texts.add(message.text)
            yield message


def truth(seed: int, count: int, *, unseen_share: float = UNSEEN_SHARE) -> dict[str, Message]:
    """The first *count* messages of the stream by their text."""
    stream = messages(seed, unseen_share=unseen_share)
    return {message.text: message for message in islice(stream, count)}


def _message(chance: random.Random, *, unseen: bool) -> Message:
    intent = chance.choice(INTENTS)
    last = len(TEMPLATES[intent]) - 1
    index = last if unseen else chance.randrange(last)
    priority = chance.choice(tuple(PRIORITIES))
    day = _FIRST_DAY + timedelta(days=chance.randrange(_DAYS))
    order_id = _order_id(chance)
    colour, other = chance.sample(COLOURS, 2)
    body = TEMPLATES[intent][index].format(
        order=order_id,
        date=_written_date(chance, day),
        item=chance.choice(ITEMS),
        colour=colour,
        other=other,
        size=chance.choice(SIZES),
        street=chance.choice(STREETS),
    )
    return Message(
        text=_dressed(chance, body, chance.choice(PRIORITIES[priority])),
        ticket=Ticket(intent=intent, order_id=order_id, date=day.isoformat(), priority=priority),
        template=f"{intent}-{index}",
        seen=not unseen,
    )


def _dressed(chance: random.Random, body: str, phrase: str) -> str:
    """The body with a greeting before it and what was said of the hurry around it."""
    greeting = chance.choice(GREETINGS)
    first = phrase.endswith((".", "!")) and not phrase.startswith("Thank") and chance.random() < 0.25
    parts = [greeting, phrase, body] if first else [greeting, body, phrase]
    return " ".join(part for part in parts if part)


def _order_id(chance: random.Random) -> str:
    letters = "".join(chance.choices(string.ascii_uppercase, k=2))
    number = chance.randrange(1000, 10_000)
    return chance.choice((f"{letters[0]}{number}", f"{letters}-{number}", f"ORD-{number}"))


def _written_date(chance: random.Random, day: date) -> str:
    month, short = day.strftime("%B"), day.strftime("%b")
    return chance.choice(
        (
            f"{short} {_ordinal(day.day)} {day.year}",
            f"{month} {day.day}, {day.year}",
            f"{day.day} {month} {day.year}",
            day.isoformat(),
        )
    )


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
