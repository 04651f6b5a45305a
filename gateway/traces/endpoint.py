"""Where the embedded store of a data directory listens, and with which token. Written by its owner only."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

import msgspec

from gateway.traces.spool.replace import replace_file


class Endpoint(msgspec.Struct, frozen=True):
    """`endpoint.json`: there while the owner is ready."""

    url: str
    pid: int


def endpoint_file(store: Path) -> Path:
    """There while the owner of *store* is ready."""
    return store / "endpoint.json"


def read_endpoint(store: Path) -> Endpoint | None:
    """The endpoint that the owner of *store* wrote, or None. It may have died since."""
    try:
        return msgspec.json.decode(endpoint_file(store).read_bytes(), type=Endpoint)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_endpoint(store: Path, endpoint: Endpoint) -> None:
    """Say that the owner of *store* is ready. A reader sees all of it or the former one."""
    replace_file(endpoint_file(store), msgspec.json.encode(endpoint))


def read_token(store: Path) -> str:
    """The token of *store*. Raises OSError."""
    return (store / "token").read_text(encoding="ascii")


def ensure_token(store: Path) -> str:
    """The token of *store*, made once: readable by its owner alone from the moment it exists.

    One that others can read is worth nothing any more, and is replaced.
    """
    try:
        others = (store / "token").stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if (token := read_token(store)) and not others:
            return token
    except FileNotFoundError:
        pass  # the first start
    token = secrets.token_urlsafe(32)
    replace_file(store / "token", token.encode("ascii"))
    return token
