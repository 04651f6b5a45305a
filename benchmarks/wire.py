"""The bytes of the benchmark: requests, the fixed answer, the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEY = "sk-benchmark-7f1d2c9ab4e0"
MODEL = "bot"
PATH = "/v1/chat/completions"
CHUNKS = 64
PROMPT_BYTES = 1000

_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "word " * 150}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 250, "completion_tokens": 150, "total_tokens": 400}


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


ANSWER = _compact(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served",
        "choices": [_CHOICE],
        "usage": _USAGE,
    }
)


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = b"data: %s\n\n" % _compact(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "served",
            "choices": choices,
            **more,
        }
    )
    return framed(event)


def framed(data: bytes) -> bytes:
    """*data* as one chunk of the transfer coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OPENING = _chunk([_delta({"role": "assistant", "content": ""})])
TOKEN = _chunk([_delta({"content": "word "})])
FINISH = _chunk([_delta({}, "stop")])
USAGE = _chunk([], usage=_USAGE)
END = framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def headers(session: str, more: Mapping[str, str]) -> dict[str, str]:
    """What every request carries, whoever gets it: a key and a session, and what a contender needs *more*."""
    return {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "authorization": f"Bearer {KEY}",
        "user-agent": "benchmark",
        "accept": "application/json",
        "x-tracetune-session": session,
        **more,
    }


def body(*, stream: bool) -> bytes:
    """A chat request of about 1.1 KB."""
    message = {"role": "user", "content": "x" * PROMPT_BYTES}
    return _compact({"model": MODEL, "messages": [message], "stream": stream})


def requests(*, stream: bool, sessions: int, more: Mapping[str, str]) -> list[bytes]:
    """Whole requests, one for each of the sessions that a load takes turns in."""
    content = body(stream=stream)
    found = []
    for number in range(sessions):
        lines = [f"{name}: {value}" for name, value in headers(f"session-{number:04d}", more).items()]
        head = "\r\n".join([f"POST {PATH} HTTP/1.1", *lines, f"content-length: {len(content)}"])
        found.append(f"{head}\r\n\r\n".encode() + content)
    return found
