"""One request that is being answered: what came in, where it goes, and its trace."""

from __future__ import annotations

import time

from gateway.data_plane.body import RequestView, upstream_body
from gateway.data_plane.capture import OpenTrace
from gateway.data_plane.client_side import ClientSide
from gateway.data_plane.endpoint import Endpoint
from gateway.data_plane.errors import ApiError, Headers
from gateway.data_plane.headers import LIMITS, downstream, lines_of, passes_down
from gateway.data_plane.limit_answers import limit_headers
from gateway.fiber import Fiber
from gateway.traces.types import Outcome
from gateway.upstream.response_memo import KnownAnswer


class Call:
    """Everything that the attempts of one request share. `passed`: head lines that go upstream.

    `query` is the URL's, without its question mark. `adds_usage`: the upstream that is asked was asked for
    the usage of its stream, and the client did not ask for it.
    """

    __slots__ = (
        "_bodies",
        "_lacks_usage",
        "adds_usage",
        "client_side",
        "endpoint",
        "fiber",
        "passed",
        "query",
        "trace",
        "view",
    )

    def __init__(
        self,
        fiber: Fiber,
        client_side: ClientSide,
        trace: OpenTrace,
        endpoint: Endpoint,
        view: RequestView,
        passed: bytes,
        query: bytes = b"",
    ) -> None:
        self.fiber = fiber
        self.client_side = client_side
        self.trace = trace
        self.endpoint = endpoint
        self.view = view
        self.passed = passed
        self.query = query
        # Tokens are to be counted whether the client asked for them or not.
        self._lacks_usage = view.stream and endpoint.streams_usage and not view.asks_usage
        self.adds_usage = self._lacks_usage
        self._bodies: dict[tuple[str, bool], bytes] = {}

    def body_for(self, model: str, *, usage_in_streams: bool) -> bytes:
        """The request's body for an upstream that knows *model*, and whether it may be asked for usage."""
        asks = self.adds_usage = self._lacks_usage and usage_in_streams
        body = self._bodies.get((model, asks))
        if body is None:
            body = upstream_body(self.trace.request, self.view, model, count_usage=asks)
            self._bodies[model, asks] = body
        return body

    def expire(self) -> None:
        """The total deadline passed while the client was slow to take what it asked for: break it off."""
        self.trace.expired = True
        self.client_side.abort()

    def refuse(self, error: ApiError, outcome: Outcome, reason: str) -> None:
        """Answer with an error of our own."""
        refuse(self.client_side, self.trace, error, outcome, reason)


def refuse(client_side: ClientSide, trace: OpenTrace, error: ApiError, outcome: Outcome, reason: str) -> None:
    """Answer with an error of our own, which becomes the response of the trace.

    Where an answer is on its way already, all that can be done is to break it off.
    """
    if client_side.started:
        trace.finish("truncated", reason)
        client_side.abort()
        return
    body = error.body()
    trace.status = error.status
    trace.settle(body)
    trace.finish(outcome, reason)
    client_side.refuse(error, body, own_lines(trace) if trace.admitted else b"")


def answer_lines(
    trace: OpenTrace, headers: Headers, known: KnownAnswer | None = None, *, keep_length: bool = False
) -> bytes:
    """The lines of an answer's head: what passes of an upstream's *headers*, and ours.

    Where we say what is left of a key's limits, what the upstream says of its own is left out.
    """
    own = own_lines(trace)
    if known is not None and trace.reservation is None:
        return known.lines(passes_down) + own
    says_limits = trace.reservation is not None and LIMITS in own
    return downstream(headers, without_limits=says_limits, keep_length=keep_length) + own


def own_lines(trace: OpenTrace) -> bytes:
    """Our lines of an answer: `x-tracetune-trace-id`, and `-route` and `-variant` where a route served it.

    For a key with limits, what is left of them too (`x-ratelimit-…`), in place of the upstream's.
    """
    lines = b"x-tracetune-trace-id: %b\r\n%b" % (trace.trace_id.encode(), trace.plan.lines)
    if trace.reservation is not None:
        lines += lines_of(limit_headers(trace.reservation, time.time()))
    return lines
