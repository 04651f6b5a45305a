"""The ASGI callable in front of the control app: /v1 is answered here, everything else there."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from gateway.data_plane import errors
from gateway.data_plane.admission import ClientGoneError, check_head, identify, receive_body
from gateway.data_plane.attempts import answer
from gateway.data_plane.body import read_body
from gateway.data_plane.call import Call, Endpoint, refuse
from gateway.data_plane.capture import OpenTrace
from gateway.data_plane.client_side import App, ClientSide, Receive, Scope, Send
from gateway.data_plane.errors import ApiError
from gateway.data_plane.headers import read_own
from gateway.data_plane.ids import uuid7
from gateway.data_plane.models import list_models, show_model
from gateway.state import State
from gateway.traces.types import Outcome

log = logging.getLogger(__name__)

ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(path="/v1/chat/completions", upstream_path="/chat/completions", streams_usage=True),
        Endpoint(path="/v1/completions", upstream_path="/completions", streams_usage=True),
        Endpoint(path="/v1/embeddings", upstream_path="/embeddings"),
    )
}
_MODELS = "/v1/models"


class DataPlane:
    """Answers /v1 from *state*, and hands everything else to *inner*, lifespan included."""

    def __init__(self, state: State, inner: App) -> None:
        self._state = state
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        path: str = scope["path"]
        endpoint = ENDPOINTS.get(path)
        if endpoint is not None and scope["method"] == "POST":
            await self._serve(endpoint, scope, receive, send)
        elif path.startswith("/v1/") or path == "/v1":
            await self._serve_rest(endpoint, path, scope, send)
        else:
            await self._inner(scope, receive, send)

    async def _serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one inference request, whatever happens, and write down its trace."""
        state = self._state
        trace = OpenTrace(state, state.live, endpoint.path, time.monotonic())
        client_side = ClientSide(scope, send)
        state.metrics.request_started()
        state.in_flight += 1
        try:
            call = await self._admit(trace, client_side, endpoint, scope, receive)
            client_side.watch()
            await answer(call)
        except ApiError as error:
            await refuse(client_side, trace, error, "rejected", error.code or error.kind)
        except ClientGoneError:
            pass  # `finally` writes down that the client left
        except asyncio.CancelledError:
            if not client_side.gone:  # the worker stops, and its patience is over
                trace.status = client_side.status
                trace.finish("truncated" if client_side.started else "upstream_error", "shutdown")
                raise
        except Exception:
            log.exception("a request failed by a bug of ours")
            trace.finish("truncated" if client_side.started else "upstream_error", "internal")
            await self._apologise(client_side)
        finally:
            state.in_flight -= 1
            client_side.unwatch()
            if trace.expired:
                trace.finish("timeout", "total_timeout")
            trace.finish("client_cancelled", "client_left")

    async def _admit(
        self, trace: OpenTrace, client_side: ClientSide, endpoint: Endpoint, scope: Scope, receive: Receive
    ) -> Call:
        """Take the request in. Raises ApiError, ClientGoneError."""
        state, live = self._state, trace.live
        own, passed = read_own(scope["headers"])
        trace.own = own
        trace.client = identify(live, own)
        max_bytes = live.config.listen.max_body_bytes
        check_head(own, max_bytes)
        body = client_side.body
        trace.request = await receive_body(receive, max_bytes) if body is None else body
        if len(trace.request) > max_bytes:
            raise errors.too_large(max_bytes)
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
        return Call(client_side, trace, endpoint, view, passed, scope["query_string"])

    async def _serve_rest(self, endpoint: Endpoint | None, path: str, scope: Scope, send: Send) -> None:
        """/v1 but for inference: the list of models, and what does not exist."""
        state = self._state
        client_side = ClientSide(scope, send)
        method: str = scope["method"]
        state.metrics.request_started()
        outcome: Outcome = "ok"
        try:
            client = identify(state.live, read_own(scope["headers"])[0])
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
            await client_side.answer_json(body)
        except ApiError as error:
            outcome = "rejected"
            await client_side.refuse(error, error.body(), [])
        finally:
            state.metrics.request_finished("", "", outcome, upstream_s=0.0, overhead_s=0.0, ttft_s=None)

    async def _apologise(self, client_side: ClientSide) -> None:
        if client_side.started:
            client_side.abort()
            return
        error = ApiError(500, "server_error", "internal_error", "The gateway failed; its log says why.")
        await client_side.refuse(error, error.body(), [])
