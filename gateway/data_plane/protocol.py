"""uvicorn's HTTP protocol with news of who leaves, bounded heads and errors in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.data_plane.errors import error_body

SCOPE_KEY = "tracetune.protocol"
MAX_HEAD_BYTES = 64 * 1024  # request line and headers of one request
FIRST_BYTE_S = 30.0  # a connection that stays silent this long is closed


class GatewayProtocol(HttpToolsProtocol):
    """Calls `on_gone` when the client's connection is lost: no task per request has to wait for that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_gone: Callable[[], None] | None = None
        self.lost = False
        self._head_open = False
        self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(FIRST_BYTE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.lost = True
        if self.on_gone is not None:
            self.on_gone()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, f"The request's headers exceed {MAX_HEAD_BYTES} bytes (MAX_HEAD_BYTES).")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = True
        self._head_bytes = 0
        cast("dict[str, Any]", self.scope)[SCOPE_KEY] = self

    def on_headers_complete(self) -> None:
        self._head_open = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        body = error_body(message, "invalid_request_error", "invalid_http_request")
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        self.transport.close()
