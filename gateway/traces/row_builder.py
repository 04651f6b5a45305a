"""How rows are built by a configuration, whoever brings them: the recorder, or an import."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gateway.config import Config
from gateway.paths import paths_of
from gateway.traces.bodies.writer import BodyWriter
from gateway.traces.capture_policy import policy_of
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.redaction.redact import redaction_key
from gateway.traces.rows import RowBuilder

if TYPE_CHECKING:
    from gateway.traces.encryption.keyring import Keyring


def row_builder(config: Config, keyring: Keyring | None) -> RowBuilder:
    """Builds every row that is written: redacted, within `capture.body_bytes`, encrypted with *keyring*.

    Raises OperationError.
    """
    key_file = paths_of(config).state / "redaction_key"
    writer = BodyWriter(keyring, body_bytes=config.capture.body_bytes, owner_key=redaction_key(key_file))
    return RowBuilder(policy_of(config, key_file), writer)


def keyring_to_write_with(config: Config) -> Keyring | None:
    """The keyring that new rows are encrypted with; None for `privacy.encrypt: none`.

    Raises ConfigError, KeyringError.
    """
    source = KeySource.of(config)
    if not source.encrypts:
        return None
    from gateway.traces.encryption.keyring import open_keyring  # cryptography, for those who encrypt

    return open_keyring(source, os.environ)
