"""The master key: it wraps the keyring's own key, and lies in none of our files.

It comes from a variable or a file, or stays in a key management service: `command` names a program of the
user's that wraps and unwraps, so that any service with a command line serves (`aws kms`, `vault`).
"""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.config.secrets import read_secret
from gateway.config.types import MasterKey, Secret
from gateway.errors import ConfigError, OperationError

MASTER_KEY_BYTES = 32
NONCE_BYTES = 12
COMMAND_TIMEOUT_S = 30.0  # of one call of the user's program
MAX_WRAPPED_BYTES = 64 << 10  # of what it prints: a wrapped key is a few hundred bytes
_PURPOSE = b"tracetune keyring"
_MAKE_ONE = "make one with `openssl rand -base64 32`"


class WrongMasterKeyError(OperationError):
    """This master key did not wrap what it is to unwrap."""


class Wrapper(Protocol):
    """Something that holds a master key. `unwrap(wrap(key)) == key`; both raise OperationError."""

    def wrap(self, key: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes) -> bytes: ...


class LocalWrapper:
    """A master key of 32 bytes in this process's memory: AES-256-GCM. `repr` shows nothing of it."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == MASTER_KEY_BYTES
        self._cipher = AESGCM(key)

    def wrap(self, key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, _PURPOSE)

    def unwrap(self, wrapped: bytes) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _PURPOSE)
        except (InvalidTag, ValueError) as error:
            raise WrongMasterKeyError("the master key does not fit") from error


class CommandWrapper:
    """A program of the user's, run as `COMMAND… wrap` or `COMMAND… unwrap`, base64 in and base64 out.

    It is asked once when a keyring is opened, never for a body. What it writes to standard error is never
    repeated: it may quote what it was given.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    def wrap(self, key: bytes) -> bytes:
        return self._run("wrap", key)

    def unwrap(self, wrapped: bytes) -> bytes:
        return self._run("unwrap", wrapped)

    def _run(self, verb: str, data: bytes) -> bytes:
        name = f"`{self._command[0]} … {verb}` of privacy.master_key.command"
        try:
            done = subprocess.run(
                [*self._command, verb],
                input=base64.b64encode(data) + b"\n",
                capture_output=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OperationError(
                f"{name} took longer than {COMMAND_TIMEOUT_S:g} s; run it by hand"
            ) from error
        except OSError as error:
            raise OperationError(f"{name} cannot be run: {error.strerror}") from error
        if done.returncode:
            raise WrongMasterKeyError(f"{name} ended with {done.returncode}; run it by hand to see why")
        try:
            answer = base64.b64decode(done.stdout.strip()[:MAX_WRAPPED_BYTES], validate=True)
        except binascii.Error as error:
            raise OperationError(f"{name} printed something else than base64") from error
        if not answer:
            raise OperationError(f"{name} printed nothing")
        return answer


def wrapper_of(master: MasterKey, environ: Mapping[str, str], place: str) -> Wrapper:
    """What *master* at *place* of the configuration names. Raises ConfigError where it cannot be read."""
    if master.command is not None:
        return CommandWrapper(master.command)
    text = read_secret(Secret(env=master.env, file=master.file), environ, place)
    key = _decoded(text)
    if key is None:
        raise ConfigError(
            f"a master key is {MASTER_KEY_BYTES} bytes in base64 or hex, and this is something else; "
            f"{_MAKE_ONE} - at `{place}`"
        )
    return LocalWrapper(key)


def _decoded(text: str) -> bytes | None:
    try:
        key = (
            bytes.fromhex(text)
            if len(text) == 2 * MASTER_KEY_BYTES
            else base64.b64decode(text, validate=True)
        )
    except ValueError:
        return None
    return key if len(key) == MASTER_KEY_BYTES else None
