"""How near two texts are by their embeddings: the part of it that asks nobody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from judges.protocol import Abstain, abstain


def cosine_score(one: Sequence[float], other: Sequence[float]) -> float | Abstain:
    """The cosine of two vectors as a score: 1 where they point the same way, 0 where they share nothing.

    Opposite directions are 0 too: of texts, they mean no less likeness than none.
    """
    try:
        left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return abstain("an embedding is not a list of numbers")
    if left.ndim != 1 or left.shape != right.shape or not left.size:
        return abstain("the two embeddings are not of one length")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return abstain("an embedding has a number that is not finite")
    # Scaled first: the squares of very large and very small numbers leave the range.
    most = float(np.abs(left).max()), float(np.abs(right).max())
    if 0.0 in most:
        return abstain("an embedding is all zeros and has no direction")
    left, right = left / most[0], right / most[1]
    cosine = float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
    return min(1.0, max(0.0, cosine))
