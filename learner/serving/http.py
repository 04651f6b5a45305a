"""The little of ASGI that the server needs: reading a bounded body, writing JSON, writing a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from learner.serving.wire import ApiError, bad_request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 16 * 2**20


class ClientGoneError(Exception):
    """The client left before its request was complete; there is nobody to answer."""


async def read_body(receive: Receive) -> bytes:
    """The request's body. Raises ApiError above MAX_BODY_BYTES, ClientGoneError when the client leaves."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", "BadRequestError")
        if not message.get("more_body", False):
            return b"".join(parts)


def require_json(scope: Scope) -> None:
    """Raise ApiError unless the request says it is JSON, which a web page elsewhere may not send unasked."""
    headers = dict(scope["headers"])
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise bad_request("content-type must be application/json")


async def send_json(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """A whole JSON answer."""
    await send_bytes(send, status, msgspec.json.encode(body), "application/json", headers)


async def send_bytes(
    send: Send, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None
) -> None:
    """A whole answer of any type."""
    await start(
        send, status, {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    )
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError) -> None:
    """An error in OpenAI's shape."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    await send_json(send, error.status, error.body(), headers)


async def start(send: Send, status: int, headers: dict[str, str]) -> None:
    """Status and headers; the body follows."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_event(send: Send, data: Any) -> None:
    """One server-sent event; a str is sent as it is."""
    payload = data.encode() if isinstance(data, str) else msgspec.json.encode(data)
    await send({"type": "http.response.body", "body": b"data: " + payload + b"\n\n", "more_body": True})
