"""What a judge takes and what it may return.

A judge is a plain function, sync or async, whose parameters are matched by name: `trace` (a JudgedTrace),
`session` (the traces of the session up to this one, oldest first), `feedback` (what was said of the trace,
oldest first) and `later` (the traces of the session after this one, oldest first). It returns a bool, a score
in [0, 1], or None / `abstain("why")`. All else is an abstention.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from numbers import Real
from typing import Any

import msgspec

PARAMETERS = ("trace", "session", "feedback", "later")
MAX_REASON_CHARS = 500


class Abstain(msgspec.Struct, frozen=True):
    """A judge that cannot say, and why. Never a zero."""

    reason: str


def abstain(reason: str) -> Abstain:
    """What a judge returns when it cannot say: `return judges.abstain("nobody said what was kept")`."""
    return Abstain(str(reason))


Verdict = bool | float | Abstain | None
Judge = Callable[..., Any]  # the user's function; what it returns is checked by `read_verdict`


def read_verdict(value: object) -> tuple[float | None, str]:
    """What a judge returned, as (score in [0, 1], "") or (None, reason). Repeats no text of a trace."""
    if isinstance(value, Abstain):
        return None, one_line(value.reason) or "abstained"
    if value is None:
        return None, "abstained"
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined] # numpy's scalars, without importing numpy
    if not isinstance(value, Real):
        return None, f"returned a {type(value).__name__}; a judge returns a bool, a score in [0, 1], or None"
    if 0 <= value <= 1:  # type: ignore[operator] # typeshed knows no order of Real
        return float(value), ""
    shown = f"{value:g}" if isinstance(value, float) else "a number"
    return None, f"returned {shown}; a score is in [0, 1]"


def wanted_parameters(judge: Judge, options: Collection[str] = ()) -> tuple[str, ...]:
    """Which of PARAMETERS *judge* takes; *options* fill others.

    Raises ValueError naming the parameter that nobody could fill, or the option that it does not take.
    """
    wanted: list[str] = []
    parameters = inspect.signature(judge).parameters
    for parameter in parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if parameter.name in PARAMETERS and parameter.kind is not parameter.POSITIONAL_ONLY:
            wanted.append(parameter.name)
        elif parameter.name in options:
            continue
        elif parameter.default is parameter.empty:
            raise ValueError(f"parameter {parameter.name!r} is none of {', '.join(PARAMETERS)}")
    if unknown := sorted(set(options) - set(parameters)):
        raise ValueError(f"option {unknown[0]!r} is none of its parameters")
    if not wanted:
        raise ValueError(f"takes none of {', '.join(PARAMETERS)}")
    return tuple(wanted)


def one_line(text: str) -> str:
    """*text* without line breaks, at most MAX_REASON_CHARS long."""
    line = " ".join(text[: 4 * MAX_REASON_CHARS].split())
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"
