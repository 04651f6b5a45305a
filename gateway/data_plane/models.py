"""`GET /v1/models`: the routes that a caller may use, and what it may pin, in OpenAI's list shape. Pure."""

from __future__ import annotations

import msgspec

from gateway.data_plane.auth import Client
from gateway.data_plane.errors import unknown_model
from gateway.table import Table

OWNER = "tracetune"


class _Model(msgspec.Struct, frozen=True):
    id: str
    created: int  # seconds since the epoch
    object: str = "model"
    owned_by: str = OWNER


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]
    object: str = "list"


def list_models(table: Table, client: Client, created: int) -> bytes:
    """The JSON list of routes open to *client*, and of their variants as `route@variant` where it may pin."""
    return msgspec.json.encode(_Models([_Model(name, created) for name in _names(table, client)]))


def show_model(table: Table, client: Client, created: int, model: str) -> bytes:
    """The JSON of one route. Raises ApiError (404)."""
    if model not in _names(table, client):
        raise unknown_model(model, [name for name in table.routes if client.may_use(name)])
    return msgspec.json.encode(_Model(model, created))


def _names(table: Table, client: Client) -> list[str]:
    routes = [route for name, route in table.routes.items() if client.may_use(name)]
    names = [route.model for route in routes]
    if client.may("pin"):
        names += [f"{route.model}@{variant.name}" for route in routes for variant in route.variants]
    return names
