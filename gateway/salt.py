"""The assignment salt: a secret, so that nobody can choose an arm by choosing a session."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gateway.errors import OperationError

SALT_BYTES = 32


def load_salt(state: Path) -> bytes:
    """The salt kept in the folder *state*, created there (0600) by whoever comes first.

    Raises OperationError when it cannot be read or written, or is not a salt.
    """
    path = state / "salt"
    try:
        if not path.exists():
            _create(path)
        salt = path.read_bytes()
    except OSError as error:
        raise OperationError(f"{path}: the assignment salt cannot be read or written: {error}") from error
    if len(salt) != SALT_BYTES:
        raise OperationError(
            f"{path}: holds {len(salt)} bytes, not {SALT_BYTES}; remove it to draw a new one, "
            "which gives sessions a new assignment"
        )
    return salt


def _create(path: Path) -> None:
    """Write a whole salt under a name of our own, then link it: no reader ever sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".salt-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SALT_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process was first, and its salt is the one in force
    finally:
        draft.unlink(missing_ok=True)
