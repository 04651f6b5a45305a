"""What the bytes of a response are: their content encoding undone, event stream or one body."""

from __future__ import annotations

import zlib

MAX_DECODED_BYTES = 64 << 20  # of one response; a compressed bomb ends here, and the rest is left out
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits, which also name the container


def decode_content(data: bytes, encoding: str | None) -> bytes | None:
    """*data* without its content encodings; None for an encoding we cannot undo or data that is damaged.

    A compressed stream that broke off decodes to what had arrived.
    """
    for name in reversed([part.strip().lower() for part in (encoding or "").split(",")]):
        if name in ("", "identity"):
            continue
        if name in ("gzip", "x-gzip"):
            decoded = _inflate(data, _GZIP)
        elif name == "deflate":
            decoded = _inflate(data, _ZLIB)
            if decoded is None:
                decoded = _inflate(data, _RAW)  # what some servers call deflate
        else:
            return None
        if decoded is None:
            return None
        data = decoded
    return data


def _inflate(data: bytes, window_bits: int) -> bytes | None:
    parts: list[bytes] = []
    room = MAX_DECODED_BYTES
    try:
        while data and room > 0:  # gzip members may follow each other
            decompressor = zlib.decompressobj(window_bits)
            part = decompressor.decompress(data, room)
            parts.append(part)
            room -= len(part)
            if not decompressor.eof:
                break
            data = decompressor.unused_data
    except zlib.error:
        if not parts:
            return None
    return b"".join(parts)


def is_event_stream(data: bytes, *, streamed: bool) -> bool:
    """Whether *data* is server-sent events; `streamed`: the caller asked for them (errors are still JSON)."""
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        return True
    return streamed and not start.startswith((b"{", b"["))
