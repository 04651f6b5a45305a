"""What an answer used, read by the worker itself, for keys whose limits have to be settled at once. Pure.

For all others the recorder reads it later: nobody waits for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.data_plane.wide_json import read_request
from gateway.traces.assembling.assemble import events
from gateway.traces.assembling.content import is_event_stream
from gateway.traces.assembling.usage import Usage, read_usage
from gateway.traces.cost import cost_usd
from gateway.traces.types import PriceTerms

MAX_ASKED = 10**12  # answers, and tokens of each: a larger number is no other wish, and no float holds it
MAX_READ_BYTES = 4 * 1024 * 1024  # of an answer; what a larger one used is not known here


class Spent(NamedTuple):
    """Tokens read and written, and USD; None where nobody knows."""

    tokens: int | None
    usd: float | None


UNKNOWN = Spent(None, None)


class _Bounds(msgspec.Struct):
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    best_of: Any = None


_decode_bounds = msgspec.json.Decoder(_Bounds).decode


def asked_for(request: bytes, choices: int) -> tuple[int | None, int]:
    """Of *request*, the tokens that each answer may have, None where it names no bound; and how many answers.

    *choices* is how many it asks to be given; it may have more written (`best_of`).
    """
    try:
        bounds = _decode_bounds(request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        bounds = _read_bounds(request)
    named = (bounds.max_output_tokens, bounds.max_completion_tokens, bounds.max_tokens)
    most = next((bound for bound in named if isinstance(bound, int) and bound >= 0), None)
    written = bounds.best_of if isinstance(bounds.best_of, int) and bounds.best_of > 0 else 0
    answers = min(max(choices, written), MAX_ASKED)
    return None if most is None else min(most, MAX_ASKED), answers


def spent(
    pieces: Sequence[bytes], *, stream: bool, price: PriceTerms | None, machine_usd: float | None
) -> Spent:
    """What the answer in *pieces*, as the upstream sent it, used at *price*, and on a machine.

    *stream*: a stream was asked for, which the answer may be or not.
    """
    if sum(map(len, pieces)) > MAX_READ_BYTES:
        return UNKNOWN
    body = b"".join(pieces)
    usage = _of_stream(body) if is_event_stream(body, streamed=stream) else read_usage(_decoded(body))
    counts = (usage.tokens_in, usage.tokens_out)
    known = [count for count in counts if count is not None]
    return Spent(sum(known) if known else None, cost_usd(price, usage, machine_usd))


def _read_bounds(request: bytes) -> _Bounds:
    try:
        return msgspec.convert(read_request(request), _Bounds)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return _Bounds()


def _of_stream(body: bytes) -> Usage:
    """The last usage of the events in *body*; a typed event has it in its `response`."""
    found = Usage()
    for data in events(body):
        if b'"usage"' not in data and b'"timings"' not in data:
            continue
        chunk = _decoded(data)
        if not isinstance(chunk, dict):
            continue
        whole = chunk.get("response")
        usage = read_usage(whole if isinstance(whole, dict) else chunk)
        if usage.input is not None or usage.output is not None:
            found = usage
    return found


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
