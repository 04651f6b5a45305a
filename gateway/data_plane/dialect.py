"""What differs between the kinds of answers that upstreams give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gateway.data_plane.body import RequestView
from gateway.data_plane.sse import StreamWatcher
from gateway.data_plane.wide_json import read_answer


class Watch(Protocol):
    """Makes the watcher of one stream. `hide_usage`: the usage that comes is of our asking."""

    def __call__(self, view: RequestView, /, *, hide_usage: bool) -> StreamWatcher:
        """The watcher of a stream that answers the request of *view*."""


class _Typed(msgspec.Struct):
    object: Any = None


_decode = msgspec.json.Decoder(_Typed).decode


def is_bare_error(payload: bytes) -> bool:
    """Whether JSON that is no answer is an error without an envelope: `"object": "error"`, of older vLLM.

    *payload* is JSON as `read_answer` reads it.
    """
    try:
        return bool(_decode(payload).object == "error")
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = read_answer(payload)
        return isinstance(data, dict) and data.get("object") == "error"


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How the answers of an endpoint stream and fail.

    `reports_error`: whether the whole body of a 200 is an error all the same.
    """

    watch: Watch
    reports_error: Callable[[bytes], bool]
