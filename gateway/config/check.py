"""Rules that cross fields of a configuration: does everything that is named exist?"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from ipaddress import ip_address

from gateway.config.judges import JudgeConfig
from gateway.config.privacy import BUILTIN_RULES
from gateway.config.trust import route_refusal
from gateway.config.types import Config, Fallback, Route
from gateway.errors import ConfigError


def check_references(config: Config) -> None:
    """Raise ConfigError for the first name that is repeated or refers to nothing, and for unsafe settings."""
    _unique("upstreams", [upstream.name for upstream in config.upstreams])
    _unique("routes", [route.model for route in config.routes])
    _unique("judges", [judge.name for judge in config.judges])
    _unique("learner", [entry.route for entry in config.learner])
    if config.auth is not None:
        _unique("auth.keys", [key.name for key in config.auth.keys])
    if sum(upstream.default for upstream in config.upstreams) > 1:
        raise ConfigError("only one upstream may be the default - at `$.upstreams`")
    for index, route in enumerate(config.routes):
        _check_route(config, route, f"$.routes[{index}]")
    _check_rules_off(config)
    _check_judges_and_learner(config)
    _check_exposure(config)
    _check_supported(config)


def _check_route(config: Config, route: Route, place: str) -> None:
    upstreams = [upstream.name for upstream in config.upstreams]
    for index, variant in enumerate(route.variants):
        _known("upstream", variant.upstream, upstreams, f"{place}.variants[{index}].upstream")
    for index, fallback in enumerate(route.fallbacks):
        if isinstance(fallback, Fallback):
            _known("upstream", fallback.upstream, upstreams, f"{place}.fallbacks[{index}].upstream")
        else:
            names = [variant.name for variant in route.variants]
            _known("variant", fallback, names, f"{place}.fallbacks[{index}]")
    if route.rollout.judge is not None:
        _known(
            "judge", route.rollout.judge, [judge.name for judge in config.judges], f"{place}.rollout.judge"
        )


def _check_rules_off(config: Config) -> None:
    known = [*BUILTIN_RULES, *[pattern.name for pattern in config.privacy.patterns]]
    places = {"$.privacy.rules_off": config.privacy.rules_off}
    for index, route in enumerate(config.routes):
        places[f"$.routes[{index}].rules_off"] = route.rules_off or []
    for place, names in places.items():
        for name in names:
            _known("redaction rule", name, known, place)


def _check_judges_and_learner(config: Config) -> None:
    routes = [route.model for route in config.routes]
    judges = [judge.name for judge in config.judges]
    upstreams = [upstream.name for upstream in config.upstreams]
    for index, judge in enumerate(config.judges):
        for name in judge.routes or []:
            _known("route", name, routes, f"$.judges[{index}].routes")
        for name in judge.upstreams:
            _known("upstream", name, upstreams, f"$.judges[{index}].upstream")
        for name in judge.routes or routes:
            if (refused := route_refusal(config, judge, name)) is not None:
                raise ConfigError(f"{refused} - at `$.judges[{index}]`")
        _check_priced(config, judge, f"$.judges[{index}].limits.usd_per_day")
    for index, entry in enumerate(config.learner):
        _known("route", entry.route, routes, f"$.learner[{index}].route")
        _known("judge", entry.judge, judges, f"$.learner[{index}].judge")
        _known("upstream", entry.serve_on, upstreams, f"$.learner[{index}].serve_on")
    for index, key in enumerate(config.auth.keys if config.auth else []):
        for name in key.routes or []:
            _known("route", name, routes, f"$.auth.keys[{index}].routes")


def _check_priced(config: Config, judge: JudgeConfig, place: str) -> None:
    """Raise ConfigError for a limit in money where nobody knows what asking costs: it would limit nothing."""
    if judge.limits.usd_per_day is None:
        return
    for member in judge.asked:
        upstream = config.upstream(member.upstream)
        if all(price.model != member.model for price in upstream.prices):
            raise ConfigError(
                f"judge {judge.name!r} has usd_per_day and upstream {upstream.name!r} no price of "
                f"{member.model!r}; add it to the upstream's prices, or limit per_minute - at `{place}`"
            )


def _check_exposure(config: Config) -> None:
    admin, listen = config.admin_listen, config.listen
    if admin is not None and admin.port and (admin.host, admin.port) == (listen.host, listen.port):
        raise ConfigError(
            "admin_listen is the address of listen; remove it to share that, or give it a port of its own "
            "- at `$.admin_listen`"
        )
    if config.auth is not None:
        return
    hosts = [("listen", config.listen.host)]
    if config.admin_listen is not None:
        hosts.append(("admin_listen", config.admin_listen.host))
    for section, host in hosts:
        if not is_loopback(host):
            raise ConfigError(
                f"{section}.host {host} is not loopback and there are no keys; "
                f"add auth.keys or listen on 127.0.0.1 - at `$.{section}.host`"
            )


def _check_supported(config: Config) -> None:
    """Settings whose meaning is a promise are refused where it cannot be kept, never silently ignored."""
    if config.privacy.encrypt == "per_subject" and config.privacy.master_key is None:
        raise ConfigError(
            "encrypt: per_subject needs a master key; write master_key: {env: NAME}, {file: PATH} or "
            "{command: [PROGRAM]} - at `$.privacy`"
        )
    if config.privacy.redact == "presidio" and find_spec("presidio_analyzer") is None:
        raise ConfigError(
            "redact: presidio needs the extra `privacy`: pip install 'tracetune[privacy]' - at "
            "`$.privacy.redact`"
        )
    if config.store.cluster is not None and config.store.embedded:
        raise ConfigError(
            "the embedded store is one server and has no cluster; remove cluster, or name a server of it in "
            "store.url - at `$.store.cluster`"
        )
    for index, upstream in enumerate(config.upstreams):
        if upstream.http2 and find_spec("h2") is None:
            raise ConfigError(
                "HTTP/2 needs the extra `http2`: pip install 'tracetune[http2]' - at "
                f"`$.upstreams[{index}].http2`"
            )
        if upstream.passthrough and not upstream.default:
            raise ConfigError(
                f"only the default upstream passes other endpoints through; mark {upstream.name!r} default, "
                f"or remove it - at `$.upstreams[{index}].passthrough`"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach *host*."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _unique(section: str, names: list[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ConfigError(f"{section} names {repeated[0]!r} twice - at `$.{section}`")


def _known(kind: str, name: str, known: list[str], place: str) -> None:
    if name not in known:
        listed = ", ".join(known) or "none"
        raise ConfigError(f"unknown {kind} {name!r}; known: {listed} - at `{place}`")
