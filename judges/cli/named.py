"""Which judges of the configuration a command is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.config import Config, JudgeConfig
from gateway.errors import ConfigError, UsageError


def named_judges(config: Config, names: Sequence[str], config_path: Path) -> list[JudgeConfig]:
    """Those of *names*, or all where none is named, in the order of the configuration.

    Raises ConfigError where there are none at all, UsageError for a name that none has.
    """
    if not config.judges:
        raise ConfigError(f"{config_path}: no judges are configured; add one under `judges:`")
    unknown = set(names) - {entry.name for entry in config.judges}
    if unknown:
        known = ", ".join(entry.name for entry in config.judges)
        raise UsageError(f"no judge is named {min(unknown)!r}; judges: {known}")
    return [entry for entry in config.judges if not names or entry.name in names]
