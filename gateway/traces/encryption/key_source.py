"""Which keyring a configuration means. Apart from the keyring, so that naming it loads no cryptography."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.config.types import Config, Privacy
from gateway.paths import paths_of


class KeySource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a keyring lies and what opens it, without a secret: it may be written into a process's input."""

    keyring: Path
    privacy: Privacy

    @classmethod
    def of(cls, config: Config) -> KeySource:
        """Of the configuration's data directory."""
        return cls(keyring=paths_of(config).keyring, privacy=config.privacy)

    @property
    def encrypts(self) -> bool:
        """Whether what is written now is to be encrypted; what was may be readable either way."""
        return self.privacy.encrypt == "per_subject"
