"""Whether a pattern is found in the answer. Patterns are RE2's: linear in time, whatever the answer is."""

from __future__ import annotations

import functools
from typing import Any

import re2

from judges.builtin.shown import answer_of
from judges.protocol import Abstain
from judges.trace import JudgedTrace


def regex(
    trace: JudgedTrace, *, pattern: str, whole: bool = False, ignore_case: bool = False, absent: bool = False
) -> bool | Abstain:
    """True where *pattern* is found in the answer; *whole*: it is all of it; *absent*: it is not found."""
    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    compiled = _compiled(pattern, ignore_case)
    text = answer.encode("utf-8", "replace")  # half a character has no bytes
    found = compiled.fullmatch(text) if whole else compiled.search(text)
    return (found is None) is absent


def check_options(judge: str, options: dict[str, Any]) -> None:  # noqa: ARG001 -- one judge alone
    """Raises ValueError naming the option that is wrong."""
    try:
        _compiled(options["pattern"], options.get("ignore_case", False))
    except re2.error as error:
        said = error.args[0] if error.args else ""
        why = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise ValueError(f"option 'pattern' is not one that RE2 takes (no look-around): {why}") from error


@functools.lru_cache(64)
def _compiled(pattern: str, ignore_case: bool) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not ignore_case
    return re2.compile(pattern.encode(), options)
