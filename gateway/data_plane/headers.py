"""Which headers cross the gateway. Everything passes but what is named here."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from gateway.data_plane.errors import Headers
from gateway.traces.types import MAX_KEY_BYTES

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Credentials are the client's towards us, cookies belong to our origin; the rest we set ourselves.
_NOT_UPSTREAM = HOP_BY_HOP | {
    b"accept-encoding",
    b"api-key",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"x-api-key",
}
# An upstream's cookies would come back to us and end here, its alt-svc names another host than ours.
_NOT_DOWNSTREAM = HOP_BY_HOP | {b"alt-svc", b"set-cookie"}
_READ = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"origin",
        b"traceparent",
    }
)
_NOTED = _READ | _NOT_UPSTREAM
# Of what we read, what a client may say anew with each request on a connection.
VARYING = frozenset({b"traceparent", b"x-tracetune-session", b"x-tracetune-user"})
_PLAIN_CONNECTION = frozenset({b"", b"keep-alive", b"close"})
_NOT_DOWNSTREAM_OR_LENGTH = _NOT_DOWNSTREAM | {b"content-length"}
_OURS = b"x-tracetune-"
LIMITS = b"x-ratelimit-"
_TAG = b"x-tracetune-tag-"
_TRAINING_ALLOWED = frozenset({b"yes", b"true", b"1", b"on"})
MAX_TAGS = 32
MAX_TAG_BYTES = 256  # of a name and of a value; a longer one is cut
_SAFE_IN_HEADER = "".join(chr(code) for code in range(0x21, 0x7F))


class OwnHeaders(msgspec.Struct, kw_only=True):
    """What a request says to the gateway itself. `training`: its trace may be learnt from."""

    authorization: bytes | None = None
    session: str | None = None
    subject: str | None = None
    variant: str | None = None
    traceparent: str | None = None
    origin: bytes | None = None
    tags: dict[str, str] = {}
    content_type: bytes = b""
    content_encoding: bytes = b""
    content_length: int | None = None
    expects_continue: bool = False
    is_chunked: bool = False
    training: bool = True


def read_own(headers: Headers) -> tuple[OwnHeaders, bytes]:
    """What *headers* say to us, and the head lines that go upstream, each ended by CRLF."""
    passed: list[bytes] = []
    ours: Headers = []
    seen: dict[bytes, bytes] = {}
    for header in headers:
        name, value = header
        if name in _NOTED:
            seen[name] = value
            if name in _NOT_UPSTREAM:
                continue
        elif name.startswith(_OURS):
            ours.append(header)
            continue
        passed += (name, b": ", value, b"\r\n")
    connection = seen.get(b"connection", b"").lower()
    if connection not in _PLAIN_CONNECTION:
        passed = _without(passed, [token.strip() for token in connection.split(b",")])
    length = seen.get(b"content-length", b"")
    own = OwnHeaders(
        authorization=seen.get(b"authorization"),
        content_type=seen.get(b"content-type", b""),
        content_encoding=seen.get(b"content-encoding", b""),
        content_length=int(length) if length.isdigit() else None,
        origin=seen.get(b"origin"),
        is_chunked=b"transfer-encoding" in seen,
        expects_continue=seen.get(b"expect", b"").lower() == b"100-continue",
    )
    if b"traceparent" in seen:
        own.traceparent = seen[b"traceparent"].decode("latin-1")[:MAX_KEY_BYTES]
    for name, value in ours:
        _read_ours(own, name, value)
    return own, b"".join(passed)


def vary(own: OwnHeaders, names: list[tuple[int, bytes]], values: list[bytes]) -> OwnHeaders:
    """*own* but for the headers *names*, which are VARYING: each has that of *values* with its number."""
    own = own.__copy__()  # type: ignore[attr-defined]  # msgspec's; `copy` takes twice as long, each time
    for at, name in names:
        value = values[at]
        if name == b"x-tracetune-session":
            own.session = session_of(value)
        elif name == b"traceparent":
            own.traceparent = value.decode("latin-1")[:MAX_KEY_BYTES]
        else:
            own.subject = subject_of(value)
    return own


def passes_up(name: bytes) -> bool:
    """Whether an upstream gets the header *name*, where no `connection` names it."""
    return name not in _NOT_UPSTREAM and not name.startswith(_OURS)


def may_vary(name: bytes, names: list[bytes]) -> bool:
    """Whether the header *name*, one of *names*, may have another value in a head that means the same."""
    return (passes_up(name) and name not in _READ) or (name in VARYING and names.count(name) == 1)


def is_plain(headers: Headers) -> bool:
    """Whether no name has a `%`, and what is said of the connection keeps no header from an upstream."""
    return all(
        b"%" not in name and (name != b"connection" or value.lower() in _PLAIN_CONNECTION)
        for name, value in headers
    )


def _without(passed: list[bytes], names: list[bytes]) -> list[bytes]:
    """The head lines, four pieces each, but for those of *names*."""
    lines = [passed[index : index + 4] for index in range(0, len(passed), 4)]
    return [piece for line in lines if line[0] not in names for piece in line]


def downstream(headers: Headers, *, without_limits: bool, keep_length: bool = False) -> bytes:
    """The head lines of an upstream's response that the client gets, each ended by CRLF.

    `without_limits`: what it says of its own limits is left out, as we say what is left of ours.
    """
    dropped = _NOT_DOWNSTREAM if keep_length else _NOT_DOWNSTREAM_OR_LENGTH
    prefixes = (_OURS, LIMITS) if without_limits else (_OURS,)
    return lines_of([header for header in headers if passes_down(header[0], dropped, prefixes)])


def passes_down(
    name: bytes,
    dropped: frozenset[bytes] = _NOT_DOWNSTREAM_OR_LENGTH,
    prefixes: tuple[bytes, ...] = (_OURS,),
) -> bool:
    """Whether the client gets the header *name* of an upstream's response, by default of a whole one."""
    return name not in dropped and not name.startswith(prefixes)


def lines_of(headers: Headers) -> bytes:
    """*headers* as lines of a head, each ended by CRLF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def session_of(value: bytes) -> str | None:
    """The session that the header's *value* names."""
    return value[:MAX_KEY_BYTES].decode("utf-8", "replace") or None


def subject_of(value: bytes) -> str | None:
    """The subject that the header's *value* names."""
    return value[:MAX_KEY_BYTES].decode("utf-8", "replace") or None


def header_value(text: str) -> bytes:
    """*text* as a header value; what is not printable ASCII is percent-encoded."""
    return quote(text, safe=_SAFE_IN_HEADER).encode("ascii")


def _read_ours(own: OwnHeaders, name: bytes, value: bytes) -> None:
    if name.startswith(_TAG):
        if len(own.tags) < MAX_TAGS:
            key = name[len(_TAG) :][:MAX_TAG_BYTES].decode("latin-1")
            own.tags = {**own.tags, key: value[:MAX_TAG_BYTES].decode("utf-8", "replace")}
    elif name == b"x-tracetune-session":
        own.session = session_of(value)
    elif name == b"x-tracetune-user":
        own.subject = subject_of(value)
    elif name == b"x-tracetune-variant":
        own.variant = value.decode("utf-8", "replace") or None
    elif name == b"x-tracetune-training" and value.strip().lower() not in _TRAINING_ALLOWED:
        own.training = False  # whoever names it and does not clearly say yes means no, and one no is enough
