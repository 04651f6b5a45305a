"""Puts snapshots on the inference servers of an upstream, and keeps them there.

A snapshot is verified before it is loaded, and served under its id from its own folder: names and paths
are never bound twice, so that no server can hold something else under them. Servers may be vLLM or
`tracetune serve`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from gateway.config import Config, Upstream
from gateway.paths import paths_of
from learner.errors import LearnerError
from learner.registry import MANIFEST, verify_snapshot
from learner.serving.client import AdapterRefusedError, ServerClient, UnreachableServerError, clients

ATTEMPTS = 5
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 2.0
# Snapshots that no route uses any more, the newest of which stay loaded: one may be about to get its rollout.
KEEP_UNUSED = 8

log = logging.getLogger(__name__)


def publish(config: Config, snapshot: str, upstream: Upstream) -> None:
    """Load *snapshot* on every server of *upstream* and have each answer with it. Safe to repeat.

    A server that cannot be reached is tried ATTEMPTS times. Raises LearnerError when the snapshot is not
    what its id says, ServingError when a server cannot be reached, refuses it, or holds something else
    under its name.
    """
    folder = _verified(config, snapshot, upstream)
    attempts = Retrying(
        retry=retry_if_exception_type(UnreachableServerError),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(FIRST_WAIT_S, max=LONGEST_WAIT_S),
        reraise=True,
    )
    for server in _servers(upstream):
        attempts(_load, server, snapshot, folder)
        attempts(server.probe, snapshot)
        log.info("%s answers at %s", snapshot, server.base_url)


def unload(snapshot: str, upstream: Upstream) -> None:
    """Stop serving *snapshot* on every server of *upstream* that has it. Raises ServingError."""
    for server in _servers(upstream):
        if snapshot in server.adapters():
            server.unload(snapshot)


def loaded(upstream: Upstream) -> dict[str, list[str]]:
    """What each server of *upstream* has loaded, in that order, by its base URL. Raises ServingError."""
    return {server.base_url: list(server.adapters()) for server in _servers(upstream)}


def ensure_loaded(config: Config, routes: Mapping[str, Any]) -> None:
    """Load what a server lost: every snapshot of *routes* (the body of GET /api/routes), where it is served.

    A server that was restarted has its snapshots again after one call. Every server is tried once; then the
    LearnerError of the first trouble is raised. Cheap when nothing is missing: one GET a
    server.
    """
    troubles: list[LearnerError] = []
    for name, snapshots in _wanted(routes).items():
        upstream = next((entry for entry in config.upstreams if entry.name == name), None)
        if upstream is None:
            continue  # the configuration has just changed; the gateway's table follows
        for server in _servers(upstream):
            try:
                _ensure(config, upstream, server, snapshots)
            except LearnerError as error:
                troubles.append(error)
    if troubles:
        raise troubles[0]


class _Route(msgspec.Struct):
    """What of a route says where snapshots are served."""

    variants: list[_Place]
    fallbacks: list[_Place] = []


class _Place(msgspec.Struct, kw_only=True):
    upstream: str
    snapshot: str | None = None


class _Routes(msgspec.Struct):
    routes: list[_Route]


def _wanted(routes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Upstream -> snapshots that it serves. A variant of weight 0 counts: a rollback may need it at once."""
    wanted: dict[str, list[str]] = {}
    for route in msgspec.convert(routes, _Routes).routes:
        for place in [*route.variants, *route.fallbacks]:
            if place.snapshot is not None and place.snapshot not in wanted.get(place.upstream, []):
                wanted.setdefault(place.upstream, []).append(place.snapshot)
    return wanted


def _ensure(config: Config, upstream: Upstream, server: ServerClient, snapshots: list[str]) -> None:
    present = server.adapters()
    for snapshot in snapshots:
        if snapshot not in present:
            _load(server, snapshot, _verified(config, snapshot, upstream))
            log.info("loaded %s at %s", snapshot, server.base_url)
    root = paths_of(config).snapshots
    unused = [name for name in present if name not in snapshots and (root / name / MANIFEST).is_file()]
    for name in unused[:-KEEP_UNUSED]:
        server.unload(name)
        log.info("unloaded %s, which no route uses, at %s", name, server.base_url)


def _load(server: ServerClient, snapshot: str, folder: Path) -> None:
    """Load *snapshot* unless the server has it. Raises ServingError when it has another one by that name."""
    if snapshot not in server.adapters():
        try:
            server.load(snapshot, folder)
        except AdapterRefusedError:
            if snapshot not in server.adapters():  # else another process has just loaded it
                raise
    path = server.adapters()[snapshot]
    if path is not None and Path(path) != folder:
        raise AdapterRefusedError(
            f"inference server {server.base_url} serves {path} as {snapshot}, not {folder}; unload it there"
        )


def _verified(config: Config, snapshot: str, upstream: Upstream) -> Path:
    root = paths_of(config).snapshots
    verify_snapshot(root, snapshot, upstream.managed.model if upstream.managed else None)
    return (root / snapshot).resolve()


def _servers(upstream: Upstream) -> Iterator[ServerClient]:
    for client in clients(upstream):
        with client:
            yield client
