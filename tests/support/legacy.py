"""What an upstream says on `/v1/completions` and `/v1/embeddings`."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable
from typing import Any

from tests.support.upstream import DONE, USAGE, Received, Reply, Script, event, send_events


def text_completion(*texts: str, **fields: Any) -> dict[str, Any]:
    """A whole answer of `completions`, one choice for each text."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "upstream-model",
        "choices": [_choice(index, text, "stop") for index, text in enumerate(texts)],
        "usage": USAGE,
        **fields,
    }


def text_events(pieces: Iterable[str], *, prompts: int = 1, usage: bool = False) -> list[bytes]:
    """The events of a whole streamed answer to each of *prompts*, with the usage where it was asked for."""
    base = {key: value for key, value in text_completion().items() if key not in ("choices", "usage")}
    if usage:
        base["usage"] = None
    chunks: list[dict[str, Any]] = []
    for index in range(prompts):
        chunks += [{**base, "choices": [_choice(index, piece, None)]} for piece in pieces]
        chunks.append({**base, "choices": [_choice(index, "", "stop")]})
    if usage:
        chunks.append({**base, "choices": [], "usage": USAGE})
    return [*(event(chunk) for chunk in chunks), DONE]


def streams_text(pieces: Iterable[str], *, prompts: int = 1) -> Script:
    """A streamed answer; usage comes along when it was asked for."""
    pieces = list(pieces)

    async def script(received: Received, reply: Reply) -> None:
        usage = bool((received.json().get("stream_options") or {}).get("include_usage"))
        await send_events(reply, text_events(pieces, prompts=prompts, usage=usage))

    return script


def embeddings(*vectors: list[float], encoding: str = "float", **fields: Any) -> dict[str, Any]:
    """A whole answer of `embeddings`."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
            for index, vector in enumerate(vectors)
        ],
        "model": "upstream-model",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        **fields,
    }


def embeds(*vectors: list[float]) -> Script:
    """Embeddings in the encoding that was asked for."""

    async def script(received: Received, reply: Reply) -> None:
        encoding = received.json().get("encoding_format", "float")
        body = json.dumps(embeddings(*vectors, encoding=encoding)).encode()
        await reply.whole(body, 200, ("content-type", "application/json"))

    return script


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": None}


def _encoded(vector: list[float], encoding: str) -> Any:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
