"""Answers requests to /v1, each in the fiber of its exchange."""

from __future__ import annotations

import logging
from urllib.parse import unquote

import httptools

from gateway.data_plane import errors
from gateway.data_plane.admission import check_head, identify
from gateway.data_plane.attempts import answer
from gateway.data_plane.body import NOTHING_READ, read_body
from gateway.data_plane.call import Call, refuse
from gateway.data_plane.capture import OpenTrace
from gateway.data_plane.client_side import ClientSide
from gateway.data_plane.dialect_chat import CHAT
from gateway.data_plane.dialect_responses import RESPONSES
from gateway.data_plane.endpoint import Endpoint
from gateway.data_plane.errors import ApiError
from gateway.data_plane.exchange import SHUTDOWN, ClientGoneError, Exchange, KnownHead, ShutdownError
from gateway.data_plane.families import Passed, admit_passthrough, passed_of
from gateway.data_plane.headers import read_own
from gateway.data_plane.ids import TraceIds
from gateway.data_plane.limits import reserve, reserve_unread
from gateway.data_plane.models import list_models, show_model
from gateway.data_plane.passthrough import check_length, pass_through
from gateway.operations import OPERATIONS
from gateway.state import State
from gateway.traces.types import Outcome

log = logging.getLogger(__name__)

_STREAM_USAGE = {"/v1/chat/completions", "/v1/completions"}  # which can be asked for it
_DIALECTS = {"/v1/responses": RESPONSES}
ENDPOINTS = {
    path.encode(): Endpoint(
        path=path,
        upstream_path=path.removeprefix("/v1"),
        operation=operation,
        streams_usage=path in _STREAM_USAGE,
        dialect=_DIALECTS.get(path, CHAT),
    )
    for path, operation in OPERATIONS.items()
}
_MODELS = "/v1/models"


class DataPlane:
    """Answers /v1 from *state*."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._mint = TraceIds().mint

    def count_unread(self) -> None:
        """A client has sent what is no request that could be read, and has been told so."""
        self._state.metrics.request_started()
        self._count("", "rejected")

    def begin(self, exchange: Exchange) -> None:
        """Answer *exchange*, in its fiber, whatever happens."""
        target = exchange.url
        path, _, query = target.partition(b"?")
        if not target.startswith(b"/"):
            url = httptools.parse_url(target)  # a whole URL; the protocol has looked at it before
            path, query = url.path, url.query or b""
        endpoint = ENDPOINTS.get(path)
        if endpoint is not None and exchange.method == b"POST":
            exchange.fiber.run(self._serve(endpoint, exchange, query))
            return
        shown = path.decode("latin-1")
        passed = passed_of(shown)
        if passed is not None:
            exchange.fiber.run(self._serve(passed.endpoint(shown), exchange, query, passed))
        else:
            self._serve_rest(endpoint, unquote(shown), exchange)

    async def _serve(
        self, endpoint: Endpoint, exchange: Exchange, query: bytes, passed: Passed | None = None
    ) -> None:
        """Answer one request. *passed*: it is passed through, and its endpoint is not one of ours."""
        state = self._state
        trace = OpenTrace(state, state.live, endpoint, exchange.arrived)
        client_side = ClientSide(exchange)
        state.metrics.request_started()
        state.in_flight += 1
        try:
            _check_room(state)
            if passed is None:
                self._look_at_head(trace, exchange)
                most = trace.live.config.listen.max_body_bytes
                if not exchange.body_whole:
                    await exchange.receive(most)
                trace.request = exchange.body(most)
                await answer(self._admit(trace, client_side, endpoint, exchange, query))
            else:
                await self._pass(trace, client_side, endpoint, exchange, query, passed)
        except ApiError as error:
            refuse(client_side, trace, error, "rejected", error.code or error.kind)
        except ClientGoneError:
            pass  # `finally` writes down that the client left
        except ShutdownError:
            stopped = errors.overloaded("The gateway stops; listen.drain_s is how long requests may finish.")
            refuse(client_side, trace, stopped, "upstream_error", SHUTDOWN)
        except Exception:
            log.exception("a request failed by a bug of ours")
            trace.status = client_side.status or 500
            trace.finish("truncated" if client_side.started else "upstream_error", "internal")
            _apologise(client_side)
        finally:
            state.in_flight -= 1
            if trace.expired:
                trace.finish("timeout", "total_timeout")
            trace.finish("client_cancelled", "client_left")

    def _look_at_head(self, trace: OpenTrace, exchange: Exchange) -> None:
        """Whose request it is, and whether its body may come. Raises ApiError."""
        live = trace.live
        known = exchange.known
        if known is None or known.valid_for is not live:
            _read_head(trace, exchange)
            check_head(trace.own, live.config.listen.max_body_bytes)
            exchange.known = KnownHead(trace.client, live)
            _let_come(trace, exchange)
        else:
            assert exchange.own is not None, "a memo has read it"
            trace.own = exchange.own
            trace.client = known.client

    def _take_on(self, trace: OpenTrace) -> None:
        """It has an id from now on, and is refused where there is no room for it. Raises ApiError."""
        state = self._state
        trace.trace_id = trace.session = self._mint(trace.started_ns)
        trace.admitted = True
        if state.writer.full():
            raise errors.overloaded(
                "Captured traces fill their memory and capture.at_bound says refuse; "
                "capture.memory_bytes of the gateway raises the bound."
            )

    def _admit(
        self, trace: OpenTrace, client_side: ClientSide, endpoint: Endpoint, exchange: Exchange, query: bytes
    ) -> Call:
        """Make of a request that has come in what is to be answered. Raises ApiError."""
        live, own = trace.live, trace.own
        self._take_on(trace)
        view = read_body(trace.request)
        trace.model = view.model
        trace.stream = view.stream
        trace.session = own.session or view.session or trace.trace_id
        trace.subject = own.subject or view.subject
        trace.plan = live.planner.plan(
            view.model,
            pinned=own.variant,
            client=trace.client,
            session=trace.session,
            subject=trace.subject,
            trace_id=trace.trace_id,
        )
        account = live.accounts.get(trace.client.name)
        if account is not None:
            reserve(trace, account, view.choices)
        return Call(exchange.fiber, client_side, trace, endpoint, view, exchange.passed, query)

    async def _pass(
        self,
        trace: OpenTrace,
        client_side: ClientSide,
        endpoint: Endpoint,
        exchange: Exchange,
        query: bytes,
        passed: Passed,
    ) -> None:
        """Pass a request through. Raises ApiError, ClientGoneError."""
        _read_head(trace, exchange)
        path = f"/v1{endpoint.upstream_path}"
        upstream = admit_passthrough(trace.live, trace.client, exchange.method.decode(), path, passed)
        check_length(trace.live, trace.own.content_length)
        self._take_on(trace)
        _let_come(trace, exchange)
        trace.session = trace.own.session or trace.trace_id
        trace.subject = trace.own.subject
        account = trace.live.accounts.get(trace.client.name)
        if account is not None:
            reserve_unread(trace, account)
        call = Call(exchange.fiber, client_side, trace, endpoint, NOTHING_READ, exchange.passed, query)
        await pass_through(call, exchange, upstream, passed)

    def _serve_rest(self, endpoint: Endpoint | None, path: str, exchange: Exchange) -> None:
        """/v1 but for inference: the list of models, and what does not exist."""
        state = self._state
        client_side = ClientSide(exchange)
        method = exchange.method.decode("latin-1")
        state.metrics.request_started()
        outcome: Outcome = "ok"
        try:
            client = identify(state.live, read_own(exchange.headers)[0])
            if endpoint is not None:
                raise errors.wrong_method(method, path, "POST")
            if path != _MODELS and not path.startswith(_MODELS + "/"):
                raise errors.unknown_endpoint(method, path)
            if method != "GET":
                raise errors.wrong_method(method, path, "GET")
            created = int(state.started_at)
            table = state.live.table
            if path == _MODELS:
                body = list_models(table, client, created)
            else:
                body = show_model(table, client, created, path[len(_MODELS) + 1 :])
            client_side.answer_json(body)
        except ApiError as error:
            outcome = "rejected"
            client_side.refuse(error, error.body())
        finally:
            self._count("models", outcome)

    def _count(self, operation: str, outcome: Outcome) -> None:
        """A request without a trace is over."""
        self._state.metrics.request_finished(
            "", "", operation, outcome, upstream_s=0.0, overhead_s=0.0, ttft_s=None
        )


def _check_room(state: State) -> None:
    """Raise ApiError (503) where the process has enough to do, before a body is waited for and kept."""
    if state.in_flight > state.most_in_flight:
        raise errors.overloaded(
            f"{state.most_in_flight} requests are being answered; listen.concurrent of the gateway "
            "raises the bound."
        )


def _read_head(trace: OpenTrace, exchange: Exchange) -> None:
    """Note what the head says and whose request it is. Raises ApiError."""
    if exchange.own is None:
        exchange.own, exchange.passed = read_own(exchange.headers)
    trace.own = exchange.own
    trace.client = identify(trace.live, trace.own)


def _let_come(trace: OpenTrace, exchange: Exchange) -> None:
    """Tell a client that waits for it to send its body."""
    if trace.own.expects_continue and not exchange.body_whole:
        exchange.protocol.go_on()


def _apologise(client_side: ClientSide) -> None:
    if client_side.started:
        client_side.abort()
        return
    error = ApiError(500, "server_error", "internal_error", "The gateway failed; its log says why.")
    client_side.refuse(error, error.body())
