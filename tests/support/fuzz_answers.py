"""What upstreams may answer in a fuzz run, on every endpoint, streamed and not: sound answers, and mangled ones.

A case is a function of its number (`case_of`), so that one that failed can be looked at again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tests.support.fuzz import chance_of, mangled
from tests.support.legacy import embeddings, text_completion, text_events
from tests.support.request_path import chat
from tests.support.responses import asked, numbered, response_object, whole_stream
from tests.support.upstream import (
    DONE,
    Received,
    Reply,
    completion,
    delta,
    event,
    send_events,
    usage_chunk,
)

LARGE_BYTES = 1_200_000  # more than the gateway holds back
USAGE_EVENT = event(usage_chunk())
_STATUSES = (400, 401, 404, 409, 429, 500, 503)
_COMMENT = b": ping\n\n"


class Kind(NamedTuple):
    """One endpoint. `events`: of a whole stream, from its pieces and the number of its answers."""

    method: str
    target: str
    request: dict[str, Any]
    whole: Callable[[str], dict[str, Any]]
    events: Callable[[list[str], int], list[bytes]]


def _chat_events(pieces: list[str], answers: int) -> list[bytes]:
    chunks = [delta("", index=index, role="assistant") for index in range(answers)]
    chunks += [delta(piece, index=index) for piece in pieces for index in range(answers)]
    chunks += [delta(finish="stop", index=index) for index in range(answers)]
    return [*(event(chunk) for chunk in chunks), DONE]


def _response_events(pieces: list[str], answers: int) -> list[bytes]:
    return numbered(whole_stream(pieces, "completed" if answers == 1 else "incomplete"))


KINDS = {
    "chat": Kind("POST", "/chat/completions", chat(), completion, _chat_events),
    "completions": Kind(
        "POST",
        "/completions",
        {"model": "bot", "prompt": "hi"},
        text_completion,
        lambda pieces, answers: text_events(pieces, prompts=answers),
    ),
    "embeddings": Kind(
        "POST",
        "/embeddings",
        {"model": "bot", "input": "hi"},
        lambda text: embeddings([0.5] * (1 + len(text) // 8)),
        _chat_events,  # a misguided upstream's
    ),
    "responses": Kind("POST", "/responses", asked(), response_object, _response_events),
    "stored": Kind("GET", "/responses/resp_1?stream=true", {}, response_object, _response_events),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the upstream does with one request.

    `body`: what its answer holds where nothing is wrong with how that is framed, else None. `is_sound`: every
    event of it is there, and as it should be.
    """

    packets: list[bytes]
    gap_s: float
    then: Literal["keep", "close", "hang"]
    status: int = 200
    body: bytes | None = None
    is_events: bool = False
    is_sound: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """`leaves_s`: the client leaves after so long, None: it stays."""

    number: int
    name: str
    stream: bool
    request: dict[str, Any]
    leaves_s: float | None
    plan: Plan

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @property
    def hides_usage(self) -> bool:
        """The usage of a stream is the gateway's to ask for and to take out again."""
        asked = "stream_options" in self.request
        return self.stream and self.name in ("chat", "completions") and not asked


def case_of(number: int) -> Case:
    chance = chance_of(number)
    name = chance.choice(list(KINDS))
    stream = name == "stored" or (name != "embeddings" and chance.random() < 0.6)
    request = dict(KINDS[name].request)
    if stream and name != "stored":
        request["stream"] = True
        if name != "responses" and chance.random() < 0.3:
            request["stream_options"] = {"include_usage": True}
    return Case(
        number=number,
        name=name,
        stream=stream,
        request=request,
        leaves_s=chance.random() * 0.03 if chance.random() < 0.05 else None,
        plan=_plan(KINDS[name], chance, events=stream == (chance.random() < 0.9)),
    )


async def play(plan: Plan, reply: Reply) -> None:
    for packet in plan.packets:
        await reply.raw(packet)
        await reply.pause(plan.gap_s)
    if plan.then == "close":
        reply.close()
    elif plan.then == "hang":
        await reply.hang()


async def sound(received: Received, reply: Reply) -> None:
    """A script: what a healthy upstream answers."""
    target = received.target.removeprefix("/v1").partition("?")[0]
    kind = next((kind for kind in KINDS.values() if kind.target == target), KINDS["chat"])
    try:
        stream = received.json().get("stream") is True
    except (ValueError, AttributeError):
        stream = "stream=true" in received.target
    if stream:
        await send_events(reply, kind.events(["he", "llo"], 1))
    else:
        await reply.whole(json.dumps(kind.whole("hello")).encode(), 200, ("content-type", "application/json"))


def _plan(kind: Kind, chance: random.Random, *, events: bool) -> Plan:
    if events:
        return _mangled_stream(kind, chance) if chance.random() < 0.3 else _framed_stream(kind, chance)
    text = "x" * (LARGE_BYTES if chance.random() < 0.005 else chance.randrange(3000))
    body = json.dumps(kind.whole(text)).encode()
    match chance.randrange(4):
        case 0:
            return _sent(chance, mangled(_head(len(body)) + body, chance))
        case 1:
            return _sent(chance, mangled(_head(len(body)), chance) + body)
        case 2:
            body = mangled(body, chance)
    status = chance.choice(_STATUSES) if chance.random() < 0.2 else 200
    return _sent(chance, _head(len(body), status) + body, body=body, status=status)


def _mangled_stream(kind: Kind, chance: random.Random) -> Plan:
    sent = _chunked(_events(kind, chance)) + b"0\r\n\r\n"
    return _sent(chance, mangled(_STREAM_HEAD + sent, chance))


def _framed_stream(kind: Kind, chance: random.Random) -> Plan:
    """Its events may be mangled, missing or too many, but not what they are sent in."""
    events = whole = _events(kind, chance)
    if chance.random() < 0.6:
        # Of a mangled usage nobody but the gateway could say whether it is one.
        events = [
            each if each in (USAGE_EVENT, _COMMENT) else mangled(each, chance, (0, 0, 0, 1))
            for each in events
        ]
    if chance.random() < 0.2:
        events = events[: chance.randrange(len(events))]
    if chance.random() < 0.1:
        events = events + events[: chance.randrange(len(events) + 1)]
    end = b"0\r\n\r\n" if chance.random() < 0.8 else b""
    return _sent(
        chance,
        _STREAM_HEAD + _chunked(events) + end,
        body=b"".join(events),
        is_events=True,
        is_sound=events == whole,
    )


def _events(kind: Kind, chance: random.Random) -> list[bytes]:
    pieces = ["he", "l", "lo", "ü" * 40][: chance.randrange(1, 5)]
    events = kind.events(pieces, chance.choice((1, 1, 2)))
    if events[-1] == DONE and chance.random() < 0.5:
        events.insert(-1, USAGE_EVENT)
    if chance.random() < 0.2:
        events.insert(chance.randrange(len(events)), _COMMENT)
    if chance.random() < 0.2:
        events = [each.replace(b"\n", b"\r\n") if each != USAGE_EVENT else each for each in events]
    return events


def _head(length: int, status: int = 200) -> bytes:
    lines = b"HTTP/1.1 %d Scripted\r\ncontent-type: application/json\r\nx-upstream: yes\r\n" % status
    return lines + b"content-length: %d\r\n\r\n" % length


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces if each)


def _sent(chance: random.Random, data: bytes, **fields: Any) -> Plan:
    """*data* in up to four packets."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 3))))
    packets = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return Plan(
        packets=packets,
        gap_s=chance.choice((0.0, 0.0, 0.005)),
        then=chance.choice(("keep", "keep", "close", "hang")),
        **fields,
    )
