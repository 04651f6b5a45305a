"""Chunks of a stream that say the same but for one fragment of text, as nearly all do.

The first of them is decoded, and of those behind it the fragment alone, which is added to the first one's:
assembling that comes to the same, and costs a tenth.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

MAX_IDLE = 8  # chunks in a row that nothing behind was like; a stream that is never alike is no longer tried

# Strings that name something arrive whole, and some upstreams repeat them: the last one holds. All others
# (content, refusal, reasoning_content, arguments, what comes next year) are fragments and are joined.
WHOLE = frozenset({"role", "type", "id", "object", "model", "format", "signature", "finish_reason"})

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_PROBES = ("a fragment", "a padding")
_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Runs:
    """Follows the events of one stream. After the last one `finish` is to be called."""

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._idle = 0

    def taken(self, text: bytes, at: int) -> int:
        """Where the first event of *text* from *at* on begins that is not like the last chunk.

        Those before it are: their fragments are added to that chunk's.
        """
        return at if self._run is None else self._run.taken(text, at)

    def begin(self, event: bytes, data: bytes, chunk: dict[str, Any]) -> None:
        """*chunk* is what the *data* of another *event* was decoded to."""
        self.finish()
        if self._idle < MAX_IDLE:
            self._idle += 1
            self._run = _run_of(event, data, chunk)

    def finish(self) -> None:
        """Give the chunk whatever was added to its fragment."""
        if self._run is not None:
            self._idle = 0 if self._run.finish() else self._idle
            self._run = None


class _Frame(NamedTuple):
    """The bytes of an event around its fragment: `before` and `after`.

    Where the chunk ends with a text of its own at the top (some upstreams pad each chunk to hide its length),
    they are `before`, the fragment, `between`, that text, and `after`.
    """

    before: bytes
    between: bytes
    after: bytes


class _Run:
    """A chunk, and what is like it: its *frame* with another fragment."""

    def __init__(self, chunk: dict[str, Any], holder: dict[str, Any], key: str, frame: _Frame) -> None:
        self._chunk, self._holder, self._key = chunk, holder, key
        self._before, self._between, self._after = frame
        self._fragments: list[str] = [holder[key]]
        self._padding = ""

    def taken(self, text: bytes, at: int) -> int:
        before, between, after = self._before, self._between, self._after
        while text.startswith(before, at):
            start, end_of_event = at + len(before), text.find(b"\n\n", at)
            end = end_of_event - len(after)
            if end < start or not text.startswith(after, end):
                break
            try:
                if between:
                    middle = text.find(between, start, end)
                    if middle < 0:
                        break
                    fragment = _decode_text(text[start:middle])
                    self._padding = _decode_text(text[middle + len(between) : end]) or self._padding
                else:
                    fragment = _decode_text(text[start:end])
            except _UNREADABLE:
                break
            self._fragments.append(fragment)
            at = end_of_event + 2
        return at

    def finish(self) -> bool:
        """Whether there was any chunk like it."""
        if len(self._fragments) == 1:
            return False
        self._holder[self._key] = "".join(self._fragments)
        if self._padding:
            self._chunk[next(reversed(self._chunk))] = self._padding
        return True


def _run_of(event: bytes, data: bytes, chunk: dict[str, Any]) -> _Run | None:
    """What may be like *chunk*, the *data* of *event*; None where assembling one for many would not do."""
    place = _fragment_of(chunk)
    if place is None or event.rpartition(b"\n")[2] not in (b"data: " + data, b"data:" + data):
        return None
    holder, key = place
    start, end = _token_of(data, key, 0)
    last = next(reversed(chunk))
    between, at, behind = b"", end, end
    if last != "choices" and isinstance(chunk[last], str):
        at, behind = _token_of(data, last, end)
        between = data[end:at]
    frame = _Frame(data[:start], between, data[behind:])
    if not _is_frame(frame, chunk, holder, key):
        return None
    lines = event[: len(event) - len(data)]
    return _Run(chunk, holder, key, frame._replace(before=lines + frame.before))


def _is_frame(frame: _Frame, chunk: dict[str, Any], holder: dict[str, Any], key: str) -> bool:
    """Whether *chunk* with another fragment is what another one in this *frame* decodes to."""
    before, between, after = frame
    fragment, last = holder[key], next(reversed(chunk))
    padding = chunk[last]
    if fragment == _PROBES[0] or padding == _PROBES[1]:
        return False
    first, second = map(msgspec.json.encode, _PROBES)
    try:
        decoded = _decode(b"".join((before, first, between, second if between else b"", after)))
    except _UNREADABLE:
        return False
    holder[key] = _PROBES[0]
    if between:
        chunk[last] = _PROBES[1]
    same = bool(decoded == chunk)
    holder[key] = fragment
    chunk[last] = padding
    return same


def _token_of(data: bytes, key: str, at: int) -> tuple[int, int]:
    """Where the JSON of the text called *key* is that is first from *at* on; (at, at) for nowhere."""
    name = msgspec.json.encode(key)
    named = data.find(name, at)
    colon = _COLON.match(data, named + len(name)) if named >= 0 else None
    token = _TOKEN.match(data, colon.end()) if colon else None
    return token.span() if token else (at, at)


def _fragment_of(chunk: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The only fragment in *chunk*, by its holder and its key, where all else may be said once for many."""
    choices = chunk.get("choices")
    if not (isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict)):
        return None
    if "type" in chunk:  # an event of the Responses API, perhaps
        return None
    found: list[tuple[dict[str, Any], str]] = []
    for key, value in choices[0].items():
        if key == "text" and isinstance(value, str):
            found.append((choices[0], key))
            continue
        joined = key == "text" or (key in ("delta", "message") and isinstance(value, dict))
        if not _settles(value, found, fragments=joined):
            return None
    return found[0] if len(found) == 1 else None


def _settles(value: Any, found: list[tuple[dict[str, Any], str]], *, fragments: bool) -> bool:
    """Whether merging *value* again changes nothing, its fragments aside, which are added to *found*."""
    if isinstance(value, list):
        # An item that has an index is merged into the one before with that index.
        return not value or (
            fragments
            and len(value) == 1
            and isinstance(value[0], dict)
            and isinstance(value[0].get("index"), int)
            and _settles(value[0], found, fragments=fragments)
        )
    if not isinstance(value, dict):
        return True
    for key, item in value.items():
        if fragments and isinstance(item, str) and item and key not in WHOLE:
            if key == "name":  # repeated or continued: only one after the other can tell
                return False
            found.append((value, key))
        elif not _settles(item, found, fragments=fragments):
            return False
    return True
