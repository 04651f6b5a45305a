"""Frames a stream of server-sent events as it goes by: what is whole, what may pass, what is held. No I/O.

Events pass whole and byte for byte. What each of them means a dialect says, in a subclass: it may have one
held back (the end with all that follows and errors with nothing, because what we know of the trace is written
down before the client can have them), or have one left out.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Literal

MAX_EVENT_BYTES = 16 * 1024 * 1024  # a whole image may come as one event
DONE = b"[DONE]"
_JSON = b"data: {"  # how an event of one line begins that holds JSON
_LF, _CR = b"\n\r"  # looked for as numbers, which is quicker
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BLANK = b"\r\n \t"
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
BEGINNING_BYTES = (
    8  # that tell a stream of events from anything else; no stream that says something is shorter
)
_OVERLAP = 3  # a boundary is at most four bytes long

# "open": goes on. "done": its end came. "error": the upstream reported one. "broken": not JSON. "too_large":
# an event exceeds MAX_EVENT_BYTES.
Ending = Literal["open", "done", "error", "broken", "too_large"]
Verdict = Literal["pass", "hide", "hold"]
# What the next event is waited for as: "work", a model that thinks or a tool that runs; "text", the next
# piece of one that flows; "end", as nothing of substance is missing.
Awaits = Literal["work", "text", "end"]


class StreamWatcher(ABC):
    """Feed it what arrives; it returns what may go to the client. A subclass judges each event."""

    def __init__(self) -> None:
        self.ending: Ending = "open"
        self.awaits: Awaits = "work"
        self.has_content = (
            False  # something has been said or done: a first token, a tool call, a finish reason
        )
        self.is_committed = False  # the client may have what came; no other attempt can take its place
        self.held = b""  # the event that ended the stream, and what came after it but for an error
        self.told = b""  # the data of the event that reported an error
        self._rest: list[bytes] = []  # of an event that has not ended
        self._rest_bytes = 0
        self._lacks_blank_line = False  # what passed last is no whole event yet to the client

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Nothing of substance is missing."""

    def judge(self, event: bytes) -> Verdict:
        """What is to be done with the next event, given without its blank line."""
        payload = payload_of(event)
        if payload is None:
            return "pass"
        if payload == DONE:
            return self._hold("done")
        return self._judge(payload, event)

    @abstractmethod
    def _judge(self, payload: bytes, event: bytes) -> Verdict:
        """The same of an event that has data: *payload*, which is not the end mark."""

    @abstractmethod
    def _error(self, message: str, code: str) -> bytes:
        """The event that tells a client of an error."""

    def error_event(self, message: str, code: str) -> bytes:
        """What to end the stream with after the events that passed, when it cannot be completed."""
        return (b"\n\n" if self._lacks_blank_line else b"") + self._error(message, code)

    def feed(self, data: bytes) -> bytes:
        """Take what arrived. Returns the whole events in it that may pass, b"" when there is none."""
        if self.ending != "open":
            self.held += b"" if self.told else data
            return b""
        if self._rest:
            # Searched only where it is new, and joined only once: a large event may come in many pieces.
            if not _has_boundary(self._rest[-1][-_OVERLAP:] + data):
                self._keep(data)
                return b""
            data = b"".join([*self._rest, data])
            self._rest, self._rest_bytes = [], 0
        if data[:7] != _JSON or data.find(_LF) != len(data) - 2 or data[-1] != _LF or _CR in data:
            return self._feed_events(data)
        # One event of one line, as nearly every packet of a stream is.
        verdict = self._judge(data[6:-2], data)
        if verdict == "hold":
            self.held = data
        return data if verdict == "pass" else b""

    def _feed_events(self, data: bytes) -> bytes:
        """The same of events of any form."""
        start = passed_from = 0
        size = len(data)
        plain = _CR not in data
        passed: list[bytes] = []  # what lies before something that was left out
        while start < size:
            if plain:
                end = data.find(b"\n\n", start)
                after = end + 2
            else:
                match = _BOUNDARY.search(data, start)
                end, after = match.span() if match is not None else (-1, -1)
            if end < 0:
                self._keep(data[start:])
                break
            verdict = self.judge(data[start:end])
            if verdict == "hold":
                # What follows an error is not passed: an end mark would make it look like a whole answer.
                self.held = data[start:after] if self.told else data[start:]
                break
            if verdict == "hide":
                passed.append(data[passed_from:start])
                passed_from = after
            start = after
        if start == size and not passed:
            return data
        passed.append(data[passed_from:start])
        return b"".join(passed)

    def close(self) -> bytes:
        """The stream is over. Returns what was not yet a whole event: it may pass if it is one after all."""
        rest, self._rest = b"".join(self._rest), []
        if self.ending != "open" or not rest.strip(_BLANK):
            return rest if self.ending == "open" else b""
        verdict = self.judge(rest.rstrip(b"\r\n"))
        if verdict == "hold":
            self.held = rest
        self._lacks_blank_line = verdict == "pass"
        return rest if verdict == "pass" else b""

    def _hold(self, ending: Ending) -> Verdict:
        self.ending = ending
        return "hold"

    def _hold_error(self, payload: bytes) -> Verdict:
        self.told = payload
        return self._hold("error")

    def _keep(self, data: bytes) -> None:
        self._rest.append(data)
        self._rest_bytes += len(data)
        if self._rest_bytes > MAX_EVENT_BYTES:
            self.ending, self._rest = "too_large", []


def begins_events(data: bytes) -> bool:
    """Whether *data*, the beginning of a body, is that of a stream of events."""
    return data[: len(_BOM) + BEGINNING_BYTES].removeprefix(_BOM).lstrip(_BLANK).startswith(_FIELDS)


def payload_of(event: bytes) -> bytes | None:
    """The data of one event, its lines joined; None for comments and events without data."""
    one_line = _LF not in event and _CR not in event
    if one_line and event[:5] == b"data:":
        return event[5:].strip(b" ") or None
    if event[:6] == b"event:" and _CR not in event:
        _, _, line = event.partition(b"\n")
        if line[:5] == b"data:" and _LF not in line:
            return line[5:].strip(b" ") or None
    lines = [line[5:].removeprefix(b" ") for line in _lines(event) if line[:5] == b"data:"]
    return b"\n".join(lines).strip() or None


def name_of(event: bytes) -> str:
    """What its last `event:` line calls one event, "" without any."""
    names = [line[6:].strip().decode("utf-8", "replace") for line in _lines(event) if line[:6] == b"event:"]
    return names[-1] if names else ""


def _lines(event: bytes) -> list[bytes]:
    return _LINE_END.split(event.removeprefix(_BOM))


def _has_boundary(data: bytes) -> bool:
    return b"\n\n" in data if _CR not in data else _BOUNDARY.search(data) is not None
