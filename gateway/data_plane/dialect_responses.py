"""How `/v1/responses` streams and fails: typed events, the last of which holds the whole response. Pure.

Held back are errors and the final event, `response.completed` or `response.incomplete`. There is no end mark.

Content is everything but the events that only say that work has begun: a tool that runs may have done
something in the world, and a request that got so far is not made twice. The opening passes before any content
where it would be held for long, when the upstream says `keepalive`, and where it took the response into the
background, in which it goes on whether or not anybody listens.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.data_plane.body import RequestView
from gateway.data_plane.dialect import Dialect, is_bare_error
from gateway.data_plane.sse import StreamWatcher, Verdict, name_of
from gateway.data_plane.wide_json import read_answer

_OPENING = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "keepalive",
    }
)
_FINAL = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "error"})


class _Event(msgspec.Struct):
    type: str = ""
    sequence_number: int | None = None
    error: Any = None


class _Begun(msgspec.Struct):
    background: bool | None = None


class _OpeningEvent(_Event):
    response: _Begun | None = None
    delta: Any = None


class _Answer(msgspec.Struct):
    status: Any = None
    error: Any = None
    object: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_opening = msgspec.json.Decoder(_OpeningEvent).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class ResponsesWatcher(StreamWatcher):
    """Watches typed events."""

    def __init__(self) -> None:
        super().__init__()
        self._is_final = False
        self._next_number = 0  # the `sequence_number` that follows on what passed

    @property
    def is_complete(self) -> bool:
        """The final event has come."""
        return self._is_final

    def _judge(self, payload: bytes, event: bytes) -> Verdict:
        told: _Event | None
        try:
            told = _decode(payload) if self.has_content else _decode_opening(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = _read_unusual(payload)
            if told is None:
                return self._hold("broken")
        kind = told.type or name_of(event)
        if told.error is not None or kind in _FAILED or (kind[:9] != "response." and is_bare_error(payload)):
            return self._hold_error(payload)
        if kind in _FINAL:
            self._is_final = self.has_content = self.is_committed = True
            return self._hold("done")
        number = told.sequence_number
        self._next_number = (self._next_number if number is None else number) + 1
        # Between two pieces of a text little time passes; anything else may be followed by thought or a tool.
        self.awaits = "text" if kind.endswith(".delta") else "work"
        if not self.has_content:
            self._note_opening(kind, told)
        return "pass"

    def _note_opening(self, kind: str, told: _Event) -> None:
        if kind not in _OPENING:
            self.has_content = not (isinstance(told, _OpeningEvent) and told.delta == "")
        begun = told.response if isinstance(told, _OpeningEvent) else None
        if self.has_content or kind == "keepalive" or (begun is not None and begun.background):
            self.is_committed = True

    def _error(self, message: str, code: str) -> bytes:
        data = {
            "type": "error",
            "code": code,
            "message": message,
            "param": None,
            "sequence_number": self._next_number,
        }
        return b"event: error\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _read_unusual(payload: bytes) -> _Event | None:
    """The same of JSON whose shape or spelling we do not know. None for what is no JSON."""
    try:
        data = read_answer(payload)
    except (ValueError, RecursionError):
        return None
    fields = data if isinstance(data, dict) else {}
    kind, number = fields.get("type"), fields.get("sequence_number")
    return _Event(
        type=kind if isinstance(kind, str) else "",
        sequence_number=number if isinstance(number, int) else None,
        error=fields.get("error"),
    )


def _watch(_view: RequestView, *, hide_usage: bool) -> ResponsesWatcher:  # noqa: ARG001 -- usage is not asked for
    return ResponsesWatcher()


def _reports_error(body: bytes) -> bool:
    """A response that failed is a 200 too; a bare error has no status."""
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    is_bare = answer.status is None and (answer.error is not None or answer.object == "error")
    return is_bare or answer.status == "failed"


RESPONSES = Dialect(watch=_watch, reports_error=_reports_error)
