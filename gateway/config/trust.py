"""Where text may go: bodies of a route marked `private` are shown to no upstream that is not `trusted`."""

from __future__ import annotations

from gateway.config.judges import JudgeConfig
from gateway.config.types import Config


def route_refusal(config: Config, judge: JudgeConfig, model: str) -> str | None:
    """Why *judge* may not be shown text of the route *model*, naming both and what to do; None: it may.

    A route that the configuration does not have cannot say that it is not private, so it counts as private.
    Text without a route ("": a model name that no route serves) belongs to none.
    """
    if not model:
        return None
    route = config.route(model)
    if route is not None and not route.private:
        return None
    untrusted = next((name for name in judge.upstreams if not config.upstream(name).trusted), None)
    if untrusted is None:
        return None
    is_private = "is private" if route is not None else "is not in the configuration, so counts as private"
    return (
        f"route {model!r} {is_private} and judge {judge.name!r} would show its text to upstream "
        f"{untrusted!r}, which is not trusted; give the judge other routes, or mark that upstream "
        "trusted: true"
    )
