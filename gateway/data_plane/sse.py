"""Watches a stream of server-sent events go by: what has been said, what may pass, how it ends. No I/O.

Events pass whole and byte for byte. Held back are the end mark (`data: [DONE]` and what follows it) and an
error, because what we know of the trace is written down before the client can have them, and the chunk that
holds nothing but a usage which we asked for and the client did not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

MAX_EVENT_BYTES = 16 * 1024 * 1024  # a whole image may come as one event
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DONE = b"[DONE]"
_BLANK = b"\r\n \t"
_OVERLAP = 3  # a boundary is at most four bytes long

# "open": goes on. "done": [DONE] came. "error": the upstream reported one. "broken": not JSON, or an event
# that exceeds MAX_EVENT_BYTES.
Ending = Literal["open", "done", "error", "broken"]
_Verdict = Literal["pass", "hide", "hold"]


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


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_opening = msgspec.json.Decoder(_OpeningChunk).decode


class StreamWatcher:
    """Feed it what arrives; it returns what may go to the client.

    `choices`: how many answers were asked for. `hide_usage`: the usage-only chunk is of our asking.
    """

    def __init__(self, *, choices: int = 1, hide_usage: bool = False) -> None:
        self.ending: Ending = "open"
        self.has_content = False  # a first token, tool call or finish reason has come
        self.held = b""  # the end mark or the error event, and what came after it
        self._expected = choices
        self._hide_usage = hide_usage
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._rest: list[bytes] = []  # of an event that has not ended
        self._rest_bytes = 0

    @property
    def is_complete(self) -> bool:
        """Every answer that began has its finish reason: nothing of substance is missing."""
        return bool(self._finished) and self._seen <= self._finished

    @property
    def is_exhausted(self) -> bool:
        """As many answers as were asked for are complete: only usage and the end mark may still come."""
        return self.is_complete and len(self._finished) >= self._expected

    def feed(self, data: bytes) -> bytes:
        """Take what arrived. Returns the whole events in it that may pass, b"" when there is none."""
        if self.ending != "open":
            self.held += data
            return b""
        if self._rest:
            # Searched only where it is new, and joined only once: a large event may come in many pieces.
            if _find_boundary(self._rest[-1][-_OVERLAP:] + data, 0) is None:
                self._keep(data)
                return b""
            data = b"".join([*self._rest, data])
            self._rest, self._rest_bytes = [], 0
        start = passed_from = 0
        passed: list[bytes] = []  # what lies before something that was left out
        while (boundary := _find_boundary(data, start)) is not None:
            verdict = self._judge(data[start : boundary[0]])
            if verdict == "hold":
                self.held = data[start:]
                passed.append(data[passed_from:start])
                return b"".join(passed)
            if verdict == "hide":
                passed.append(data[passed_from:start])
                passed_from = boundary[1]
            start = boundary[1]
        if start < len(data):
            self._keep(data[start:])
        if not passed and passed_from == 0 and start == len(data):
            return data
        passed.append(data[passed_from:start])
        return b"".join(passed)

    def _keep(self, data: bytes) -> None:
        self._rest.append(data)
        self._rest_bytes += len(data)
        if self._rest_bytes > MAX_EVENT_BYTES:
            self.ending, self._rest = "broken", []

    def close(self) -> bytes:
        """The stream is over. Returns what was not yet a whole event: it may pass if it is one after all."""
        rest, self._rest = b"".join(self._rest), []
        if self.ending != "open" or not rest.strip(_BLANK):
            return rest if self.ending == "open" else b""
        verdict = self._judge(rest.rstrip(b"\r\n"))
        if verdict == "hold":
            self.held = rest
        return rest if verdict == "pass" else b""

    def _judge(self, event: bytes) -> _Verdict:
        payload = _payload(event)
        if payload is None:
            return "pass"
        if payload == _DONE:
            return self._hold("done")
        try:
            chunk: _Chunk | _OpeningChunk
            try:
                chunk = _decode(payload) if self.has_content else _decode_opening(payload)
            except msgspec.ValidationError:
                chunk = _read_unusual(payload)
                self.has_content = True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._hold("broken")
        if chunk.error is not None:
            return self._hold("error")
        choices = chunk.choices
        if choices:
            self._note(choices)
        elif self._hide_usage and choices is not None and chunk.usage is not None:
            return "hide"
        return "pass"

    def _hold(self, ending: Ending) -> _Verdict:
        self.ending = ending
        return "hold"

    def _note(self, choices: Sequence[_Choice]) -> None:
        for choice in choices:
            self._seen.add(choice.index)
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
                self.has_content = True
            elif not self.has_content and isinstance(choice, _OpeningChoice):
                self.has_content = bool(choice.text) or _says_something(choice.delta)


def _read_unusual(payload: bytes) -> _Chunk:
    """JSON of a shape that we do not know: it counts as content, unless it reports an error.

    Raises what decoding raises: the first decoder gave up where the shape ended, perhaps before the JSON did.
    """
    data = msgspec.json.decode(payload)
    reports_error = isinstance(data, dict) and data.get("error") is not None
    return _Chunk(error=reports_error or None)


def _find_boundary(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the first event from *start* ends and the next one begins."""
    if b"\r" not in data:
        at = data.find(b"\n\n", start)
        return (at, at + 2) if at >= 0 else None
    match = _BOUNDARY.search(data, start)
    return match.span() if match is not None else None


def _says_something(delta: dict[str, Any] | None) -> bool:
    """Whether a delta holds more than a role: text, reasoning, a refusal, a tool call, or what comes next."""
    return delta is not None and any(value for key, value in delta.items() if key != "role")


def _payload(event: bytes) -> bytes | None:
    """The data of one event, its lines joined; None for comments and events without data."""
    if event.startswith(b"data:") and b"\n" not in event and b"\r" not in event:
        return event[5:].strip(b" ")
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line[:5] == b"data:"]
    return b"\n".join(lines).strip() if lines else None
