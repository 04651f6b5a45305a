"""Answers requests to /v1, each in the fiber of its exchange."""

from __future__ import annotations

import logging
import os
from urllib.parse import unquote

import httptools

from gateway.data_plane import errors
from gateway.data_plane.admission import check_head, identify
from gateway.data_plane.attempts import answer
from gateway.data_plane.body import read_body
from gateway.data_plane.call import Call, Endpoint, refuse
from gateway.data_plane.capture import OpenTrace
from gateway.data_plane.client_side import ClientSide
from gateway.data_plane.dialect_responses import RESPONSES
from gateway.data_plane.errors import ApiError
from gateway.data_plane.exchange import ClientGoneError, Exchange, ShutdownError
from gateway.data_plane.headers import read_own
from gateway.data_plane.ids import uuid7
from gateway.data_plane.models import list_models, show_model
from gateway.state import State
from gateway.traces.types import Outcome

log = logging.getLogger(__name__)

ENDPOINTS = {
    endpoint.path.encode(): endpoint
    for endpoint in (
        Endpoint(path="/v1/chat/completions", upstream_path="/chat/completions", streams_usage=True),
        Endpoint(path="/v1/completions", upstream_path="/completions", streams_usage=True),
        Endpoint(path="/v1/embeddings", upstream_path="/embeddings"),
        Endpoint(path="/v1/responses", upstream_path="/responses", dialect=RESPONSES),
    )
}
_MODELS = "/v1/models"


class DataPlane:
    """Answers /v1 from *state*."""

    def __init__(self, state: State) -> None:
        self._state = state

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
        else:
            self._serve_rest(endpoint, unquote(path.decode("latin-1")), exchange)

    async def _serve(self, endpoint: Endpoint, exchange: Exchange, query: bytes) -> None:
        state = self._state
        trace = OpenTrace(state, state.live, endpoint.path, exchange.arrived)
        client_side = ClientSide(exchange)
        state.metrics.request_started()
        state.in_flight += 1
        try:
            await answer(await self._admit(trace, client_side, endpoint, exchange, query))
        except ApiError as error:
            refuse(client_side, trace, error, "rejected", error.code or error.kind)
        except ClientGoneError:
            pass  # `finally` writes down that the client left
        except ShutdownError:
            trace.status = client_side.status
            trace.finish("truncated" if client_side.started else "upstream_error", "shutdown")
        except Exception:
            log.exception("a request failed by a bug of ours")
            trace.finish("truncated" if client_side.started else "upstream_error", "internal")
            _apologise(client_side)
        finally:
            state.in_flight -= 1
            if trace.expired:
                trace.finish("timeout", "total_timeout")
            trace.finish("client_cancelled", "client_left")

    async def _admit(
        self, trace: OpenTrace, client_side: ClientSide, endpoint: Endpoint, exchange: Exchange, query: bytes
    ) -> Call:
        """Take the request in. Raises ApiError, ClientGoneError."""
        state, live = self._state, trace.live
        own, passed = read_own(exchange.headers)
        trace.own = own
        trace.client = identify(live, own)
        max_bytes = live.config.listen.max_body_bytes
        check_head(own, max_bytes)
        if own.expects_continue and not exchange.body_whole:
            exchange.protocol.go_on()
        trace.request = await exchange.body(max_bytes)
        trace.trace_id = trace.session = uuid7(trace.started_ns, os.urandom(8))
        trace.admitted = True
        if state.writer.full():
            raise errors.overloaded(
                "Captured traces fill their memory and capture.at_bound says refuse; "
                "capture.memory_bytes of the gateway raises the bound."
            )
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
        return Call(exchange.fiber, client_side, trace, endpoint, view, passed, query)

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
            client_side.refuse(error, error.body(), [])
        finally:
            state.metrics.request_finished("", "", outcome, upstream_s=0.0, overhead_s=0.0, ttft_s=None)


def _apologise(client_side: ClientSide) -> None:
    if client_side.started:
        client_side.abort()
        return
    error = ApiError(500, "server_error", "internal_error", "The gateway failed; its log says why.")
    client_side.refuse(error, error.body(), [])
