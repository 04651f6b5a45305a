"""Errors of the control API to answers, in OpenAI's shape, in this one place."""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from gateway.control.rollout_api import ApiRequest
from gateway.data_plane.errors import ApiError
from gateway.errors import OperationError
from gateway.rollouts import IllegalTransitionError, ShareError, StaleVersionError

log = logging.getLogger(__name__)

_ECHO = re.compile(r"(Invalid enum value) .*(?= - at `)", re.DOTALL)
MAX_BODY_BYTES = 1 << 20  # of a control request; feedback holds one kept answer, evidence a page of numbers


class _Error(msgspec.Struct, kw_only=True, omit_defaults=True):
    message: str
    type: str
    param: str | None
    code: str | None
    current_version: int | None = None


class _Body(msgspec.Struct):
    error: _Error


def _api_error(request: ApiRequest, error: ApiError) -> Response[_Body]:
    del request
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in error.headers}
    return _answer(error.status, str(error), error.code, param=error.param, kind=error.kind, headers=headers)


def _stale(request: ApiRequest, error: StaleVersionError) -> Response[_Body]:
    del request
    return _answer(409, str(error), "stale_version", param="version", current_version=error.current)


def _illegal(request: ApiRequest, error: IllegalTransitionError) -> Response[_Body]:
    del request
    return _answer(409, str(error), "illegal_transition")


def _share(request: ApiRequest, error: ShareError) -> Response[_Body]:
    del request
    return _answer(422, str(error), "invalid_value", param="share")


def _operation(request: ApiRequest, error: OperationError) -> Response[_Body]:
    del request
    log.error("%s", error)
    return _answer(503, str(error), "unavailable", kind="server_error")


def _invalid(request: ApiRequest, error: ValidationException) -> Response[_Body]:
    del request
    cause = error.__cause__
    message = (
        str(cause).replace("`$.data", "`$") if isinstance(cause, msgspec.ValidationError) else error.detail
    )
    message = _ECHO.sub(r"\1", message)  # what was sent may be somebody's words, and errors end up in logs
    if "missing required field `data`" in message:
        return _answer(400, "The body is empty; send a JSON object.", "invalid_request")
    extra: Any = error.extra
    in_body = isinstance(extra, list) and any(part.get("source") == "body" for part in extra)
    return _answer(422 if in_body else 400, message, "invalid_value" if in_body else "invalid_request")


def _http(request: ApiRequest, error: HTTPException) -> Response[_Body]:
    if error.status_code == 413:
        message = f"The body exceeds {MAX_BODY_BYTES} bytes, the bound of the control API (MAX_BODY_BYTES)."
        return _answer(413, message, "request_too_large")
    if error.status_code == 404:
        message = f"Unknown request URL: {request.method} {request.url.path[:200]}."
        return _answer(404, message, "unknown_url")
    code = "method_not_supported" if error.status_code == 405 else "invalid_request"
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return _answer(error.status_code, error.detail, code, kind=kind)


def _unreadable(request: ApiRequest, error: UnicodeDecodeError | RecursionError) -> Response[_Body]:
    """What the decoder of bodies and queries raises beside its own error."""
    del request, error
    return _answer(400, "The request is no JSON in UTF-8 that can be read.", "invalid_request")


def _bug(request: ApiRequest, error: Exception) -> Response[_Body]:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(
        500, "The gateway failed on this request; its log says where.", "internal", kind="server_error"
    )


def _answer(
    status: int,
    message: str,
    code: str | None,
    *,
    param: str | None = None,
    kind: str = "invalid_request_error",
    headers: dict[str, str] | None = None,
    current_version: int | None = None,
) -> Response[_Body]:
    error = _Error(message=message, type=kind, param=param, code=code, current_version=current_version)
    return Response(_Body(error), status_code=status, headers=headers, media_type="application/json")


HANDLERS: ExceptionHandlersMap = {
    ApiError: _api_error,
    StaleVersionError: _stale,
    IllegalTransitionError: _illegal,
    ShareError: _share,
    OperationError: _operation,
    ValidationException: _invalid,
    HTTPException: _http,
    UnicodeDecodeError: _unreadable,
    RecursionError: _unreadable,
    Exception: _bug,
}
