"""ClickHouse's HTTP interface as data: what a request asks for, what an error looks like. No I/O, no chDB."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hmac
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import lz4.frame  # type: ignore[import-untyped]  # comes with clickhouse-connect, ships no types
import msgspec

from gateway.traces.embedded.engine import ClickHouseError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # comes with clickhouse-connect, as lz4 does

# Parameters of the transport, not settings of the engine. Sessions are not kept between requests.
_TRANSPORT = frozenset(
    {
        *("query", "database", "default_format", "user", "password", "role", "query_id", "quota_key"),
        *("session_id", "session_timeout", "session_check", "close_session", "stacktrace"),
        *("wait_end_of_query", "buffer_size", "client_protocol_version", "compress", "decompress"),
        *("enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        "cancel_http_readonly_queries_on_client_close",
    }
)
_STATUS_BY_CODE = {
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 42, 43, 46, 47, 53), 400),
    **dict.fromkeys((62, 69, 70, 115, 117, 130, 386, 456, 457), 400),
    **dict.fromkeys((60, 81), 404),
    **dict.fromkeys((164, 344, 497, 516), 403),
    48: 501,
    73: 400,
    202: 503,
    372: 404,
}
_WORD = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what goes into a header of ours
_MEMORY_LIMIT_EXCEEDED = 241


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What came in the query string: the statement, or a part of it, and how to run it."""

    query: str
    database: str | None
    settings: dict[str, str]
    params: dict[str, str]
    default_format: str
    query_id: str | None = None
    wait_end: bool = False  # nothing is answered before the statement is over


def open_handle(method: str, path: str, query_string: bytes) -> bool:
    """Whether the request asks nothing but whether the server is there, which anyone may.

    Raises ClickHouseError where nothing is at *path*, or *method* is none of ClickHouse's.
    """
    if method not in {"GET", "HEAD", "POST"}:
        raise ClickHouseError(48, f"Code: 48. DB::Exception: Method {method}: unsupported. (NOT_IMPLEMENTED)")
    if path in {"/ping", "/replicas_status"}:
        return True
    if path != "/":
        raise ClickHouseError(60, "Code: 60. DB::Exception: There is no handle at this path. (UNKNOWN_TABLE)")
    return method != "POST" and not query_string


def query_headers(
    request: Request, mark: str, fmt: str | None, summary: Mapping[str, str]
) -> list[tuple[bytes, bytes]]:
    """The headers of a statement that did not fail; *summary* is empty while it runs.

    *fmt* is None of a statement that has no result: by that clickhouse-connect tells it from an empty one.
    """
    query_id = request.query_id if request.query_id and _WORD.fullmatch(request.query_id) else mark
    return [
        (b"content-type", b"application/octet-stream"),
        *([] if fmt is None else [(b"x-clickhouse-format", fmt.encode())]),
        (b"x-clickhouse-timezone", b"UTC"),
        (b"x-clickhouse-server-display-name", b"embedded"),
        (b"x-clickhouse-query-id", query_id.encode()),
        (b"x-clickhouse-summary", msgspec.json.encode(summary)),
    ]


def parse_request(query_string: bytes, headers: Mapping[bytes, bytes], *, method: str) -> Request:
    """The request in *query_string* and *headers*. A GET may only read, as with ClickHouse."""
    return with_fields(
        Request(
            query="",
            database=_text(headers.get(b"x-clickhouse-database")) or None,
            settings={} if method == "POST" else {"readonly": "2"},
            params={},
            default_format=_text(headers.get(b"x-clickhouse-format")) or "TabSeparated",
        ),
        dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, encoding="utf-8")),
    )


def with_fields(request: Request, fields: Mapping[str, str]) -> Request:
    """*request* with the fields of a query string or of a form. Raises ClickHouseError."""
    if fields.get("session_check", "0") != "0":
        text = "Code: 372. DB::Exception: Sessions are not kept between requests. (SESSION_NOT_FOUND)"
        raise ClickHouseError(372, text)
    default_format = fields.get("default_format") or request.default_format
    if not _WORD.fullmatch(default_format):
        raise ClickHouseError(73, "Code: 73. DB::Exception: The default format is no name. (UNKNOWN_FORMAT)")
    settings, params = dict(request.settings), dict(request.params)
    for name, value in fields.items():
        if name.startswith("param_"):
            params[name.removeprefix("param_")] = value
        elif name not in _TRANSPORT:
            settings[name] = value
    return Request(
        query=fields.get("query", request.query),
        database=fields.get("database") or request.database,
        settings=settings,
        params=params,
        default_format=default_format,
        query_id=fields.get("query_id") or request.query_id,
        wait_end=fields.get("wait_end_of_query", "0") != "0" or request.wait_end,
    )


def parse_form(body: bytes, content_type: bytes) -> dict[str, str]:
    """The fields of a multipart form. Raises ClickHouseError for files: external tables are unsupported."""
    head = b"Content-Type: " + content_type + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str) or part.get_filename() is not None:
            text = "Code: 48. DB::Exception: External tables: unsupported. (NOT_IMPLEMENTED)"
            raise ClickHouseError(48, text)
        payload = part.get_payload(decode=True)
        try:
            fields[name] = payload.decode() if isinstance(payload, bytes) else ""
        except UnicodeDecodeError as error:
            raise ClickHouseError(
                62, "Code: 62. DB::Exception: A field is not UTF-8. (SYNTAX_ERROR)"
            ) from error
    return fields


def authorized(headers: Mapping[bytes, bytes], token: str) -> bool:
    """Whether the request carries *token*, as a password, a key or a bearer token."""
    given = [_text(headers.get(b"x-clickhouse-key"))]
    scheme, _, credentials = _text(headers.get(b"authorization")).partition(" ")
    if scheme.lower() == "bearer":
        given.append(credentials)
    elif scheme.lower() == "basic":
        try:
            given.append(base64.b64decode(credentials, validate=True).decode().partition(":")[2])
        except ValueError:  # not base64, or not UTF-8 in it
            return False
    return any(hmac.compare_digest(value.encode(), token.encode()) for value in given)


class Decoder:
    """Decodes the chunks of a body in order, and knows whether the last one was the last."""

    def __init__(self, content_encoding: bytes) -> None:
        """Raises ClickHouseError for an encoding that is not known here."""
        self._name = content_encoding.decode("latin-1").strip().lower()
        self._stream: Any = None  # Any: zlib and lz4 agree in shape only
        if self._name == "lz4":
            self._stream = lz4.frame.LZ4FrameDecompressor()
        elif self._name == "zstd":
            self._stream = zstd.ZstdDecompressor()
        elif self._name in {"gzip", "deflate"}:
            self._stream = zlib.decompressobj(wbits=47)  # 47: either header is recognised
        elif self._name not in {"", "identity"}:
            text = f"Code: 48. DB::Exception: Content-Encoding {self._name!r}: unsupported. (NOT_IMPLEMENTED)"
            raise ClickHouseError(48, text)

    def decode(self, chunk: bytes, *, last: bool) -> bytes:
        """Raises ClickHouseError where *chunk* is not in the encoding, or the *last* one ends too early."""
        if self._stream is None:
            return chunk
        try:
            data = bytes(self._stream.decompress(chunk)) if chunk else b""
        except (RuntimeError, EOFError, zlib.error, zstd.ZstdError) as error:
            raise self._invalid() from error
        if last and not self._stream.eof:
            raise self._invalid()
        return data

    def _invalid(self) -> ClickHouseError:
        text = f"Code: 354. DB::Exception: The body is not valid {self._name}. (CANNOT_DECOMPRESS)"
        return ClickHouseError(354, text)


def error_response(error: ClickHouseError, version: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body with which ClickHouse would report *error*."""
    text = str(error).strip()
    if error.code == _MEMORY_LIMIT_EXCEEDED:
        text += " store.memory_bytes raises the bound."
    body = f"{text} (version {version} (embedded))\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=UTF-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-clickhouse-exception-code", str(error.code).encode()),
    ]
    return _STATUS_BY_CODE.get(error.code, 500), headers, body


def late_error(error: ClickHouseError, tag: bytes) -> bytes:
    """The block that ends a body whose statement failed after the status was sent."""
    message = str(error).strip().encode()
    marker = b"\r\n__exception__\r\n"
    return b"".join([marker, tag, b"\r\n", message, b"\n%d " % (len(message) + 1), tag, marker])


def _text(value: bytes | None) -> str:
    return (value or b"").decode("latin-1")
