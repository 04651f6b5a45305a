"""What `init` asks on the terminal: little, and nothing under `--yes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import rich_click as click

from gateway.errors import UsageError

T = TypeVar("T", bound=str)

MAX_QUESTIONS = 5


class Questions:
    """Asks and counts; a silent one takes every default."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._asked = 0

    @property
    def left(self) -> int:
        """How many more may be asked."""
        return MAX_QUESTIONS - self._asked

    def ask(self, text: str, default: str, check: Callable[[str], str] = str) -> str:
        """The answer, asked again while *check* raises UsageError for it."""
        if self._silent:
            return default
        self._asked += 1
        answer: str = click.prompt(
            text, default=default, show_default=bool(default), value_proc=_checked(check)
        )
        return answer

    def choose(self, text: str, among: tuple[T, ...], default: T) -> T:
        """One of *among*."""
        if self._silent:
            return default
        self._asked += 1
        answer: T = click.prompt(text, type=click.Choice(among), default=default)
        return answer

    def confirm(self, text: str, *, default: bool) -> bool:
        """Yes or no."""
        if self._silent:
            return default
        self._asked += 1
        return click.confirm(text, default=default)


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    def parse(answer: str) -> str:
        try:
            return check(answer.strip())
        except UsageError as error:
            raise click.UsageError(str(error)) from error

    return parse
