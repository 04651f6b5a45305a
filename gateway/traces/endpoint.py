"""Where the embedded store of a data directory listens, and with which token. Written by its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec


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
    file = endpoint_file(store)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(endpoint))
    temporary.replace(file)


def read_token(store: Path) -> str:
    """The token of *store*. Raises OSError."""
    return (store / "token").read_text(encoding="ascii")


def ensure_token(store: Path) -> str:
    """The token of *store*, made once: readable by its owner alone from the moment it exists."""
    file = store / "token"
    temporary = store / f"token.{os.getpid()}"
    try:
        if token := read_token(store):
            return token
    except FileNotFoundError:
        pass  # the first start
    token = secrets.token_urlsafe(32)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(token)
    temporary.replace(file)
    return token
