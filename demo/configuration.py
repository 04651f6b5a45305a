"""Which configuration the demo runs on: the file, what the command line changes of it, whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml

from gateway.config import Config, Fallback, Route, Secret, Upstream, load_config
from gateway.config.check import check_references
from gateway.config.load import parse_yaml
from gateway.config.secrets import read_secrets
from gateway.errors import ConfigError
from gateway.paths import paths_of

ROUTE = "ticket-bot"  # that the app asks for
FRONTIER = "frontier"  # the upstream that the stand-in, or --upstream, is
DATA = "demo-data"  # in the place that the command line names
CHANGED = "demo.yaml"  # in the demo's data directory: the file with the changes
_LOOPBACK = ("127.0.0.1", "localhost")


class RealUpstream(msgspec.Struct, frozen=True, kw_only=True):
    """What `--upstream` names in place of the stand-in."""

    url: str
    model: str
    key_env: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo runs. `text` is to be written to *path*; None: the file is used as it is."""

    config: Config
    path: Path
    text: str | None


def plan_of(
    path: Path,
    real: RealUpstream | None,
    environ: Mapping[str, str],
    *,
    place: Path | None = None,
    vllm: bool = False,
) -> Plan:
    """The demo's plan for the configuration at *path*. Reads, and touches nothing.

    Data and model go into *place*, if there is one; with *vllm* that serves the model in place of our server.
    Raises ConfigError in one line where the demo cannot run on it.
    """
    config = load_config(path)
    check_fits(config, path, stand_in=real is None)
    changed = config if real is None else _with_real_upstream(config, real)
    changed = changed if place is None else _in_place(changed, place.resolve())
    changed = _with_vllm(changed) if vllm else changed
    plan = Plan(config=config, path=path, text=None) if changed == config else _changed(changed, path)
    read_secrets(plan.config, environ, path)
    return plan


def check_fits(config: Config, path: Path, *, stand_in: bool) -> None:
    """Raise ConfigError unless the demo finds in *config* what its steps rely on."""
    if not config.store.embedded:
        raise ConfigError(f"{path}: the demo needs a store of its own; set store.url to embedded:DIR")
    if config.route(ROUTE) is None:
        raise ConfigError(f"{path}: the demo's app asks for route {ROUTE!r}, which is not there")
    if not config.learner or config.learner[0].route != ROUTE:
        raise ConfigError(f"{path}: the demo needs a learner of route {ROUTE!r} - at `$.learner[0]`")
    frontier = next((entry for entry in config.upstreams if entry.name == FRONTIER), None)
    if frontier is None:
        raise ConfigError(f"{path}: the demo needs an upstream {FRONTIER!r}, which is not there")
    if stand_in:
        try:
            stand_in_port(frontier)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def stand_in_port(frontier: Upstream) -> int:
    """Where the stand-in listens. Raises ConfigError when the upstream's address is not one for it."""
    parts = urlsplit(frontier.servers[0])
    if len(frontier.servers) != 1 or parts.hostname not in _LOOPBACK or not parts.port or parts.path != "/v1":
        raise ConfigError(
            f"upstream {FRONTIER!r} is the demo's stand-in, so its base_url must be http://127.0.0.1:PORT/v1;"
            " a real one is named with --upstream URL"
        )
    return parts.port


def _with_real_upstream(config: Config, real: RealUpstream) -> Config:
    return msgspec.structs.replace(
        config,
        upstreams=[
            _asking(upstream, real) if upstream.name == FRONTIER else upstream
            for upstream in config.upstreams
        ],
        routes=[_naming(route, real.model) if route.model == ROUTE else route for route in config.routes],
    )


def _asking(upstream: Upstream, real: RealUpstream) -> Upstream:
    try:
        return msgspec.structs.replace(
            upstream, base_url=real.url, base_urls=None, api_key=Secret(env=real.key_env), prices=[]
        )
    except ValueError as error:
        raise ConfigError(f"--upstream {real.url}: {error}") from error


def _naming(route: Route, model: str) -> Route:
    return msgspec.structs.replace(
        route,
        variants=[
            msgspec.structs.replace(arm, model=model) if arm.upstream == FRONTIER else arm
            for arm in route.variants
        ],
        fallbacks=[
            msgspec.structs.replace(arm, model=model)
            if isinstance(arm, Fallback) and arm.upstream == FRONTIER
            else arm
            for arm in route.fallbacks
        ],
    )


def _in_place(config: Config, place: Path) -> Config:
    entry, data = config.learner[0], place / DATA
    model = place / "models" / entry.base_model.name
    return msgspec.structs.replace(
        config,
        store=msgspec.structs.replace(config.store, url=f"embedded:{data}"),
        capture=msgspec.structs.replace(config.capture, spool=data / "spool"),
        upstreams=[
            msgspec.structs.replace(upstream, managed=msgspec.structs.replace(upstream.managed, model=model))
            if upstream.managed is not None and upstream.managed.model == entry.base_model
            else upstream
            for upstream in config.upstreams
        ],
        learner=[msgspec.structs.replace(entry, base_model=model), *config.learner[1:]],
    )


def _with_vllm(config: Config) -> Config:
    return msgspec.structs.replace(
        config,
        upstreams=[
            msgspec.structs.replace(
                upstream, managed=msgspec.structs.replace(upstream.managed, engine="vllm")
            )
            if upstream.managed is not None and upstream.name == config.learner[0].serve_on
            else upstream
            for upstream in config.upstreams
        ],
    )


def _changed(config: Config, path: Path) -> Plan:
    """The plan of a configuration that is no file yet; with absolute paths it may lie anywhere."""
    target = paths_of(config).data / CHANGED
    body = yaml.safe_dump(msgspec.to_builtins(config, enc_hook=str), sort_keys=False)
    text = f"# Written by `tracetune demo` from {path}; paths are absolute, defaults are written out.\n{body}"
    config = parse_yaml(text, Config, str(target))  # what `up` will read, by the same rules
    check_references(config)
    return Plan(config=config, path=target, text=text)
