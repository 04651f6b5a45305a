"""Labels from who sits at the terminal: one answer after the other, one key each, kept at once.

No verdict of the judge is shown, since people agree with what they are shown. Which answers are asked about
does depend on it: as many that it passed as it failed, in random order, so that few labels say much of both.
"""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

import msgspec
import rich_click as click

from gateway.cli.terminal import plain
from judges.trace import JudgedTrace

SHOWN_CHARS = 3_000  # of a prompt, and of an answer: more is not read
KEYS = "g good · b bad · s skip · u undo the last · q quit"

Keep = Callable[[str, bool], None]
ReadKey = Callable[[], str]


class Choice(msgspec.Struct, frozen=True):
    """A trace that may be asked about, and what the judge says of it; None: it abstained."""

    trace: JudgedTrace
    verdict: bool | None


def balanced(choices: Sequence[Choice], count: int, random: Random) -> list[JudgedTrace]:
    """*count* of *choices*, half of them failed by the judge where there are so many, shuffled. Pure."""
    passed = [choice.trace for choice in choices if choice.verdict]
    failed = [choice.trace for choice in choices if choice.verdict is False]
    for group in (passed, failed):
        random.shuffle(group)
    half = min(len(failed), max(count // 2, count - len(passed)))
    chosen = failed[:half] + passed[: count - half]
    random.shuffle(chosen)
    return chosen


def label_in_terminal(traces: Sequence[JudgedTrace], keep: Keep, read: ReadKey) -> int:
    """Ask about each of *traces*; *keep* is called with each label at once, again where one is undone.

    Gives how many have a label. *read* gives one key (`keys`).
    """
    labels: dict[str, bool] = {}
    at = 0
    while at < len(traces):
        trace = traces[at]
        for line in shown(trace, at + 1, len(traces)):
            click.echo(line)
        key = _wanted_key(read)
        if key == "q":
            break
        if key == "u":
            at = max(0, at - 1)
            continue
        if key in "gb":
            labels[trace.trace_id] = key == "g"
            keep(trace.trace_id, key == "g")
        at += 1
    return len(labels)


@contextmanager
def keys() -> Iterator[ReadKey]:
    """Reads one key of the terminal at a time, or the first letter of each line of what else is there.

    The terminal is changed once and not for each key: what is typed ahead is not lost.
    """
    if not sys.stdin.isatty():
        yield _read_line
        return
    descriptor = sys.stdin.fileno()
    former = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)
    try:
        yield lambda: os.read(descriptor, 1).decode(errors="replace") or "q"
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, former)


def shown(trace: JudgedTrace, number: int, total: int) -> Iterator[str]:
    """What a person sees of *trace*: the last question and the answer, and nothing that would steer them."""
    yield ""
    yield f"── {number} of {total} ── {trace.trace_id}"
    yield "asked:"
    yield _cut(trace.prompt)
    yield "answered:"
    yield _cut(trace.answer or _called(trace))
    yield KEYS


def _called(trace: JudgedTrace) -> str:
    calls = msgspec.json.encode(trace.tool_calls).decode()
    return f"(tools called) {calls}" if trace.tool_calls else "(nothing)"


def _cut(text: str) -> str:
    return plain(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}… ({len(text)} characters)")


def _wanted_key(read: ReadKey) -> str:
    while (key := read().lower()) not in {"g", "b", "s", "u", "q"}:
        click.echo(KEYS)
    return key


def _read_line() -> str:
    line = sys.stdin.readline()
    return line.strip()[:1] if line else "q"
