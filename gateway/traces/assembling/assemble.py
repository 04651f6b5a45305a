"""Assembles the bytes of a streamed answer into the shape a buffered answer has.

Pure, and tolerant of what upstreams really send: any line ending, comments, a usage chunk without choices,
tool calls in fragments, errors in band, chunks that are no JSON. Fields we do not know are merged by their
type and kept. A stream that broke off assembles to what had arrived.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.traces.assembling.alike import WHOLE, Runs
from gateway.traces.assembling.assemble_responses import assemble_responses, is_response_event
from gateway.traces.assembling.jsontext import MARKER, parse_json_or_none

MAX_INVALID_SAMPLES = 8  # chunks that are no JSON are counted; this many are kept
MAX_SAMPLE_CHARS = 1_000


class _Text:
    """A string under construction. Joining once keeps long streams linear."""

    __slots__ = ("parts",)

    def __init__(self, first: str = "") -> None:
        self.parts = [first]


def assemble(body: bytes) -> dict[str, Any] | None:
    """The buffered shape of the event stream *body*; None when it holds no event with data."""
    chunks: list[dict[str, Any]] = []
    invalid: list[str] = []
    runs = Runs()
    for event, data in _events(body, runs):
        parsed = _chunks_of(data)
        if parsed:
            chunks += parsed
            runs.begin(event, data, parsed[-1])
        elif data != b"[DONE]":
            invalid.append(data.decode("utf-8", "replace"))
    runs.finish()
    if not chunks and not invalid:
        return None
    if any(is_response_event(chunk) for chunk in chunks):
        assembled = assemble_responses(chunks)
    else:
        assembled = _assemble_chat(chunks)
    if invalid:
        samples = [text[:MAX_SAMPLE_CHARS] for text in invalid[:MAX_INVALID_SAMPLES]]
        assembled[MARKER] = {"invalid_chunks": len(invalid), "samples": samples}
    return assembled


def events(body: bytes) -> Iterator[bytes]:
    """The data of each server-sent event in *body*. A last event that was cut off counts if it is JSON."""
    return (data for _, data in _events(body, Runs()))


def _events(body: bytes, runs: Runs) -> Iterator[tuple[bytes, bytes]]:
    """Each server-sent event in *body* that *runs* does not take, and its data."""
    text = body.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    at = 0
    while (end := text.find(b"\n\n", at := runs.taken(text, at))) >= 0:
        event, at = text[at:end], end + 2
        if lines := _data_lines(event):
            yield event, b"\n".join(lines)
    event = text[at:]
    if lines := _data_lines(event):
        data = b"\n".join(lines)
        # Cut off in the middle of a line: whole only if it can be read; otherwise it never arrived.
        if event.endswith(b"\n") or data == b"[DONE]" or _chunks_of(data):
            yield event, data


def _data_lines(event: bytes) -> list[bytes]:
    return [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in event.split(b"\n")
        if line.startswith(b"data:")
    ]


def _chunks_of(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects in one event's data: one, or one per line for upstreams that forget the blank line."""
    value = parse_json_or_none(data)
    if isinstance(value, dict):
        return [value]
    values = [parse_json_or_none(line) for line in data.split(b"\n") if line != b"[DONE]"]
    return [value for value in values if isinstance(value, dict)] if b"\n" in data else []


def _assemble_chat(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    top: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            if key == "choices" and isinstance(value, list):
                for choice in value:
                    if isinstance(choice, dict):
                        _add_choice(choices, choice)
            elif value not in (None, "") or key not in top:  # a later empty field does not erase
                top[key] = value
    if top.get("object") in ("chat.completion.chunk", None, ""):
        legacy = bool(choices) and all("text" in choice for choice in choices.values())
        top["object"] = "text_completion" if legacy else "chat.completion"
    usage = top.pop("usage", None)
    assembled = {**top, "choices": [_finish_choice(choices[index]) for index in sorted(choices)]}
    if usage is not None:
        assembled["usage"] = usage
    return assembled


def _add_choice(choices: dict[int, dict[str, Any]], choice: dict[str, Any]) -> None:
    index = choice.get("index")
    if not isinstance(index, int):
        index = 0
    into = choices.setdefault(index, {"index": index})
    for key, value in choice.items():
        if key in ("delta", "message") and isinstance(value, dict):
            _merge(into.setdefault("message", {}), value, fragments=True)
        elif key != "index":
            into[key] = _merged(key, into.get(key), value, fragments=key == "text")


def _merge(into: dict[str, Any], new: dict[str, Any], *, fragments: bool) -> None:
    for key, value in new.items():
        into[key] = _merged(key, into.get(key), value, fragments=fragments)


def _merged(key: str, old: Any, new: Any, *, fragments: bool) -> Any:
    """What *key* holds after *new* arrived. `fragments`: strings continue each other (inside a delta)."""
    if new is None:
        return old
    if isinstance(new, dict):
        into = old if isinstance(old, dict) else {}
        _merge(into, new, fragments=fragments)
        return into
    if isinstance(new, list):
        items = _as_list(old)
        _merge_list(items, new, fragments=fragments)
        return items
    if isinstance(new, str) and fragments and key not in WHOLE:
        return _continued(key, old, new)
    return old if new == "" and old is not None else new


def _continued(key: str, old: Any, new: str) -> Any:
    if isinstance(old, list):  # content that came as parts before
        last = old[-1] if old else None
        if not (
            isinstance(last, dict) and last.get("type") == "text" and isinstance(last.get("text"), _Text)
        ):
            old.append({"type": "text", "text": _Text()})
        old[-1]["text"].parts.append(new)
        return old
    if not isinstance(old, _Text):
        return _Text(new)
    # Some upstreams repeat a function's name with every fragment.
    if key != "name" or "".join(old.parts) != new:
        old.parts.append(new)
    return old


def _as_list(old: Any) -> list[Any]:
    if isinstance(old, _Text):
        return [{"type": "text", "text": old}] if any(old.parts) else []
    return old if isinstance(old, list) else []


def _merge_list(old: list[Any], new: list[Any], *, fragments: bool) -> None:
    for item in new:
        if not isinstance(item, dict):
            old.append(item)
            continue
        known = _same_item(old, item)
        if known is None:
            known = {}
            old.append(known)
        _merge(known, item, fragments=fragments)


def _same_item(old: list[Any], item: dict[str, Any]) -> dict[str, Any] | None:
    """The item of *old* that *item* continues: the one with its index, unless it starts another call."""
    index = item.get("index")
    if not isinstance(index, int):
        return None
    for known in reversed(old):
        if isinstance(known, dict) and known.get("index") == index:
            # Some upstreams give every parallel call index 0; a new id with a new name is a new call.
            function = item.get("function")
            named = isinstance(function, dict) and bool(function.get("name"))
            another = bool(item.get("id")) and bool(known.get("id")) and item["id"] != known["id"]
            return None if named and another else known
    return None


def _finish_choice(choice: dict[str, Any]) -> dict[str, Any]:
    finished: dict[str, Any] = _join(choice)
    message = finished.get("message")
    if message is None and "text" not in finished:
        message = {}
    if message is not None:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            ordered = sorted(calls, key=_call_order)
            message["tool_calls"] = [_without_index(call) for call in ordered]
        role, content = message.pop("role", None), message.pop("content", None)
        finished["message"] = {"role": role or "assistant", "content": content, **message}
    finished["finish_reason"] = finished.pop("finish_reason", None)
    return finished


def _call_order(call: Any) -> int:
    index = call.get("index") if isinstance(call, dict) else None
    return index if isinstance(index, int) else 0


def _without_index(call: Any) -> Any:
    return {k: v for k, v in call.items() if k != "index"} if isinstance(call, dict) else call


def _join(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value.parts)
    if isinstance(value, dict):
        return {key: _join(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item) for item in value]
    return value
