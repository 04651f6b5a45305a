"""The error tree of the gateway package.

TracetuneError                 anything a user can cause; printed as one line, no traceback
├── UsageError        exit 2   the command line is off
├── ConfigError       exit 2   the configuration file is off, or a variable it names is missing
├── OperationError    exit 1   the world said no: a busy port, a failed probe, a store that is down
│   ├── KeyringError  exit 1   the keys of encrypted bodies: their file, or the master key
│   └── StoreError    exit 1   ClickHouse, embedded or not, refused or could not be reached
│       ├── StoreUnreachableError   nobody answers: the same call may succeed later
│       ├── StoreRefusedError       it answered no: `code` is ClickHouse's; `about_data`: a row's fault
│       └── StoreInUseError         another process owns the embedded store
└── RefusedError      exit 3   a gate said no: too few traces, not enough evidence, a stale version

`judges` and `learner` have trees of their own whose roots derive from these, so that the command line maps
every one of them to an exit code in one place (`gateway.cli.root`).
"""

from __future__ import annotations

from typing import ClassVar


class TracetuneError(Exception):
    """Root of every error a user can cause. `str(error)` is one line: what was wrong, where, what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(TracetuneError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code: ClassVar[int] = 2


class ConfigError(TracetuneError):
    """A configuration file cannot be used: syntax, types, cross references, a missing variable."""

    exit_code: ClassVar[int] = 2


class OperationError(TracetuneError):
    """Something outside of us failed: a busy port, a failed probe, a process that did not start."""

    exit_code: ClassVar[int] = 1


class KeyringError(OperationError):
    """The keyring cannot be used: its file, or the master key. What is stored is untouched."""


class StoreError(OperationError):
    """The store refused a statement or could not be reached."""


class StoreUnreachableError(StoreError):
    """Nobody answers where the store should be. The same call may succeed later."""


class StoreRefusedError(StoreError):
    """The store answered no.

    `code` is ClickHouse's error code, or None. `about_data` says that the rows themselves are at fault: the
    same insert will never succeed, while other refusals (no memory, no space) may pass.
    """

    def __init__(self, message: str, *, code: int | None = None, about_data: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.about_data = about_data


class StoreInUseError(StoreError):
    """Another process owns the embedded store's directory."""


class RefusedError(TracetuneError):
    """A gate refused: too few traces, not enough evidence, a stale version."""

    exit_code: ClassVar[int] = 3
