"""Errors that the gateway itself answers with, in OpenAI's shape. Messages hold no prompt text and no keys.

ApiError            status, code and headers of the answer
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.errors import OperationError
from gateway.upstream.errors import DeadlineError, QueueFullError, UpstreamError

RETRY_AFTER_S = 1  # what a client is told to wait when we are full or on our way out
MAX_ROUTES_LISTED = 50  # in the message for an unknown model

Headers = list[tuple[bytes, bytes]]


class ApiError(OperationError):
    """An answer of our own. `kind` is OpenAI's `type`."""

    def __init__(
        self,
        status: int,
        kind: str,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or []

    def body(self) -> bytes:
        return error_body(str(self), self.kind, self.code, self.param)


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """The JSON of an error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def invalid_request(message: str, *, param: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, "invalid_request_error", "invalid_request", message, param=param)


def invalid_key() -> ApiError:
    """401."""
    return ApiError(
        401,
        "invalid_request_error",
        "invalid_api_key",
        "A key of this gateway is required: send it as `Authorization: Bearer KEY`.",
        headers=[(b"www-authenticate", b"Bearer")],
    )


def not_permitted(message: str) -> ApiError:
    """403."""
    return ApiError(403, "invalid_request_error", "insufficient_permissions", message)


def unknown_model(model: str, routes: Iterable[str]) -> ApiError:
    """404 that lists the routes which the caller may use."""
    names = sorted(routes)
    listed = ", ".join(names[:MAX_ROUTES_LISTED]) or "none"
    more = f" and {len(names) - MAX_ROUTES_LISTED} more" if len(names) > MAX_ROUTES_LISTED else ""
    return ApiError(
        404,
        "invalid_request_error",
        "model_not_found",
        f"No route serves model {model[:200]!r}. Routes: {listed}{more}.",
        param="model",
    )


def unknown_endpoint(method: str, path: str) -> ApiError:
    """404 for a path."""
    return ApiError(
        404,
        "invalid_request_error",
        "unknown_url",
        f"Unknown request URL: {method} {path[:200]}. The gateway does not serve it.",
    )


def not_passed(method: str, path: str, family: str, default: str | None) -> ApiError:
    """404 for a path that an upstream could have: names the setting that passes it to *default*."""
    if default is None:
        how = f"an upstream that is marked default and lists `passthrough: [{family}]` would get it"
    else:
        how = f"it goes to upstream {default!r} once that lists `passthrough: [{family}]`"
    return ApiError(
        404,
        "invalid_request_error",
        "unknown_url",
        f"Unknown request URL: {method} {path[:200]}. The gateway does not route it; {how}.",
    )


def wrong_method(method: str, path: str, allowed: str) -> ApiError:
    """405."""
    return ApiError(
        405,
        "invalid_request_error",
        "method_not_supported",
        f"{method} is not allowed for {path}; use {allowed}.",
        headers=[(b"allow", allowed.encode())],
    )


def unreadable(status: int, message: str) -> ApiError:
    """400, 408, 431: no HTTP request that can be read; the connection closes."""
    return ApiError(
        status, "invalid_request_error", "invalid_http_request", message, headers=[(b"connection", b"close")]
    )


def wrong_content_type() -> ApiError:
    """415."""
    return ApiError(
        415,
        "invalid_request_error",
        "unsupported_media_type",
        "The request body must be JSON: send `Content-Type: application/json`, not compressed.",
    )


def too_large(limit: int) -> ApiError:
    """413; the connection closes, since the rest of the body is still on its way."""
    return ApiError(
        413,
        "invalid_request_error",
        "request_too_large",
        f"The request body exceeds {limit} bytes; listen.max_body_bytes of the gateway raises the bound.",
        headers=[(b"connection", b"close")],
    )


def too_large_upload(limit: int) -> ApiError:
    """413 for a body that is passed through; the connection closes."""
    return ApiError(
        413,
        "invalid_request_error",
        "request_too_large",
        f"The upload exceeds {limit} bytes; listen.max_upload_bytes of the gateway raises the bound.",
        headers=[(b"connection", b"close")],
    )


def body_timeout(seconds: float) -> ApiError:
    """408; the connection closes."""
    return ApiError(
        408,
        "invalid_request_error",
        "request_timeout",
        f"The request body did not arrive within {seconds:g} seconds; listen.body_s raises the bound.",
        headers=[(b"connection", b"close")],
    )


def overloaded(message: str) -> ApiError:
    """503: try again soon."""
    return ApiError(503, "server_error", "overloaded", message, headers=_retry_after())


def upstream_failed(error: UpstreamError) -> ApiError:
    """What a client is told when no upstream gave an answer: 429 queue full, 504 deadline, else 502."""
    if isinstance(error, QueueFullError):
        return ApiError(429, "server_error", "queue_full", str(error), headers=_retry_after())
    if isinstance(error, DeadlineError):
        return ApiError(504, "server_error", "upstream_timeout", str(error))
    return ApiError(502, "server_error", "upstream_unavailable", str(error))


def _retry_after() -> Headers:
    return [(b"retry-after", str(RETRY_AFTER_S).encode())]
