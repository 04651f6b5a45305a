"""`/api/explain`: where a request would go, and what it would meet there now."""

from __future__ import annotations

import time

import msgspec
from litestar import get

from gateway.config.types import Auth
from gateway.control.access import client_of, requires
from gateway.control.plane import ControlPlane
from gateway.control.rollout_api import ApiRequest
from gateway.data_plane.errors import ApiError
from gateway.errors import OperationError
from gateway.explain import UnknownKeyError, explain
from gateway.explanation import Bounds, Explanation, Now
from gateway.quotas import report_limits
from gateway.sightings import all_workers, views
from gateway.state import State


@get("/api/explain", guards=[requires("admin")], summary="Where a request would go, and why", tags=["routes"])
async def explain_request(
    plane: ControlPlane,
    request: ApiRequest,
    model: str,
    session: str | None = None,
    subject: str | None = None,
    client: str = "",
) -> Explanation:
    """The variant that takes a request of *client*'s session or subject, and everything that follows.

    Without a *client* the limits are those of the caller's own key.
    """
    state = plane.state
    live = state.live
    try:
        found = explain(
            live.config,
            live.table,
            state.salt,
            model=model,
            session=session,
            subject=subject,
            client=client,
            caller=client_of(request).name,
        )
    except UnknownKeyError as error:
        raise ApiError(404, "invalid_request_error", "key_not_found", str(error), param="client") from error
    except OperationError as error:
        raise ApiError(404, "invalid_request_error", "model_not_found", str(error), param="model") from error
    return msgspec.structs.replace(found, now=await _now(state, found.bounds))


async def _now(state: State, bounds: Bounds) -> Now:
    seen = await all_workers(state)
    in_force = {upstream.name: upstream for upstream in state.live.config.upstreams}
    # A reload may have come between, and taken one away.
    upstreams = [in_force[each.name] for each in bounds.upstreams if each.name in in_force]
    now = Now(
        workers=len(seen),
        in_flight=sum(worker.in_flight for worker in seen),
        concurrent=state.concurrent,
        upstreams=views(upstreams, seen, time.monotonic()),
    )
    auth = state.live.config.auth
    own = [key for key in auth.keys if key.name == bounds.key] if auth is not None else []
    try:
        reports = report_limits(state.ledger.counters, Auth(keys=own), time.time())
    except OperationError as error:
        return msgspec.structs.replace(now, key_unknown=str(error))
    return msgspec.structs.replace(now, key=reports[0] if reports else None)
