"""How the verdict on a session is given to its turns: pure."""

from __future__ import annotations

from gateway.config.judges import Credit

ELSEWHERE = "its session is judged as a whole, and the last turn has the score"
NOT_SHOWN = "its session is judged as a whole by its latest turns, of which this is none"


def credited(credit: Credit, turns: int, score: float | None, reason: str) -> list[tuple[float | None, str]]:
    """Score and reason of each of *turns* turns, the oldest first, where *score* is their session's.

    Who abstains on a session abstains on all of its turns, for that reason. A turn that gets nothing of the
    score is an abstention that says so: never a zero.
    """
    if score is None:
        return [(None, reason)] * turns
    if credit.rule == "last":
        return [(None, ELSEWHERE)] * (turns - 1) + [(score, reason)]
    gamma = credit.gamma if credit.rule == "discounted" else 1.0
    return [(score * gamma**after, reason) for after in reversed(range(turns))]
