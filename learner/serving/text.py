"""Tokens to text as they come: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class TextStream:
    """The text of one answer. What `push` and `finish` return, joined, is the answer."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = list(stop)
        # An ending this long could still turn out to begin a stop string.
        self._hold = max((len(text) for text in stop), default=1) - 1
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._decoded = ""
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that *token* completes, perhaps none. Sets `stopped` when a stop string has appeared."""
        self._tokens.append(token)
        text = self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        self._decoded += text
        return self._release(text)

    def finish(self) -> str:
        """What was held back: the start of a stop string that did not come, an incomplete character."""
        if self.stopped:
            return ""
        whole = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        rest = whole[len(self._decoded) :] if whole.startswith(self._decoded) else ""
        text = self._release(rest)
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _release(self, text: str) -> str:
        pending = self._held + text
        found = [at for at in (pending.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return pending[: min(found)]
        keep = max(len(pending) - self._hold, 0)
        self._held = pending[keep:]
        return pending[:keep]
