"""What the tokens of an answer were. Parts of a side add up to the side: there is no count beside them."""

from __future__ import annotations

import msgspec


class InputTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that an upstream read; no token is in two parts. A part is None where it was not reported.

    `cached` holds cached audio as well; `text` is all that no other part claims, images and tools too.
    """

    text: int
    cached: int | None = None
    cache_write: int | None = None
    audio: int | None = None

    @classmethod
    def of(
        cls, total: int, cached: int | None = None, cache_write: int | None = None, audio: int | None = None
    ) -> InputTokens:
        """*total* tokens split by what is claimed of them: a claim gets at most what those before it left."""
        cached, left = _claim(cached, total)
        cache_write, left = _claim(cache_write, left)
        audio, left = _claim(audio, left)
        return cls(text=left, cached=cached, cache_write=cache_write, audio=audio)

    @property
    def total(self) -> int:
        return self.text + (self.cached or 0) + (self.cache_write or 0) + (self.audio or 0)


class OutputTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that an upstream wrote; no token is in two parts. A part is None where it was not reported.

    `text` is all that no other part claims, predictions that were rejected too.
    """

    text: int
    reasoning: int | None = None
    audio: int | None = None

    @classmethod
    def of(cls, total: int, reasoning: int | None = None, audio: int | None = None) -> OutputTokens:
        """*total* tokens split by what is claimed of them: a claim gets at most what those before it left."""
        reasoning, left = _claim(reasoning, total)
        audio, left = _claim(audio, left)
        return cls(text=left, reasoning=reasoning, audio=audio)

    @property
    def total(self) -> int:
        return self.text + (self.reasoning or 0) + (self.audio or 0)


def _claim(claimed: int | None, left: int) -> tuple[int | None, int]:
    if claimed is None:
        return None, left
    part = min(claimed, left)
    return part, left - part
