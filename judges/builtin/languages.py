"""Whether the answer is in the language it should be in. Short or mixed text is an abstention.

Languages are told apart by py3langid, a linear model over byte sequences that ships with its package.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from judges.builtin.shown import answer_of
from judges.protocol import Abstain, abstain
from judges.trace import JudgedTrace

MIN_LETTER_BYTES = 40  # of a text's letters in UTF-8: few signs say as much in Chinese as many in English
LOOK_CHARS = 400  # of a text, from its beginning; more makes it slower and no surer
MARGIN = 12.0  # between the logarithms of two languages' likelihoods, from which they are told apart
PROMPT = "prompt"
_NOT_LANGUAGE = re.compile(r"```[^`]*(?:```|$)|`[^`\n]*`|https?://\S+|\S+@\S+|<[^<>\n]{1,200}>")


class Likely(NamedTuple):
    """The likeliest language of a text, and how far behind it each other one is."""

    code: str
    behind: dict[str, float]


def language(trace: JudgedTrace, *, expected: str = PROMPT) -> bool | Abstain:
    """True where the answer is in language *expected*, an ISO 639-1 code, or in that of the prompt."""
    answer = answer_of(trace)
    if isinstance(answer, Abstain):
        return answer
    wanted = expected
    if expected == PROMPT:
        asked = _likely(trace.prompt)
        if asked is None or _closest(asked) < MARGIN:
            return abstain("the prompt is too short or too mixed to tell its language")
        wanted = asked.code
    found = _likely(answer)
    if found is None:
        return abstain("the answer is too short to tell its language")
    if found.code != wanted and found.behind[wanted] < MARGIN:
        return abstain("the answer's language cannot be told from a related one")
    if found.code == wanted and _closest(found) < MARGIN / 4:
        return abstain("the answer's language cannot be told from a related one")
    return found.code == wanted


def check_options(judge: str, options: dict[str, Any]) -> None:  # noqa: ARG001 -- one judge alone
    """Raises ValueError naming the option that is wrong."""
    expected = options.get("expected", PROMPT)
    if expected != PROMPT and expected not in _known():
        raise ValueError(
            f"option 'expected': no language {expected!r}; it is an ISO 639-1 code such as 'de', or 'prompt'"
        )


def _likely(text: str) -> Likely | None:
    """None where *text* has too few letters outside of code and addresses."""
    plain = _NOT_LANGUAGE.sub(" ", text[: 4 * LOOK_CHARS])[:LOOK_CHARS]
    letters = "".join(filter(str.isalpha, plain))
    if len(letters.encode("utf-8", "replace")) < MIN_LETTER_BYTES:
        return None
    ranked = _ranked(plain.encode("utf-8", "replace").decode())
    code, best = ranked[0]
    return Likely(code, {other: float(best - score) for other, score in ranked})


def _closest(likely: Likely) -> float:
    return min(gap for code, gap in likely.behind.items() if code != likely.code)


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(code for code, _ in _ranked("language"))


def _ranked(text: str) -> list[tuple[str, float]]:
    from py3langid import rank  # its model takes a second to read

    ranked: list[tuple[str, float]] = rank(text)
    return ranked
