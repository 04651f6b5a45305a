"""How `/v1/chat/completions` and `/v1/completions` stream and fail: chunks of choices, then `[DONE]`. Pure.

Held back are the end mark (`data: [DONE]`) and errors. Left out is the chunk that holds nothing but a usage
which we asked for and the client did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.data_plane.body import RequestView
from gateway.data_plane.dialect import Dialect, is_bare_error
from gateway.data_plane.errors import error_body
from gateway.data_plane.sse import StreamWatcher, Verdict
from gateway.data_plane.wide_json import read_answer


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class _OpeningChoice(_Choice):
    delta: dict[str, Any] | None = None
    text: str | None = None


class _OpeningChunk(msgspec.Struct):
    choices: list[_OpeningChoice] | None = None
    usage: Any = None
    error: Any = None


class _Answer(msgspec.Struct):
    error: Any = None
    object: Any = None
    choices: msgspec.Raw = msgspec.Raw(b"")
    data: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_opening = msgspec.json.Decoder(_OpeningChunk).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class ChatWatcher(StreamWatcher):
    """Watches chunks of choices.

    `choices`: how many answers were asked for. `hide_usage`: the usage-only chunk is of our asking.
    """

    def __init__(self, *, choices: int = 1, hide_usage: bool = False) -> None:
        super().__init__()
        self._expected = choices
        self._hide_usage = hide_usage
        self._seen: set[int] = set()
        self._finished: set[int] = set()

    @property
    def is_complete(self) -> bool:
        """Every answer that began has its finish reason."""
        return bool(self._finished) and self._seen <= self._finished

    def _judge(self, payload: bytes, event: bytes) -> Verdict:  # noqa: ARG002 -- its data says it all
        chunk: _Chunk | _OpeningChunk | None
        try:
            chunk = _decode(payload) if self.has_content else _decode_opening(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = _read_unusual(payload)
            if chunk is None:
                return self._hold("broken")
            self._begin()
        choices = chunk.choices
        # Some upstreams say null, "" or {} where there is none.
        if chunk.error or (choices is None and is_bare_error(payload)):
            return self._hold_error(payload)
        if choices:
            first = choices[0]
            is_more_text = self.has_content and not first.finish_reason and first.index in self._seen
            if not is_more_text or len(choices) > 1:
                self._note(choices)
        elif self._hide_usage and choices is not None and chunk.usage is not None:
            return "hide"
        return "pass"

    def _note(self, choices: Sequence[_Choice]) -> None:
        for choice in choices:
            index = choice.index
            if index not in self._seen:
                self._seen.add(index)
                if self.has_content:
                    self.awaits = "text"
            if choice.finish_reason:  # some upstreams say "" until there is one
                self._begin()
                self._finished.add(index)
                if self.is_complete and len(self._finished) >= self._expected:
                    self.awaits = "end"  # only usage and the end mark may still come
            elif not self.has_content and _says_something(choice):
                self._begin()

    def _begin(self) -> None:
        if not self.has_content:
            self.has_content = self.is_committed = True
            self.awaits = "text"

    def _error(self, message: str, code: str) -> bytes:
        return b"data: " + error_body(message, "server_error", code) + b"\n\n"


def _read_unusual(payload: bytes) -> _Chunk | None:
    """JSON of a shape or a spelling that we do not know: it counts as content, unless it reports an error.

    None for what is no JSON.
    """
    try:
        data = read_answer(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return _Chunk()
    choices, usage = data.get("choices"), data.get("usage")
    read = None
    if isinstance(choices, list):
        read = [_read_unusual_choice(choice) for choice in choices if isinstance(choice, dict)]
    return _Chunk(choices=read, usage=usage, error=data.get("error"))


def _read_unusual_choice(choice: dict[str, Any]) -> _Choice:
    index, reason = choice.get("index"), choice.get("finish_reason")
    return _Choice(index=index if isinstance(index, int) else 0, finish_reason="unusual" if reason else None)


def _says_something(choice: _Choice) -> bool:
    """Whether it holds more than a role: text, reasoning, a refusal, a tool call, or what comes next."""
    if not isinstance(choice, _OpeningChoice):
        return False
    delta = choice.delta or {}
    return bool(choice.text) or any(value for key, value in delta.items() if key != "role")


def _watch(view: RequestView, *, hide_usage: bool) -> ChatWatcher:
    return ChatWatcher(choices=view.choices, hide_usage=hide_usage)


def _reports_error(body: bytes) -> bool:
    if b'"error"' not in body:  # a text that says so has its quotes escaped
        return False
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    is_error = answer.error is not None or answer.object == "error"
    return is_error and not bytes(answer.choices) and not bytes(answer.data)


CHAT = Dialect(watch=_watch, reports_error=_reports_error)
