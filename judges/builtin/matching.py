"""Whether the answer is the text it should be: to the letter, or but for case, space and punctuation."""

from __future__ import annotations

import unicodedata
from typing import Any

from judges.builtin.shown import KEPT, answer_of, check_against, reference_of
from judges.protocol import Abstain
from judges.trace import JudgedTrace


def exact_match(trace: JudgedTrace, *, against: str = KEPT, reference: str | None = None) -> bool | Abstain:
    """True where the answer is the reference, character for character."""
    answer = answer_of(trace)
    expected = reference_of(trace, against, reference)
    if isinstance(expected, Abstain):
        return expected
    return answer if isinstance(answer, Abstain) else answer == expected


def normalised_match(
    trace: JudgedTrace,
    *,
    against: str = KEPT,
    reference: str | None = None,
    case: bool = False,
    space: bool = False,
    unicode: bool = False,
    punctuation: bool = False,
) -> bool | Abstain:
    """True where the answer is the reference but for what does not count.

    What an option names counts only where it is true: *case*; *space*, how much of it and at the ends;
    *unicode*, forms that look the same (NFKC); *punctuation*, which else is as good as a space.
    """
    answer = answer_of(trace)
    expected = reference_of(trace, against, reference)
    if isinstance(expected, Abstain):
        return expected
    if isinstance(answer, Abstain):
        return answer
    keep = {"case": case, "space": space, "unicode": unicode, "punctuation": punctuation}
    return normalised(answer, **keep) == normalised(expected, **keep)


def normalised(text: str, *, case: bool, space: bool, unicode: bool, punctuation: bool) -> str:
    """*text* without what does not count: what is false."""
    if not unicode:
        text = unicodedata.normalize("NFKC", text)
    if not case:
        text = text.casefold()
    if not punctuation:
        text = "".join(" " if unicodedata.category(char)[0] == "P" else char for char in text)
    return text if space else " ".join(text.split())


def check_options(judge: str, options: dict[str, Any]) -> None:  # noqa: ARG001 -- both take the same
    """Raises ValueError naming the option that is wrong."""
    check_against(options.get("against", KEPT))
