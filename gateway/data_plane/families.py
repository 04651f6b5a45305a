"""Which paths may be passed through to the default upstream, and for whom. Pure, but for errors of our own.

A family passes where the default upstream lists it. What is stored under an id passes by that id only, and
neither may be listed: a list shows what is everybody's, and whoever has an id can go on from it with
`previous_response_id` on a route as well. A key that may use some routes only is refused all of it: an id
does not say which route made it, nor for whom.
"""

from __future__ import annotations

import re
from typing import get_args
from urllib.parse import unquote

import msgspec

from gateway.config.types import PassthroughFamily
from gateway.data_plane import errors
from gateway.data_plane.auth import Client
from gateway.data_plane.dialect import Dialect
from gateway.data_plane.dialect_chat import CHAT
from gateway.data_plane.dialect_responses import RESPONSES
from gateway.data_plane.endpoint import Endpoint
from gateway.state import Live

METHODS = ("GET", "POST", "DELETE")
_SHOWN = frozenset({"speech", "transcriptions", "translations", "generations", "edits", "variations", "jobs"})
_ADMIN_ONLY = frozenset({"files", "batches", "fine_tuning"})  # they show and change what is everybody's
# Nothing that an upstream could take for another path than we do: no empty segment, no dots, no escapes of
# slashes, no backslash, no parameters.
_PLAIN_SEGMENT = re.compile(r"^(?!\.{1,2}\Z)[A-Za-z0-9._~:@!$&'()*+,=-]+\Z")


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a routed endpoint has stored: how it is asked for by its id, and for what belongs to it.

    `no_ids`: what stands in the place of an id and is none, but takes a model, which only a route may name.
    """

    methods: tuple[str, ...]
    parts: dict[str, tuple[str, ...]]
    dialect: Dialect | None = None
    no_ids: frozenset[str] = frozenset()


_STORED: dict[PassthroughFamily, _Stored] = {
    "responses": _Stored(
        methods=("GET", "DELETE"),
        parts={"cancel": ("POST",), "input_items": ("GET",)},
        dialect=RESPONSES,
        no_ids=frozenset({"compact", "input_tokens"}),
    ),
    "chat/completions": _Stored(methods=METHODS, parts={"messages": ("GET",)}),
}
_FAMILIES: dict[str, PassthroughFamily] = {
    family: family for family in get_args(PassthroughFamily) if family not in _STORED
}


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """A path that may be passed through. `label`: what traces call it, without what a client can invent.

    `dialect`: how its streams are read, None where nobody knows. `stored`: what it asks for lies at one
    server of the upstream, and nobody knows at which.
    """

    family: PassthroughFamily
    label: str
    methods: tuple[str, ...] = METHODS
    dialect: Dialect | None = None
    stored: bool = False

    def endpoint(self, path: str) -> Endpoint:
        """The endpoint that *path* is."""
        return Endpoint(
            path=self.label,
            upstream_path=path.removeprefix("/v1"),
            operation=self.family,
            dialect=self.dialect or CHAT,
        )


def passed_of(path: str) -> Passed | None:
    """What *path* (`/v1/audio/speech`) is, None where it is of no family or is not plain."""
    segments = path.split("/")[2:]
    if not segments or not all(_PLAIN_SEGMENT.match(unquote(segment)) for segment in segments):
        return None
    family = _FAMILIES.get(segments[0])
    if family is None:
        return _stored_of(segments)
    shown = segments[1:2] if segments[1:2] and segments[1] in _SHOWN else []
    return Passed(family=family, label="/".join(["/v1", family, *shown]))


def admit_passthrough(live: Live, client: Client, method: str, path: str, passed: Passed) -> str:
    """The upstream that takes the request. Raises ApiError: 403, 404 or 405."""
    name = live.table.default_upstream
    if name is None or passed.family not in live.config.upstream(name).passthrough:
        raise errors.not_passed(method, path, passed.family, name)
    if method not in passed.methods:
        raise errors.wrong_method(method, path, ", ".join(passed.methods))
    if passed.family in _ADMIN_ONLY and not client.may("admin"):
        raise errors.not_permitted(f"/v1/{passed.family} needs a key with scope `admin`.")
    if not client.may_use(""):
        raise errors.not_permitted("This key may use its routes only.")
    return name


def _stored_of(segments: list[str]) -> Passed | None:
    for family, stored in _STORED.items():
        depth = family.count("/") + 1
        rest = segments[depth:]
        if "/".join(segments[:depth]) != family or not rest or rest[0] in stored.no_ids:
            continue
        part = "/".join(rest[1:])
        methods = stored.parts.get(part) if part else stored.methods
        if methods is None:
            return None
        label = "/".join(["/v1", family, "{id}", *rest[1:]])
        return Passed(family=family, label=label, methods=methods, dialect=stored.dialect, stored=True)
    return None
