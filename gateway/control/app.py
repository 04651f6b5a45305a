"""The control API as a Litestar application, one per worker, behind the request path.

`create_control_app` is what a worker serves beside `/v1` on the data port. With `admin_listen` configured
that is only what apps and probes need (feedback, health); the whole API is then `create_admin_app`, which
worker 0 serves on the other address. The lifespan of the former runs the watch of the configuration and the
overlay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from litestar import Litestar
from litestar.datastructures import State as AppState
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from gateway import __version__
from gateway.control import explain_api, feedback_api, rollout_api, status_api, upstream_api
from gateway.control.admin_server import serve_admin
from gateway.control.docs_page import PlainRenderPlugin
from gateway.control.failures import HANDLERS, MAX_BODY_BYTES
from gateway.control.plane import ControlPlane
from gateway.quotas import keep
from gateway.sightings import Teller
from gateway.state import State
from gateway.watch import Watch

_ALWAYS: list[ControllerRouterHandler] = [
    feedback_api.give_feedback,
    status_api.healthz,
    status_api.readyz,
]
_ADMIN: list[ControllerRouterHandler] = [
    rollout_api.list_routes,
    rollout_api.list_rollouts,
    rollout_api.start_rollout,
    rollout_api.act_on_rollout,
    rollout_api.roll_back,
    explain_api.explain_request,
    status_api.metrics,
    upstream_api.list_upstreams,
    status_api.limits,
]


def create_control_app(state: State) -> Litestar:
    """The application for the data port; serve it with its lifespan, which keeps the table up to date."""
    plane = ControlPlane(state, Watch(state))
    separate = state.live.config.admin_listen

    @asynccontextmanager
    async def watching(app: Litestar) -> AsyncIterator[None]:
        del app
        # Before the first request: what was decided while this worker was down is in force from the start.
        await plane.watch.begin()
        tasks = [asyncio.create_task(plane.watch.run()), asyncio.create_task(keep(state.ledger))]
        if state.live.config.listen.workers > 1:
            tasks.append(asyncio.create_task(Teller(state).run()))
        if separate is not None and state.index == 0:
            tasks.append(asyncio.create_task(serve_admin(create_admin_app(plane), separate)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    if separate is not None:
        return _application(plane, _ALWAYS, documented=False, lifespan=watching)
    return _application(plane, [*_ALWAYS, *_ADMIN], documented=True, lifespan=watching)


def create_admin_app(plane: ControlPlane) -> Litestar:
    """The whole API, for an address of its own."""
    return _application(plane, [*_ALWAYS, *_ADMIN], documented=True, lifespan=None)


def _application(
    plane: ControlPlane,
    handlers: list[ControllerRouterHandler],
    *,
    documented: bool,
    lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]] | None,
) -> Litestar:
    return Litestar(
        handlers,
        state=AppState({"plane": plane}),
        dependencies={"plane": Provide(lambda: plane, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        request_max_body_size=MAX_BODY_BYTES,
        lifespan=[lifespan] if lifespan is not None else [],
        logging_config=None,  # the process decides how it logs
        openapi_config=OpenAPIConfig(
            title="tracetune control API",
            version=__version__,
            description="Routes, rollouts, feedback and the state of the gateway.",
            path="/api/docs",
            render_plugins=[PlainRenderPlugin()],
        )
        if documented
        else None,
    )
